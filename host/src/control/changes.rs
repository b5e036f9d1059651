//! Brings what becomes of instances into the log: which are unavailable, available again, or gone. Those that became
//! unavailable, because they were not heard of or didn't pass their checks, are also among the failures that are shown, and
//! in the traces. That one came is told by who registered it; that it was taken out of rotation, by who did that.
//!
//! Looks at the registry's snapshots from aside, so that neither the registry nor a request has to wait for the log. What
//! changes twice between two looks isn't told. Bounded by [`MOST`] lines a look.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use registry::{Registry, Rotation, Snapshot};
use trace::{Kind, Tracer};

use crate::facts::Failures;

/// How often there is a look.
const LOOK: Duration = Duration::from_millis(250);

/// Lines that one look may write; what is more is told by its number.
const MOST: usize = 64;

/// Whether each instance is available, by namespace and name, with its address. One that is out of rotation stays what it
/// was: what is done to it on purpose is no failure, and doesn't make it well.
type States = BTreeMap<(String, String), (bool, String)>;

/// What became of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Went,
    Unavailable,
    Available,
}

/// Tells what changes from now on, for ever.
pub(super) async fn tell(registry: &Registry, failures: &Failures, tracer: Option<&Tracer>) {
    let mut seen = registry.snapshot().clone();
    let mut states = states(&seen, &States::new());
    loop {
        tokio::time::sleep(LOOK).await;
        let snapshot = registry.snapshot().clone();
        if Arc::ptr_eq(&snapshot, &seen) {
            continue;
        }
        let now = self::states(&snapshot, &states);
        let changes = changes(&states, &now);
        for (change, namespace, instance, address) in changes.iter().take(MOST) {
            match change {
                Change::Went => tracing::info!(namespace, instance, address, "an instance is not registered any more"),
                Change::Unavailable => {
                    tracing::warn!(namespace, instance, address, "an instance is unavailable");
                    failures.record_instance(namespace, instance);
                    if let Some(tracer) = tracer {
                        record(tracer, namespace, instance);
                    }
                }
                Change::Available => tracing::info!(namespace, instance, address, "an instance is available again"),
            }
        }
        if changes.len() > MOST {
            tracing::warn!(instances = changes.len() - MOST, "more instances went or changed their state");
        }
        (seen, states) = (snapshot, now);
    }
}

/// A moment, and nothing else: a trace of its own.
fn record(tracer: &Tracer, namespace: &str, instance: &str) {
    let lost = tracer.span(tracer.enter(None), None, Kind::Internal, || "instance unavailable");
    let Some(mut lost) = lost else { return };
    lost.text("hostler.namespace", namespace.to_owned());
    lost.text("hostler.instance", instance.to_owned());
    lost.fail("unavailable");
}

/// The states now, after those `before`. One that was never seen in rotation counts as available.
fn states(snapshot: &Snapshot, before: &States) -> States {
    let members = snapshot.namespaces().flat_map(|group| group.members());
    let states = members.map(|member| {
        let name = (member.namespace().to_string(), member.name().to_string());
        // In this order: who is taken out becomes out first, and unavailable then.
        let available = member.is_available();
        let available = match member.rotation() {
            Rotation::In => available,
            Rotation::Out => before.get(&name).is_none_or(|(available, _)| *available),
        };
        (name, (available, member.location().to_string()))
    });
    states.collect()
}

/// What is different, in order of namespace and name, those that went last.
fn changes<'a>(before: &'a States, now: &'a States) -> Vec<(Change, &'a str, &'a str, &'a str)> {
    let mut changes = Vec::new();
    for ((namespace, name), (available, address)) in now {
        let was = before.get(&(namespace.clone(), name.clone())).map(|(available, _)| *available);
        let change = match (was, *available) {
            (None | Some(true), false) => Change::Unavailable,
            (Some(false), true) => Change::Available,
            _ => continue,
        };
        changes.push((change, namespace.as_str(), name.as_str(), address.as_str()));
    }
    for (name @ (namespace, instance), (_, address)) in before {
        if !now.contains_key(name) {
            changes.push((Change::Went, namespace, instance, address));
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use registry::{Config, Name, Namespace};

    use super::*;

    fn states(all: &[(&str, bool)]) -> States {
        let state =
            |(name, available): &(&str, bool)| (("n".to_owned(), (*name).to_owned()), (*available, String::new()));
        all.iter().map(state).collect()
    }

    #[test]
    fn tells_what_is_different() {
        let before = states(&[("a", true), ("b", false), ("c", true), ("d", true)]);
        let now = states(&[("a", false), ("b", true), ("c", true), ("e", true), ("f", false)]);
        let changes: Vec<_> = changes(&before, &now).into_iter().map(|(change, _, name, _)| (change, name)).collect();
        let expected =
            [(Change::Unavailable, "a"), (Change::Available, "b"), (Change::Unavailable, "f"), (Change::Went, "d")];
        assert_eq!(changes, expected);
    }

    #[test]
    fn who_is_out_of_rotation_stays_what_it_was() {
        let (registry, now) = (Registry::new(Config::default()), Instant::now());
        let namespace: Namespace = "n".parse().expect("a namespace");
        let [sick, well, other] = ["sick", "well", "other"].map(|name| name.parse::<Name>().expect("a name"));
        let register = |name: &Name| {
            let address = "http://192.0.2.1:80".parse().expect("an address");
            registry.register(&namespace, name, address, now).expect("there is room");
        };
        let fail = |name: &Name| {
            for _ in 0..registry.config().unhealthy_after {
                registry.record_check(&namespace, name, false, now);
            }
        };
        let rotate = |name: &Name, rotation| {
            registry.set_rotation(&namespace, name, rotation, now).expect("it is known");
        };
        let mut before = States::new();
        let mut look = || {
            let now = super::states(&registry.snapshot(), &before);
            let told: Vec<_> =
                changes(&before, &now).into_iter().map(|(change, _, name, _)| (change, name.to_owned())).collect();
            before = now;
            told
        };
        let told = |change, name: &Name| vec![(change, name.to_string())];
        for name in [&sick, &well] {
            register(name);
        }
        assert_eq!(look(), []);
        fail(&sick);
        assert_eq!(look(), told(Change::Unavailable, &sick));
        rotate(&sick, Rotation::Out);
        rotate(&well, Rotation::Out);
        assert_eq!(look(), []);
        register(&other);
        assert_eq!(look(), [], "another change tells nothing of them");
        rotate(&sick, Rotation::In);
        assert_eq!(look(), [], "it is still what it was");
        // It fails while it is out, which is told when it is back.
        fail(&well);
        assert_eq!(look(), []);
        rotate(&well, Rotation::In);
        assert_eq!(look(), told(Change::Unavailable, &well));
        registry.heartbeat(&namespace, &sick, now).expect("it is known");
        assert_eq!(look(), told(Change::Available, &sick));
    }
}
