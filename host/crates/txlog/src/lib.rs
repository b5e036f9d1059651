//! An append-only transaction log under a state that is kept in memory.
//!
//! A [`State`] decides what each job writes; a [`TxLog`] makes that durable before anybody is told, all waiting jobs
//! with one write and one sync, and leads the state back to where it was when the process starts again. The log knows
//! records, segments and snapshots; what a key or a value means is the state's business.
//!
//! - [`TxLog`]: the log with its thread; [`Config`], [`SyncPolicy`]: how it works; [`Observer`]: who is told.
//! - [`State`], [`Record`], [`Entry`], [`Operation`]: what it is the log of.
//! - [`verify`], [`dump`]: look into a log that nobody has open.
//! - [`medium`]: what it is written to; `medium::simulation` (feature `simulation`): one that crashes.
//!
//! `FORMAT.md` beside this crate has the bytes, what is assumed of the medium, what a crash can leave and what each
//! policy can lose. Inside, each of these knows only those after it:
//!
//! `group` (the thread and its queue) and `inspect` (verify, dump); `compaction`; `repair` (opening); `log` (appending
//! and rotating); `recovery` (reading a whole log); `scan` (reading a file's frames); `watermark`, `files` (names and
//! headers), `record` (payloads), `frame`; `medium`.

mod compaction;
mod config;
mod error;
mod files;
mod frame;
mod group;
mod inspect;
mod limits;
mod log;
pub mod medium;
mod record;
mod recovery;
mod repair;
mod report;
mod scan;
mod state;
mod watermark;

pub use compaction::{CompactError, Compaction};
pub use config::{Committed, Config, Observer, Progress, SyncPolicy};
pub use error::{CommitError, Damage, OpenError};
pub use group::{Reason, Rejected, Stats, TxLog};
pub use inspect::{Location, dump, dump_in, verify};
pub use limits::{LimitError, Limits, MAX_BUCKET, MAX_RECORD};
pub use record::{Entry, Operation, Record};
pub use report::{Recovery, TornTail};
pub use state::{Live, Position, State};
