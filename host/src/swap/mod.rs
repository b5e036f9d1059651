//! Swaps: one revision of a component after another.

mod history;
mod types;

pub(crate) use history::{History, HistoryError, SourceIdentity, Start};
pub(crate) use types::{Promote, PublishedBy};
