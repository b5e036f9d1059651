//! What a log is written to: a folder of files, behind traits so that tests can take it away at any moment.
//!
//! FORMAT.md says what is assumed of it. A log holds a handful of files open at a time: the segment being written, the
//! watermark, the lock, and what is being read or compacted.

mod disk;
#[cfg(any(test, feature = "simulation"))]
pub mod simulation;

use std::fmt;
use std::io;
use std::path::Path;

pub use disk::Disk;

/// A folder of files. Names are plain, without separators.
pub trait Folder: Send + Sync + 'static {
    /// Where it is, for messages.
    fn path(&self) -> &Path;

    /// Names of all that is in it, in any order; what isn't valid Unicode is shown as well as it can be.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens a file to read it.
    fn open(&self, name: &str) -> io::Result<Box<dyn File>>;

    /// Opens a file to read and write it.
    fn open_to_write(&self, name: &str) -> io::Result<Box<dyn File>>;

    /// Creates an empty file to write it, in place of what had the name.
    fn create(&self, name: &str) -> io::Result<Box<dyn File>>;

    /// Gives a file another name, in place of what had that.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Returns when the names are durable.
    fn sync(&self) -> io::Result<()>;

    /// Locks the folder by the file of this name, as long as the [`Lock`] lives; `None` if somebody else has. A shared
    /// lock writes nothing; if the file isn't there, nobody can have locked it, and the lock is an empty one.
    fn lock(&self, name: &str, shared: bool) -> io::Result<Option<Lock>>;
}

/// An open file.
pub trait File: Send + Sync {
    /// Bytes that it has.
    fn len(&self) -> io::Result<u64>;

    /// Whether it has none.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Reads some bytes from an offset; 0 at the end of the file.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all bytes at an offset. After an error, any part may be written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Cuts the file, or fills it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Returns when bytes and length are durable.
    fn sync(&self) -> io::Result<()>;
}

/// Ends when dropped.
pub struct Lock(#[expect(dead_code, reason = "held to be dropped")] Box<dyn Send + Sync>);

impl Lock {
    /// Wraps what unlocks when it is dropped.
    pub fn new(guard: impl Send + Sync + 'static) -> Self {
        Self(Box::new(guard))
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lock")
    }
}

/// Reads until `bytes` is full or the file ends; returns how many were read.
pub(crate) fn read_full(file: &dyn File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < bytes.len() {
        match file.read_at(&mut bytes[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(n) => read += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}
