//! The fixed list of storages, and which of them is next. Pure, on an injected clock.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use registry::{Address, Config, InstanceInfo, Location, Member, Name, Namespace, Registry};

/// The namespace that all of them serve.
pub const NAMESPACE: &str = "storage";

/// How long after the last failure the unavailable ones are given another chance.
pub const SECOND_CHANCE: Duration = Duration::from_secs(5);

/// Why there is nobody to send a request to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nobody {
    /// The namespace isn't ours, or the list is empty.
    UnknownNamespace,
    /// All have failed. After this many seconds they are given another chance.
    NoneAvailable(u32),
}

/// The instances of `STORAGE_SERVICES`.
pub struct Fleet {
    registry: Registry,
    /// When an instance last failed.
    last_failure: Cell<Option<Instant>>,
}

impl Fleet {
    /// Reads a list of `http://` URLs separated by commas. In the order of the list, they are called `storage-1`,
    /// `storage-2` and so on. Empty entries are skipped, so that an empty list is no storage.
    ///
    /// # Errors
    /// An entry isn't an address. The text says which one, and why.
    pub fn parse(list: &str, now: Instant) -> Result<Self, String> {
        // Nobody checks these instances regularly: what a request learns is all there is, so it counts at once.
        let config = Config { unhealthy_after: 1, healthy_after: 1, ..Config::default() };
        let registry = Registry::new(config);
        let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        for (entry, number) in entries.zip(1..) {
            let address: Address = entry.parse().map_err(|error| format!("STORAGE_SERVICES: `{entry}`: {error}"))?;
            let name = format!("{NAMESPACE}-{number}");
            let name: Name = name.parse().map_err(|error| format!("STORAGE_SERVICES: {error}"))?;
            registry
                .register(&namespace(), &name, address, now)
                .map_err(|error| format!("STORAGE_SERVICES: {error}"))?;
        }
        Ok(Fleet { registry, last_failure: Cell::new(None) })
    }

    /// Begins somewhere else than at the first instance: guests that live for one request only would all pick that
    /// one.
    pub fn skip(&self, picks: u64) {
        let snapshot = self.registry.snapshot();
        if let Some(group) = snapshot.namespace(NAMESPACE) {
            for _ in 0..picks % (group.total() as u64).max(1) {
                group.pick();
            }
        }
    }

    /// The next instance, for the first attempt of a request.
    ///
    /// # Errors
    /// See [`Nobody`].
    pub fn lookup(&self, namespace: &str, now: Instant) -> Result<Arc<Member>, Nobody> {
        self.revive(now);
        self.registry.retry_budget().request(now);
        let snapshot = self.registry.snapshot();
        let group = snapshot.namespace(namespace).ok_or(Nobody::UnknownNamespace)?;
        group.pick().cloned().ok_or_else(|| Nobody::NoneAvailable(self.seconds_to_second_chance(now)))
    }

    /// The next instance for a request that failed on those called `tried`. `None` if there is none left, or if the
    /// retry budget is used up.
    pub fn retry(&self, namespace: &str, tried: &[String], now: Instant) -> Option<Arc<Member>> {
        let snapshot = self.registry.snapshot();
        let group = snapshot.namespace(namespace)?;
        let tried: Vec<_> = tried.iter().filter_map(|name| name.parse().ok()).collect();
        let next = group.pick_untried(&tried)?;
        self.registry.retry_budget().try_retry(now).then(|| next.clone())
    }

    /// What became of a request to the instance of this name.
    pub fn report(&self, namespace: &str, name: &str, reached: bool, now: Instant) {
        let snapshot = self.registry.snapshot();
        let Some(member) = snapshot.namespace(namespace).and_then(|group| group.find(name)) else {
            return;
        };
        if !reached {
            self.last_failure.set(Some(now));
        }
        self.registry.report(member, reached);
    }

    /// Whether a probe of this member passed.
    pub fn checked(&self, member: &Member, passed: bool, now: Instant) {
        if !passed {
            self.last_failure.set(Some(now));
        }
        self.registry.record_check(member.namespace(), member.name(), passed, now);
    }

    /// The members of a namespace, or all if it is `None`.
    pub fn members(&self, namespace: Option<&str>) -> Vec<Arc<Member>> {
        let snapshot = self.registry.snapshot();
        let group = snapshot.namespace(namespace.unwrap_or(NAMESPACE));
        group.map(|group| group.members().cloned().collect()).unwrap_or_default()
    }

    /// The members as `/status` shows them.
    pub fn instances(&self, namespace: Option<&str>, now: Instant) -> Vec<InstanceInfo> {
        self.registry.instances(namespace, now)
    }

