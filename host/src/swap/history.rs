//! What is kept of a component on disk, so that what was swapped survives a restart and can be rolled back.
//!
//! A folder per component, `revisions/NAME` in the data directory: the bytes of its last [`KEPT`] revisions as
//! `DIGEST.wasm`, and `state.json`, which says which of them is active. Every file is written beside its place, synced,
//! and renamed to it, and the folder is synced after that: after a crash at any moment there is the old file or the new
//! one, never a part. Bytes are kept before the state names them, and deleted after it no longer does.
//!
//! One [`History`] per component for the life of the process, in a data directory that the store has locked. Its methods
//! block; whoever calls them is not on an event loop.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use runtime::{Code, Digest, gently};
use serde::{Deserialize, Serialize};

use super::PublishedBy;
use crate::look::Time;
use crate::manifest::{Component, Source};
use crate::value::milliseconds;

/// Revisions of which the bytes are kept.
pub(crate) const KEPT: usize = 5;

/// The form of `state.json`.
const VERSION: u32 = 1;

/// Largest `state.json` that is read. It has some 2 KiB.
const LARGEST_STATE: u64 = 1 << 20;

const STATE: &str = "state.json";
const DAMAGED: &str = "state.json.damaged";
/// How the name of a file ends that is not complete yet.
const UNFINISHED: &str = ".tmp";

/// What is kept of one component.
#[derive(Debug)]
pub(crate) struct History {
    folder: PathBuf,
    /// What `state.json` says. None if nothing was published yet.
    state: Option<State>,
}

/// What was recorded before a commit.
pub(crate) struct Before(Option<State>);

/// `state.json`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    version: u32,
    /// The digest of the active revision, which is that of the first publication.
    active: Digest,
    /// What the manifest named when that was published.
    source: SourceIdentity,
    /// Newest first; at most [`KEPT`], each with a digest of its own.
    publications: Vec<Publication>,
}

/// The newest publication of some bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Publication {
    /// The digest of the bytes.
    pub(crate) digest: Digest,
    /// By what they became active.
    pub(crate) by: PublishedBy,
    /// When, in milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// How many bytes.
    pub(crate) size: u64,
    /// How its time as the active revision ended, if that is worth telling: `rolled back: …`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) outcome: Option<String>,
}

/// Which bytes the manifest names, at one moment. If they change, the manifest's word is newer than the last swap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SourceIdentity {
    /// `builtin:NAME`, or the absolute path of a file.
    path: String,
    /// The digest of its bytes. None if it couldn't be read.
    digest: Option<Digest>,
    /// When the file was written. None for what is built in.
    modified: Option<Time>,
}

impl SourceIdentity {
    /// That of a source whose bytes were read after it was looked at: those with `digest`.
    pub(crate) fn of_read(source: &Source, digest: Digest) -> Self {
        Self::with(source, Some(digest))
    }

    /// That of a component as the manifest was loaded.
    pub(crate) fn of(component: &Component) -> Self {
        Self::of_read(&component.source, component.code.digest())
    }

    /// That of `source` now: reads it, whatever it looked like before. Blocks.
    pub(crate) fn of_now(source: &Source) -> Self {
        // Looked at before it is read: a file that is written in between looks different at the next start.
        let source = source.look_again();
        let digest = source.read().ok().map(|code| code.digest());
        Self::with(&source, digest)
    }

    fn with(source: &Source, digest: Option<Digest>) -> Self {
        let modified = match source {
            Source::Builtin(_) => None,
            Source::File { look, .. } => look.modified(),
        };
        SourceIdentity { path: source.to_string(), digest, modified }
    }

    /// The digest of the source's bytes, if it could be read.
    pub(crate) fn digest(&self) -> Option<Digest> {
        self.digest
    }
}

impl Publication {
    /// One that happens now.
    pub(crate) fn new(digest: Digest, size: u64, by: PublishedBy) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_ms = milliseconds(since_1970);
        Self { digest, by, at_ms, size, outcome: None }
    }

    /// Milliseconds since then; 0 if the clock was set back.
    pub(crate) fn age_ms(&self) -> u64 {
        let at = UNIX_EPOCH + Duration::from_millis(self.at_ms);
        milliseconds(at.elapsed().unwrap_or_default())
    }
}

