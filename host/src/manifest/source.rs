//! Where a component's bytes come from: the binary itself (`builtin:NAME`) or a file.

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
            (None, Some(near)) => Err(format!(
                "there is no \"{source}\"; did you mean \"builtin:{near}\"?"
            )),
            (None, None) => Err(format!(
                "there is no \"{source}\"; built in are: {}",
                known()
            )),
        };
    }
    let path = directory.join(source);
    let bytes = read(&path)
        .map_err(|error| format!("the component {} can't be read: {error}", path.display()))?;
    match kind(&bytes) {
        Kind::Component => Ok(bytes),
        other => Err(format!("{} {}", path.display(), other.complaint())),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let size = std::fs::metadata(path)
        .map_err(|error| error.to_string())?
        .len();
    if size > LARGEST {
        return Err(format!("it has {size} bytes; at most {LARGEST} are read"));
    }
    std::fs::read(path).map_err(|error| error.to_string())
}

/// What a file is, by its first eight bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A WebAssembly component.
    Component,
    /// A WebAssembly core module.
    Module,
    /// WebAssembly's text format.
    Text,
    /// Shorter than the shortest component.
    Truncated,
    /// Anything else.
    Other,
}

/// Tells what a file is. Says nothing about what follows its first eight bytes.
pub(crate) fn kind(bytes: &[u8]) -> Kind {
    match bytes {
        [b'\0', b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => Kind::Component,
        [b'\0', b'a', b's', b'm', 1, 0, 0, 0, ..] => Kind::Module,
        [] => Kind::Truncated,
        _ if bytes.len() < 8 && b"\0asm\x0d\0\x01\0".starts_with(bytes) => Kind::Truncated,
        _ if bytes.trim_ascii_start().starts_with(b"(component")
            || bytes.trim_ascii_start().starts_with(b"(module") =>
        {
            Kind::Text
        }
        _ => Kind::Other,
    }
}

impl Kind {
    /// How to go on after "FILE ".
    fn complaint(self) -> &'static str {
        match self {
            Kind::Component => "is a component",
            Kind::Module => {
                "is a core module, not a component; build it with `cargo build --target wasm32-wasip2`, \
                 or make a component of it with `wasm-tools component new`"
            }
            Kind::Text => "is WebAssembly text; assemble it with `wasm-tools parse`",
            Kind::Truncated => {
                "ends before the first section of a component; build or copy it again"
            }
            Kind::Other => {
                "is not a WebAssembly component; name a .wasm file that `host check` accepts"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_apart_by_their_first_bytes() {
        for (bytes, expected) in [
            (&b"\0asm\x0d\0\x01\0rest"[..], Kind::Component),
            (b"\0asm\x01\0\0\0", Kind::Module),
            (b"\0asm\x0d", Kind::Truncated),
            (b"", Kind::Truncated),
            (b"\n (component)", Kind::Text),
            (b"hello, world", Kind::Other),
            (b"\0asm\x02\0\0\0", Kind::Other),
        ] {
            assert_eq!(kind(bytes), expected, "{bytes:?}");
        }
    }
}
