//! Where a component's bytes come from: the binary itself (`builtin:NAME`) or a file. Whether they are a component is for
//! the runtime to find out.

use std::fmt;
use std::path::{Path, PathBuf};

use runtime::Code;

use super::error::{nearest, unreadable};
use crate::builtin;
use crate::look::Look;

/// Largest component file that is read.
const LARGEST: u64 = 256 << 20;

/// Where a component's bytes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The binary: the component with this name in it.
    Builtin(String),
    /// A file.
    File {
        /// Absolute.
        path: PathBuf,
        /// What it looked like before it was read: if it looks the same now, it has the same bytes.
        look: Look,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Builtin(name) => write!(out, "builtin:{name}"),
            Source::File { path, .. } => path.display().fmt(out),
        }
    }
}

impl Source {
    /// The same source as it looks now.
    pub(crate) fn look_again(&self) -> Self {
        match self {
            Source::Builtin(name) => Source::Builtin(name.clone()),
            Source::File { path, .. } => Source::File { path: path.clone(), look: Look::at(path) },
        }
    }

    /// The bytes that are there now. Blocks. The error says what is wrong and what to do, and doesn't name the source.
    pub(crate) fn read(&self) -> Result<Code, String> {
        match self {
            Source::Builtin(name) => {
                builtin::component(name).map(Code::new).ok_or_else(|| "it is not in this binary".to_owned())
            }
            Source::File { path, .. } => read(path),
        }
    }
}

/// Loads what `source` names; paths are relative to `directory`. The error says what is wrong and what to do.
pub(super) fn load(source: &str, directory: &Path) -> Result<(Source, Code), String> {
    if let Some(name) = source.strip_prefix("builtin:") {
        let known = || builtin::names().collect::<Vec<_>>().join(", ");
        return match (builtin::component(name), nearest(name, builtin::names())) {
            (Some(bytes), _) => Ok((Source::Builtin(name.to_owned()), Code::new(bytes))),
            (None, Some(near)) => Err(format!("there is no \"{source}\"; did you mean \"builtin:{near}\"?")),
            (None, None) => Err(format!("there is no \"{source}\"; built in are: {}", known())),
        };
    }
    let path = directory.join(source);
    let look = Look::at(&path);
    let code = read(&path).map_err(|error| format!("the component {} can't be read: {error}", path.display()))?;
    Ok((Source::File { path, look }, code))
}

fn read(path: &Path) -> Result<Code, String> {
    let size = std::fs::metadata(path).map_err(|error| unreadable(&error))?.len();
    if size > LARGEST {
        return Err(format!("it has {size} bytes; at most {LARGEST} are read, so name a smaller one"));
    }
    std::fs::read(path).map(Code::new).map_err(|error| unreadable(&error))
}
