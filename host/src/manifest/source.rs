//! Where a component's bytes come from: the binary itself (`builtin:NAME`) or a file. Whether they are a component is for
//! the runtime to find out.

use std::path::Path;

use super::error::nearest;
use crate::builtin;

/// Largest component file that is read.
const LARGEST: u64 = 256 << 20;

/// Loads what `source` names; paths are relative to `directory`. The error says what is wrong and what to do.
pub(super) fn load(source: &str, directory: &Path) -> Result<Vec<u8>, String> {
    if let Some(name) = source.strip_prefix("builtin:") {
        let known = || builtin::names().collect::<Vec<_>>().join(", ");
        return match (builtin::component(name), nearest(name, builtin::names())) {
            (Some(bytes), _) => Ok(bytes.into()),
            (None, Some(near)) => Err(format!("there is no \"{source}\"; did you mean \"builtin:{near}\"?")),
            (None, None) => Err(format!("there is no \"{source}\"; built in are: {}", known())),
        };
    }
    let path = directory.join(source);
    read(&path).map_err(|error| format!("the component {} can't be read: {error}", path.display()))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let size = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > LARGEST {
        return Err(format!("it has {size} bytes; at most {LARGEST} are read"));
    }
    std::fs::read(path).map_err(|error| error.to_string())
}