/// Which revision a component starts with: the latest event wins.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Start<'a> {
    /// The one that was active: nobody has touched the source since it was published.
    Recorded(&'a Publication),
    /// What the manifest names: there is no record, or the source has changed since.
    Source,
}

/// Why something could not be kept or found. The message names the file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HistoryError {
    /// The disk, or the quota, is full.
    #[error("{} can't be written because the data directory is full ({error}); free some space", file.display())]
    Full {
        /// The file.
        file: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The system refused in another way.
    #[error("{} can't be {verb}: {error}", file.display())]
    Io {
        /// `read`, `written`, …
        verb: &'static str,
        /// The file or folder.
        file: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// There are no such bytes.
    #[error("the revision {digest} is not kept")]
    NotKept {
        /// What was asked for.
        digest: Digest,
    },
    /// The bytes are not those that were kept.
    #[error("{} is damaged: its digest is {found}; delete it", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// The digest of what is in it.
        found: Digest,
    },
}

type Result<T> = std::result::Result<T, HistoryError>;

impl History {
    /// Opens what is kept in `folder`, which is made if it isn't there. What a crash had left is removed: files that are not
    /// complete, and bytes that were not published yet. A state that can't be read is set aside and reported to the log, as
    /// if nothing had been published.
    ///
    /// # Errors
    /// The folder can't be used.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(|error| failed("made", folder, error))?;
        for name in names(folder)? {
            if name.ends_with(UNFINISHED) {
                remove(&folder.join(name))?;
            }
        }
        let state = match State::read(&folder.join(STATE)) {
            Ok(state) => state,
            Err(reason) => {
                let damaged = folder.join(DAMAGED);
                fs::rename(folder.join(STATE), &damaged).map_err(|error| failed("renamed", &damaged, error))?;
                tracing::error!(
                    "the record of what was swapped can't be used: {reason}; it is now {}, and the component starts with \
                     what the manifest names",
                    damaged.display()
                );
                None
            }
        };
        if state.is_none() {
            // So that a new folder is there after a power cut, if its data directory is. One with a state was new before.
            folder.ancestors().take(3).try_for_each(sync_folder)?;
        }
        let history = Self { folder: folder.to_owned(), state };
        // Without a state it isn't known what is needed.
        if history.state.is_some()
            && let Err(error) = history.prune()
        {
            tracing::warn!("what was not published can't be deleted: {error}");
        }
        Ok(history)
    }

    /// Which revision to start with, `source` being what the manifest names now.
    pub(crate) fn decide(&self, source: &SourceIdentity) -> Start<'_> {
        match &self.state {
            Some(state) if state.source == *source => state.publications.first().map_or(Start::Source, Start::Recorded),
            _ => Start::Source,
        }
    }

    /// The last publications, newest first: at most [`KEPT`], each with a digest of its own. The first is the active one.
    pub(crate) fn publications(&self) -> &[Publication] {
        self.state.as_ref().map_or(&[], |state| &state.publications)
    }

    /// Keeps bytes; what is there already and whole is not written again. They are deleted by the
    /// next [`History::prune`] unless they are published before.
    ///
    /// # Errors
    /// They can't be written; nothing has changed then.
    pub(crate) fn keep(&self, code: &Code) -> Result<()> {
        if self.read(code.digest()).is_err() {
            self.write(&file_of(code.digest()), code.bytes())?;
        }
        Ok(())
    }

    /// Records that a revision, whose bytes are kept, is now the active one. `ended` is the outcome of the one before, if
    /// there is something to tell. `source` is what the manifest names now. Returns what [`History::undo`] needs.
    ///
    /// # Errors
    /// It can't be written. The revision before is the recorded one then, also after a restart, unless the last sync
    /// failed: then it is one of the two.
    pub(crate) fn commit(
        &mut self,
        publication: Publication,
        ended: Option<String>,
        source: SourceIdentity,
    ) -> Result<Before> {
        let mut before = self.publications().to_vec();
        if let (Some(last), Some(ended)) = (before.first_mut(), ended) {
            last.outcome = Some(ended);
        }
        before.retain(|earlier| earlier.digest != publication.digest);
        let active = publication.digest;
        let publications = std::iter::once(publication).chain(before).take(KEPT).collect();
        self.record(Some(State { version: VERSION, active, source, publications })).map(Before)
    }

    /// Records again what was recorded before the last commit.
    ///
    /// # Errors
    /// It can't be written.
    pub(crate) fn undo(&mut self, Before(state): Before) -> Result<()> {
        self.record(state).map(|_| ())
    }

    /// Records that `source` is known, and that what is active is newer. Does nothing if nothing was published.
    ///
    /// # Errors
    /// It can't be written.
    pub(crate) fn see(&mut self, source: SourceIdentity) -> Result<()> {
        match self.state.clone() {
            Some(state) if state.source != source => self.record(Some(State { source, ..state })).map(|_| ()),
            _ => Ok(()),
        }
    }

    /// Writes a state, or that there is none. Returns the one before.
    fn record(&mut self, state: Option<State>) -> Result<Option<State>> {
        match &state {
            Some(state) => {
                let text = serde_json::to_vec_pretty(state).expect("texts and numbers are always JSON");
                self.write(STATE, &text)?;
            }
            None => {
                remove(&self.folder.join(STATE))?;
                sync_folder(&self.folder)?;
            }
        }
        Ok(std::mem::replace(&mut self.state, state))
    }

    /// The bytes with this digest.
    ///
    /// # Errors
    /// They are not kept, or damaged, or can't be read.
    pub(crate) fn read(&self, digest: Digest) -> Result<Code> {
        let file = self.folder.join(file_of(digest));
        let code = match fs::read(&file) {
            Ok(bytes) => Code::new(bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(HistoryError::NotKept { digest }),
            Err(error) => return Err(failed("read", &file, error)),
        };
        let found = code.digest();
        if found != digest {
            return Err(HistoryError::Damaged { file, found });
        }
        Ok(code)
    }

    /// Deletes the bytes of which no publication is remembered. To be called after a commit.
    ///
    /// # Errors
    /// A file can't be deleted. It is tried again the next time.
    pub(crate) fn prune(&self) -> Result<()> {
        let remembered: HashSet<_> = self.publications().iter().map(|publication| publication.digest).collect();
        for name in names(&self.folder)? {
            let digest: Option<Digest> = name.strip_suffix(".wasm").and_then(|digest| digest.parse().ok());
            if digest.is_some_and(|digest| !remembered.contains(&digest)) {
                remove(&self.folder.join(name))?;
            }
        }
        Ok(())
    }

    /// Writes a file: it is there as a whole, and for good, or as it was. A large one is synced piece by piece too: other
    /// files' syncs would wait for all of it.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let (file, unfinished) = (self.folder.join(name), self.folder.join(format!("{name}{UNFINISHED}")));
        let written = File::create(&unfinished).and_then(|mut out| {
            let mut left = bytes.len();
            gently(bytes, |piece| {
                out.write_all(piece)?;
                left -= piece.len();
                if left > 0 { out.sync_data() } else { Ok(()) }
            })?;
            out.sync_all()
        });
        if let Err(error) = written.and_then(|()| fs::rename(&unfinished, &file)) {
            // Gives the room back. What can't be removed is removed at the next start.
            let _ = fs::remove_file(&unfinished);
            return Err(failed("written", &file, error));
        }
        sync_folder(&self.folder)
    }
}

