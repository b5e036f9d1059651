//! Promotion: whether a revision is published after its rehearsal. A rule and a report decide; nothing else.

use std::fmt;
use std::str::FromStr;

use super::report::{DifferenceGroup, RehearsalReport, Sides, excerpt};

/// How many times as long as the active revision a new one may take, by the median of the requests that both answered.
const SLOWER: u64 = 2;
/// So many microseconds more are no reason: they are noise, or nobody notices.
const LATER_US: u64 = 5_000;
/// The median of fewer requests says nothing.
const FEWEST: usize = 20;

/// When a rehearsed revision is published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Promote {
    /// Not at all: the rehearsal is for its report.
    Never,
    /// If at least one request was compared, and all answers were the same. And it is [`Promote::Safe`].
    Identical,
    /// If nothing got worse: no request that the active revision answered failed on the new one, and it isn't
    /// [much slower](NotPromoted::Slower). Also if nothing was compared: what has no requests can be swapped, too.
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
    /// [`Promote::Safe`] or [`Promote::Identical`], and it takes more than twice as long, and more than 5 ms longer.
    #[error(
        "half of the {timed} rehearsed requests that both answered took more than {} ms on it, and {} ms on the active \
         revision; if that is meant, `promote` can say always", ms(*new_us), ms(*old_us)
    )]
    Slower {
        /// Requests that failed on neither.
        timed: usize,
        /// The median of the active revision, in microseconds.
        old_us: u64,
        /// The median of the new one.
        new_us: u64,
    },
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
            Promote::Identical | Promote::Safe => match &self.latency {
                Some(Sides { old, new }) if self.timed >= FEWEST && is_slower(old.p50_us, new.p50_us) => {
                    Err(NotPromoted::Slower { timed: self.timed, old_us: old.p50_us, new_us: new.p50_us })
                }
                _ => Ok(()),
            },
            Promote::Always => Ok(()),
        }
    }
}

fn is_slower(old_us: u64, new_us: u64) -> bool {
    new_us > old_us.saturating_mul(SLOWER) && new_us > old_us.saturating_add(LATER_US)
}

fn ms(us: u64) -> String {
    format!("{}.{}", us / 1000, us % 1000 / 100)
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

#[cfg(test)]
mod tests {
    use super::super::report::Latency;
    use super::*;

    /// All the same, but for how long half of them took.
    fn report(compared: usize, old_us: u64, new_us: u64) -> RehearsalReport {
        let latency = |p50_us| Latency { p50_us, p99_us: p50_us };
        RehearsalReport {
            requested: compared,
            compared,
            identical: compared,
            worse: 0,
            differences: Vec::new(),
            failures: Sides::default(),
            skipped: Vec::new(),
            refused: Default::default(),
            timed: compared,
            latency: Some(Sides { old: latency(old_us), new: latency(new_us) }),
            took_ms: 1,
        }
    }

    #[test]
    fn much_slower_is_worse() {
        for (compared, old_us, new_us, safe) in [
            (20, 6_000, 12_001, false),
            (20, 6_000, 12_000, true),
            (20, 100, 5_101, false),
            (20, 100, 5_100, true),
            (19, 100, 1_000_000, true),
            (1000, 1_000_000, 100, true),
        ] {
            let report = report(compared, old_us, new_us);
            assert_eq!(report.verdict(Promote::Safe).is_ok(), safe, "{compared} {old_us} {new_us}");
            assert_eq!(report.verdict(Promote::Identical).is_ok(), safe, "what isn't safe isn't promoted as identical");
            assert!(report.verdict(Promote::Always).is_ok());
        }
        let refused = report(20, 1_050, 7_999).verdict(Promote::Safe).expect_err("it is slower").to_string();
        let said = "half of the 20 rehearsed requests that both answered took more than 7.9 ms on it, and 1.0 ms on the active \
                    revision; if that is meant, `promote` can say always";
        assert_eq!(refused, said);
    }

    #[test]
    fn rules_are_read_as_they_are_written() {
        for rule in [Promote::Never, Promote::Identical, Promote::Safe, Promote::Always] {
            assert_eq!(rule.to_string().parse(), Ok(rule));
        }
        let error = "Always".parse::<Promote>().expect_err("no rule");
        assert_eq!(error.to_string(), "\"Always\" is no rule for promotion: write never, identical, safe or always");
    }
}
