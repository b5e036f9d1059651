//! A swap in the traces: a trace of its own, with one span from when the swap begins until it is published or has failed.
//!
//! What changes nothing leaves none. The span names component and revision, and a failure by a word: the reason itself is
//! in the log, and may quote what requests said.

use runtime::Digest;
use trace::{Active, Kind};

use super::{PublishedBy, SwapError, Swapped, Swapper};

/// The span of a swap under way, if it is recorded. Dropped before its end, it never was.
pub(super) struct Step(Option<Active>);

impl Swapper {
    /// A swap of this component begins.
    pub(super) fn step(&self, component: &str, by: PublishedBy) -> Step {
        let step = self.0.runtime.tracer().and_then(|tracer| {
            let mut step = tracer.span(tracer.enter(None), None, Kind::Internal, || format!("swap {component}"))?;
            step.text("hostler.component", component.to_owned());
            step.text("hostler.swap.by", by.to_string());
            Some(step)
        });
        Step(step)
    }
}

impl Step {
    /// It is this revision that is to be published.
    pub(super) fn revision(&mut self, digest: Digest) {
        if let Some(step) = &mut self.0 {
            step.text("hostler.revision", digest.to_string());
        }
    }

    /// The swap has come to its end.
    pub(super) fn end(mut self, error: Option<&SwapError>) {
        let Some(mut step) = self.0.take() else { return };
        if let Some(error) = error {
            step.fail(error.reason());
        }
    }

    /// The same; unless it has changed nothing.
    pub(super) fn end_with(self, swapped: &Result<Swapped, SwapError>) {
        match swapped {
            Ok(Swapped { changed: false, .. }) => {}
            Ok(_) => self.end(None),
            Err(error) => self.end(Some(error)),
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(step) = &mut self.0 {
            step.forget();
        }
    }
}
