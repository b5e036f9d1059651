//! What a rehearsal found, and whether a revision is to be published after it.
//!
//! Bounded whatever guests answer: [`MAX_GROUPS`] kinds of differences, each with one example of texts of [`EXCERPT`]
//! characters, and one latency for each of at most [`super::MAX_REQUESTS`] requests.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::compare::{self, Answer, Difference};

/// Kinds of differences that are told apart; what comes after them is [`OTHER`].
const MAX_GROUPS: usize = 32;
/// The kind of all that is too much.
const OTHER: &str = "other";
/// Characters of a text out of an answer.
const EXCERPT: usize = 256;

/// When a rehearsed revision is published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Promote {
    /// Not at all: the rehearsal is for its report.
    Never,
    /// If at least one request was compared, and all answers were the same.
    Identical,
    /// If no request that the active revision answered failed on the new one.
    #[default]
    Safe,
    /// Whatever the report says.
    Always,
}

/// A text is not a [`Promote`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no rule for promotion: write never, identical, safe or always")]
pub struct UnknownPromote(String);

/// Why a revision is not published after its rehearsal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPromoted {
    /// [`Promote::Never`].
    #[error("it was rehearsed and not published, as `promote` says never")]
    Never,
    /// [`Promote::Identical`] without anything to judge by.
    #[error("no request was compared, so its answers can't be called identical; rehearse it while there are requests")]
    NothingCompared,
    /// [`Promote::Identical`], and they weren't.
    #[error(
        "{different} of {compared} rehearsed requests got another answer from it ({example}); `promote` allows only \
         identical ones"
    )]
    Different {
        /// Requests with another answer.
        different: usize,
        /// Requests that were compared.
        compared: usize,
        /// The most frequent difference.
        example: String,
    },
    /// [`Promote::Safe`], and it wasn't.
    #[error("{worse} of {compared} rehearsed requests failed on it that the active revision answered ({example})")]
    Worse {
        /// Requests that failed.
        worse: usize,
        /// Requests that were compared.
        compared: usize,
        /// How the first of them failed.
        example: String,
    },
}

/// Why a sampled request was not compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(crate) enum Skip {
    #[error("the request's body is larger than 1 MiB")]
    RequestTooLarge,
    #[error("the active revision answered without reading the request to its end")]
    RequestNotRead,
    #[error("the answer's body is larger than 1 MiB")]
    AnswerTooLarge,
    #[error("the client left before its answer was complete")]
    AnswerNotRead,
    #[error("a request it sent, or the answer to it, is larger than 1 MiB")]
    OutgoingTooLarge,
    #[error("it sent too many requests")]
    TooManyRequests,
    #[error("{0}")]
    Store(store::Incomplete),
    #[error("the new revision touched more of the store than a rehearsal holds")]
    Exhausted,
    #[error("no guest had room for it")]
    NoGuest,
    #[error("the rehearsal ended before it")]
    TimeUp,
}

/// What a rehearsal found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// From a request's start to its answer's head. That of the new revision is measured at the lowest priority, so under load it is an
    /// upper bound. None if nothing was compared.
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
    /// Method, path and query.
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
    /// Whether the revision is to be published.
    ///
    /// # Errors
    /// Why not.
    pub fn verdict(&self, promote: Promote) -> Result<(), NotPromoted> {
        let (compared, different) = (self.compared, self.compared - self.identical);
        let first = |groups: &[DifferenceGroup]| groups.first().map_or(String::new(), |group| group.kind.clone());
        match promote {
            Promote::Never => Err(NotPromoted::Never),
            Promote::Identical if compared == 0 => Err(NotPromoted::NothingCompared),
            Promote::Identical if different > 0 => {
                Err(NotPromoted::Different { different, compared, example: first(&self.differences) })
            }
            Promote::Safe if self.worse > 0 => {
                let example = self.failures.new.first().map_or(String::new(), |count| count.reason.clone());
                Err(NotPromoted::Worse { worse: self.worse, compared, example })
            }
            Promote::Identical | Promote::Safe | Promote::Always => Ok(()),
        }
    }
}

/// Some lines for people, without an end of line behind the last.
impl fmt::Display for RehearsalReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requested, compared, identical, worse, .. } = self;
        write!(f, "rehearsed {compared} of {requested} requests: {identical} identical, {worse} worse")?;
        if let Some(Sides { old, new }) = &self.latency {
            write!(f, "; p50 {} to {} us, p99 {} to {} us", old.p50_us, new.p50_us, old.p99_us, new.p99_us)?;
        }
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

impl FromStr for Promote {
    type Err = UnknownPromote;

