//! Back to the revision before: by itself when the new one fails, and by hand.

use std::time::Duration;

use e2e::load::{Load, Stamper, Tally};
use e2e::revision::{digest, stamped, unwell};
use e2e::{Host, eventually, eventually_true};
use serde_json::{Value, json};

#[track_caller]
fn answering(host: &Host) -> u32 {
    host.get("/").expect(200).header("x-revision").parse().expect("the guest is stamped")
}

fn number(number: u32) -> String {
    digest(&stamped("stamped", number))
}

fn roll_back(host: &Host, body: &str) -> e2e::Reply {
    let request = host.internal().request("POST", "/components/guest/rollback");
    request.header("content-type", "application/json").body(body).send()
}

/// Only what this revision answered has failed, and it did answer.
#[track_caller]
fn only_failures_of(tally: &Tally, revision: u32) {
    assert!(tally.failed.count > 0 && tally.wrong.count == 0 && tally.stale.count == 0, "{tally}");
    let of_it = |fault: &e2e::load::Fault| fault.status == Some(500) && fault.stamp == Some(revision);
    assert!(tally.failed.kept.iter().all(of_it), "{tally}");
}

/// Waits until this revision has been taken back.
#[track_caller]
fn wait_for_rollback(host: &Host, bad: &str) -> Value {
    eventually("a rollback", || {
        let component = host.component("guest");
        (component["published_by"] == "automatic-rollback").then_some(())
    });
    let listed = host.revisions("guest");
    listed.iter().find(|revision| revision["digest"] == bad).expect("it was published").clone()
}

/// It answers well for 1,000 requests, and then no more.
#[test]
fn a_revision_that_starts_failing_is_taken_back() {
    let host = Host::with_stamped("watch-for = \"10m\"\nmax-guests = 1\n").flag("--workers").flag("1").start();
    let tires = unwell("stamped", "tires", 1);
    let load = Load::on_guest(&host, 16, Duration::from_millis(1));
    load.wait_for_answers(500);
    let swapped = host.swap("guest", tires.clone()).expect(200).json();
    load.wait_for_stamp(Stamper::Guest, 1);
    let bad = wait_for_rollback(&host, &digest(&tires));
    assert!(bad["outcome"].as_str().is_some_and(|outcome| outcome.starts_with("rolled back: ")), "{bad}");
    let component = host.component("guest");
    assert_eq!(component["digest"], swapped["previous"], "{component}");
    assert_eq!(host.log().wait_for("rolled back")["level"], "ERROR");
    only_failures_of(&load.stop(), 1);

    // From now on nothing fails.
    let load = Load::on_guest(&host, 16, Duration::from_millis(1));
    load.wait_for_answers(500);
    load.stop().expect_flawless();
    assert_eq!(answering(&host), 0);
}

/// The default window is long enough for one that fails from the beginning.
#[test]
fn a_revision_that_only_passes_its_health_check_is_taken_back() {
    let host = Host::with_stamped("").start();
    let errs = unwell("stamped", "errs", 1);
    let load = Load::on_guest(&host, 4, Duration::from_millis(2));
    load.wait_for_answers(100);
    host.swap("guest", errs.clone()).expect(200);
    let bad = wait_for_rollback(&host, &digest(&errs));
    load.wait_for_answers(100);
    only_failures_of(&load.stop(), 1);
    assert_eq!(answering(&host), 0);
    expect_marks(&host, &bad);

    // Who goes back from here doesn't mean the one that failed, unless he says so.
    roll_back(&host, "").problem(409, "no_previous_revision");
    assert_eq!(answering(&host), 0);
    let named = roll_back(&host, &json!({ "to": digest(&errs) }).to_string()).expect(200).json();
    assert_eq!((&named["digest"], host.get("/").status), (&json!(digest(&errs)), 500), "{named}");
    host.ask(&["rollback", "guest"]).expect(0, &[]);
    assert_eq!(answering(&host), 0);
}

