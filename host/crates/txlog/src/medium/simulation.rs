//! A medium that crashes, for tests.
//!
//! A [`Simulated`] folder is in memory and writes down everything that is done to it. [`crashes`] then goes through
//! that journal and shows, for every step, what a crash right there can leave, by the assumptions of FORMAT.md: of a
//! killed process all that it wrote, the last write perhaps torn; of a power cut what was synced, and of the rest
//! anything.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{File, Folder, Lock};
use crate::files::{self, Contents, FileHeader};
use crate::frame::{HEADER, Kind, Seed, seal};

/// The files of a folder, by name.
pub type Image = BTreeMap<String, Vec<u8>>;

/// Something that was done.
#[derive(Clone, Debug)]
pub enum Event {
    /// A new file, empty, got this name.
    Create(String, usize),
    /// Bytes were written at an offset of a file.
    Write(usize, u64, Vec<u8>),
    /// A file was cut or filled up.
    SetLen(usize, u64),
    /// A file was synced.
    SyncFile(usize),
    /// The file with the first name got the second.
    Rename(String, String),
    /// The file with this name was removed.
    Remove(String),
    /// The names were synced.
    SyncFolder,
    /// What the test wants to remember.
    Note(u64),
}

/// What a [`Simulated`] folder does wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// All files together have at most so many bytes.
    pub capacity: Option<u64>,
    /// Every sync of a file fails.
    pub sync: bool,
    /// Every write fails.
    pub write: bool,
    /// Every truncation fails.
    pub set_len: bool,
    /// Every sync of the folder fails.
    pub sync_folder: bool,
}

/// A folder in memory. Clones are the same folder.
#[derive(Clone, Default)]
pub struct Simulated(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    names: BTreeMap<String, usize>,
    /// Bytes of all files there have ever been.
    files: Vec<Vec<u8>>,
    events: Vec<Event>,
    faults: Faults,
    on_sync: Option<Box<dyn FnOnce() + Send>>,
    /// Who has it locked: so many shared, or one alone.
    shared: usize,
    alone: bool,
}

impl Simulated {
    /// A folder with these files, all of them durable.
    pub fn new(image: Image) -> Self {
        let mut inner = Inner::default();
        for (name, bytes) in image {
            inner.names.insert(name, inner.files.len());
            inner.files.push(bytes);
        }
        Self(Arc::new(Mutex::new(inner)))
    }

    /// What is in it now.
    pub fn image(&self) -> Image {
        let inner = self.inner();
        inner.names.iter().map(|(name, file)| (name.clone(), inner.files[*file].clone())).collect()
    }

    /// All that was done so far.
    pub fn events(&self) -> Vec<Event> {
        self.inner().events.clone()
    }

    /// Puts a note between what was done.
    pub fn note(&self, note: u64) {
        self.inner().events.push(Event::Note(note));
    }

    /// Does something once, when a file is next synced. What is written meanwhile is not durable by that sync.
    pub fn on_sync(&self, hook: impl FnOnce() + Send + 'static) {
        self.inner().on_sync = Some(Box::new(hook));
    }

