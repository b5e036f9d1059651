//! Which traces are recorded: the samplers of OpenTelemetry, by their standard names.
//!
//! The decision is made once for each trace, where it begins, and travels with it: parent-based samplers follow the
//! caller's. Whoever decides by ratio decides by the trace's id, so that all hosts with the same ratio agree.

use std::str::FromStr;

use crate::context::{TraceContext, TraceId};

/// Decides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Whether a caller's decision is followed.
    pub parent_based: bool,
    /// What decides otherwise.
    pub root: Root,
}

/// Decides on traces that nobody has decided on yet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Root {
    /// All of them.
    All,
    /// None.
    None,
    /// So many of them, from 0 to 1.
    Ratio(f64),
}

/// A sampler that there isn't.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it is none of always_on, always_off, traceidratio, parentbased_always_on, parentbased_always_off, \
     parentbased_traceidratio"
)]
pub struct NotASampler;

/// Everything, unless the caller has decided otherwise.
impl Default for Sampler {
    fn default() -> Self {
        Self { parent_based: true, root: Root::All }
    }
}

/// By its standard name. A ratio is 1 until it is set.
impl FromStr for Sampler {
    type Err = NotASampler;

    fn from_str(name: &str) -> Result<Self, NotASampler> {
        let (parent_based, root) = match name.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, name),
        };
        let root = match root {
            "always_on" => Root::All,
            "always_off" => Root::None,
            "traceidratio" => Root::Ratio(1.0),
            _ => return Err(NotASampler),
        };
        Ok(Self { parent_based, root })
    }
}

impl Sampler {
    /// Whether a trace is recorded that came so, or begins here.
    pub(crate) fn decide(&self, trace: TraceId, parent: Option<&TraceContext>) -> bool {
        match (parent, self.root) {
            (Some(parent), _) if self.parent_based => parent.sampled,
            (_, Root::All) => true,
            (_, Root::None) => false,
            (_, Root::Ratio(ratio)) => {
                // As the SDKs of OpenTelemetry do: by the upper 63 bits of the lower half.
                let bound = (ratio * (1u64 << 63) as f64) as u64;
                trace.low() >> 1 < bound
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(name: &str, ratio: Option<f64>, parent: Option<bool>) -> bool {
        let mut sampler: Sampler = name.parse().expect("a test's name");
        if let (Root::Ratio(one), Some(ratio)) = (&mut sampler.root, ratio) {
            *one = ratio;
        }
        let parent = parent.map(|sampled| TraceContext::root(|_| sampled));
        sampler.decide(TraceContext::root(|_| false).trace, parent.as_ref())
    }

    #[test]
    fn parents_decide_for_those_who_follow_them() {
        for (name, ratio, alone) in [
            ("always_on", None, true),
            ("always_off", None, false),
            ("traceidratio", None, true),
            ("traceidratio", Some(0.0), false),
        ] {
            for parent in [None, Some(false), Some(true)] {
                assert_eq!(decide(name, ratio, parent), alone, "{name} {parent:?}");
                let based = decide(&format!("parentbased_{name}"), ratio, parent);
                assert_eq!(based, parent.unwrap_or(alone), "parentbased_{name} {parent:?}");
            }
        }
    }

    #[test]
    fn a_ratio_is_one_and_the_same_for_all_who_see_the_trace() {
        let sampler = |ratio| Sampler { parent_based: false, root: Root::Ratio(ratio) };
        let traces: Vec<_> = (0..10_000).map(|_| TraceContext::root(|_| false).trace).collect();
        let sampled = |ratio| traces.iter().filter(|trace| sampler(ratio).decide(**trace, None)).count();
        // Ten standard deviations to either side.
        assert!((2000..3000).contains(&sampled(0.25)), "{}", sampled(0.25));
        let of_half = traces.iter().filter(|trace| sampler(0.25).decide(**trace, None));
        assert!(of_half.clone().count() > 0 && of_half.into_iter().all(|trace| sampler(0.5).decide(*trace, None)));
        assert_eq!((sampled(0.0), sampled(1.0)), (0, traces.len()));
    }

    #[test]
    fn a_ratio_decides_as_the_sdks_do() {
        let sampler = Sampler { parent_based: false, root: Root::Ratio(0.25) };
        for (low, sampled) in [
            ("0000000000000000", true),
            ("3fffffffffffffff", true),
            ("4000000000000000", false),
            ("8000000000000001", false),
            ("ffffffffffffffff", false),
        ] {
            let header = format!("00-0000000000000001{low}-00f067aa0ba902b7-00");
            let context = TraceContext::parse(header.as_bytes()).expect("it is valid");
            assert_eq!(sampler.decide(context.trace, None), sampled, "{low}");
        }
    }

    #[test]
    fn others_are_refused() {
        for name in ["", "jaeger_remote", "parentbased_", "ALWAYS_ON"] {
            assert_eq!(name.parse::<Sampler>(), Err(NotASampler), "{name}");
        }
    }
}
