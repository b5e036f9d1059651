//! What a rehearsal has found so far: counts, the ways in which answers differ, and how long they took.
//!
//! Lives as long as its rehearsal. Bounded whatever guests answer: [`MAX_GROUPS`] kinds of differences, each with one example
//! of short texts, and one latency for each of at most [`super::MAX_REQUESTS`] requests.

use std::collections::BTreeMap;
use std::time::Duration;

use super::compare::{self, Answer, Difference};
use super::report::{Count, DifferenceGroup, Example, Latency, RefusedRequests, RehearsalReport, Sides, excerpt};

/// Kinds of differences that are told apart; what comes after them is [`OTHER`].
const MAX_GROUPS: usize = 32;
/// The kind of all that is too much.
const OTHER: &str = "other";

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
    /// Of the requests that failed on neither.
    took: Sides<Vec<Duration>>,
}

impl Findings {
    /// How many requests were compared.
    pub(crate) fn compared(&self) -> usize {
        self.compared
    }

    /// A request was run on both; `request` is its method and path, `refused` what the new revision wanted to send.
    pub(crate) fn compare(&mut self, request: &str, old: &Run, new: &Run, refused: Vec<String>) {
        self.compared += 1;
        self.refused.count += refused.len();
        if self.refused.example.is_none() {
            self.refused.example = refused.into_iter().next().map(|request| excerpt(&request));
        }
        let (old_failure, new_failure) = (old.failure(), new.failure());
        if old_failure.is_none() && new_failure.is_none() {
            // How soon a run failed says nothing of how long an answer takes.
            self.took.old.push(old.took);
            self.took.new.push(new.took);
        }
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
            timed: self.took.old.len(),
            latency: (!self.took.old.is_empty()).then_some(latency),
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};
    use proptest::prelude::*;

    use super::super::promotion::{NotPromoted, Promote};
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
        let text = "rehearsed 0 of 10 requests: 0 identical, 0 worse; there was nothing to compare, so its answers were not judged";
        assert_eq!(report.to_string(), text);
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
    fn how_soon_a_run_failed_does_not_count() {
        let lasting = |run: Run, ms| Run { took: Duration::from_millis(ms), ..run };
        let answered = |old, new| (lasting(run(Ok((200, ""))), old), lasting(run(Ok((200, ""))), new));
        let mended = || (lasting(run(Ok((503, ""))), 1), lasting(run(Ok((200, ""))), 50));
        let broken = || (lasting(run(Ok((200, ""))), 50), lasting(run(Err("trap")), 1));

        let fixed = report(&vec![mended(); 20]);
        assert_eq!((fixed.compared, fixed.timed, &fixed.latency), (20, 0, &None));
        assert_eq!(fixed.verdict(Promote::Safe), Ok(()), "an answer takes longer than a failure");

        let few = report(&[vec![answered(1, 50); 19], vec![mended(), broken()]].concat());
        assert_eq!((few.compared, few.timed), (21, 19));
        let p50 = few.latency.as_ref().map(|latency| (latency.old.p50_us, latency.new.p50_us));
        assert_eq!(p50, Some((1_000, 50_000)));
        let few = report(&[vec![answered(1, 50); 19], vec![mended()]].concat());
        assert_eq!(few.verdict(Promote::Safe), Ok(()), "too few durations to judge by");
        let enough = report(&[vec![answered(1, 50); 20], vec![mended()]].concat());
        assert!(matches!(enough.verdict(Promote::Safe), Err(NotPromoted::Slower { timed: 20, .. })));
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
            "timed": 1,
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