impl State {
    /// None if there is no file. The error says what is wrong with it.
    fn read(file: &Path) -> std::result::Result<Option<Self>, String> {
        let mut text = Vec::new();
        match File::open(file).and_then(|file| file.take(LARGEST_STATE).read_to_end(&mut text)) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.to_string()),
        }
        // The version first: another one may have other fields.
        let document: serde_json::Value = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        if document["version"] != VERSION {
            return Err(format!("its version is {}, this host knows {VERSION}", document["version"]));
        }
        let state: State = serde_json::from_value(document).map_err(|error| error.to_string())?;
        let digests = || state.publications.iter().map(|publication| publication.digest);
        let whole = digests().next() == Some(state.active)
            && digests().collect::<HashSet<_>>().len() == state.publications.len()
            && state.publications.len() <= KEPT;
        if whole { Ok(Some(state)) } else { Err("its publications contradict each other".to_owned()) }
    }
}

fn file_of(digest: Digest) -> String {
    format!("{digest}.wasm")
}

/// The names of the files in a folder that can be ours.
fn names(folder: &Path) -> Result<Vec<String>> {
    let unreadable = |error| failed("read", folder, error);
    let mut names = Vec::new();
    for file in fs::read_dir(folder).map_err(unreadable)? {
        names.extend(file.map_err(unreadable)?.file_name().into_string().ok());
    }
    Ok(names)
}

