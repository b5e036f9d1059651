//! What the log keeps: the table, and what was decided and is not durable yet.
//!
//! Readers see the table only, so never a write that could still be lost. The log's thread decides each write on the table
//! with everything pending on top, and publishes what is pending once it is written and synced: under one lock, so that
//! nobody sees half of it. Bounded by [`Limits::total`], and what is pending by what the log commits at once.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use txlog::{CommitError, Entry, Live, Operation, Position, Record, State};

use super::inspect::Change;
use super::job::Job;
use crate::table::Table;
use crate::transaction::{self, Pending, Transaction};
use crate::{Error, Limits, Stats, Value};

/// What visiting a key counts besides its bytes: the lock must be short for tiny keys too.
const PER_VISIT: usize = 64;

/// The keys of a durable store.
#[derive(Debug)]
pub(super) struct Keys {
    limits: Limits,
    table: RwLock<Table>,
    /// Only the log's thread locks it.
    pending: Mutex<Pending>,
}

impl Keys {
    pub(super) fn new(limits: Limits) -> Self {
        let table = Table::new();
        let pending = Mutex::new(Pending::over(&table));
        Self { limits, table: RwLock::new(table), pending }
    }

    /// To be called once, between recovery and the first job: keys that are absent have been deleted at some time up to
    /// this sequence, as far as anybody knows.
    pub(super) fn recovered(&self, last: u64) {
        let mut table = self.write();
        table.forget_deletions(last);
        *self.pending() = Pending::over(&table);
    }

    // Nothing panics under the locks but a failed allocation, which aborts.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State for Keys {
    type Job = Job;

    fn replay(&self, entry: Entry<'_>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let Change { sequence, bucket, key, value } = Change::read(entry)?;
        let mut table = self.write();
        let bucket = match table.bucket(bucket) {
            Some(known) => known.clone(),
            None => bucket.parse()?,
        };
        match value {
            Some(value) => table.set(&bucket, key, Value::copy_from_slice(value), sequence),
            None => table.delete(&bucket, key, sequence),
        };
        Ok(())
    }

    fn decide(&self, job: &mut Job, record: &mut Record) {
        let (table, mut pending) = (self.read(), self.pending());
        let bucket = job.bucket().clone();
        let mut transaction = Transaction::new(&self.limits, &table, &pending, &bucket);
        job.decide(&mut transaction);
        let changes = transaction.into_changes();
        for transaction::Change { key, value } in &changes {
            let (bucket, key) = (bucket.as_str().as_bytes(), key.as_bytes());
            let fits = match value {
                Some(value) => record.set(bucket, key, value),
                None => record.delete(bucket, key),
            };
            fits.expect("what the store's limits allow fits into a record");
        }
        pending.add(&table, &bucket, changes, record.sequence());
    }

    fn publish(&self) {
        let mut pending = self.pending();
        let old = pending.publish(&mut self.write());
        drop(old);
    }

    fn discard(&self) {
        *self.pending() = Pending::over(&self.read());
    }

    fn answer(&self, job: Job, outcome: Result<(), CommitError>) {
        job.answer(outcome.map_err(failure));
    }

    fn visit(&self, after: Option<&Position>, bytes: usize, visit: &mut dyn FnMut(Entry<'_>)) -> Option<Position> {
        let text = |bytes| std::str::from_utf8(bytes).expect("positions come from here");
        let after = after.map(|position| (text(&position.bucket), text(&position.key)));
        let table = self.read();
        let mut visited = 0;
        for (bucket, key, value, sequence) in table.entries_after(after) {
            let (bucket, key) = (bucket.as_str().as_bytes(), key.as_bytes());
            visit(Entry { sequence, operation: Operation::Set { bucket, key, value } });
            visited += key.len() + value.len() + PER_VISIT;
            if visited >= bytes {
                return Some(Position { bucket: bucket.to_vec(), key: key.to_vec() });
            }
        }
        None
    }

    fn live(&self) -> Live {
        let Stats { keys, bytes } = self.read().stats();
        Live { keys, bytes }
    }
}

/// What a failed commit is to somebody who waits for a write. The reason, with its paths, is for the log.
pub(super) fn failure(error: CommitError) -> Error {
    match error {
        CommitError::Full => Error::DiskFull,
        CommitError::Failed(_) => Error::Failed("a write could not be made durable".to_owned()),
    }
}