    /// Makes the unavailable ones available again once nobody has failed for [`SECOND_CHANCE`].
    fn revive(&self, now: Instant) {
        let due =
            self.last_failure.get().is_some_and(|failure| now.saturating_duration_since(failure) >= SECOND_CHANCE);
        if !due {
            return;
        }
        self.last_failure.set(None);
        for member in self.members(None) {
            if !member.is_available() {
                self.registry
                    .heartbeat(member.namespace(), member.name(), now)
                    .expect("nobody is ever removed from the list");
            }
        }
    }

    fn seconds_to_second_chance(&self, now: Instant) -> u32 {
        let waited = self.last_failure.get().map_or(SECOND_CHANCE, |failure| now.saturating_duration_since(failure));
        let left = SECOND_CHANCE.saturating_sub(waited).as_millis().div_ceil(1000);
        u32::try_from(left).unwrap_or(u32::MAX).max(1)
    }
}

/// Host and port of a member.
#[must_use]
pub fn authority(member: &Member) -> &str {
    match member.location() {
        Location::Remote(address) => address.authority(),
        Location::InProcess => unreachable!("every instance of the list was parsed as an address"),
    }
}

fn namespace() -> Namespace {
    NAMESPACE.parse().expect("it keeps the rule for names")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> (Fleet, Instant) {
        let now = Instant::now();
        let fleet = Fleet::parse("http://a:1, http://b:2,,http://c:3/", now).expect("a good list");
        (fleet, now)
    }

    fn picks(fleet: &Fleet, now: Instant, count: usize) -> Vec<String> {
        let pick = |_| fleet.lookup(NAMESPACE, now).expect("one is available").name().to_string();
        (0..count).map(pick).collect()
    }

    #[test]
    fn picks_in_turn() {
        let (fleet, now) = three();
        assert_eq!(picks(&fleet, now, 4), ["storage-1", "storage-2", "storage-3", "storage-1"]);
        let authorities: Vec<_> = fleet.members(None).iter().map(|member| authority(member).to_owned()).collect();
        assert_eq!(authorities, ["a:1", "b:2", "c:3"]);
        let (fleet, now) = three();
        fleet.skip(7);
        assert_eq!(picks(&fleet, now, 2), ["storage-2", "storage-3"]);
    }

    #[test]
    fn an_empty_list_and_a_foreign_namespace_are_unknown() {
        let now = Instant::now();
        let empty = Fleet::parse("", now).expect("an empty list is a list");
        assert_eq!(empty.lookup(NAMESPACE, now).expect_err("empty"), Nobody::UnknownNamespace);
        empty.skip(3);
        let (fleet, now) = three();
        assert_eq!(fleet.lookup("echo", now).expect_err("foreign"), Nobody::UnknownNamespace);
        assert_eq!(fleet.retry("echo", &[], now).map(|member| member.name().to_string()), None);
    }

    #[test]
    fn a_bad_entry_is_named() {
        let error = Fleet::parse("http://a:1,ftp://b", Instant::now()).err().expect("a bad list");
        assert!(error.contains("ftp://b"), "{error}");
    }

    #[test]
    fn one_that_fails_is_left_out_until_its_second_chance() {
        let (fleet, now) = three();
        fleet.report(NAMESPACE, "storage-2", false, now);
        assert!(!picks(&fleet, now, 6).contains(&"storage-2".to_owned()));
        let later = now + SECOND_CHANCE;
        assert!(picks(&fleet, later, 3).contains(&"storage-2".to_owned()));
    }

    #[test]
    fn without_anyone_it_says_when_to_try_again() {
        let (fleet, now) = three();
        for name in ["storage-1", "storage-2", "storage-3"] {
            fleet.report(NAMESPACE, name, false, now);
        }
        let later = now + Duration::from_millis(1500);
        assert_eq!(fleet.lookup(NAMESPACE, later).expect_err("all failed"), Nobody::NoneAvailable(4));
        let passed = &fleet.members(None)[1];
        fleet.checked(passed, true, later);
        assert_eq!(picks(&fleet, later, 2), ["storage-2", "storage-2"]);
    }

    #[test]
    fn retries_go_to_the_others_while_the_budget_lasts() {
        let (fleet, now) = three();
        let tried = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let next = fleet.retry(NAMESPACE, &tried(&["storage-1", "storage-3"]), now).expect("one is left");
        assert_eq!(next.name().as_str(), "storage-2");
        assert!(fleet.retry(NAMESPACE, &tried(&["storage-1", "storage-2", "storage-3"]), now).is_none());
        let granted = (0..100).filter(|_| fleet.retry(NAMESPACE, &[], now).is_some()).count();
        assert_eq!(granted, 9, "ten a second, and one is taken");
    }
}
