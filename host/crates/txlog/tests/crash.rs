//! A crash at every step: what was acknowledged is there, in order, and nothing that was never written.
#![expect(clippy::unwrap_used, reason = "tests say what they expect by failing")]

mod common;

use std::collections::BTreeSet;
use std::thread;

use common::{Opened, Table, delete, open, read, set, states, tiny};
use txlog::medium::simulation::{Crash, Event, Image, Simulated, crashes, forged};
use txlog::{OpenError, SyncPolicy};

/// Writes a bit of everything: sets, deletes, batches; enough for some segments.
fn write(opened: &Opened, folder: &Simulated, from: u32, to: u32) {
    for n in from..to {
        let key = format!("k{}", n % 5);
        let changes = match n % 4 {
            0 => vec![delete(&key)],
            1 => vec![set(&key, &format!("value {n}")), set("both", &n.to_string()), delete("k0")],
            _ => vec![set(&key, &n.to_string())],
        };
        let sequence = opened.write(changes).unwrap();
        folder.note(sequence);
    }
}

/// Writes, with two compactions while it does, and the log closed and opened in between.
fn run(sync: SyncPolicy) -> (Simulated, Vec<Table>) {
    let folder = Simulated::default();
    let mut history = Vec::new();
    for round in 0..2 {
        let opened = open(&folder, tiny(sync));
        let n = round * 100;
        write(&opened, &folder, n, n + 12);
        thread::scope(|scope| {
            let compaction = scope.spawn(|| opened.log.compact());
            write(&opened, &folder, n + 20, n + 28);
            compaction.join().unwrap().unwrap();
        });
        write(&opened, &folder, n + 30, n + 36);
        history.extend(opened.map.history());
        opened.log.close().unwrap();
    }
    (folder, states(&history))
}

/// The greatest sequence that somebody was told is safe.
fn acknowledged(events: &[Event]) -> u64 {
    events
        .iter()
        .filter_map(|event| if let Event::Note(sequence) = event { Some(*sequence) } else { None })
        .max()
        .unwrap_or(0)
}

/// Number of records in a segment.
fn records(image: &Image, segment: &str) -> usize {
    let mut offsets = BTreeSet::new();
    txlog::dump_in(&Simulated::new(image.clone()), |location, _| {
        offsets.extend((location.file == segment).then_some(location.offset));
        Ok(())
    })
    .unwrap();
    offsets.len()
}

/// Checks that a log holds exactly the first records, and at least so many.
fn check(image: &Image, states: &[Table], least: u64) -> u64 {
    let (table, recovery) = read(image).unwrap_or_else(|error| panic!("{error}\n{:?}", image.keys()));
    let last = recovery.last_sequence;
    assert!(last >= least, "{least} records were acknowledged, and {last} are there");
    assert_eq!(recovery.lost, 0);
    assert_eq!(table, states[usize::try_from(last).unwrap()], "after record {last}");
    last
}

#[test]
fn a_crash_at_any_step_loses_nothing_that_was_acknowledged() {
    let (folder, states) = run(SyncPolicy::Always);
    let mut images = 0;
    crashes(&Image::new(), &folder.events(), true, |Crash { events, image, .. }| {
        images += 1;
        check(&image, &states, acknowledged(events));
    });
    assert!(images > 5_000, "{images} are not every byte of every write");
}

#[test]
fn without_a_sync_a_power_cut_leaves_a_prefix_and_a_kill_loses_nothing() {
    let (folder, states) = run(SyncPolicy::Never);
    crashes(&Image::new(), &folder.events(), true, |Crash { events, image, power_cut }| {
        check(&image, &states, if power_cut { 0 } else { acknowledged(events) });
    });
}

#[test]
fn a_log_goes_on_after_a_crash_at_any_step_and_recovery_itself_may_crash() {
    let (folder, states) = run(SyncPolicy::Always);
    let (mut opened_again, mut crashed_again) = (0, 0);
    crashes(&Image::new(), &folder.events(), false, |Crash { events, image, .. }| {
        let least = acknowledged(events);
        let folder = Simulated::new(image.clone());
        let opened = open(&folder, tiny(SyncPolicy::Always));
        let recovered = opened.recovery.last_sequence;
        assert_eq!(opened.map.table(), states[usize::try_from(recovered).unwrap()]);
        let repairs = folder.events();
        // Versions go on where they were.
        assert_eq!(opened.set("after", "the crash"), Ok(recovered + 1));
        let expected = opened.map.table();
        // The process is killed once more.
        let (after, recovery) = read(&folder.image()).unwrap();
        assert_eq!((after, recovery.last_sequence), (expected, recovered + 1));
        assert_eq!((recovery.torn, recovery.leftovers), (None, Vec::new()));
        opened_again += 1;
        // A crash while the first one is repaired, wherever there is more to it than the lock and the watermark.
        if repairs.len() > 6 {
            let torn =
                opened.recovery.torn.as_ref().map(|torn| &image[&torn.file][usize::try_from(torn.offset).unwrap()..]);
            crashes(&image, &repairs, false, |Crash { image, .. }| {
                assert_eq!(check(&image, &states, least), recovered);
                let kept = torn.is_none_or(|torn| image.values().any(|bytes| bytes.ends_with(torn)));
                assert!(kept, "the torn tail is neither in its place nor aside");
                crashed_again += 1;
            });
        }
    });
    assert!(opened_again > 500 && crashed_again > 1_000, "{opened_again} {crashed_again}");
}