fn remove(file: &Path) -> Result<()> {
    fs::remove_file(file).map_err(|error| failed("deleted", file, error))
}

/// Makes sure that the names in a folder are there after a power cut.
fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| failed("synced", folder, error))
}

fn failed(verb: &'static str, file: &Path, error: io::Error) -> HistoryError {
    let file = file.to_owned();
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => HistoryError::Full { file, error },
        _ => HistoryError::Io { verb, file, error },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;
    use crate::look::Look;

    fn digest_of(bytes: &[u8]) -> Digest {
        Code::new(bytes.to_vec()).digest()
    }

    fn folder() -> TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    fn source(content: &str, modified: i64) -> SourceIdentity {
        SourceIdentity {
            path: "/srv/storage.wasm".to_owned(),
            digest: Some(digest_of(content.as_bytes())),
            modified: Some((modified, 0)),
        }
    }

    fn publication(digest: Digest, at_ms: u64) -> Publication {
        Publication { digest, by: PublishedBy::Swap, at_ms, size: 1, outcome: None }
    }

    /// Keeps and commits, as a swap does.
    fn publish(history: &mut History, bytes: &[u8], at_ms: u64) -> Digest {
        history.keep(&Code::new(bytes.to_vec())).expect("a writable folder");
        history.commit(publication(digest_of(bytes), at_ms), None, source("s", 0)).expect("a writable folder");
        digest_of(bytes)
    }

    fn digests(history: &History) -> Vec<Digest> {
        history.publications().iter().map(|publication| publication.digest).collect()
    }

    #[test]
    fn the_latest_event_wins() {
        let folder = folder();
        let mut history = History::open(&folder.path().join("revisions/storage")).expect("a writable folder");
        let at_swap = source("a", 1);
        assert_eq!(history.decide(&at_swap), Start::Source, "nothing was published yet");
        let digest = digest_of(b"swapped");
        history.keep(&Code::new(&b"swapped"[..])).expect("a writable folder");
        history.commit(publication(digest, 7), None, at_swap.clone()).expect("a writable folder");

        let history = History::open(&folder.path().join("revisions/storage")).expect("it was there before");
        assert_eq!(history.decide(&at_swap), Start::Recorded(&publication(digest, 7)));
        let elsewhere = SourceIdentity { path: "/srv/other.wasm".to_owned(), ..at_swap };
        for newer in [source("b", 1), source("a", 2), elsewhere] {
            assert_eq!(history.decide(&newer), Start::Source, "{newer:?}");
        }
    }

    #[test]
    fn a_source_is_known_by_path_content_and_time() {
        let folder = folder();
        let path = folder.path().join("a.wasm");
        fs::write(&path, "one").expect("a writable folder");
        let source = Source::File { path: path.clone(), look: Look::at(&path) };
        let identity = SourceIdentity::of_now(&source);
        assert_eq!(identity, SourceIdentity::of_read(&source, Code::new(&b"one"[..]).digest()));
        assert_eq!(identity.digest(), Some(digest_of(b"one")));
        fs::write(&path, "two").expect("a writable folder");
        assert_ne!(SourceIdentity::of_now(&source), identity);
        fs::remove_file(&path).expect("a writable folder");
        assert_eq!(SourceIdentity::of_now(&source).digest(), None);
        let builtin = Source::Builtin("echo".to_owned());
        let digest = Code::new(crate::builtin::component("echo").expect("it is built in")).digest();
        assert_eq!(SourceIdentity::of_now(&builtin), SourceIdentity::of_read(&builtin, digest));
        assert_ne!(SourceIdentity::of_now(&builtin), SourceIdentity::of_read(&builtin, Code::new("another").digest()));
    }

    #[test]
    fn the_last_five_are_kept() {
        let folder = folder();
        let mut history = History::open(folder.path()).expect("a writable folder");
        let published: Vec<_> = (0..7).map(|n| publish(&mut history, &[n], n.into())).collect();
        history.prune().expect("a writable folder");
        let expected: Vec<_> = published[2..].iter().rev().copied().collect();
        assert_eq!(digests(&history), expected);
        assert_eq!(history.read(published[2]).expect("it is kept"), Code::new(vec![2]));
        assert!(matches!(history.read(published[1]), Err(HistoryError::NotKept { .. })));

        // One that is published again moves to the front, and nothing leaves.
        publish(&mut history, &[4], 9);
        history.prune().expect("a writable folder");
        let again: Vec<_> = [4, 6, 5, 3, 2].map(|n: usize| published[n]).into();
        assert_eq!(digests(&history), again);
        assert_eq!(names(folder.path()).expect("it is there").len(), 1 + KEPT);
        assert_eq!(digests(&History::open(folder.path()).expect("it is there")), again);
    }

    #[test]
    fn how_a_revision_ended_is_remembered() {
        let folder = folder();
        let mut history = History::open(folder.path()).expect("a writable folder");
        let good = publish(&mut history, b"good", 1);
        publish(&mut history, b"bad", 2);
        let ended = Some("rolled back: 3 of 3 requests failed".to_owned());
        history.commit(publication(good, 3), ended.clone(), source("s", 0)).expect("a writable folder");
        let history = History::open(folder.path()).expect("it is there");
        let outcomes: Vec<_> = history.publications().iter().map(|publication| publication.outcome.clone()).collect();
        assert_eq!(outcomes, [None, ended]);
    }

    #[test]
    fn bytes_are_written_once_and_verified() {
        let folder = folder();
        let history = History::open(folder.path()).expect("a writable folder");
        let digest = digest_of(b"component");
        history.keep(&Code::new(&b"component"[..])).expect("a writable folder");
        let file = folder.path().join(file_of(digest));
        let look = Look::at(&file);
        history.keep(&Code::new(&b"component"[..])).expect("a writable folder");
        assert_eq!(Look::at(&file), look, "it was written again");

        fs::write(&file, b"c0mponent").expect("a writable folder");
        let error = history.read(digest).expect_err("it is damaged").to_string();
        assert!(error.contains(&digest.to_string()) && error.contains(&digest_of(b"c0mponent").to_string()), "{error}");
        history.keep(&Code::new(&b"component"[..])).expect("a writable folder");
        assert_eq!(history.read(digest).expect("it is whole again"), Code::new(&b"component"[..]));
        assert!(matches!(history.read(digest_of(b"another")), Err(HistoryError::NotKept { .. })));
    }

    #[test]
    fn a_state_that_makes_no_sense_is_set_aside() {
        let whole = {
            let folder = folder();
            publish(&mut History::open(folder.path()).expect("a writable folder"), b"a", 1);
            fs::read_to_string(folder.path().join(STATE)).expect("it was written")
        };
        let digest = digest_of(b"a").to_string();
        let half = &whole[..whole.len() / 2];
        for state in [
            "",
            "{}",
            "[]",
            half,
            &whole.replace("\"version\": 1", "\"version\": 2"),
            &whole.replace(&digest, "../../a"),
            &whole.replacen(&digest, &digest_of(b"b").to_string(), 1),
        ] {
            let folder = folder();
            fs::write(folder.path().join(STATE), state).expect("a writable folder");
            let history = History::open(folder.path()).expect("a writable folder");
            assert_eq!(history.decide(&source("s", 0)), Start::Source, "{state}");
            assert_eq!(names(folder.path()).expect("it is there"), [DAMAGED], "{state}");
        }
    }

    #[test]
    fn a_full_disk_is_told_from_a_broken_one() {
        for (kind, full) in [
            (ErrorKind::StorageFull, true),
            (ErrorKind::QuotaExceeded, true),
            (ErrorKind::PermissionDenied, false),
            (ErrorKind::Other, false),
        ] {
            let error = failed("written", Path::new("/d/x.wasm"), kind.into());
            assert_eq!(matches!(error, HistoryError::Full { .. }), full, "{kind}");
            assert!(error.to_string().starts_with("/d/x.wasm can't be written"), "{error}");
        }
    }

    #[test]
    fn what_can_not_be_written_changes_nothing() {
        let folder = folder();
        let mut history = History::open(folder.path()).expect("a writable folder");
        let digest = publish(&mut history, b"a", 1);
        // A folder in the way of the file: root may write everywhere, so rights would not do.
        let blocked = folder.path().join(file_of(digest_of(b"b")));
        fs::create_dir(&blocked).expect("a writable folder");
        assert!(matches!(history.keep(&Code::new(&b"b"[..])), Err(HistoryError::Io { verb: "written", .. })));
        fs::create_dir(folder.path().join(format!("{STATE}{UNFINISHED}"))).expect("a writable folder");
        assert!(history.commit(publication(digest_of(b"b"), 2), None, source("s", 0)).is_err());
        assert_eq!(digests(&history), [digest]);
        fs::remove_dir(folder.path().join(format!("{STATE}{UNFINISHED}"))).expect("a writable folder");
        assert_eq!(digests(&History::open(folder.path()).expect("it is there")), [digest]);
    }

    /// How far a swap comes before the power goes.
    #[derive(Clone, Copy, Debug)]
    enum Cut {
        /// So many bytes of the component are in the unfinished file.
        WithinBytes(usize),
        /// The bytes are in place, nobody names them.
        BeforeState,
        /// So many bytes of the state are in the unfinished file.
        WithinState(usize),
        /// The state is in place, what it no longer names isn't deleted.
        BeforePrune,
        /// It is done.
        Never,
    }

    fn cut() -> impl Strategy<Value = Cut> {
        prop_oneof![
            (0..64_usize).prop_map(Cut::WithinBytes),
            Just(Cut::BeforeState),
            (0..256_usize).prop_map(Cut::WithinState),
            Just(Cut::BeforePrune),
            Just(Cut::Never),
        ]
    }

    /// Does of a swap what is done before the cut.
    fn swap(history: &mut History, bytes: &[u8], at_ms: u64, cut: Cut) {
        let unfinished = |name: &str, bytes: &[u8], length: usize| {
            let path = history.folder.join(format!("{name}{UNFINISHED}"));
            fs::write(path, &bytes[..length.min(bytes.len())]).expect("a writable folder");
        };
        let digest = digest_of(bytes);
        if let Cut::WithinBytes(length) = cut {
            return unfinished(&file_of(digest), bytes, length);
        }
        history.keep(&Code::new(bytes.to_vec())).expect("a writable folder");
        match cut {
            Cut::WithinBytes(_) | Cut::BeforeState => return,
            Cut::WithinState(length) => return unfinished(STATE, &[b'{'; 256], length),
            Cut::BeforePrune | Cut::Never => {}
        }
        history.commit(publication(digest, at_ms), None, source("s", 0)).expect("a writable folder");
        if let Cut::Never = cut {
            history.prune().expect("a writable folder");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn whenever_the_power_goes_there_is_the_old_or_the_new(
            swaps in proptest::collection::vec((0..9_u8, cut()), 1..16)
        ) {
            let folder = folder();
            let mut expected: Vec<Digest> = Vec::new();
            for (at_ms, (content, cut)) in swaps.into_iter().enumerate() {
                let bytes = [content; 64];
                let mut history = History::open(folder.path()).expect("a writable folder");
                swap(&mut history, &bytes, at_ms as u64, cut);
                if matches!(cut, Cut::BeforePrune | Cut::Never) {
                    let digest = digest_of(&bytes);
                    expected.retain(|earlier| *earlier != digest);
                    expected.insert(0, digest);
                    expected.truncate(KEPT);
                }

                let after = History::open(folder.path()).expect("what was left can be opened");
                prop_assert_eq!(digests(&after), expected.clone());
                for digest in &expected {
                    prop_assert_eq!(after.read(*digest).expect("it is whole").digest(), *digest);
                }
                // Before the first publication it isn't known what is needed.
                let mut files = names(folder.path()).expect("it is there");
                prop_assert!(!files.iter().any(|name| name.ends_with(UNFINISHED)));
                let mut needed: Vec<_> = expected.iter().map(|digest| file_of(*digest)).chain([STATE.to_owned()]).collect();
                files.sort();
                needed.sort();
                prop_assert!(expected.is_empty() || files == needed, "{files:?}");
            }
        }
    }
}
