//! What a swap is asked for and what it answers: shared by the `Swapper`, the internal address, which sends them as JSON,
//! and the commands, which read them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// By what a revision became the active one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PublishedBy {
    /// The process started with it.
    Start,
    /// `PUT /components/{name}`, which is what `host swap` does.
    Swap,
    /// The file that the manifest names was written.
    File,
    /// The manifest was written.
    Manifest,
    /// `POST /components/{name}/rollback`, which is what `host rollback` does.
    Rollback,
    /// The one after it failed too often.
    AutomaticRollback,
}

impl fmt::Display for PublishedBy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            PublishedBy::Start => "start",
            PublishedBy::Swap => "swap",
            PublishedBy::File => "file",
            PublishedBy::Manifest => "manifest",
            PublishedBy::Rollback => "rollback",
            PublishedBy::AutomaticRollback => "automatic-rollback",
        })
    }
}

/// Whether a revision that was rehearsed is published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Promote {
    /// Not at all: the report is what was wanted.
    Never,
    /// If every answer was the same.
    Identical,
    /// Whatever the report says.
    Always,
    /// If nothing got worse.
    #[default]
    Safe,
}

impl FromStr for Promote {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        clap::ValueEnum::from_str(text, false).map_err(|_: String| "write never, identical, always or safe".to_owned())
    }
}
