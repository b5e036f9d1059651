//! What a write does: decided in one place, whatever the backend.
//!
//! A [`Transaction`] sees the table as it will be once everything [`Pending`] is published, and collects changes. It
//! checks first and changes last, so one that fails has changed nothing. The backend then adds the changes to what is
//! pending, and publishes that when it is as durable as promised. Lives for one operation; bounded by the limits of a
//! batch.

use std::collections::BTreeMap;

use crate::table::Table;
use crate::{Bucket, Error, Limits, Stats, Swap, Value, Versioned};

/// One operation on one bucket.
pub(crate) struct Transaction<'a> {
    limits: &'a Limits,
    table: &'a Table,
    pending: &'a Pending,
    bucket: &'a Bucket,
    changes: Vec<Change>,
}

/// A key that gets a value, or loses the one it has.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) key: Box<str>,
    /// None: the key is deleted.
    pub(crate) value: Option<Value>,
}

/// Changes that were decided and that no reader may see yet. Bounded by what is committed together.
#[derive(Debug)]
pub(crate) struct Pending {
    buckets: BTreeMap<Bucket, BTreeMap<Box<str>, Latest>>,
    /// What the table will hold when this is published.
    stats: Stats,
}

/// What a key will be.
#[derive(Debug)]
struct Latest {
    value: Option<Value>,
    version: u64,
}

impl<'a> Transaction<'a> {
    pub(crate) fn new(limits: &'a Limits, table: &'a Table, pending: &'a Pending, bucket: &'a Bucket) -> Self {
        Self { limits, table, pending, bucket, changes: Vec::new() }
    }

    /// What it wants to have changed. Empty if it failed.
    pub(crate) fn into_changes(self) -> Vec<Change> {
        self.changes
    }

    pub(crate) fn set(&mut self, key: &str, value: Value) -> Result<(), Error> {
        self.check_room([(key, value.len())])?;
        self.change(key, Some(value));
        Ok(())
    }

    /// Says whether the key existed.
    pub(crate) fn delete(&mut self, key: &str) -> bool {
        let exists = self.get(key).is_some();
        if exists {
            self.change(key, None);
        }
        exists
    }

    pub(crate) fn increment(&mut self, key: &str, delta: i64) -> Result<i64, Error> {
        let number = self.get(key).map_or(Ok(0), |value| parse_number(value))?;
        let sum = number.checked_add(delta).ok_or(Error::Overflow)?;
        let text = Value::from(sum.to_string());
        self.limits.check_value(&text)?;
        self.set(key, text)?;
        Ok(sum)
    }

    pub(crate) fn swap(&mut self, key: &str, version: u64, value: Value) -> Result<Swap, Error> {
        let now = self.get_versioned(key);
        if now.version != version {
            return Ok(Swap::Conflict(now));
        }
        self.set(key, value)?;
        Ok(Swap::Done)
    }

    /// Of a key that occurs twice, the last value counts.
    pub(crate) fn set_many(&mut self, values: Vec<(String, Value)>) -> Result<(), Error> {
        self.check_room(values.iter().map(|(key, value)| (key.as_str(), value.len())))?;
        values.into_iter().for_each(|(key, value)| self.change(&key, Some(value)));
        Ok(())
    }

    pub(crate) fn delete_many(&mut self, keys: &[String]) {
        for key in keys {
            self.delete(key);
        }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        match self.pending.latest(self.bucket, key) {
            Some(latest) => latest.value.as_ref(),
            None => self.table.get(self.bucket, key),
        }
    }

    fn get_versioned(&self, key: &str) -> Versioned {
        match self.pending.latest(self.bucket, key) {
            Some(latest) => Versioned { value: latest.value.clone(), version: latest.version },
            None => self.table.get_versioned(self.bucket, key),
        }
    }

    fn change(&mut self, key: &str, value: Option<Value>) {
        self.changes.push(Change { key: key.into(), value });
    }

    /// Refuses writes that would make the store hold more than it does and more than it may.
    fn check_room<'k>(&self, writes: impl IntoIterator<Item = (&'k str, usize)>) -> Result<(), Error> {
        let last: BTreeMap<&str, usize> = writes.into_iter().collect();
        let cost = |key: &str, value: usize| (key.len() + value) as u64 + Limits::KEY_OVERHEAD;
        let (mut before, mut after) = (0, 0);
        for (key, value) in last {
            before += self.get(key).map_or(0, |old| cost(key, old.len()));
            after += cost(key, value);
        }
        let limit = self.limits.total;
        let held = self.pending.stats.bytes + self.pending.stats.keys * Limits::KEY_OVERHEAD;
        if after > before && held - before + after > limit { Err(Error::Full { limit }) } else { Ok(()) }
    }
}

impl Pending {
    /// Nothing, on top of this table.
    pub(crate) fn over(table: &Table) -> Self {
        Self { buckets: BTreeMap::new(), stats: table.stats() }
    }

    /// Adds the changes of one transaction, which has this version.
    pub(crate) fn add(&mut self, table: &Table, bucket: &Bucket, changes: Vec<Change>, version: u64) {
        if !changes.is_empty() && !self.buckets.contains_key(bucket) {
            self.buckets.insert(bucket.clone(), BTreeMap::new());
        }
        for Change { key, value } in changes {
            let old = match self.latest(bucket, &key) {
                Some(latest) => latest.value.as_ref(),
                None => table.get(bucket, &key),
            };
            if let Some(old) = old.map(Value::len) {
                self.stats.keys -= 1;
                self.stats.bytes -= (key.len() + old) as u64;
            }
            if let Some(new) = &value {
                self.stats.keys += 1;
                self.stats.bytes += (key.len() + new.len()) as u64;
            }
            let keys = self.buckets.get_mut(bucket).expect("was just inserted");
            keys.insert(key, Latest { value, version });
        }
    }

    /// Applies everything to the table it is over. Returns the values that were there, to be dropped when no lock is held:
    /// freeing large ones takes longer than the writes themselves.
    #[must_use]
    pub(crate) fn publish(&mut self, table: &mut Table) -> Vec<Value> {
        let mut old = Vec::new();
        for (bucket, keys) in std::mem::take(&mut self.buckets) {
            for (key, Latest { value, version }) in keys {
                old.extend(match value {
                    Some(value) => table.set(&bucket, &key, value, version),
                    None => table.delete(&bucket, &key, version),
                });
            }
        }
        debug_assert_eq!(self.stats, table.stats(), "what is pending was counted right");
        old
    }

    fn latest(&self, bucket: &Bucket, key: &str) -> Option<&Latest> {
        self.buckets.get(bucket)?.get(key)
    }
}

/// A copy of a value of its own, to be kept: what came in may be a slice of a whole request, which it would keep alive
/// uncounted.
pub(crate) fn own(value: &Value) -> Value {
    Value::copy_from_slice(value)
}

fn parse_number(value: &[u8]) -> Result<i64, Error> {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).ok_or(Error::NotANumber)
}
