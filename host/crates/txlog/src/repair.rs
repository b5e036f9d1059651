//! Opening: makes what recovery found a log that can be written on. Here alone something is removed or cut, and only
//! what recovery has found to be of no use. A crash at any step leaves what the same steps lead to the same end.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::sync::Arc;

use crate::config::Config;
use crate::error::OpenError;
use crate::files::{self, Contents, FileHeader, LOCK, WATERMARK};
use crate::frame::Seed;
use crate::log::{Closed, Log, Parts, create_segment, is_full};
use crate::medium::{File, Folder, Lock, read_full};
use crate::recovery::{Survey, Tail, Visitor, survey};
use crate::report::Recovery;
use crate::scan::Place;

const BUFFER: usize = 1024 * 1024;

/// Locks the folder, reads the log in it, and gets it ready to be written on.
pub(crate) fn open(
    folder: Arc<dyn Folder>,
    config: &Config,
    visitor: &mut dyn Visitor,
) -> Result<(Log, Recovery), OpenError> {
    let lock = lock(&*folder, false)?;
    let Survey { mut report, identity, snapshot, closed, segment, mut end, synced, tail } = survey(&*folder, visitor)?;
    for name in &report.leftovers {
        folder.remove(name).map_err(OpenError::io(format!("remove {name}")))?;
    }
    if let Some(tail) = tail {
        let saved_as = save(&*folder, tail)?;
        if let Some(torn) = &mut report.torn {
            torn.saved_as = saved_as;
        }
    }
    let identity = identity.unwrap_or_else(|| RandomState::new().hash_one(0));
    let name = files::segment(segment);
    if end.offset == 0 {
        let (first_sequence, chain) = (end.sequence + 1, Seed::of(identity).chain());
        let header = FileHeader { contents: Contents::Segment, identity, id: segment, first_sequence, chain };
        create_segment(&*folder, &header).map_err(OpenError::io(format!("create {name}")))?;
        end = Place { offset: FileHeader::LEN as u64, sequence: end.sequence, chain };
    } else if tail.is_some_and(|tail| tail.segment > segment) {
        let name = files::segment(segment + 1);
        folder.remove(&name).map_err(OpenError::io(format!("remove {name}")))?;
    }
    let file = folder.open_to_write(&name).map_err(OpenError::io(format!("open {name}")))?;
    settle(&*file, synced, end.offset).map_err(OpenError::io(format!("write {name}")))?;
    folder.sync().map_err(OpenError::io(format!("sync {}", folder.path().display())))?;
    let watermark = match folder.open_to_write(WATERMARK) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => folder.create(WATERMARK),
        opened => opened,
    };
    let watermark = watermark.map_err(OpenError::io("create the watermark"))?;
    let closed = closed.into_iter().map(|file| Closed::new(files::segment(file.id), file));
    let snapshots = snapshot.into_iter().map(|file| Closed::new(files::snapshot(file.id), file));
    let closed = snapshots.chain(closed).collect();
    let parts =
        Parts { folder, lock, identity, file, segment, end, watermark, closed, snapshot: snapshot.map(|file| file.id) };
    let log = Log::new(config, parts).map_err(OpenError::io("write the watermark"))?;
    Ok((log, report))
}

/// Locks the folder: alone to write, or shared to read.
pub(crate) fn lock(folder: &dyn Folder, shared: bool) -> Result<Lock, OpenError> {
    let action = || format!("lock {}", folder.path().join(LOCK).display());
    let locked = folder.lock(LOCK, shared).map_err(|source| OpenError::Io { action: action(), source })?;
    locked.ok_or_else(|| OpenError::Locked { folder: folder.path().into() })
}

/// Copies a torn tail to a file of its own, durably. Returns its name, or `None` if there is no room: nobody was told
/// about what is in it, so that is no reason not to start.
fn save(folder: &dyn Folder, tail: Tail) -> Result<Option<String>, OpenError> {
    let names = folder.list().map_err(OpenError::io(format!("list {}", folder.path().display())))?;
    let free = (0..).map(|n| files::torn(tail.segment, tail.offset, n)).find(|name| !names.contains(name));
    let name = free.expect("one of endless names is free");
    match copy(folder, tail, &name) {
        Ok(()) => Ok(Some(name)),
        Err(error) if is_full(&error) => {
            folder.remove(&name).map_err(OpenError::io(format!("remove {name}")))?;
            Ok(None)
        }
        Err(source) => Err(OpenError::Io { action: format!("save the torn tail as {name}"), source }),
    }
}

fn copy(folder: &dyn Folder, tail: Tail, name: &str) -> io::Result<()> {
    let from = folder.open(&files::segment(tail.segment))?;
    let to = folder.create(name)?;
    let mut buffer = vec![0; BUFFER];
    let mut copied = 0;
    loop {
        let read = read_full(&*from, &mut buffer, tail.offset + copied)?;
        if read == 0 {
            break;
        }
        to.write_at(&buffer[..read], copied)?;
        copied += read as u64;
    }
    to.sync()?;
    folder.sync()
}

/// Cuts a segment at its end and makes all before it durable. What isn't known to be synced is written again: after a
/// sync that failed, in a process before this one, the kernel may have pages that it thinks are on the disk and are
/// not.
fn settle(file: &dyn File, synced: u64, end: u64) -> io::Result<()> {
    if file.len()? > end {
        file.set_len(end)?;
    }
    let mut buffer = vec![0; BUFFER];
    let mut offset = synced;
    while offset < end {
        let wanted = usize::try_from(end - offset).unwrap_or(BUFFER).min(BUFFER);
        let read = read_full(file, &mut buffer[..wanted], offset)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.write_at(&buffer[..read], offset)?;
        offset += read as u64;
    }
    file.sync()
}
