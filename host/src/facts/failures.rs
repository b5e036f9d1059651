//! The last failures with their reasons, for people who want to know what just went wrong.
//!
//! Recorded where something fails, and nowhere else: by the edge for answers that failed, by swaps, and by who watches
//! instances. Lives as long as the process. Bounded: the last [`KEPT`], each with texts of at most [`LONGEST`] characters;
//! what fails in the same way again is counted, so that an overload doesn't push out what came before it. No paths, queries
//! or headers are in it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::value::milliseconds;

/// How many are remembered.
const KEPT: usize = 50;

/// Characters of a text.
const LONGEST: usize = 200;

/// The last failures. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Failures(Arc<Mutex<List>>);

/// When each happened last, newest first.
type List = VecDeque<(Instant, Arc<Failure>)>;

/// Something that failed. What is not known of it is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// How long ago.
    pub(crate) ms_ago: u64,
    /// How often, one after the other; all but the time and the request is the same of each. Left out if it was once.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub(crate) times: u64,
    /// What it was.
    pub(crate) kind: Kind,
    /// A code (of a problem document), or a sentence.
    pub(crate) reason: String,
    /// The id of the request, or of the last one, by which the log has more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) request_id: Option<String>,
    /// The component that its route leads to, or that was swapped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) component: Option<String>,
    /// The instance that answered or failed to, or that is unavailable, with its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) instance: Option<String>,
    /// The request's handler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) handler: Option<String>,
    /// The answer's status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<u16>,
}

/// What failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// A request was answered by a 5xx, or its answer broke off.
    #[default]
    Request,
    /// A revision was refused, or taken back.
    Swap,
    /// An instance became unavailable.
    Instance,
}

impl Failures {
    /// Remembers one that happened now: counts it if it is like the newest, else forgets the oldest if there are too many.
    pub(crate) fn record(&self, failure: Failure) {
        let texts = |text: Option<String>| text.map(plain);
        let failure = Failure {
            times: 1,
            reason: plain(failure.reason),
            request_id: texts(failure.request_id),
            component: texts(failure.component),
            instance: texts(failure.instance),
            handler: texts(failure.handler),
            ..failure
        };
        let now = Instant::now();
        let mut last = self.last();
        match last.front_mut() {
            Some((at, newest)) if newest.is_like(&failure) => {
                *at = now;
                let newest = Arc::make_mut(newest);
                newest.times = newest.times.saturating_add(1);
                newest.request_id = failure.request_id;
            }
            _ => {
                last.truncate(KEPT - 1);
                last.push_front((now, Arc::new(failure)));
            }
        }
    }

    /// A revision of this component was refused, or taken back.
    pub(crate) fn record_swap(&self, component: &str, reason: &str) {
        let (component, reason) = (Some(component.to_owned()), reason.to_owned());
        self.record(Failure { kind: Kind::Swap, component, reason, ..Failure::default() });
    }

    /// This instance became unavailable.
    pub(crate) fn record_instance(&self, namespace: &str, name: &str) {
        let instance = Some(format!("{namespace}/{name}"));
        let reason = "unavailable".to_owned();
        self.record(Failure { kind: Kind::Instance, instance, reason, ..Failure::default() });
    }

    /// All that are remembered, newest first.
    pub(crate) fn list(&self) -> Vec<Failure> {
        // Requests that fail wait for this lock, but not for the copies.
        let last = self.last().clone();
        last.iter()
            .map(|(at, failure)| Failure { ms_ago: milliseconds(at.elapsed()), ..Failure::clone(failure) })
            .collect()
    }

    fn last(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Failure {
    /// Whether the same failed in the same way.
    fn is_like(&self, other: &Self) -> bool {
        let Self { kind, reason, component, instance, handler, status, ms_ago: _, times: _, request_id: _ } = self;
        *kind == other.kind
            && *status == other.status
            && *reason == other.reason
            && *component == other.component
            && *instance == other.instance
            && *handler == other.handler
    }
}

fn once() -> u64 {
    1
}

fn is_once(times: &u64) -> bool {
    *times == 1
}

/// The text on one line, of a bounded length: parts of it come from components.
fn plain(text: String) -> String {
    if text.len() <= LONGEST && text.trim() == text && !text.contains(char::is_control) {
        return text;
    }
    let mut characters = text.trim().chars().map(|character| if character.is_control() { ' ' } else { character });
    let mut plain: String = characters.by_ref().take(LONGEST).collect();
    if characters.next().is_some() {
        plain.push('…');
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_kept_newest_first() {
        let failures = Failures::default();
        for number in 0..2 * KEPT {
            failures.record_swap("a", &number.to_string());
        }
        let reasons: Vec<_> = failures.list().into_iter().map(|failure| failure.reason).collect();
        assert_eq!(reasons, (KEPT..2 * KEPT).rev().map(|number| number.to_string()).collect::<Vec<_>>());
    }

    #[test]
    fn what_fails_again_in_the_same_way_is_counted() {
        let failures = Failures::default();
        let shed = |request: usize| {
            let (request_id, component) = (Some(request.to_string()), Some("a".to_owned()));
            let (reason, status) = ("overloaded".to_owned(), Some(503));
            failures.record(Failure { request_id, component, reason, status, ..Failure::default() });
        };
        failures.record_swap("a", "refused");
        (0..2 * KEPT).for_each(shed);
        failures.record_swap("a", "refused");
        shed(7);
        let listed = failures.list();
        let told: Vec<_> = listed.iter().map(|failure| (failure.reason.as_str(), failure.times)).collect();
        assert_eq!(told, [("overloaded", 1), ("refused", 1), ("overloaded", 2 * KEPT as u64), ("refused", 1)]);
        assert_eq!(listed[2].request_id, Some((2 * KEPT - 1).to_string()), "the last one's");
        let json = serde_json::to_value(&listed[2]).expect("it can be written");
        assert_eq!(json["times"], 2 * KEPT);
        assert_eq!(serde_json::from_value::<Failure>(json).expect("it can be read"), listed[2]);
    }

    #[test]
    fn texts_are_bounded_and_have_one_line() {
        let failures = Failures::default();
        failures.record_swap("a\u{1b}[31m", &format!("two\nlines {}\n", "é".repeat(1000)));
        let listed = failures.list().remove(0);
        assert_eq!(listed.component.as_deref(), Some("a [31m"));
        assert!(listed.reason.starts_with("two lines éé") && listed.reason.ends_with("é…"), "{}", listed.reason);
        assert_eq!(listed.reason.chars().count(), LONGEST + 1);
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let failures = Failures::default();
        failures.record_instance("shop", "a");
        let listed = failures.list().remove(0);
        let json = serde_json::to_value(&listed).expect("it can be written");
        let expected = serde_json::json!(
            {"ms_ago": listed.ms_ago, "kind": "instance", "instance": "shop/a", "reason": "unavailable"}
        );
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_value::<Failure>(json).expect("it can be read"), listed);
    }
}
