//! Reading a log without opening it: nothing is written, nothing is kept in memory.

use std::error::Error;
use std::path::Path;

use crate::error::OpenError;
use crate::record::Entry;
use crate::report::Recovery;

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location<'a> {
    /// Name of the file.
    pub file: &'a str,
    /// Where its frame begins.
    pub offset: u64,
}

/// Checks all of a log that nobody has open, and says what opening it would do.
///
/// # Errors
/// What opening it would fail with.
pub fn verify(_folder: &Path) -> Result<Recovery, OpenError> {
    unimplemented!()
}

/// As [`verify`], and shows all entries: first those of the snapshot, then those of the records, in order.
///
/// # Errors
/// Those of [`verify`]; entries before the damage were shown. [`OpenError::Refused`] if `show` fails, which ends it.
pub fn dump(
    _folder: &Path,
    _show: impl FnMut(Location<'_>, Entry<'_>) -> Result<(), Box<dyn Error + Send + Sync>>,
) -> Result<Recovery, OpenError> {
    unimplemented!()
}