    fn from_str(text: &str) -> Result<Self, UnknownPromote> {
        Ok(match text {
            "never" => Self::Never,
            "identical" => Self::Identical,
            "safe" => Self::Safe,
            "always" => Self::Always,
            other => return Err(UnknownPromote(excerpt(other))),
        })
    }
}

impl fmt::Display for Promote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Never => "never",
            Self::Identical => "identical",
            Self::Safe => "safe",
            Self::Always => "always",
        })
    }
}

/// One run of a request: its answer, or why there is none, in a word.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) outcome: Result<Answer, &'static str>,
    /// Until the answer's head, or its failure.
    pub(crate) took: Duration,
}

impl Run {
    /// How it failed, if it did.
    fn failure(&self) -> Option<String> {
        match &self.outcome {
            Ok(answer) if answer.status.is_server_error() => Some(format!("status {}", answer.status.as_u16())),
            Ok(_) => None,
            Err(reason) => Some((*reason).to_owned()),
        }
    }
}

/// What was found so far.
#[derive(Default)]
pub(crate) struct Findings {
    compared: usize,
    identical: usize,
    worse: usize,
    groups: BTreeMap<String, (usize, Example)>,
    failures: Sides<BTreeMap<String, usize>>,
    skipped: BTreeMap<Skip, usize>,
    refused: RefusedRequests,
    took: Sides<Vec<Duration>>,
}

impl Findings {
    /// How many requests were compared.
    pub(crate) fn compared(&self) -> usize {
        self.compared
    }

    /// A request was run on both; `request` is its method, path and query, `refused` what the new revision wanted to send.
    pub(crate) fn compare(&mut self, request: &str, old: &Run, new: &Run, refused: Vec<String>) {
        self.compared += 1;
        self.took.old.push(old.took);
        self.took.new.push(new.took);
        self.refused.count += refused.len();
        if self.refused.example.is_none() {
            self.refused.example = refused.into_iter().next().map(|request| excerpt(&request));
        }
        let (old_failure, new_failure) = (old.failure(), new.failure());
        self.worse += usize::from(old_failure.is_none() && new_failure.is_some());
        for (failures, failure) in [(&mut self.failures.old, old_failure), (&mut self.failures.new, new_failure)] {
            if let Some(reason) = failure {
                *failures.entry(reason).or_default() += 1;
            }
        }
        let differences = match (&old.outcome, &new.outcome) {
            (Ok(old), Ok(new)) => compare::differences(old, new),
            (Err(old), Err(new)) if old == new => Vec::new(),
            (old, new) => vec![failed_differently(old, new)],
        };
        self.identical += usize::from(differences.is_empty());
        for Difference { kind, old, new } in differences {
            let full = self.groups.len() >= MAX_GROUPS && !self.groups.contains_key(&kind);
            let kind = if full { OTHER.to_owned() } else { kind };
            let example = || Example { request: excerpt(request), old, new };
            self.groups.entry(kind).or_insert_with(|| (0, example())).0 += 1;
        }
    }

    /// A request was sampled and can't be compared.
    pub(crate) fn skip(&mut self, reason: Skip) {
        *self.skipped.entry(reason).or_default() += 1;
    }

