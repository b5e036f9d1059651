//! Whatever is done to a log, it is what a simple model is.
#![expect(clippy::unwrap_used, reason = "tests say what they expect by failing")]

mod common;

use std::time::Duration;

use common::{Change, Table, apply, open, tiny};
use proptest::collection::vec;
use proptest::prelude::*;
use txlog::SyncPolicy;
use txlog::medium::simulation::{Event, Image, Simulated, crashes};

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<Change>),
    Compact,
    /// Closes the log and opens it again.
    Reopen,
    /// Kills the process, or cuts the power; which of the things that can be left is left.
    Crash(prop::sample::Index),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let change = ("[a-e]", prop::option::of("[a-z]{0,40}"));
    let change = change.prop_map(|(key, value)| (key.into_bytes(), value.map(String::into_bytes)));
    let step = prop_oneof![
        8 => vec(change, 1..4).prop_map(Step::Write),
        1 => Just(Step::Compact),
        1 => Just(Step::Reopen),
        2 => any::<prop::sample::Index>().prop_map(Step::Crash),
    ];
    vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_log_that_is_written_compacted_closed_and_crashed_is_what_the_model_is(
        steps in steps(),
        sync in prop::sample::select(vec![SyncPolicy::Always, SyncPolicy::Never, SyncPolicy::Every(Duration::ZERO)]),
    ) {
        let mut start = Image::new();
        let mut folder = Simulated::default();
        let mut opened = open(&folder, tiny(sync));
        // After each record; no more than was written.
        let mut states = vec![Table::new()];
        for step in steps {
            match step {
                Step::Write(changes) => {
                    let sequence = opened.write(changes.clone()).unwrap();
                    prop_assert_eq!(sequence, states.len() as u64);
                    let mut table = states[states.len() - 1].clone();
                    changes.iter().for_each(|change| apply(&mut table, sequence, change));
                    states.push(table);
                }
                Step::Compact => drop(opened.log.compact().unwrap()),
                Step::Reopen => {
                    opened.log.close().unwrap();
                    opened = open(&folder, tiny(sync));
                }
                Step::Crash(which) => {
                    let (events, mut left) = (folder.events(), Vec::new());
                    crashes(&start, &events, false, |crash| {
                        if crash.events.len() == events.len() {
                            left.push((crash.power_cut, crash.image));
                        }
                    });
                    let (power_cut, image) = which.get(&left).clone();
                    start = image.clone();
                    folder = Simulated::new(image);
                    opened = open(&folder, tiny(sync));
                    let last = opened.recovery.last_sequence;
                    if sync == SyncPolicy::Always || !power_cut {
                        // The write that the crash tears is not one that was acknowledged, unless it is the
                        // watermark's.
                        prop_assert!(last + 1 == states.len() as u64 || events_end_in_a_record(&events));
                    }
                    states.truncate(usize::try_from(last).unwrap() + 1);
                }
            }
            prop_assert_eq!(&opened.map.table(), &states[states.len() - 1]);
        }
    }
}

/// Whether the last thing that was done is a write that may be torn.
fn events_end_in_a_record(events: &[Event]) -> bool {
    matches!(events.last(), Some(Event::Write(_, _, bytes)) if bytes.starts_with(b"\xf5"))
}
