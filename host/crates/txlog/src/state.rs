//! What a log is the log of: the [`State`], kept in memory by somebody else.

use std::error::Error;

use crate::error::CommitError;
use crate::record::{Entry, Record};

/// A state that is kept in memory, and whose changes a [`TxLog`](crate::TxLog) keeps.
///
/// It has two layers: what is committed, which everybody may read, and what was decided since the last
/// [`publish`](State::publish), which only [`decide`](State::decide) looks at.
///
/// Everything but [`visit`](State::visit) and [`live`](State::live) is called by one thread at a time: by the one that
/// opens the log, then by the log's own. None may block for long, and none may call the log.
pub trait State: Send + Sync + 'static {
    /// What somebody wants done, and how to tell them about it.
    type Job: Send + 'static;

    /// Takes an entry while the log is being opened: first those of the snapshot, then those of the records, in order.
    /// An entry replaces what was there, even something with a greater sequence: the snapshot may be ahead of the
    /// records that follow, which then lead to the same again.
    ///
    /// # Errors
    /// Says what is wrong with an entry that can't be one of this state. It counts as damage.
    fn replay(&self, entry: Entry<'_>) -> Result<(), Box<dyn Error + Send + Sync>>;

    /// Decides what a job writes, given everything that was decided before, committed or not, and remembers it. Leaves
    /// the record empty to write nothing.
    fn decide(&self, job: &mut Self::Job, record: &mut Record);

    /// All that was decided since the last time is durable, as the policy says: makes it visible.
    fn publish(&self);

    /// All that was decided since the last time did not happen, or is not known to have: forgets it.
    fn discard(&self);

    /// Ends a job, after [`publish`](State::publish) or [`discard`](State::discard); or, if the log has failed, without
    /// that it was ever decided. A job that wrote nothing shares
    /// the outcome of the commit it was part of, since it may have decided by what others were about to write.
    fn answer(&self, job: Self::Job, outcome: Result<(), CommitError>);

    /// For a snapshot: visits what is committed and live, as [`Operation::Set`](crate::Operation::Set) with the
    /// sequence of the record that set it, in the order of (bucket, key), from the first one greater than `after`,
    /// until about `bytes` were visited. Returns the last position if there may be more, and `None` at the end.
    ///
    /// Called by another thread than the rest, while the state goes on changing; locks must be short. A key that is
    /// live throughout must be visited exactly once.
    fn visit(&self, after: Option<&Position>, bytes: usize, visit: &mut dyn FnMut(Entry<'_>)) -> Option<Position>;

    /// How much is committed and live. Asked after each commit.
    fn live(&self) -> Live;
}

/// A place in the order of keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The bucket's name.
    pub bucket: Vec<u8>,
    /// The key in it.
    pub key: Vec<u8>,
}

/// How much is live: decides when compaction is worth while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// Number of keys.
    pub keys: u64,
    /// Bytes of all their buckets' names, keys and values; may leave out the buckets'.
    pub bytes: u64,
}