    /// The end of it.
    pub(crate) fn report(&self, requested: usize, took: Duration) -> RehearsalReport {
        let differences = self.groups.iter().map(|(kind, (count, example))| DifferenceGroup {
            kind: excerpt(kind),
            count: *count,
            example: example.clone(),
        });
        let mut differences: Vec<_> = differences.collect();
        differences.sort_by_key(|group| std::cmp::Reverse(group.count));
        let latency = Sides { old: latency(&self.took.old), new: latency(&self.took.new) };
        RehearsalReport {
            requested,
            compared: self.compared,
            identical: self.identical,
            worse: self.worse,
            differences,
            failures: Sides { old: counts(&self.failures.old), new: counts(&self.failures.new) },
            skipped: counts(&self.skipped),
            refused: self.refused.clone(),
            latency: (self.compared > 0).then_some(latency),
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// At most one of them is an answer.
fn failed_differently(old: &Result<Answer, &'static str>, new: &Result<Answer, &'static str>) -> Difference {
    let told = |run: &Result<Answer, &str>| match run {
        Ok(answer) => compare::told(answer),
        Err(reason) => format!("({reason})"),
    };
    let kind = match (old, new) {
        (_, Err(reason)) => format!("failed: {reason}"),
        (Err(reason), Ok(_)) => format!("answered instead of: {reason}"),
        (Ok(_), Ok(_)) => OTHER.to_owned(),
    };
    Difference { kind, old: told(old), new: told(new) }
}

fn counts<R: ToString>(counts: &BTreeMap<R, usize>) -> Vec<Count> {
    let mut counts: Vec<_> =
        counts.iter().map(|(reason, count)| Count { reason: reason.to_string(), count: *count }).collect();
    counts.sort_by_key(|count| std::cmp::Reverse(count.count));
    counts
}

fn latency(took: &[Duration]) -> Latency {
    let mut sorted = took.to_vec();
    sorted.sort_unstable();
    let percentile = |percent: usize| {
        let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        let took = sorted.get(rank).copied().unwrap_or_default();
        u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
    };
    Latency { p50_us: percentile(50), p99_us: percentile(99) }
}

/// The beginning of a text.
pub(crate) fn excerpt(text: &str) -> String {
    match text.char_indices().nth(EXCERPT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};
    use proptest::prelude::*;

    use super::super::tap::Tapped;
    use super::*;

    fn run(outcome: Result<(u16, &'static str), &'static str>) -> Run {
        let outcome = outcome.map(|(status, body)| Answer {
            status: StatusCode::from_u16(status).expect("a test's status"),
            headers: HeaderMap::new(),
            body: Tapped::Whole(Bytes::from_static(body.as_bytes())),
        });
        Run { outcome, took: Duration::from_micros(100) }
    }

    fn report(pairs: &[(Run, Run)]) -> RehearsalReport {
        let mut findings = Findings::default();
        for (index, (old, new)) in pairs.iter().enumerate() {
            findings.compare(&format!("GET /{index}"), old, new, Vec::new());
        }
        findings.report(10, Duration::from_secs(1))
    }

    fn verdicts(report: &RehearsalReport) -> [bool; 4] {
        [Promote::Never, Promote::Identical, Promote::Safe, Promote::Always].map(|rule| report.verdict(rule).is_ok())
    }

    #[test]
    fn equal_answers_promote() {
        let same = || (run(Ok((200, "a"))), run(Ok((200, "a"))));
        let report = report(&[same(), same(), (run(Err("trap")), run(Err("trap")))]);
        assert_eq!((report.compared, report.identical, report.worse), (3, 3, 0));
        assert_eq!(report.differences, []);
        assert_eq!(verdicts(&report), [false, true, true, true]);
    }

    #[test]
    fn nothing_is_safe_and_not_identical() {
        let report = report(&[]);
        assert_eq!(report.verdict(Promote::Identical), Err(NotPromoted::NothingCompared));
        assert_eq!(verdicts(&report), [false, false, true, true]);
        assert_eq!(report.latency, None);
    }

    #[test]
    fn other_answers_are_safe_and_grouped() {
        let other = || (run(Ok((200, "a"))), run(Ok((200, "b"))));
        let gone = || (run(Ok((200, "a"))), run(Ok((404, "c"))));
        let report = report(&[gone(), other(), other(), (run(Ok((200, "a"))), run(Ok((200, "a"))))]);
        assert_eq!(verdicts(&report), [false, false, true, true]);
        let groups: Vec<_> = report.differences.iter().map(|group| (group.kind.as_str(), group.count)).collect();
        assert_eq!(groups, [("body", 2), ("status 200 became 404", 1)]);
        let example = Example { request: "GET /1".into(), old: "a".into(), new: "b".into() };
        assert_eq!(report.differences[0].example, example);
        let refused = report.verdict(Promote::Identical).expect_err("they differ").to_string();
        assert!(refused.starts_with("3 of 4 rehearsed requests got another answer from it (body)"), "{refused}");
    }

    #[test]
    fn failures_are_worse_only_where_the_old_one_answered() {
        for (old, new, worse) in [
            (Ok((200, "")), Err("trap"), 1),
            (Ok((404, "")), Ok((500, "")), 1),
            (Ok((503, "")), Err("deadline"), 0),
            (Err("trap"), Ok((500, "")), 0),
            (Err("trap"), Err("deadline"), 0),
            (Err("trap"), Ok((200, "")), 0),
        ] {
            let report = report(&[(run(old), run(new))]);
            assert_eq!((report.worse, report.identical), (worse, 0), "{old:?} {new:?}");
            assert_eq!(report.verdict(Promote::Safe).is_ok(), worse == 0);
        }
        let report = report(&[(run(Ok((200, "fine"))), run(Err("trap")))]);
        assert_eq!(report.failures.new, [Count { reason: "trap".into(), count: 1 }]);
        assert_eq!(report.differences[0].kind, "failed: trap");
        assert_eq!(report.differences[0].example.old, "200 fine");
        let refused = report.verdict(Promote::Safe).expect_err("it is worse").to_string();
        assert_eq!(refused, "1 of 1 rehearsed requests failed on it that the active revision answered (trap)");
    }

    #[test]
    fn a_report_reads_as_json() {
        let mut findings = Findings::default();
        findings.skip(Skip::RequestTooLarge);
        findings.compare("GET /", &run(Ok((200, "a"))), &run(Ok((200, "b"))), vec!["GET http://a/".into()]);
        let report = findings.report(2, Duration::from_millis(1500));
        let expected = serde_json::json!({
            "requested": 2, "compared": 1, "identical": 0, "worse": 0,
            "differences": [{ "kind": "body", "count": 1, "example": { "request": "GET /", "old": "a", "new": "b" } }],
            "failures": { "old": [], "new": [] },
            "skipped": [{ "reason": "the request's body is larger than 1 MiB", "count": 1 }],
            "refused": { "count": 1, "example": "GET http://a/" },
            "latency": { "old": { "p50_us": 100, "p99_us": 100 }, "new": { "p50_us": 100, "p99_us": 100 } },
            "took_ms": 1500,
        });
        assert_eq!(serde_json::to_value(&report).expect("it can be written"), expected);
        assert_eq!(serde_json::from_value::<RehearsalReport>(expected).expect("it can be read"), report);
    }

    #[test]
    fn a_report_reads_as_text() {
        let mut findings = Findings::default();
        findings.skip(Skip::RequestTooLarge);
        findings.compare("GET /", &run(Ok((200, "a\nb"))), &run(Ok((200, "c"))), vec!["GET http://a/".into()]);
        let expected = "rehearsed 1 of 2 requests: 0 identical, 0 worse; p50 100 to 100 us, p99 100 to 100 us\n\
                        1 x body, for example \"GET /\"\n    old: \"a\\nb\"\n    new: \"c\"\n\
                        1 requests that the active revision didn't send were refused: \"GET http://a/\"\n\
                        1 not compared: the request's body is larger than 1 MiB";
        assert_eq!(findings.report(2, Duration::ZERO).to_string(), expected);
    }

    #[test]
    fn a_report_is_bounded() {
        let mut findings = Findings::default();
        for number in 0..1000_u16 {
            let (mut old, mut new) = (run(Ok((200, ""))), run(Ok((200, ""))));
            for (run, value) in [(&mut old, "x"), (&mut new, "y")] {
                let Ok(answer) = &mut run.outcome else { panic!("it is an answer") };
                let name: http::HeaderName = format!("x-{number}-{}", "x".repeat(2000)).parse().expect("a name");
                answer.headers.insert(name, value.repeat(5000).parse().expect("a value"));
            }
            findings.compare(&"ä".repeat(5000), &old, &new, Vec::new());
        }
        let report = findings.report(1000, Duration::ZERO);
        assert_eq!(report.differences.len(), MAX_GROUPS + 1);
        assert_eq!((report.differences[0].kind.as_str(), report.differences[0].count), (OTHER, 1000 - MAX_GROUPS));
        let length = serde_json::to_string(&report).expect("it can be written").len();
        assert!(length < 64 << 10, "{length} bytes");
    }

    #[test]
    fn rules_are_read_as_they_are_written() {
        for rule in [Promote::Never, Promote::Identical, Promote::Safe, Promote::Always] {
            assert_eq!(rule.to_string().parse(), Ok(rule));
        }
        let error = "Always".parse::<Promote>().expect_err("no rule");
        assert_eq!(error.to_string(), "\"Always\" is no rule for promotion: write never, identical, safe or always");
    }

    proptest! {
        /// Whatever is compared, the numbers agree with each other.
        #[test]
        fn the_numbers_add_up(pairs in prop::collection::vec((0..5_usize, 0..5_usize), 0..50)) {
            let outcomes = [Ok((200, "a")), Ok((200, "b")), Ok((404, "a")), Ok((500, "a")), Err("trap")];
            let pairs: Vec<_> = pairs.into_iter().map(|(old, new)| (run(outcomes[old]), run(outcomes[new]))).collect();
            let report = report(&pairs);
            prop_assert_eq!(report.compared, pairs.len());
            // Each of these requests differs in one way at most.
            prop_assert_eq!(report.differences.iter().map(|group| group.count).sum::<usize>(), pairs.len() - report.identical);
            prop_assert!(report.worse <= report.failures.new.iter().map(|count| count.count).sum());
            prop_assert!(report.identical + report.worse <= report.compared);
            let [_, identical, safe, _] = verdicts(&report);
            prop_assert!(!identical || safe, "what is identical is safe");
        }

        #[test]
        fn half_take_no_longer_than_p50(took in prop::collection::vec(0..10_000_u64, 1..200)) {
            let durations: Vec<_> = took.iter().copied().map(Duration::from_micros).collect();
            let Latency { p50_us, p99_us } = latency(&durations);
            prop_assert!(p50_us <= p99_us);
            for (percent, value) in [(50, p50_us), (99, p99_us)] {
                prop_assert!(took.contains(&value));
                prop_assert!(took.iter().filter(|took| **took <= value).count() * 100 >= took.len() * percent);
            }
        }
    }
}
