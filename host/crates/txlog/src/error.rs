//! Why a log can't be opened, and why a write fails.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

/// Why a log can't be opened, verified or dumped. Nothing was changed, except after [`Io`](OpenError::Io).
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process, or this one, has it open.
    #[error("{} is in use by another process: stop that first, or use another folder", folder.display())]
    Locked {
        /// The log's folder.
        folder: PathBuf,
    },
    /// A file was written by a newer version.
    #[error("{file} has format version {found}, and this program reads up to {supported}: use the newer program")]
    NewerVersion {
        /// Name of the file.
        file: String,
        /// Its version.
        found: u32,
        /// The greatest that can be read.
        supported: u32,
    },
    /// Something that was acknowledged is not there any more, or it is wrong.
    #[error("{0}")]
    Damage(Damage),
    /// The state did not take an entry, though the log is as it was written.
    #[error("{file}, offset {offset}: {source}")]
    Refused {
        /// Name of the file.
        file: String,
        /// Where its frame begins.
        offset: u64,
        /// What the state said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The operating system refused something.
    #[error("can't {action}: {source}")]
    Io {
        /// What was tried, with the file's name.
        action: String,
        /// What it said.
        source: io::Error,
    },
}

/// Where the log is damaged, and how.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("damage in {file} at offset {offset}: {what}. Nothing was changed; restore the folder from a backup")]
pub struct Damage {
    /// Name of the file.
    pub file: String,
    /// Where in it.
    pub offset: u64,
    /// What is wrong there.
    pub what: String,
}

/// A write did not happen, or isn't known to have.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CommitError {
    /// There is no room on the disk. The write did not happen; later ones may, when there is room.
    #[error("the disk is full")]
    Full,
    /// The log has failed, now or earlier: it is not known whether the write will be there after a restart.
    #[error("the log has failed: {0}")]
    Failed(Arc<str>),
}

impl OpenError {
    /// Whether what is in the folder is wrong, as opposed to what surrounds it.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damage(_) | Self::Refused { .. })
    }

    pub(crate) fn damage(file: impl Into<String>, offset: u64, what: impl Into<String>) -> Self {
        Self::Damage(Damage { file: file.into(), offset, what: what.into() })
    }

    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}
