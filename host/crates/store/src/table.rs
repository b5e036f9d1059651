//! The keys and values themselves, with their versions. A plain data structure: no lock, no limits on single keys.
//!
//! # Versions
//!
//! A key's version is the number of the write that made it. For a key that isn't there, it would take a tombstone for
//! ever to remember its last deletion; instead, deletions are remembered in a fixed number of stripes, by the key's hash:
//! an absent key's version is the number of the last deletion in its stripe. So a key that was created and deleted since
//! is always noticed; that another key's deletion is taken for it happens rarely, and costs a retry.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::Bound;

use crate::{Bucket, Limits, Page, Stats, Value, Versioned};

const STRIPES: usize = 1024;

#[derive(Debug)]
pub(crate) struct Table {
    /// Buckets without keys are dropped.
    buckets: BTreeMap<Bucket, BTreeMap<Box<str>, Entry>>,
    stats: Stats,
    /// The number of the newest write.
    sequence: u64,
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
            sequence: 0,
            deleted: vec![0; STRIPES].into(),
            hasher: RandomState::new(),
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        self.stats
    }

    pub(crate) fn get(&self, bucket: &Bucket, key: &str) -> Option<&Value> {
        Some(&self.entry(bucket, key)?.value)
    }

    pub(crate) fn get_versioned(&self, bucket: &Bucket, key: &str) -> Versioned {
        match self.entry(bucket, key) {
            Some(entry) => Versioned { value: Some(entry.value.clone()), version: entry.version },
            None => Versioned { value: None, version: self.deleted[self.stripe(bucket, key)] },
        }
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
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = keys.range::<str, _>((after, Bound::Unbounded)).map(|(key, _)| key);
        let keys: Vec<String> = rest.by_ref().take(limit).map(|key| key.to_string()).collect();
        let next = rest.next().and_then(|_| keys.last().cloned());
        Page { keys, next }
    }

    /// Sets a key and returns the value it had.
    pub(crate) fn set(&mut self, bucket: &Bucket, key: &str, value: Value) -> Option<Value> {
        self.sequence += 1;
        let size = value.len() as u64;
        let new = Entry { value, version: self.sequence };
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

    /// Removes a key and returns the value it had.
    pub(crate) fn delete(&mut self, bucket: &Bucket, key: &str) -> Option<Value> {
        let keys = self.buckets.get_mut(bucket)?;
        let old = keys.remove(key)?.value;
        if keys.is_empty() {
            self.buckets.remove(bucket);
        }
        self.sequence += 1;
        let stripe = self.stripe(bucket, key);
        self.deleted[stripe] = self.sequence;
        self.stats.keys -= 1;
        self.stats.bytes -= (key.len() + old.len()) as u64;
        Some(old)
    }

    /// Whether the store would hold more than it does, and more than `total`, after setting `writes`. Of a key that
    /// occurs twice, the last value counts.
    pub(crate) fn overflows<'a>(
        &self,
        bucket: &Bucket,
        writes: impl IntoIterator<Item = (&'a str, usize)>,
        total: u64,
    ) -> bool {
        let mut last = BTreeMap::new();
        last.extend(writes);
        let cost = |key: &str, value: usize| (key.len() + value) as u64 + Limits::KEY_OVERHEAD;
        let (mut before, mut after) = (0, 0);
        for (key, value) in last {
            before += self.get(bucket, key).map_or(0, |old| cost(key, old.len()));
            after += cost(key, value);
        }
        let held = self.stats.bytes + self.stats.keys * Limits::KEY_OVERHEAD;
        after > before && held - before + after > total
    }

    fn entry(&self, bucket: &Bucket, key: &str) -> Option<&Entry> {
        self.buckets.get(bucket)?.get(key)
    }

    fn stripe(&self, bucket: &Bucket, key: &str) -> usize {
        self.hasher.hash_one((bucket, key)) as usize % STRIPES
    }
}