    /// From now on, these things go wrong.
    pub fn set_faults(&self, faults: Faults) {
        self.inner().faults = faults;
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn file(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Bytes of all files that have a name.
    fn used(&self) -> u64 {
        self.names.values().map(|file| self.files[*file].len() as u64).sum()
    }
}

fn fault(fails: bool) -> io::Result<()> {
    if fails { Err(io::Error::other("simulated")) } else { Ok(()) }
}

impl Folder for Simulated {
    fn path(&self) -> &Path {
        Path::new("simulated")
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.inner().names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        self.open_to_write(name)
    }

    fn open_to_write(&self, name: &str) -> io::Result<Box<dyn File>> {
        let file = self.inner().file(name)?;
        Ok(Box::new(Handle { folder: self.clone(), file }))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn File>> {
        let mut inner = self.inner();
        let file = inner.files.len();
        inner.files.push(Vec::new());
        inner.names.insert(name.into(), file);
        inner.events.push(Event::Create(name.into(), file));
        Ok(Box::new(Handle { folder: self.clone(), file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.inner();
        let file = inner.file(from)?;
        inner.names.remove(from);
        inner.names.insert(to.into(), file);
        inner.events.push(Event::Rename(from.into(), to.into()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = self.inner();
        inner.file(name)?;
        inner.names.remove(name);
        inner.events.push(Event::Remove(name.into()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.inner();
        fault(inner.faults.sync_folder)?;
        inner.events.push(Event::SyncFolder);
        Ok(())
    }

    fn lock(&self, _name: &str, shared: bool) -> io::Result<Option<Lock>> {
        let mut inner = self.inner();
        if inner.alone || (!shared && inner.shared > 0) {
            return Ok(None);
        }
        match shared {
            true => inner.shared += 1,
            false => inner.alone = true,
        }
        Ok(Some(Lock::new(Locked { folder: self.clone(), shared })))
    }
}

struct Locked {
    folder: Simulated,
    shared: bool,
}

impl Drop for Locked {
    fn drop(&mut self) {
        let mut inner = self.folder.inner();
        match self.shared {
            true => inner.shared -= 1,
            false => inner.alone = false,
        }
    }
}

struct Handle {
    folder: Simulated,
    file: usize,
}

impl File for Handle {
    fn len(&self) -> io::Result<u64> {
        Ok(self.folder.inner().files[self.file].len() as u64)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let inner = self.folder.inner();
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let there = inner.files[self.file].get(from..).unwrap_or_default();
        let read = there.len().min(bytes.len());
        bytes[..read].copy_from_slice(&there[..read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut inner = self.folder.inner();
        fault(inner.faults.write)?;
        let len = inner.files[self.file].len() as u64;
        let grows = (offset + bytes.len() as u64).saturating_sub(len);
        let room = inner.faults.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(inner.used()));
        // What fits is written, as a disk that fills up does.
        let fits = bytes.len() - usize::try_from(grows.saturating_sub(room)).unwrap_or(bytes.len()).min(bytes.len());
        if fits > 0 {
            write(&mut inner.files[self.file], offset, &bytes[..fits]);
            inner.events.push(Event::Write(self.file, offset, bytes[..fits].to_vec()));
        }
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut inner = self.folder.inner();
        fault(inner.faults.set_len)?;
        set_len(&mut inner.files[self.file], len);
        inner.events.push(Event::SetLen(self.file, len));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.folder.inner();
        let outcome = fault(inner.faults.sync);
        if outcome.is_ok() {
            inner.events.push(Event::SyncFile(self.file));
        }
        let hook = inner.on_sync.take();
        drop(inner);
        hook.into_iter().for_each(|hook| hook());
        outcome
    }
}

/// A log whose frames are good and have these payloads, whatever is in them: what no crash can leave, but somebody
/// could make.
pub fn forged<'a>(payloads: impl IntoIterator<Item = &'a [u8]>) -> Image {
    let seed = Seed::of(0);
    let header = FileHeader { contents: Contents::Segment, identity: 0, id: 1, first_sequence: 1, chain: seed.chain() };
    let mut bytes = header.encode().to_vec();
    let mut chain = header.chain;
    for (sequence, payload) in (1..).zip(payloads) {
        let start = bytes.len();
        bytes.resize(start + HEADER, 0);
        bytes.extend_from_slice(payload);
        chain = seal(&mut bytes[start..], Kind::Record, sequence, sequence - 1, chain, seed);
    }
    Image::from([(files::segment(1), bytes)])
}

fn write(file: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let from = usize::try_from(offset).expect("an offset in memory");
    let end = from + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[from..end].copy_from_slice(bytes);
}

fn set_len(file: &mut Vec<u8>, len: u64) {
    file.resize(usize::try_from(len).expect("a length in memory"), 0);
}

/// What a crash left.
#[derive(Debug)]
pub struct Crash<'a> {
    /// What was done before; the last of it perhaps only in part.
    pub events: &'a [Event],
    /// Whether power failed. Else the process was killed, and the kernel lost nothing.
    pub power_cut: bool,
    /// The files it left.
    pub image: Image,
}

/// Shows what a crash can leave after each of the events that were done to a folder with these files at first.
///
/// With `torn`, the last write is torn at every byte, else in the middle.
pub fn crashes(start: &Image, events: &[Event], torn: bool, mut show: impl FnMut(Crash<'_>)) {
    let mut medium = Medium::new(start);
    for done in 0..=events.len() {
        let (events, last) = (&events[..done], done.checked_sub(1).map(|last| &events[last]));
        if let Some(Event::Write(file, offset, bytes)) = last {
            let lens: Vec<usize> = if torn { (1..bytes.len()).collect() } else { vec![bytes.len() / 2] };
            for len in lens {
                let mut medium = medium.clone();
                medium.apply(&Event::Write(*file, *offset, bytes[..len].to_vec()));
                show(Crash { events, power_cut: false, image: medium.kept() });
            }
        }
        if let Some(event) = last {
            medium.apply(event);
        }
        if matches!(last, Some(Event::Note(_))) {
            continue;
        }
        show(Crash { events, power_cut: false, image: medium.kept() });
        for image in medium.cut() {
            show(Crash { events, power_cut: true, image });
        }
    }
}

/// What is durable, and what isn't yet.
#[derive(Clone)]
struct Medium {
    files: BTreeMap<usize, Bytes>,
    names: BTreeMap<String, usize>,
    changes: Vec<Change>,
    current: BTreeMap<String, usize>,
}

#[derive(Clone, Default)]
struct Bytes {
    durable: Vec<u8>,
    /// [`Event::Write`] and [`Event::SetLen`].
    unsynced: Vec<Event>,
}

/// A change of the names.
#[derive(Clone)]
struct Change {
    removed: Option<String>,
    added: Option<(String, usize)>,
}

impl Medium {
    fn new(start: &Image) -> Self {
        let names: BTreeMap<_, _> = start.keys().enumerate().map(|(file, name)| (name.clone(), file)).collect();
        let bytes = |durable: &Vec<u8>| Bytes { durable: durable.clone(), unsynced: Vec::new() };
        let files = start.values().map(bytes).enumerate().collect();
        Self { files, current: names.clone(), names, changes: Vec::new() }
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Create(name, file) => {
                self.files.insert(*file, Bytes::default());
                self.current.insert(name.clone(), *file);
                self.changes.push(Change { removed: None, added: Some((name.clone(), *file)) });
            }
            Event::Write(file, ..) | Event::SetLen(file, _) => {
                self.files.entry(*file).or_default().unsynced.push(event.clone());
            }
            Event::SyncFile(file) => {
                let bytes = self.files.entry(*file).or_default();
                bytes.durable = bytes.with(|_| true);
                bytes.unsynced.clear();
            }
            Event::Rename(from, to) => {
                if let Some(file) = self.current.remove(from) {
                    self.current.insert(to.clone(), file);
                    self.changes.push(Change { removed: Some(from.clone()), added: Some((to.clone(), file)) });
                }
            }
            Event::Remove(name) => {
                self.current.remove(name);
                self.changes.push(Change { removed: Some(name.clone()), added: None });
            }
            Event::SyncFolder => {
                self.names = self.current.clone();
                self.changes.clear();
            }
            Event::Note(_) => {}
        }
    }

    /// What a process leaves that was killed.
    fn kept(&self) -> Image {
        self.image(&self.current, |bytes| bytes.with(|_| true))
    }

    /// What a power cut can leave.
    fn cut(&self) -> BTreeSet<Image> {
        let unsynced: Vec<_> = self.files.iter().filter(|(_, bytes)| !bytes.unsynced.is_empty()).collect();
        let mut images = BTreeSet::new();
        for names in self.possible_names() {
            // Each file lost or kept; of those that matter here there are hardly more than three at a time.
            for choice in 0..1_usize << unsynced.len().min(4) {
                let kept: BTreeSet<usize> = unsynced
                    .iter()
                    .enumerate()
                    .filter(|(n, _)| choice >> n & 1 == 1)
                    .map(|(_, (file, _))| **file)
                    .collect();
                images.insert(self.image_of(&names, |file, bytes| bytes.with(|_| kept.contains(&file))));
            }
            // The last write without those before; those before without the last; lengths without bytes.
            images.insert(self.image(&names, |bytes| bytes.with(|n| n + 1 == bytes.unsynced.len())));
            images.insert(self.image(&names, |bytes| bytes.with(|n| n + 1 != bytes.unsynced.len())));
            images.insert(self.image(&names, |bytes| {
                let mut durable = bytes.durable.clone();
                durable.resize(bytes.with(|_| true).len(), 0);
                durable
            }));
        }
        images
    }

    /// The names with none, all, a prefix, all but one or only one of the changes.
    fn possible_names(&self) -> BTreeSet<BTreeMap<String, usize>> {
        let count = self.changes.len();
        let mut possible = BTreeSet::from([self.names_with(|_| true)]);
        for n in 0..count {
            possible.insert(self.names_with(|change| change < n));
            possible.insert(self.names_with(|change| change != n));
            possible.insert(self.names_with(|change| change == n));
        }
        possible
    }

    fn names_with(&self, kept: impl Fn(usize) -> bool) -> BTreeMap<String, usize> {
        let mut names = self.names.clone();
        for (_, change) in self.changes.iter().enumerate().filter(|(n, _)| kept(*n)) {
            if let Some(name) = &change.removed {
                names.remove(name);
            }
            if let Some((name, file)) = &change.added {
                names.insert(name.clone(), *file);
            }
        }
        names
    }

    fn image(&self, names: &BTreeMap<String, usize>, bytes: impl Fn(&Bytes) -> Vec<u8>) -> Image {
        self.image_of(names, |_, file| bytes(file))
    }

    fn image_of(&self, names: &BTreeMap<String, usize>, bytes: impl Fn(usize, &Bytes) -> Vec<u8>) -> Image {
        names.iter().map(|(name, file)| (name.clone(), bytes(*file, &self.files[file]))).collect()
    }
}

impl Bytes {
    /// What is durable, and those of the other changes.
    fn with(&self, kept: impl Fn(usize) -> bool) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for (_, event) in self.unsynced.iter().enumerate().filter(|(n, _)| kept(*n)) {
            match event {
                Event::Write(_, offset, written) => write(&mut bytes, *offset, written),
                Event::SetLen(_, len) => set_len(&mut bytes, *len),
                _ => {}
            }
        }
        bytes
    }
}