#[test]
fn truncated_at_any_byte_a_log_has_the_records_before() {
    let folder = Simulated::default();
    let opened = open(&folder, tiny(SyncPolicy::Always));
    write(&opened, &folder, 0, 9);
    let states = states(&opened.map.history());
    opened.log.close().unwrap();
    let mut whole = folder.image();
    let watermark = whole.remove("watermark").unwrap();
    let names: Vec<String> = whole.keys().cloned().collect();
    assert_eq!(names.len(), 3);
    let all = states.len() as u64 - 1;
    let mut last = all;
    for name in names.iter().rev() {
        let bytes = whole.remove(name).unwrap();
        for len in (0..bytes.len()).rev() {
            whole.insert(name.clone(), bytes[..len].to_vec());
            let left = check(&whole, &states, 0);
            assert!(left <= last, "{len} bytes of {name}");
            last = left;
            // With the watermark it is known what is missing.
            let mut image = whole.clone();
            image.insert("watermark".into(), watermark.clone());
            match read(&image) {
                Ok((table, recovery)) => {
                    assert_eq!((recovery.last_sequence, recovery.lost), (left, all - left));
                    assert_eq!(table, states[usize::try_from(left).unwrap()]);
                    assert_eq!(name, &names[2]);
                }
                Err(error) => assert!(error.is_damage() && name != &names[2], "{error}"),
            }
            // And the log can be written on.
            let folder = Simulated::new(whole.clone());
            let opened = open(&folder, tiny(SyncPolicy::Always));
            assert_eq!(read(&folder.image()).unwrap().1.torn, None);
            assert_eq!(opened.set("after", "it"), Ok(left + 1));
            let (table, recovery) = read(&folder.image()).unwrap();
            assert_eq!((table, recovery.last_sequence, recovery.torn), (opened.map.table(), left + 1, None));
        }
        whole.remove(name);
    }
    assert_eq!(last, 0);
}

#[test]
fn a_flip_of_any_bit_is_damage_or_leaves_a_prefix() {
    let folder = Simulated::default();
    let opened = open(&folder, tiny(SyncPolicy::Always));
    write(&opened, &folder, 0, 6);
    opened.log.compact().unwrap();
    write(&opened, &folder, 6, 16);
    let states = states(&opened.map.history());
    opened.log.close().unwrap();
    let all = states.len() as u64 - 1;
    let mut whole = folder.image();
    // A snapshot, three segments, the watermark; and more than one record in the last segment.
    assert_eq!(whole.len(), 5);
    assert!(records(&whole, "00000000000000000004.log") > 1);
    for watermark in [true, false] {
        if !watermark {
            whole.remove("watermark");
        }
        for name in whole.keys().cloned().collect::<Vec<_>>() {
            for bit in 0..whole[&name].len() * 8 {
                let mut image = whole.clone();
                image.get_mut(&name).unwrap()[bit / 8] ^= 1 << (bit % 8);
                match read(&image) {
                    // The watermark was flipped, and is none now.
                    Ok((table, recovery)) if name == "watermark" => {
                        assert_eq!((recovery.last_sequence, recovery.lost), (all, 0));
                        assert_eq!(table, states[states.len() - 1]);
                    }
                    // It was in the last record, and nothing says that this was synced.
                    Ok((table, recovery)) => {
                        assert!(!watermark, "bit {bit} of {name} was not noticed");
                        assert_eq!(recovery.last_sequence, all - 1, "bit {bit} of {name}");
                        assert_eq!(table, states[states.len() - 2]);
                    }
                    Err(OpenError::Damage(damage)) => assert_eq!(damage.file, name, "{damage}"),
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
}

#[test]
fn a_record_that_makes_no_sense_is_damage_though_its_checksums_are_right() {
    let set: &[u8] = &[1, 0, 0, 0, 1, 1, 1, 0, 1, 0, 0, 0, b'b', b'k', b'v'];
    let (table, recovery) = read(&forged([set])).unwrap();
    assert_eq!((table.len(), recovery.records), (1, 1));
    let mut as_of = set.to_vec();
    as_of[4] = 3;
    as_of.splice(12..12, [0; 8]);
    let wrong: [&[u8]; 7] = [
        b"",
        &[0, 0, 0, 0],
        // One operation fewer than there are, and one more.
        &[set, &set[4..]].concat(),
        &[&[2], &set[1..]].concat(),
        // A length beyond the end.
        &[&set[..8], &[0xff; 4], &set[12..]].concat(),
        // A kind that there isn't, and one that only snapshots have.
        &[&set[..4], &[9], &set[5..]].concat(),
        &as_of,
    ];
    for payload in wrong {
        match read(&forged([set, payload])) {
            Err(OpenError::Damage(damage)) => {
                assert_eq!((damage.offset, damage.what.as_str()), (99, "the record makes no sense"))
            }
            other => panic!("{payload:?}: {other:?}"),
        }
    }
}
