//! The report of a rehearsal, as JSON and as text. It is what [`findings`](super::findings) come to, and what
//! [`promotion`](super::promotion) is decided by.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Characters of a text out of an answer.
const EXCERPT: usize = 256;

/// What a rehearsal found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RehearsalReport {
    /// Requests that were to be compared.
    pub requested: usize,
    /// Requests that were.
    pub compared: usize,
    /// Those of them for which both revisions gave the same answer, or failed in the same way.
    pub identical: usize,
    /// Those of them that the active revision answered (with less than 500), and the new one did not.
    pub worse: usize,
    /// How answers differ, the most frequent difference first. A request can be in several.
    pub differences: Vec<DifferenceGroup>,
    /// How requests failed: a trap, a deadline, a status of 500 or more.
    pub failures: Sides<Vec<Count>>,
    /// Requests that were sampled and not compared, by reason.
    pub skipped: Vec<Count>,
    /// Requests that the new revision sent and that had no answer, since the active one sent none like them.
    pub refused: RefusedRequests,
    /// Requests that failed on neither revision: those whose durations are compared.
    #[serde(default)]
    pub timed: usize,
    /// Of those, from a request's start to its answer's head. The new revision runs at the lowest priority; how long it waited
    /// for a processor doesn't count, where the system tells. None if there are no such requests.
    pub latency: Option<Sides<Latency>>,
    /// How long the rehearsal took, in milliseconds.
    pub took_ms: u64,
}

/// One thing for each revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sides<T> {
    /// Of the active revision.
    pub old: T,
    /// Of the new one.
    pub new: T,
}

/// Requests whose answers differ alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DifferenceGroup {
    /// What differs: `status 200 became 404`, `header content-type`, `body`, `failed: trap`.
    pub kind: String,
    /// How many.
    pub count: usize,
    /// The first of them.
    pub example: Example,
}

/// One request and what came of it, cut short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// Method and path.
    pub request: String,
    /// What the active revision answered.
    pub old: String,
    /// What the new one answered.
    pub new: String,
}

/// How often something happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// What.
    pub reason: String,
    /// How often.
    pub count: usize,
}

/// Requests that were refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedRequests {
    /// How many.
    pub count: usize,
    /// The first of them: method and URI.
    pub example: Option<String>,
}

/// How long answers took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// Half of them took less, in microseconds.
    pub p50_us: u64,
    /// 99 of 100 took less, in microseconds.
    pub p99_us: u64,
}

impl RehearsalReport {
    /// Its numbers in one line, which may be logged: nothing in it comes out of a request or an answer.
    pub fn summary(&self) -> String {
        let Self { requested, compared, identical, worse, .. } = self;
        let mut line = format!("rehearsed {compared} of {requested} requests: {identical} identical, {worse} worse");
        if let Some(Sides { old, new }) = &self.latency {
            line += &format!("; p50 {} to {} us, p99 {} to {} us", old.p50_us, new.p50_us, old.p99_us, new.p99_us);
        }
        if *compared == 0 {
            line += "; there was nothing to compare, so its answers were not judged";
        }
        line
    }
}

/// Some lines for whoever asked for the rehearsal, without an end of line behind the last. Not for a log: the examples hold
/// what requests and answers said.
impl fmt::Display for RehearsalReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary())?;
        for DifferenceGroup { kind, count, example } in &self.differences {
            let Example { request, old, new } = example;
            write!(f, "\n{count} x {kind}, for example {request:?}\n    old: {old:?}\n    new: {new:?}")?;
        }
        if self.refused.count > 0 {
            let example = self.refused.example.as_deref().unwrap_or_default();
            write!(
                f,
                "\n{} requests that the active revision didn't send were refused: {example:?}",
                self.refused.count
            )?;
        }
        for Count { reason, count } in &self.skipped {
            write!(f, "\n{count} not compared: {reason}")?;
        }
        Ok(())
    }
}

/// The beginning of a text.
pub(crate) fn excerpt(text: &str) -> String {
    match text.char_indices().nth(EXCERPT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
