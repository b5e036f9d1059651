//! What a file looks like from outside, to tell whether it is still the same without reading it.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Seconds since 1970, and nanoseconds.
pub(crate) type Time = (i64, i64);

/// A file, or that there is none, at one moment. A file that is written or replaced looks different afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// There is something.
    Present {
        /// When its content changed.
        modified: Time,
        /// When anything about it changed. Unlike `modified`, nobody can set it back.
        changed: Time,
        /// Its bytes.
        size: u64,
        /// Which file it is: one that is renamed to the path has another one.
        inode: (u64, u64),
    },
    /// There is nothing.
    Absent,
    /// It can't be told, because of missing rights for example.
    Hidden(ErrorKind),
}

impl Look {
    /// Looks at what `path` leads to. Blocks, for as long as the file system needs for a `stat`.
    pub(crate) fn at(path: &Path) -> Self {
        match fs::metadata(path) {
            Ok(found) => Look::Present {
                modified: (found.mtime(), found.mtime_nsec()),
                changed: (found.ctime(), found.ctime_nsec()),
                size: found.size(),
                inode: (found.dev(), found.ino()),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => Look::Absent,
            Err(error) => Look::Hidden(error.kind()),
        }
    }

    /// When the content changed; none if there is no file.
    pub(crate) fn modified(&self) -> Option<Time> {
        match self {
            Look::Present { modified, .. } => Some(*modified),
            Look::Absent | Look::Hidden(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_or_replaced_looks_different() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (path, other) = (folder.path().join("a"), folder.path().join("b"));
        assert_eq!(Look::at(&path), Look::Absent);
        fs::write(&path, "one").expect("a writable folder");
        let first = Look::at(&path);
        assert_eq!(Look::at(&path), first);
        assert!(first.modified().is_some());
        fs::write(&path, "three").expect("a writable folder");
        let second = Look::at(&path);
        assert_ne!(second, first);
        fs::write(&other, "three").expect("a writable folder");
        fs::rename(&other, &path).expect("a writable folder");
        assert_ne!(Look::at(&path), second);
        assert!(matches!(Look::at(&path.join("inside")), Look::Hidden(_)), "a file has nothing inside");
    }
}
