//! A stage: what a guest's store and outgoing requests are while it serves a sampled request.
//!
//! It comes to the guest with the request, and stays until the next one: what the guest does after its answer still belongs
//! to it. Guests that serve sampled requests serve one at a time, so whatever they do belongs to one request.

use std::sync::Arc;

use store::Store;

use super::tape::{Replay, Tape, World};

/// Where a guest plays.
#[derive(Clone)]
pub(crate) enum Stage {
    /// In the world, with a tape running.
    Live(Arc<Tape>),
    /// In the world that a tape remembers.
    Rehearsed(Arc<Replay>),
}

impl Stage {
    /// For a guest of a rehearsed revision that has no request yet: it sees the store as it is, and nothing gets out.
    pub(crate) fn empty(store: Arc<dyn Store>) -> Self {
        Self::Rehearsed(Arc::new(Replay::new(World::default(), store)))
    }

    /// The store that a guest sees.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Live(tape) => tape.store(),
            Self::Rehearsed(replay) => replay.store(),
        }
    }
}
