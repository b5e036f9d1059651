//! The keys and values themselves, with their versions. A plain data structure: no lock, and whoever writes checks limits.
//!
//! # Versions
//!
//! A key's version is the number of the write that made it; whoever writes numbers the writes, upwards. For a key that
//! isn't there, it would take a tombstone for ever to remember its last deletion; instead, deletions are remembered in a
//! fixed number of stripes, by the key's hash: an absent key's version is the number of the last deletion in its stripe.
//! So a key that was created and deleted since is always noticed; that another key's deletion is taken for it happens
//! rarely, and costs a retry.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::Bound;

use crate::{Bucket, Error, Limits, Page, Stats, Value, Versioned};

const STRIPES: usize = 1024;

#[derive(Debug)]
pub(crate) struct Table {
    /// Buckets without keys are dropped.
    buckets: BTreeMap<Bucket, BTreeMap<Box<str>, Entry>>,
    stats: Stats,
    /// The number of the newest deletion, by stripe.
    deleted: Box<[u64]>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Entry {
    value: Value,
    version: u64,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self {
            buckets: BTreeMap::new(),
            stats: Stats::default(),
            deleted: vec![0; STRIPES].into(),
            hasher: RandomState::new(),
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        self.stats
    }

    /// The bucket of this name, if it has keys.
    pub(crate) fn bucket(&self, name: &str) -> Option<&Bucket> {
        self.buckets.get_key_value(name).map(|(bucket, _)| bucket)
    }

    pub(crate) fn get(&self, bucket: &Bucket, key: &str) -> Option<&Value> {
        Some(&self.entry(bucket, key)?.value)
    }

    /// What [`Store::get_many`](crate::Store::get_many) answers for keys that are such as they must be.
    pub(crate) fn get_many(
        &self,
        bucket: &Bucket,
        keys: &[String],
        limits: &Limits,
    ) -> Result<Vec<Option<Value>>, Error> {
        limits.check_found(keys.iter().filter_map(|key| self.get(bucket, key)))?;
        Ok(keys.iter().map(|key| self.get(bucket, key).cloned()).collect())
    }

    pub(crate) fn get_versioned(&self, bucket: &Bucket, key: &str) -> Versioned {
        Versioned { value: self.get(bucket, key).cloned(), version: self.version(bucket, key) }
    }

    pub(crate) fn version(&self, bucket: &Bucket, key: &str) -> u64 {
        match self.entry(bucket, key) {
            Some(entry) => entry.version,
            None => self.deleted[self.stripe(bucket, key)],
        }
    }

    /// Keys greater than `after`, in order.
    pub(crate) fn page(&self, bucket: &Bucket, after: Option<&str>, limit: usize) -> Page {
        let Some(keys) = self.buckets.get(bucket) else {
            return Page::default();
        };
        let mut rest = keys.range::<str, _>(behind(after)).map(|(key, _)| key);
        let keys: Vec<String> = rest.by_ref().take(limit).map(|key| key.to_string()).collect();
        let next = rest.next().and_then(|_| keys.last().cloned());
        Page { keys, next }
    }

    /// Sets a key and returns the value it had.
    pub(crate) fn set(&mut self, bucket: &Bucket, key: &str, value: Value, version: u64) -> Option<Value> {
        let size = value.len() as u64;
        let new = Entry { value, version };
        // `entry` would need an owned bucket and an owned key for every write, also to what exists already.
        if !self.buckets.contains_key(bucket) {
            self.buckets.insert(bucket.clone(), BTreeMap::new());
        }
        let keys = self.buckets.get_mut(bucket).expect("was just inserted");
        self.stats.bytes += size;
        if let Some(entry) = keys.get_mut(key) {
            let old = std::mem::replace(entry, new).value;
            self.stats.bytes -= old.len() as u64;
            return Some(old);
        }
        keys.insert(key.into(), new);
        self.stats.keys += 1;
        self.stats.bytes += key.len() as u64;
        None
    }

    /// Removes a key and returns the value it had. A key that isn't there has been deleted at `version` all the same.
    pub(crate) fn delete(&mut self, bucket: &Bucket, key: &str, version: u64) -> Option<Value> {
        let stripe = self.stripe(bucket, key);
        self.deleted[stripe] = version;
        let keys = self.buckets.get_mut(bucket)?;
        let old = keys.remove(key)?.value;
        if keys.is_empty() {
            self.buckets.remove(bucket);
        }
        self.stats.keys -= 1;
        self.stats.bytes -= (key.len() + old.len()) as u64;
        Some(old)
    }

    /// Takes every absent key for deleted at `version`: for a table that was rebuilt from what is there, and knows
    /// nothing of what was.
    pub(crate) fn forget_deletions(&mut self, version: u64) {
        self.deleted.fill(version);
    }

    /// The keys behind `after`, in order of bucket and key, with their values and versions.
    pub(crate) fn entries_after<'a>(
        &'a self,
        after: Option<(&'a str, &'a str)>,
    ) -> impl Iterator<Item = (&'a Bucket, &'a str, &'a Value, u64)> {
        let from = after.map_or(Bound::Unbounded, |(bucket, _)| Bound::Included(bucket));
        let buckets = self.buckets.range::<str, _>((from, Bound::Unbounded));
        buckets.flat_map(move |(bucket, keys)| {
            let after = after.filter(|(name, _)| *name == bucket.as_str()).map(|(_, key)| key);
            let entries = keys.range::<str, _>(behind(after));
            entries.map(move |(key, entry)| (bucket, &**key, &entry.value, entry.version))
        })
    }

    fn entry(&self, bucket: &Bucket, key: &str) -> Option<&Entry> {
        self.buckets.get(bucket)?.get(key)
    }

    fn stripe(&self, bucket: &Bucket, key: &str) -> usize {
        self.hasher.hash_one((bucket, key)) as usize % STRIPES
    }
}

fn behind(after: Option<&str>) -> (Bound<&str>, Bound<&str>) {
    (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_go_on_from_any_place() {
        let mut table = Table::new();
        let places = [("a", "1"), ("a", "2"), ("b", "1"), ("d", "1"), ("d", "2")];
        for (version, (bucket, key)) in (1..).zip(places) {
            table.set(&bucket.parse().expect("a name"), key, Value::new(), version);
        }
        let after = |after| {
            let entries = table.entries_after(after);
            entries.map(|(bucket, key, _, version)| (bucket.as_str(), key, version)).collect::<Vec<_>>()
        };
        let all: Vec<_> = (1..).zip(places).map(|(version, (bucket, key))| (bucket, key, version)).collect();
        assert_eq!(after(None), all);
        for (index, place) in places.into_iter().enumerate() {
            assert_eq!(after(Some(place)), all[index + 1..], "{place:?}");
        }
        assert_eq!(after(Some(("a", "1x"))), all[1..], "the key need not exist");
        assert_eq!(after(Some(("c", "9"))), all[3..], "nor the bucket");
    }

    #[test]
    fn an_absent_key_has_a_version_too() {
        let (mut table, main) = (Table::new(), Bucket::default());
        table.set(&main, "k", Value::new(), 1);
        table.delete(&main, "k", 2);
        assert_eq!(table.version(&main, "k"), 2);
        table.delete(&main, "k", 3);
        assert_eq!(table.version(&main, "k"), 3, "created and deleted within one commit: nobody saw it, but it was");
        table.forget_deletions(7);
        assert_eq!((table.version(&main, "k"), table.version(&main, "never")), (7, 7));
    }
}
