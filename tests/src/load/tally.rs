//! What came of a load: what was answered, and what went wrong.

use std::fmt;

use http::HeaderMap;

use super::Stamper;

/// How many things that went wrong are kept of each kind. All are counted.
const KEPT: usize = 20;

/// What came of it.
#[derive(Debug, Default)]
pub struct Tally {
    /// Short requests with the right answer.
    pub answers: u64,
    /// Long requests with the right answer.
    pub long: u64,
    /// Requests without an answer, or with another status than 200.
    pub failed: Faults,
    /// Answers with another body than they should have.
    pub wrong: Faults,
    /// Answers that were stamped by a revision that was already replaced.
    pub stale: Faults,
}

/// Things that went wrong.
#[derive(Debug, Default)]
pub struct Faults {
    /// How many.
    pub count: u64,
    /// The first ones.
    pub kept: Vec<Fault>,
}

/// A thing that went wrong.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Which request, and what came.
    pub what: String,
    /// The status, if there was an answer.
    pub status: Option<u16>,
    /// The stamp of [`Stamper::Guest`], if there was one.
    pub stamp: Option<u32>,
}

/// Which kind of fault.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Failed,
    Wrong,
    Stale,
}

impl Tally {
    /// The same, if there were answers, and nothing went wrong.
    #[track_caller]
    pub fn expect_flawless(self) -> Self {
        assert!(self.answers > 0, "{self}");
        assert!(self.failed.count + self.wrong.count + self.stale.count == 0, "{self}");
        self
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { answers, long, failed, wrong, stale } = self;
        write!(
            to,
            "{answers} short and {long} long requests, {} failed, {} wrong, {} stale",
            failed.count, wrong.count, stale.count
        )?;
        for fault in [failed, wrong, stale].into_iter().flat_map(|faults| &faults.kept) {
            write!(to, "\n  {}", fault.what)?;
        }
        Ok(())
    }
}

impl Faults {
    /// One more; `head` is that of the answer, if there was one.
    pub(super) fn add(&mut self, what: String, head: Option<(u16, &HeaderMap)>) {
        self.count += 1;
        if self.kept.len() < KEPT {
            let stamp = head.and_then(|(_, headers)| Stamper::Guest.stamp(headers));
            self.kept.push(Fault { what, status: head.map(|(status, _)| status), stamp });
        }
    }
}
