use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;

use super::*;
use crate::contract::{Kept, behaves_like_a_map_across_openings};

/// A store in a folder of its own. Several openings of the same folder are one after the other.
struct InFolder {
    store: DurableStore,
    folder: TempDir,
    limits: Limits,
}

impl InFolder {
    fn open_again(folder: TempDir, limits: Limits) -> Self {
        let config = Config { limits, ..Config::default() };
        let (store, recovery) = DurableStore::open(folder.path(), config).expect("the folder is whole");
        assert_eq!((recovery.torn, recovery.lost), (None, 0));
        Self { store, folder, limits }
    }
}

impl Kept for InFolder {
    fn open(limits: Limits) -> Self {
        Self::open_again(tempfile::tempdir().expect("a temporary folder"), limits)
    }

    fn store(&self) -> &dyn Store {
        &self.store
    }

    /// Without order: from a copy of what is on the disk, as after `kill -9`.
    fn reopen(self, orderly: bool) -> Self {
        let Self { store, folder, limits } = self;
        if orderly {
            store.close().expect("a sound disk");
            return Self::open_again(folder, limits);
        }
        let copy = tempfile::tempdir().expect("a temporary folder");
        for file in fs::read_dir(folder.path()).expect("it can be read") {
            let file = file.expect("it can be read");
            fs::copy(file.path(), copy.path().join(file.file_name())).expect("it can be copied");
        }
        Self::open_again(copy, limits)
    }
}

#[test]
fn survives_endings_of_all_kinds() {
    behaves_like_a_map_across_openings::<InFolder>();
}
