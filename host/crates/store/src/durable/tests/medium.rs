//! A medium in memory whose syncs wait, or whose writes fail, when the test wants them to.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use txlog::medium::{File, Folder, Lock};

/// A folder. Clones are the same one.
#[derive(Clone, Default)]
pub(super) struct Medium {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    files: HashMap<String, Arc<Mutex<Vec<u8>>>>,
    fault: Option<Fault>,
    /// Syncs that were begun.
    syncs: usize,
}

/// What a test does to a medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Syncs don't return.
    Stalled,
    /// There is no room for writes.
    Full,
    /// Syncs fail.
    Broken,
}

impl Medium {
    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("no panics")
    }

    /// From now on, or until there is another one.
    pub(super) fn set(&self, fault: Option<Fault>) {
        self.state().fault = fault;
        self.shared.changed.notify_all();
    }

    /// Syncs so far, of files.
    pub(super) fn syncs(&self) -> usize {
        self.state().syncs
    }

    /// Returns when there were so many.
    pub(super) fn wait_for_syncs(&self, count: usize) {
        let state = self.state();
        drop(self.shared.changed.wait_while(state, |state| state.syncs < count).expect("no panics"));
    }

    fn file(&self, name: &str) -> io::Result<Box<dyn File>> {
        let bytes = self.state().files.get(name).cloned().ok_or(ErrorKind::NotFound)?;
        Ok(Box::new(Open { medium: self.clone(), bytes }))
    }
}

impl Folder for Medium {
    fn path(&self) -> &Path {
        Path::new("memory")
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().files.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        self.file(name)
    }

    fn open_to_write(&self, name: &str) -> io::Result<Box<dyn File>> {
        self.file(name)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn File>> {
        self.state().files.insert(name.to_owned(), Arc::default());
        self.file(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let file = state.files.remove(from).ok_or(ErrorKind::NotFound)?;
        state.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.state().files.remove(name).map(drop).ok_or(ErrorKind::NotFound.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, _: &str, _: bool) -> io::Result<Option<Lock>> {
        Ok(Some(Lock::new(())))
    }
}

struct Open {
    medium: Medium,
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl Open {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().expect("no panics")
    }
}

impl File for Open {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let all = self.bytes();
        let rest = all.get(offset as usize..).unwrap_or_default();
        let read = rest.len().min(bytes.len());
        bytes[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (mut all, end) = (self.bytes(), offset as usize + bytes.len());
        if self.medium.state().fault == Some(Fault::Full) && end > all.len() {
            return Err(ErrorKind::StorageFull.into());
        }
        if end > all.len() {
            all.resize(end, 0);
        }
        all[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.bytes().resize(len as usize, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.medium.state();
        state.syncs += 1;
        self.medium.shared.changed.notify_all();
        let stalled = |state: &mut State| state.fault == Some(Fault::Stalled);
        let state = self.medium.shared.changed.wait_while(state, stalled).expect("no panics");
        if state.fault == Some(Fault::Broken) { Err(io::Error::other("input/output error")) } else { Ok(()) }
    }
}