/// It is found out when the deadlines have passed of what it was asked in the time that it is watched for.
#[test]
fn a_revision_that_never_answers_is_taken_back() {
    let host = Host::with_stamped("watch-for = \"100ms\"\nrequest-timeout = \"1s\"\n").start();
    let stalls = unwell("stamped", "stalls", 1);
    let load = Load::on_guest(&host, 8, Duration::from_millis(1));
    load.wait_for_answers(100);
    host.swap("guest", stalls.clone()).expect(200);
    let bad = wait_for_rollback(&host, &digest(&stalls));
    assert!(bad["outcome"].as_str().is_some_and(|outcome| outcome.starts_with("rolled back: ")), "{bad}");
    load.wait_for_answers(100);
    let tally = load.stop();
    assert!(tally.failed.kept.iter().all(|fault| fault.status == Some(504)), "{tally}");
    assert_eq!(answering(&host), 0);
}

/// A rollback from this revision to number 0 has left its mark in metrics, log and listings.
#[track_caller]
fn expect_marks(host: &Host, bad: &Value) {
    let swaps = host.metrics().by("swaps_total", &["component", "result"]);
    let happened: Vec<_> = swaps.into_iter().filter(|(_, count)| *count > 0.0).collect();
    let once = |result: &str| (vec!["guest".to_owned(), result.to_owned()], 1.0);
    assert_eq!(happened, [once("published"), once("rolled_back_automatically")]);

    let event = host.log().wait_for("a revision was rolled back: ");
    assert_eq!((&event["level"], &event["component"]), (&json!("ERROR"), &json!("guest")), "{event}");
    assert_eq!((&event["digest"], &event["to"]), (&bad["digest"], &json!(number(0))), "{event}");
    let outcome = bad["outcome"].as_str().expect("it is told how it ended");
    assert!(event["message"].as_str().is_some_and(|message| message.ends_with(outcome)), "{event}, {outcome}");

    let component = host.component("guest");
    assert_eq!((&component["digest"], &component["watching"]), (&json!(number(0)), &json!(false)), "{component}");
    let listed = host.revisions("guest");
    let states: Vec<_> = listed.iter().map(|revision| (&revision["digest"], &revision["published_by"])).collect();
    assert_eq!(states, [(&json!(number(0)), &json!("automatic-rollback")), (&bad["digest"], &json!("swap"))]);
}

/// A higher threshold takes more: no rate is over 100 %.
#[test]
fn the_threshold_is_the_manifests() {
    let host = Host::with_stamped("watch-for = \"1s\"\nrollback-threshold = \"100%\"\n").start();
    let errs = unwell("stamped", "errs", 1);
    let load = Load::on_guest(&host, 4, Duration::from_millis(2));
    load.wait_for_answers(100);
    host.swap("guest", errs.clone()).expect(200);
    eventually_true("the end of its probation", || host.component("guest")["watching"] == false);
    assert_eq!(host.component("guest")["digest"], digest(&errs));
    only_failures_of(&load.stop(), 1);
}

#[test]
fn by_hand_to_the_one_before() {
    let host = Host::with_stamped("watch-for = \"10m\"\n").start();
    let load = Load::on_guest(&host, 8, Duration::from_millis(2));
    load.wait_for_answers(50);
    host.swap("guest", stamped("stamped", 1)).expect(200);
    assert_eq!(host.revisions("guest")[1]["state"], "warm");
    let back = roll_back(&host, "").expect(200).json();
    assert_eq!((&back["digest"], &back["previous"]), (&json!(number(0)), &json!(number(1))), "{back}");
    assert_eq!((&back["changed"], answering(&host)), (&json!(true), 0), "{back}");
    assert_eq!(host.component("guest")["published_by"], "rollback");
    // The one before is now the other one.
    host.ask(&["rollback", "guest"]).expect(0, &[]);
    assert_eq!(answering(&host), 1);
    load.stop().expect_flawless();
}

