//! The registry against a plain model of the rules, and what only shows with threads or with many instances.

use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;

const TTL: Duration = Duration::from_secs(15);

fn registry() -> Registry {
    Registry::new(Config::default())
}

fn namespace(text: &str) -> Namespace {
    text.parse().expect("tests use valid names")
}

fn name(text: &str) -> Name {
    text.parse().expect("tests use valid names")
}

fn address(port: u16) -> Address {
    format!("http://10.0.0.7:{port}").parse().expect("a valid address")
}

fn picks(registry: &Registry, namespace: &str, count: usize) -> Vec<String> {
    let snapshot = registry.snapshot();
    let Some(group) = snapshot.namespace(namespace) else {
        return Vec::new();
    };
    (0..count).filter_map(|_| group.pick()).map(|member| member.name().to_string()).collect()
}

fn add_in_process(registry: &Registry, namespace: &Namespace, name: &Name, now: Instant) -> Result<(), RegisterError> {
    let new = [(namespace.clone(), name.clone(), HealthPolicy::default())];
    registry.replace_in_process(&[], &new, now, || {})
}

fn three_in_process() -> (Registry, Namespace, Instant) {
    let (registry, storage, now) = (registry(), namespace("storage"), Instant::now());
    for number in 1..=3 {
        let name = name(&format!("storage-{number}"));
        add_in_process(&registry, &storage, &name, now).expect("there is room");
    }
    (registry, storage, now)
}

#[test]
fn goes_round_in_order_of_name() {
    let (registry, ..) = three_in_process();
    assert_eq!(picks(&registry, "storage", 4), ["storage-1", "storage-2", "storage-3", "storage-1"]);
    assert_eq!(picks(&registry, "storage", 2), ["storage-2", "storage-3"], "the turn outlives the snapshot");
}

