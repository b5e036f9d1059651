//! The data directory: what has to be true of it, and the store that is kept in it.
//!
//! Opened before anything listens, closed after the last request. A store that fails in between ends the process at once,
//! with [`exit::STORE`]: nobody can say any more what is on the disk, so there is nothing left to finish.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use store::durable::{
    Committed, CompactError, Compaction, Config, DurableStore, Observer, OpenError, Progress, Recovery,
};
use store::{Limits, MemoryStore, Store};

use crate::cli::{Exit, exit};
use crate::kv::{RemoteStore, User};
use crate::manifest;
use crate::metrics::Commits;
use crate::telemetry::Flush;

/// The store's folder in the data directory.
const STORE: &str = "store";

/// How long the last words of a process that ends at once may take to be written: a stalled stderr must not keep it alive.
pub(crate) const LAST_WORDS: Duration = Duration::from_millis(500);

/// Foreign files that are named in the log.
const NAMED: usize = 10;

/// The open data directory of a running host.
pub(crate) struct Data {
    /// Where revisions are kept.
    pub(crate) revisions: PathBuf,
    /// Where values are kept.
    pub(crate) store: Arc<dyn Store>,
    /// The same, if it has to be closed.
    pub(crate) durable: Option<Arc<DurableStore>>,
}

impl Data {
    /// Opens the store in a directory that is prepared. Reports what was found to the log.
    ///
    /// # Errors
    /// Each carries its exit code, see [`exit`].
    pub(crate) fn open(
        directory: &Path,
        store: &manifest::Store,
        log: Flush,
        commits: Arc<Commits>,
    ) -> anyhow::Result<Self> {
        let limits = Limits::default();
        let revisions = directory.join("revisions");
        let elsewhere = |store| Ok(Self { revisions: revisions.clone(), store, durable: None });
        let sync = match store {
            manifest::Store::Durable { sync } => *sync,
            manifest::Store::Memory => return elsewhere(Arc::new(MemoryStore::new(limits))),
            manifest::Store::Remote { url, token } => {
                return elsewhere(Arc::new(RemoteStore::new(url.clone(), User::Host, token.clone(), limits)));
            }
        };
        let config = Config { limits, sync, observer: Arc::new(Watch { log, commits }) };
        let (store, recovery) = DurableStore::open(&directory.join(STORE), config).map_err(|error| match error {
            OpenError::Io { .. } => Exit::new(exit::STORE, format!("{}: {error}", unwritable(directory))),
            error => refusal(directory, &directory.join(STORE), error),
        })?;
        report(&recovery, &store);
        let store = Arc::new(store);
        Ok(Self { revisions, store: store.clone(), durable: Some(store) })
    }

    /// What closes it if the start is given up, and returns the exit code.
    pub(crate) fn closing(&self) -> impl FnOnce() -> u8 + Send + 'static {
        let durable = self.durable.clone();
        move || match durable.map_or(Ok(()), |store| store.close()) {
            Ok(()) => exit::OK,
            Err(error) => {
                tracing::error!("the store could not be closed: {error}");
                exit::STORE
            }
        }
    }

    /// Syncs and closes the store. It refuses every write from now on.
    ///
    /// # Errors
    /// It could not be synced, [`exit::STORE`].
    pub(crate) fn close(self) -> anyhow::Result<()> {
        let closed = self.durable.map_or(Ok(()), |store| store.close());
        closed.map_err(|error| Exit::new(exit::STORE, error).into())
    }
}

/// Why a store that was found can't be used, and the exit code for it. `directory` is what the user knows it by.
pub(crate) fn refusal(directory: &Path, folder: &Path, error: OpenError) -> Exit {
    match error {
        OpenError::Locked { .. } => {
            let directory = directory.display();
            let message =
                format!("another host uses the data directory {directory}: stop it, or name another directory");
            Exit::new(exit::FAILED, message)
        }
        error if error.is_damage() => Exit::new(exit::DAMAGED, format!("{}: {error}", folder.display())),
        error => Exit::new(exit::FAILED, format!("{}: {error}", folder.display())),
    }
}

/// The folder of the store in a directory that the user has named: a data directory, or that folder itself.
///
/// # Errors
/// There is none.
pub(crate) fn store_folder(directory: &Path) -> anyhow::Result<PathBuf> {
    let inside = directory.join(STORE);
    if inside.is_dir() {
        return Ok(inside);
    }
    let files = fs::read_dir(directory).with_context(|| format!("{} can't be read", directory.display()))?;
    let is_lock = |file: &fs::DirEntry| file.file_name() == "lock";
    if files.flatten().any(|file| is_lock(&file)) {
        return Ok(directory.to_owned());
    }
    let directory = directory.display();
    anyhow::bail!("{directory} has no store: name the data directory of a host, or the folder \"{STORE}\" in it")
}

/// Makes the data directory if it isn't there, and sees whether it can be written. Returns where compiled components are
/// kept.
///
/// # Errors
/// It can't, [`exit::STORE`].
pub(crate) fn prepare(directory: &Path) -> Result<PathBuf, Exit> {
    let cache = directory.join("cache");
    let probe = directory.join(".writable");
    fs::create_dir_all(&cache)
        .and_then(|()| fs::write(&probe, b""))
        .and_then(|()| fs::remove_file(&probe))
        .and_then(|()| cache.canonicalize())
        .map_err(|error| Exit::new(exit::STORE, format!("{}: {error}", unwritable(directory))))
}

fn unwritable(directory: &Path) -> String {
    let directory = directory.display();
    format!("the data directory {directory} can't be written; make it writable or name another one with --data-dir")
}

fn report(recovery: &Recovery, store: &DurableStore) {
    let Recovery { records, segments, bytes, torn, lost, leftovers, foreign, .. } = recovery;
    let keys = store.stats().map(|stats| stats.keys);
    tracing::info!(keys, records, segments, bytes, "the store was recovered");
    if let Some(torn) = torn {
        tracing::warn!("the store's log had a torn tail: {torn}");
    }
    if *lost > 0 {
        tracing::error!(
            lost,
            "writes that were acknowledged are missing: the log is shorter than it was when they were synced, because \
             somebody has cut it or the disk has lost what it had confirmed"
        );
    }
    if !leftovers.is_empty() {
        tracing::info!("removed what a crash had left in the store: {}", leftovers.join(", "));
    }
    if !foreign.is_empty() {
        let named = foreign.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
        tracing::warn!(files = foreign.len(), "the store's folder has files that are not the store's: {named}");
    }
}

/// Brings what happens to the store into the log and the metrics.
struct Watch {
    log: Flush,
    commits: Arc<Commits>,
}

impl Observer for Watch {
    fn replaying(&self, progress: Progress) {
        let Progress { done, total } = progress;
        tracing::info!(done, total, "reading the store");
    }

    fn committed(&self, commit: Committed) {
        self.commits.record(commit);
    }

    fn compacted(&self, outcome: &Result<Compaction, CompactError>) {
        match outcome {
            Ok(done) => tracing::info!(before = done.before, after = done.after, "the store was compacted"),
            Err(error) => tracing::warn!("the store could not be compacted, and will be tried again: {error}"),
        }
    }

    fn failed(&self, reason: &str) {
        tracing::error!("the store has failed: {reason}; no write is acknowledged any more, the process ends");
        self.log.wait(LAST_WORDS);
        std::process::exit(exit::STORE.into());
    }
}
