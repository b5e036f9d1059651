//! The tally: how many requests of each namespace were tried again since the start of the process.
//!
//! One for each registry, shared by all its snapshots. A namespace that vanishes and comes back goes on counting. Bounded:
//! [`NAMED`] namespaces have a count of their own, and any that has instances in process; the rest is counted together. If
//! there is no room, one that has vanished makes way, and its count is added to the rest; should it come back, it begins
//! anew. So neither the rest nor the total goes back, and no namespace that has instances loses its own count.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use crate::instance::Namespace;

/// Namespaces that have a count of their own, as anybody who may register can make them up.
const NAMED: usize = 128;

/// What the rest is called in metrics: a namespace of that name is part of it.
pub const REST: &str = "other";

/// All counts.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    named: Mutex<BTreeMap<Namespace, Arc<AtomicU64>>>,
    rest: Arc<AtomicU64>,
}

/// The count of one namespace, or of the rest. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Count {
    count: Arc<AtomicU64>,
    pub(crate) is_own: bool,
}

/// How many requests were tried again since the start of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retries {
    /// By namespace, in order of name; those that have vanished included.
    pub named: Vec<(Namespace, u64)>,
    /// Of all others.
    pub rest: u64,
}

impl Retries {
    /// All together.
    pub fn total(&self) -> u64 {
        self.named.iter().map(|(_, count)| count).sum::<u64>() + self.rest
    }
}

impl Tally {
    /// The count of a namespace.
    pub(crate) fn of(&self, namespace: &Namespace, in_process: bool) -> Count {
        // Nothing panics under the lock.
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        let full = named.len() >= NAMED && !named.contains_key(namespace);
        // Nobody can get hold of one that only the tally has.
        let vanished = || named.iter().find(|(_, count)| Arc::strong_count(count) == 1).map(|(name, _)| name.clone());
        let makes_way = if full { vanished() } else { None };
        if namespace.as_str() == REST || full && makes_way.is_none() && !in_process {
            return Count { count: self.rest.clone(), is_own: false };
        }
        if let Some(count) = makes_way.and_then(|name| named.remove(&name)) {
            self.rest.fetch_add(count.load(Relaxed), Relaxed);
        }
        Count { count: named.entry(namespace.clone()).or_default().clone(), is_own: true }
    }

    /// What has been counted until now.
    pub(crate) fn retries(&self) -> Retries {
        let named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = self.rest.load(Relaxed);
        Retries { named: named.iter().map(|(name, count)| (name.clone(), count.load(Relaxed))).collect(), rest }
    }
}

impl Count {
    pub(crate) fn add(&self) {
        self.count.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(text: &str) -> Namespace {
        text.parse().expect("tests use valid names")
    }

    #[test]
    fn a_namespace_that_comes_back_goes_on() {
        let tally = Tally::default();
        tally.of(&namespace("a"), false).add();
        tally.of(&namespace("a"), false).add();
        assert_eq!(tally.retries(), Retries { named: vec![(namespace("a"), 2)], rest: 0 });
    }

    #[test]
    fn who_has_a_name_keeps_it_and_the_vanished_make_way() {
        let tally = Tally::default();
        let mut counts: Vec<_> =
            (0..NAMED).map(|number| tally.of(&namespace(&format!("n-{number:03}")), false)).collect();
        counts[0].add();
        counts[5].add();
        let earlier = tally.of(&namespace("a"), false);
        earlier.add();
        assert!(!earlier.is_own && tally.of(&namespace("own"), true).is_own);
        let retries = tally.retries();
        assert_eq!((retries.named.len(), retries.rest, retries.total()), (NAMED + 1, 1, 3));

        drop(counts.remove(0));
        assert!(tally.of(&namespace("b"), false).is_own, "the vanished one made way");
        let retries = tally.retries();
        assert!(retries.named.iter().all(|(name, _)| name.as_str() != "n-000"));
        assert_eq!((retries.rest, retries.total()), (2, 3), "and what it had counted is not lost");
        assert!(retries.named.contains(&(namespace("n-005"), 1)));
    }

    #[test]
    fn one_that_is_called_like_the_rest_is_part_of_it() {
        let tally = Tally::default();
        tally.of(&namespace(REST), true).add();
        assert_eq!(tally.retries(), Retries { named: Vec::new(), rest: 1 });
    }
}
