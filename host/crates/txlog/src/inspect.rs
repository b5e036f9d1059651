//! Reading a log without opening it: nothing is written, nothing is kept in memory.

use std::error::Error;
use std::path::Path;

use crate::error::OpenError;
use crate::medium::{Disk, Folder};
use crate::record::Entry;
pub use crate::recovery::Location;
use crate::recovery::{Visitor, survey};
use crate::repair::lock;
use crate::report::Recovery;

/// Checks all of a log that nobody has open, and says what opening it would do.
///
/// # Errors
/// What opening it would fail with.
pub fn verify(folder: &Path) -> Result<Recovery, OpenError> {
    dump(folder, |_, _| Ok(()))
}

/// As [`verify`], and shows all entries: first those of the snapshot, then those of the records, in order.
///
/// # Errors
/// Those of [`verify`]; entries before the damage were shown. [`OpenError::Refused`] if `show` fails, which ends it.
pub fn dump(
    folder: &Path,
    show: impl FnMut(Location<'_>, Entry<'_>) -> Result<(), Box<dyn Error + Send + Sync>>,
) -> Result<Recovery, OpenError> {
    let opened = Disk::open(folder).map_err(OpenError::io(format!("open the folder {}", folder.display())))?;
    dump_in(&opened, show)
}

/// As [`dump`], on another medium.
///
/// # Errors
/// As [`dump`].
pub fn dump_in(
    folder: &dyn Folder,
    show: impl FnMut(Location<'_>, Entry<'_>) -> Result<(), Box<dyn Error + Send + Sync>>,
) -> Result<Recovery, OpenError> {
    let _lock = lock(folder, true)?;
    Ok(survey(folder, &mut Show(show))?.report)
}

struct Show<F>(F);

impl<F: FnMut(Location<'_>, Entry<'_>) -> Result<(), Box<dyn Error + Send + Sync>>> Visitor for Show<F> {
    fn entry(&mut self, location: Location<'_>, entry: Entry<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.0(location, entry)
    }
}