#[test]
fn by_hand_to_any_of_the_last_five() {
    let host = Host::with_stamped("watch-for = \"0s\"\n").start();
    for number in 1..=5 {
        host.swap("guest", stamped("stamped", number)).expect(200);
    }
    let listed = host.revisions("guest");
    let digests: Vec<_> = listed.iter().map(|revision| revision["digest"].as_str().expect("a digest")).collect();
    assert_eq!(digests, [5, 4, 3, 2, 1].map(number), "{listed:?}");
    eventually_true("the others are only kept", || {
        host.revisions("guest").iter().skip(1).all(|revision| revision["state"] == "kept")
    });
    let load = Load::on_guest(&host, 8, Duration::from_millis(2));
    load.wait_for_answers(50);
    let back = roll_back(&host, &json!({ "to": number(2) }).to_string()).expect(200).json();
    assert_eq!((&back["digest"], answering(&host)), (&json!(number(2)), 2), "{back}");
    host.ask(&["rollback", "guest", "--to", &number(4)[..8]]).expect(0, &[]);
    assert_eq!(answering(&host), 4);
    load.stop().expect_flawless();
    // The sixth is gone, and who asks for it is told what there is.
    let gone = roll_back(&host, &json!({ "to": number(0) }).to_string()).problem(404, "unknown_revision");
    let detail = gone["detail"].as_str().expect("text");
    assert!((1..=5).all(|kept| detail.contains(&number(kept)[..8])), "{detail}");
    let kept = std::fs::read_dir(host.data().join("revisions/guest")).expect("it is there");
    let kept =
        kept.filter(|file| file.as_ref().is_ok_and(|file| file.path().extension().is_some_and(|end| end == "wasm")));
    assert_eq!(kept.count(), 5);
}

/// A publication that fails after it was recorded.
#[test]
fn what_is_kept_stays_if_nothing_is_published() {
    let host = Host::with_stamped("watch-for = \"0s\"\n").file("other.wasm", stamped("stamped", 9)).start();
    for number in 1..=4 {
        host.swap("guest", stamped("stamped", number)).expect(200);
    }
    let taken = json!({ "namespace": "guest", "name": "taken", "address": "http://127.0.0.1:9" });
    host.internal().post("/register", &taken).expect(201);
    let manifest = "[components.guest]\nsource = \"other.wasm\"\nroute = \"/\"\ninstances = [\"taken\"]\n";
    std::fs::write(host.directory().join("new.toml"), manifest).expect("a writable folder");
    std::fs::rename(host.directory().join("new.toml"), host.directory().join("hostler.toml")).expect("our own files");
    host.log().wait_for("the manifest was changed and can't be served");
    let listed = host.revisions("guest");
    let digests: Vec<_> = listed.iter().map(|revision| revision["digest"].as_str().expect("a digest")).collect();
    assert_eq!(digests, [4, 3, 2, 1, 0].map(number), "{listed:?}");
    roll_back(&host, &json!({ "to": number(0) }).to_string()).expect(200);
    assert_eq!(answering(&host), 0);
}

#[test]
fn by_hand_to_what_there_is_not() {
    let host = Host::with_stamped("").start();
    roll_back(&host, "").problem(409, "no_previous_revision");
    host.ask(&["rollback", "guest"]).expect(1, &["guest"]);
    host.swap("guest", stamped("stamped", 1)).expect(200);
    let kept = number(0);
    for to in [number(7), "ffffffff".to_owned()] {
        let problem = roll_back(&host, &json!({ "to": to }).to_string()).problem(404, "unknown_revision");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(&kept[..8])), "{problem}");
    }
    let short = roll_back(&host, &json!({ "to": &kept[..3] }).to_string());
    assert!([400, 404].contains(&short.status), "too short to be sure of: {}", short.text());
    for body in ["{", "[]", "{\"to\":7}"] {
        assert_eq!(roll_back(&host, body).status, 400, "{body}");
    }
    let nobody =
        host.internal().request("POST", "/components/nobody/rollback").send().problem(404, "unknown_component");
    assert!(nobody["detail"].as_str().is_some_and(|detail| detail.contains("guest")), "{nobody}");
    assert_eq!(answering(&host), 1);
}