#[test]
fn the_share_is_exact_over_threads() {
    let (registry, ..) = three_in_process();
    let counts: [AtomicUsize; 3] = Default::default();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..3000 {
                    let snapshot = registry.snapshot();
                    let group = snapshot.namespace("storage").expect("has instances");
                    let member = group.pick().expect("all are available");
                    let last = member.name().as_str().as_bytes().last().expect("names are not empty");
                    counts[usize::from(last - b'1')].fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(counts.map(AtomicUsize::into_inner), [8000; 3]);
}

#[test]
fn a_declared_namespace_is_known_without_instances() {
    let (registry, storage, now) = (registry(), namespace("storage"), Instant::now());
    assert!(registry.snapshot().namespace("storage").is_none());
    registry.declare(&storage);
    let total = || registry.snapshot().namespace("storage").map(|group| group.total());
    assert_eq!(total(), Some(0));
    registry.register(&storage, &name("a"), address(1), now).expect("register");
    registry.declare(&storage);
    assert_eq!(total(), Some(1), "declaring it again changes nothing");
    assert!(registry.deregister(&storage, &name("a")));
    assert_eq!(total(), Some(0));

    let other = namespace("other");
    registry.register(&other, &name("a"), address(1), now).expect("register");
    assert!(registry.deregister(&other, &name("a")));
    assert!(registry.snapshot().namespace("other").is_none(), "vanishes with its last instance");
    assert!(!registry.deregister(&other, &name("a")));
}

#[test]
fn the_newest_registration_wins() {
    let (registry, storage, now) = (registry(), namespace("storage"), Instant::now());
    let register = |port| registry.register(&storage, &name("a"), address(port), now);
    let member = || registry.snapshot().namespace("storage").expect("known").find("a").expect("there").clone();
    assert_eq!(register(1), Ok(Registration::New));
    let first = member();
    assert_eq!(register(1), Ok(Registration::Known));
    assert!(Arc::ptr_eq(&first, &member()), "nothing changed");
    assert_eq!(register(2), Ok(Registration::Known));
    assert_eq!(*member().location(), Location::Remote(address(2)));
    assert!(!first.is_available(), "nobody should use the old one any more");

    for _ in 0..10 {
        registry.report(&first, false);
    }
    assert!(member().is_available(), "late failures of the old address are not held against the new one");
    let group = registry.snapshot().namespace("storage").expect("known").clone();
    assert_eq!((group.available(), group.total()), (1, 1));
    assert!(group.pick_untried(&[first.name().clone()]).is_none(), "the instance was tried, at whichever address");
}

#[test]
fn in_process_and_remote_names_do_not_mix() {
    let (registry, storage, now) = three_in_process();
    let (one, remote) = (name("storage-1"), name("remote"));
    let taken = |name: &Name| RegisterError::NameTaken { namespace: storage.clone(), name: name.clone() };
    assert_eq!(registry.register(&storage, &one, address(1), now), Err(taken(&one)));
    let unknown = UnknownInstance { namespace: storage.clone(), name: one.clone() };
    assert_eq!(registry.heartbeat(&storage, &one, now), Err(unknown), "a heartbeat can't revive it");
    assert!(!registry.deregister(&storage, &one));

    registry.register(&storage, &remote, address(1), now).expect("register");
    let answer = add_in_process(&registry, &storage, &remote, now);
    assert_eq!(answer, Err(taken(&remote)));
    assert_eq!(registry.instances(Some("storage"), now).len(), 4);
}

#[test]
fn in_process_instances_do_not_expire() {
    let (registry, _, now) = three_in_process();
    assert_eq!(registry.expire(now + 1000 * TTL), None);
    assert_eq!(picks(&registry, "storage", 3).len(), 3);
}

#[test]
fn in_process_instances_are_replaced_in_one_step() {
    let (registry, storage, now) = three_in_process();
    let (one, four) = (name("storage-1"), name("storage-4"));
    for _ in 0..HealthPolicy::default().unhealthy_after {
        registry.record_check(&storage, &one, false, now);
    }
    let before = registry.snapshot().namespace("storage").expect("known").clone();
    assert_eq!(before.available(), 2);

    let gone = ["storage-1", "storage-2", "storage-3"].map(|gone| (storage.clone(), name(gone)));
    let new = [&one, &four].map(|new| (storage.clone(), new.clone(), HealthPolicy::default()));
    let mut prepared = false;
    let unchanged = || assert_eq!(registry.snapshot().namespace("storage").expect("known").available(), 2);
    registry
        .replace_in_process(&gone, &new, now, || {
            unchanged();
            prepared = true;
        })
        .expect("there is room");
    assert!(prepared);
    assert_eq!(picks(&registry, "storage", 2), ["storage-1", "storage-4"], "the new ones are available");
    assert_eq!(before.available(), 2, "who holds the old snapshot still sees it");
}

#[test]
fn a_replacement_that_is_refused_changes_nothing() {
    let (registry, storage, now) = three_in_process();
    registry.register(&storage, &name("remote"), address(1), now).expect("there is room");
    let gone = [(storage.clone(), name("storage-1"))];
    let new = ["new", "remote"].map(|new| (storage.clone(), name(new), HealthPolicy::default()));
    let refused = registry.replace_in_process(&gone, &new, now, || panic!("nothing is to be prepared"));
    assert_eq!(refused, Err(RegisterError::NameTaken { namespace: storage.clone(), name: name("remote") }));
    let names: Vec<String> =
        registry.instances(Some("storage"), now).iter().map(|instance| instance.name.to_string()).collect();
    assert_eq!(names, ["remote", "storage-1", "storage-2", "storage-3"]);
}

#[test]
fn a_namespace_goes_with_its_last_in_process_instance() {
    let (registry, storage, now) = three_in_process();
    let gone = ["storage-1", "storage-2", "storage-3"].map(|gone| (storage.clone(), name(gone)));
    registry.replace_in_process(&gone, &[], now, || {}).expect("nothing is added");
    assert!(registry.snapshot().namespace("storage").is_none());
}

#[test]
fn the_number_of_instances_is_bounded() {
    let registry = Registry::new(Config { max_instances: 2, ..Config::default() });
    let (storage, now) = (namespace("storage"), Instant::now());
    add_in_process(&registry, &storage, &name("a"), now).expect("there is room");
    registry.register(&storage, &name("b"), address(1), now).expect("there is room");
    let full = RegisterError::Full { limit: 2 };
    assert_eq!(registry.register(&namespace("x"), &name("c"), address(1), now), Err(full.clone()));
    assert_eq!(add_in_process(&registry, &storage, &name("c"), now), Err(full));
    assert!(registry.snapshot().namespace("x").is_none(), "a refused registration leaves nothing behind");
    assert_eq!(registry.register(&storage, &name("b"), address(2), now), Ok(Registration::Known));
    registry.deregister(&storage, &name("b"));
    assert_eq!(registry.register(&storage, &name("c"), address(1), now), Ok(Registration::New));
}

#[test]
fn failed_requests_in_a_row_make_it_unavailable_until_its_heartbeat() {
    let (registry, storage, now) = (registry(), namespace("storage"), Instant::now());
    registry.register(&storage, &name("a"), address(1), now).expect("register");
    let member = registry.snapshot().namespace("storage").expect("known").find("a").expect("there").clone();
    for reached in [false, false, true, false, false] {
        registry.report(&member, reached);
    }
    assert_eq!(picks(&registry, "storage", 1), ["a"], "never three in a row");
    registry.report(&member, false);
    assert!(picks(&registry, "storage", 1).is_empty());
    assert_eq!(registry.instances(None, now).len(), 1, "it stays listed");

    registry.heartbeat(&storage, &name("a"), now).expect("it is known");
    assert_eq!(picks(&registry, "storage", 1), ["a"]);
    registry.report(&member, false);
    registry.report(&member, false);
    assert_eq!(picks(&registry, "storage", 1), ["a"], "the row starts again");
}

#[test]
fn failed_requests_are_not_outweighed_by_checks() {
    let (registry, storage, now) = three_in_process();
    let one = name("storage-1");
    let member = registry.snapshot().namespace("storage").expect("known").find("storage-1").expect("there").clone();
    for _ in 0..3 {
        registry.report(&member, false);
        registry.record_check(&storage, &one, true, now);
    }
    assert!(!member.is_available());
    registry.record_check(&storage, &one, true, now);
    registry.record_check(&storage, &one, true, now);
    assert!(member.is_available());
    registry.report(&member, false);
    assert!(member.is_available(), "its return ended the row");
}

#[test]
fn who_is_out_of_rotation_comes_back_when_told_and_not_before() {
    let (registry, storage, now) = three_in_process();
    let (two, remote) = (name("storage-2"), name("remote"));
    registry.register(&storage, &remote, address(1), now).expect("there is room");
    let rotate = |name: &Name, rotation| registry.set_rotation(&storage, name, rotation, now).expect("it is known");
    for name in [&two, &remote] {
        let info = rotate(name, Rotation::Out);
        assert_eq!((info.available, info.rotation), (false, Rotation::Out));
    }
    // None of what brings an instance back to health does.
    add_in_process(&registry, &storage, &two, now).expect("it takes its own place");
    registry.heartbeat(&storage, &remote, now).expect("it is known");
    registry.register(&storage, &remote, address(2), now).expect("it is known");
    registry.record_check(&storage, &two, true, now);
    assert_eq!(picks(&registry, "storage", 4), ["storage-1", "storage-3", "storage-1", "storage-3"]);

    assert!(rotate(&two, Rotation::In).available);
    assert_eq!(picks(&registry, "storage", 3).into_iter().collect::<BTreeSet<_>>().len(), 3);
    // Back in rotation is not back in health.
    for _ in 0..3 {
        registry.record_check(&storage, &remote, false, now);
    }
    assert!(!rotate(&remote, Rotation::In).available);
    registry.deregister(&storage, &remote);
    let nobody = registry.set_rotation(&storage, &remote, Rotation::Out, now);
    assert_eq!(nobody, Err(UnknownInstance { namespace: storage.clone(), name: remote.clone() }));
    registry.register(&storage, &remote, address(2), now).expect("there is room");
    assert!(rotate(&remote, Rotation::In).available, "what was removed is forgotten");
}

#[test]
fn last_seen_is_the_last_sign_of_life() {
    let (registry, storage, start) = three_in_process();
    registry.register(&storage, &name("a"), address(1), start).expect("register");
    let later = |seconds| start + Duration::from_secs(seconds);
    registry.heartbeat(&storage, &name("a"), later(3)).expect("it is known");
    registry.record_check(&storage, &name("storage-2"), true, later(5));
    registry.record_check(&storage, &name("storage-3"), false, later(5));
    let instances = registry.instances(Some("storage"), later(6));
    let seen: Vec<_> = instances.iter().map(|info| (info.name.as_str(), info.last_seen.as_secs())).collect();
    assert_eq!(seen, [("a", 3), ("storage-1", 6), ("storage-2", 1), ("storage-3", 6)]);
    assert!(registry.instances(Some("nobody"), start).is_empty());
}

/// All in one namespace, and each in its own: neither may take time that grows with the square of their number.
#[test]
fn ten_thousand_instances_come_and_go() {
    let (registry, start) = (registry(), Instant::now());
    let crowd = namespace("crowd");
    for number in 0..5_000_u16 {
        let name = name(&format!("instance-{number}"));
        registry.register(&crowd, &name, address(number + 1), start).expect("there is room");
        let own = namespace(&format!("own-{number}"));
        registry.register(&own, &name, address(number + 1), start).expect("there is room");
    }
    assert_eq!(registry.snapshot().namespaces().count(), 5_001);
    let distinct: BTreeSet<_> = picks(&registry, "crowd", 5_000).into_iter().collect();
    assert_eq!(distinct.len(), 5_000);
    assert_eq!(registry.expire(start + TTL), Some(start + 10 * TTL));
    assert!(picks(&registry, "crowd", 1).is_empty());
    assert_eq!(registry.expire(start + 10 * TTL), None);
    assert_eq!(registry.snapshot().namespaces().count(), 0);
}

/// What may happen to a registry. Instances are numbered: 0 and 1 are in process, 2 to 5 remote, half of each in one
/// namespace; namespace 0 is declared.
#[derive(Clone, Debug)]
enum Step {
    Register(usize, u16),
    Heartbeat(usize),
    Deregister(usize),
    Check(usize, bool),
    Report(usize, bool),
    /// Milliseconds.
    Wait(u64),
    /// Picks this many rounds.
    Pick(usize),
    /// Takes one out of rotation, or back into it.
    Rotate(usize, Rotation),
    /// Another revision takes the place of the one in process.
    Replace(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (2..6usize, 1..3u16).prop_map(|(who, port)| Step::Register(who, port)),
        3 => (0..6usize).prop_map(Step::Heartbeat),
        1 => (0..6usize).prop_map(Step::Deregister),
        6 => (0..6usize, any::<bool>()).prop_map(|(who, passed)| Step::Check(who, passed)),
        6 => (0..6usize, prop::bool::weighted(0.25)).prop_map(|(who, reached)| Step::Report(who, reached)),
        3 => (0..8_000u64).prop_map(Step::Wait),
        1 => (0..160_000u64).prop_map(Step::Wait),
        3 => (1..4usize).prop_map(Step::Pick),
        3 => (0..6usize, any::<bool>())
            .prop_map(|(who, out)| Step::Rotate(who, if out { Rotation::Out } else { Rotation::In })),
        1 => (0..2usize).prop_map(Step::Replace),
    ]
}

const LIMIT: usize = 5;
const POLICY: HealthPolicy = HealthPolicy { unhealthy_after: 3, healthy_after: 2 };

/// One instance by the rules, written down a second time.
#[derive(Clone, Debug)]
struct Expected {
    port: Option<u16>,
    healthy: bool,
    rotation: Rotation,
    failures: u64,
    failed_checks: u32,
    failed_requests: u32,
    passed_checks: u32,
    /// Of a remote one: when its lease was renewed, and whether its missed TTL was noticed.
    renewed: Instant,
    missed: bool,
    last_seen: Instant,
}

impl Expected {
    fn new(port: Option<u16>, now: Instant) -> Self {
        Self {
            port,
            healthy: true,
            rotation: Rotation::In,
            failures: 0,
            failed_checks: 0,
            failed_requests: 0,
            passed_checks: 0,
            renewed: now,
            missed: false,
            last_seen: now,
        }
    }

    fn is_available(&self) -> bool {
        self.healthy && self.rotation == Rotation::In
    }

    fn set(&mut self, healthy: bool, rotation: Rotation) {
        let before = self.is_available();
        if self.healthy != healthy {
            (self.failed_checks, self.passed_checks) = (0, 0);
        }
        (self.healthy, self.rotation) = (healthy, rotation);
        if !before && self.is_available() {
            self.failed_requests = 0;
        }
    }

    fn set_healthy(&mut self, healthy: bool) {
        self.set(healthy, self.rotation);
    }

    /// Like new, but for what an operator said.
    fn renew(&mut self, port: Option<u16>, now: Instant) {
        *self = Self { rotation: self.rotation, ..Self::new(port, now) };
    }

    fn check(&mut self, passed: bool, now: Instant) {
        if passed {
            self.last_seen = now;
            self.failed_checks = 0;
            self.passed_checks += 1;
            if !self.healthy && self.passed_checks == POLICY.healthy_after {
                self.set_healthy(true);
            }
        } else {
            self.failures += 1;
            self.passed_checks = 0;
            self.failed_checks += 1;
            if self.healthy && self.failed_checks == POLICY.unhealthy_after {
                self.set_healthy(false);
            }
        }
    }

    fn report(&mut self, reached: bool) {
        self.failed_requests = if reached { 0 } else { self.failed_requests + 1 };
        self.failures += u64::from(!reached);
        if self.is_available() && self.failed_requests >= POLICY.unhealthy_after {
            self.set_healthy(false);
        }
    }
}

struct Model {
    registry: Registry,
    now: Instant,
    instances: BTreeMap<usize, Expected>,
}

impl Model {
    fn new() -> Self {
        let registry = Registry::new(Config { max_instances: LIMIT, ..Config::default() });
        let now = Instant::now();
        registry.declare(&Self::at(0).0);
        let mut instances = BTreeMap::new();
        for who in 0..2 {
            let (namespace, name) = Self::at(who);
            let new = [(namespace, name, POLICY)];
            registry.replace_in_process(&[], &new, now, || {}).expect("there is room");
            instances.insert(who, Expected::new(None, now));
        }
        Self { registry, now, instances }
    }

    /// Where an instance is: even ones in the declared namespace; 1 alone in its own, 3 and 5 together.
    fn at(who: usize) -> (Namespace, Name) {
        let namespace_of = ["declared", "alone", "declared", "others", "declared", "others"];
        (namespace(namespace_of[who]), name(&format!("i-{who}")))
    }

    fn apply(&mut self, step: Step) -> Result<(), TestCaseError> {
        let (registry, now) = (self.registry.clone(), self.now);
        match step {
            Step::Register(who, port) => {
                let (namespace, name) = Self::at(who);
                let answer = registry.register(&namespace, &name, address(port), now);
                if self.instances.contains_key(&who) {
                    prop_assert_eq!(answer, Ok(Registration::Known));
                } else if self.instances.len() == LIMIT {
                    prop_assert_eq!(answer, Err(RegisterError::Full { limit: LIMIT }));
                    return Ok(());
                } else {
                    prop_assert_eq!(answer, Ok(Registration::New));
                }
                let expected = self.instances.entry(who).or_insert_with(|| Expected::new(Some(port), now));
                let failures = if expected.port == Some(port) { expected.failures } else { 0 };
                expected.renew(Some(port), now);
                expected.failures = failures;
            }
            Step::Heartbeat(who) => {
                let (namespace, name) = Self::at(who);
                let answer = registry.heartbeat(&namespace, &name, now);
                match self.instances.get_mut(&who).filter(|expected| expected.port.is_some()) {
                    Some(expected) => {
                        prop_assert_eq!(answer, Ok(()));
                        let failures = expected.failures;
                        expected.renew(expected.port, now);
                        expected.failures = failures;
                    }
                    None => prop_assert_eq!(answer, Err(UnknownInstance { namespace, name })),
                }
            }
            Step::Deregister(who) => {
                let (namespace, name) = Self::at(who);
                let known = self.instances.get(&who).is_some_and(|expected| expected.port.is_some());
                prop_assert_eq!(registry.deregister(&namespace, &name), known);
                if known {
                    self.instances.remove(&who);
                }
            }
            Step::Check(who, passed) => {
                let (namespace, name) = Self::at(who);
                registry.record_check(&namespace, &name, passed, now);
                if let Some(expected) = self.instances.get_mut(&who) {
                    expected.check(passed, now);
                }
            }
            Step::Report(who, reached) => {
                let (namespace, name) = Self::at(who);
                let group = registry.snapshot().namespace(namespace.as_str()).cloned();
                let member = group.and_then(|group| group.find(name.as_str()).cloned());
                prop_assert_eq!(member.is_some(), self.instances.contains_key(&who));
                if let (Some(member), Some(expected)) = (member, self.instances.get_mut(&who)) {
                    registry.report(&member, reached);
                    expected.report(reached);
                }
            }
            Step::Wait(millis) => {
                self.now += Duration::from_millis(millis);
                self.expire()?;
            }
            Step::Pick(rounds) => self.pick(rounds)?,
            Step::Rotate(who, rotation) => {
                let (namespace, name) = Self::at(who);
                let answer = registry.set_rotation(&namespace, &name, rotation, now);
                match self.instances.get_mut(&who) {
                    Some(expected) => {
                        expected.set(expected.healthy, rotation);
                        let answer = answer.map(|info| (info.available, info.rotation));
                        prop_assert_eq!(answer, Ok((expected.is_available(), rotation)));
                    }
                    None => prop_assert_eq!(answer, Err(UnknownInstance { namespace, name })),
                }
            }
            Step::Replace(who) => {
                let (namespace, name) = Self::at(who);
                // As gone, too: what is new stays.
                let gone = [(namespace.clone(), name.clone())];
                let replaced = registry.replace_in_process(&gone, &[(namespace, name, POLICY)], now, || {});
                prop_assert_eq!(replaced, Ok(()));
                self.instances.get_mut(&who).expect("in process").renew(None, now);
            }
        }
        self.compare()
    }

    fn expire(&mut self) -> Result<(), TestCaseError> {
        let now = self.now;
        self.instances.retain(|_, expected| expected.port.is_none() || now - expected.renewed < 10 * TTL);
        for expected in self.instances.values_mut().filter(|expected| expected.port.is_some()) {
            if now - expected.renewed >= TTL && !expected.missed {
                expected.missed = true;
                expected.failures += 1;
                expected.set_healthy(false);
            }
        }
        let remote = self.instances.values().filter(|expected| expected.port.is_some());
        let next = remote.map(|expected| expected.renewed + if expected.missed { 10 * TTL } else { TTL }).min();
        prop_assert_eq!(self.registry.expire(now), next);
        Ok(())
    }

    /// Over a stable set, everybody available gets the same number of picks, and nobody else any.
    fn pick(&self, rounds: usize) -> Result<(), TestCaseError> {
        for group in self.registry.snapshot().namespaces() {
            let inside = |who: usize| Self::at(who).0 == *group.namespace();
            let expected: BTreeMap<String, usize> = self
                .instances
                .iter()
                .filter(|(who, expected)| inside(**who) && expected.is_available())
                .map(|(who, _)| (Self::at(*who).1.to_string(), rounds))
                .collect();
            let mut picked = BTreeMap::new();
            for _ in 0..rounds * group.available() {
                let member = group.pick().expect("somebody is available");
                prop_assert!(member.is_available());
                *picked.entry(member.name().to_string()).or_default() += 1;
            }
            prop_assert_eq!(&picked, &expected);

            let mut tried = Vec::new();
            while let Some(member) = group.pick_untried(&tried) {
                prop_assert!(member.is_available());
                tried.push(member.name().clone());
            }
            let tried: BTreeSet<_> = tried.iter().map(ToString::to_string).collect();
            prop_assert!(tried.iter().eq(expected.keys()), "each is tried once: {:?}", tried);
            prop_assert_eq!(group.pick().is_some(), !expected.is_empty());
            // Back to the start of a round, for the next step.
            for _ in 1..group.available() {
                group.pick();
            }
        }
        Ok(())
    }

    fn compare(&self) -> Result<(), TestCaseError> {
        let mut expected: Vec<InstanceInfo> = self
            .instances
            .iter()
            .map(|(who, expected)| {
                let (namespace, name) = Self::at(*who);
                InstanceInfo {
                    namespace,
                    name,
                    available: expected.is_available(),
                    location: expected.port.map_or(Location::InProcess, |port| Location::Remote(address(port))),
                    last_seen: self.now - expected.last_seen,
                    rotation: expected.rotation,
                    failures: expected.failures,
                }
            })
            .collect();
        expected.sort_by(|left, right| (&left.namespace, &left.name).cmp(&(&right.namespace, &right.name)));
        prop_assert_eq!(self.registry.instances(None, self.now), expected);

        let mut known: BTreeSet<Namespace> = self.instances.keys().map(|who| Self::at(*who).0).collect();
        known.insert(Self::at(0).0);
        let snapshot = self.registry.snapshot();
        prop_assert!(snapshot.namespaces().map(|group| group.namespace()).eq(&known));
        for group in snapshot.namespaces() {
            let inside: Vec<_> =
                self.instances.iter().filter(|(who, _)| Self::at(**who).0 == *group.namespace()).collect();
            prop_assert_eq!(group.total(), inside.len());
            prop_assert_eq!(group.available(), inside.iter().filter(|(_, expected)| expected.is_available()).count());
            for (who, expected) in inside {
                let member = group.find(Self::at(*who).1.as_str()).expect("is listed");
                prop_assert_eq!(member.is_available(), expected.is_available());
            }
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn follows_the_rules(steps in prop::collection::vec(step(), 1..120)) {
        let mut model = Model::new();
        for step in steps {
            model.apply(step)?;
        }
    }
}
