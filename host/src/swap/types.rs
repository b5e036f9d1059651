//! What a swap is asked for and what it answers: shared by the `Swapper`, the internal address, which sends them as JSON,
//! and the commands, which read them.

use std::fmt;

use runtime::{Promote, RehearsalReport};
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

/// How a swap is to be done. What is not said is as the manifest says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SwapOptions {
    /// Who asks for it.
    pub(crate) by: PublishedBy,
    /// How many requests are rehearsed.
    pub(crate) rehearse: Option<u32>,
    /// What the rehearsal must show.
    pub(crate) promote: Option<Promote>,
}

/// A swap that was done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Swapped {
    /// The component.
    pub(crate) name: String,
    /// The digest of the revision that is active now.
    pub(crate) digest: String,
    /// The digest of the one before.
    pub(crate) previous: Option<String>,
    /// False if the same revision was active already.
    pub(crate) changed: bool,
    /// From when the bytes were there until it was published.
    pub(crate) took_ms: u64,
    /// What the rehearsal showed, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rehearsal: Option<RehearsalReport>,
}

/// Why a component was not swapped. The revision that was active still is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SwapError {
    /// There is no such component.
    #[error("there is no component \"{name}\"; there are: {}", known.join(", "))]
    UnknownComponent {
        /// What was asked for.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// There is no such revision.
    #[error("no revision of \"{name}\" that is kept has the digest {digest}; kept are: {}", kept.join(", "))]
    UnknownRevision {
        /// The component.
        name: String,
        /// What was asked for.
        digest: String,
        /// Those that are kept.
        kept: Vec<String>,
    },
    /// There is nothing to go back to.
    #[error(
        "\"{name}\" has no revision before the active one, or only such as were rolled back; name one by its digest"
    )]
    NoPreviousRevision {
        /// The component.
        name: String,
    },
    /// It can't be run, or did not pass its trial.
    #[error("{reason}")]
    Rejected {
        /// What is wrong with it.
        reason: String,
    },
    /// It was rehearsed, and what that showed is not enough. Its message leaves the report out: that holds what requests
    /// and answers said, for whoever asked for the swap and for no log.
    #[error("{reason}")]
    NotPromoted {
        /// The verdict.
        reason: String,
        /// What it was reached by.
        report: Box<RehearsalReport>,
    },
    /// Too many swaps of this component are waiting.
    #[error("{waiting} swaps of \"{name}\" are waiting; try again when they are done")]
    Busy {
        /// The component.
        name: String,
        /// How many wait at most.
        waiting: usize,
    },
    /// The host is being stopped.
    #[error("the host is stopping; swap when it runs again")]
    Draining,
    /// The data directory is full.
    #[error("the revision can't be kept: {reason}")]
    Full {
        /// Which file, and what to do.
        reason: String,
    },
    /// What was to be published could not be recorded, or not be read.
    #[error("the revision can't be kept: {reason}")]
    NotRecorded {
        /// Which file, and what the system says.
        reason: String,
    },
}

impl SwapError {
    /// The reason as a word, for traces.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::UnknownComponent { .. } => "unknown_component",
            Self::UnknownRevision { .. } => "unknown_revision",
            Self::NoPreviousRevision { .. } => "no_previous_revision",
            Self::Rejected { .. } => "rejected",
            Self::NotPromoted { .. } => "not_promoted",
            Self::Busy { .. } => "busy",
            Self::Draining => "draining",
            Self::Full { .. } => "full",
            Self::NotRecorded { .. } => "not_recorded",
        }
    }
}

/// One entry of `GET /components`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ComponentInfo {
    /// Its name in the manifest.
    pub(crate) name: String,
    /// The namespace of its instances.
    pub(crate) namespace: String,
    /// The prefix of public paths that it answers.
    pub(crate) route: Option<String>,
    /// The names of its instances.
    pub(crate) instances: Vec<String>,
    /// SHA-256 of its active revision's bytes, in hexadecimal.
    pub(crate) digest: String,
    /// For how long that has been active.
    pub(crate) published_ms_ago: u64,
    /// By what it became active.
    pub(crate) published_by: PublishedBy,
    /// What the manifest names: `builtin:NAME` or a path.
    pub(crate) source: String,
    /// The digest of what was there when it was last read.
    pub(crate) source_digest: Option<String>,
    /// Whether that is not what is active.
    pub(crate) differs_from_source: bool,
    /// How many revisions before it still have requests.
    pub(crate) draining: usize,
    /// Whether it is on probation.
    pub(crate) watching: bool,
}

/// One entry of `GET /components/{name}/revisions`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RevisionInfo {
    /// SHA-256 of its bytes, in hexadecimal.
    pub(crate) digest: String,
    /// What its configuration is told apart by.
    pub(crate) configuration: String,
    /// Where it is in its life.
    pub(crate) state: RevisionState,
    /// How many bytes it has.
    pub(crate) size: u64,
    /// By what it last became active.
    pub(crate) published_by: PublishedBy,
    /// How long ago that was.
    pub(crate) published_ms_ago: u64,
    /// How its time as the active revision ended, if there is something to tell.
    pub(crate) outcome: Option<String>,
}

/// Where a revision is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RevisionState {
    /// Requests go to it.
    Active,
    /// It is the one before, and ready to be active again at once.
    Warm,
    /// It still has requests, but gets none.
    Draining,
    /// It is on disk.
    Kept,
}

impl fmt::Display for RevisionState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            RevisionState::Active => "active",
            RevisionState::Warm => "warm",
            RevisionState::Draining => "draining",
            RevisionState::Kept => "kept",
        })
    }
}
