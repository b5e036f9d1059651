//! Swapping components while requests flow: none fails, none is answered by what was replaced, nothing is left behind.
//!
//! `SWAP_ROUNDS` sets how many swaps there are under load, 20 if it is not set; `SWAPS_IN_A_ROW` how many there are one
//! after the other, 60 if it is not set.

use std::time::Duration;

use e2e::load::{Load, Stamper};
use e2e::revision::{digest, stamped};
use e2e::{Client, Host, eventually, eventually_true, rounds};

/// The number of the revision that answers.
#[track_caller]
fn answering(client: &Client) -> u32 {
    client.get("/").expect(200).header("x-revision").parse().expect("the guest is stamped")
}

#[test]
fn gateway_storage_and_echo_in_turn_under_load() {
    let host = Load::assembly().start();
    let load = Load::on_assembly(&host, 64, Duration::from_millis(20));
    load.wait_for_answers(64);
    for (number, stamper) in (1..=rounds("SWAP_ROUNDS", 20)).zip(Stamper::ASSEMBLY.into_iter().cycle()) {
        let bytes = stamped(stamper.guest(), number);
        let digest = digest(&bytes);
        let swapped = host.swap(stamper.name(), bytes).expect(200).json();
        load.acknowledge(stamper, number);
        assert_eq!((&swapped["digest"], &swapped["changed"]), (&digest.into(), &true.into()), "{swapped}");
        load.wait_for_stamp(stamper, number);
        load.wait_for_answers(64);
    }
    let tally = load.stop().expect_flawless();
    assert!(tally.long > 0, "{tally}");
}

#[test]
fn the_answer_says_what_was_swapped_for_what() {
    let host = Host::with_stamped("").start();
    let before = host.component("guest");
    assert_eq!((&before["published_by"], &before["differs_from_source"]), (&"start".into(), &false.into()), "{before}");
    let bytes = stamped("stamped", 1);
    let swapped = host.swap("guest", bytes.clone()).expect(200).json();
    assert_eq!(swapped["name"], "guest", "{swapped}");
    assert_eq!(swapped["digest"], digest(&bytes), "{swapped}");
    assert_eq!(swapped["previous"], before["digest"], "{swapped}");
    assert_eq!(swapped["changed"], true, "{swapped}");
    assert!(swapped["took_ms"].is_u64(), "{swapped}");
    // On every worker.
    let clients: Vec<Client> = (0..8).map(|_| Client::new(host.url())).collect();
    assert!(clients.iter().all(|client| answering(client) == 1));

    let after = host.component("guest");
    assert_eq!(after["digest"], digest(&bytes), "{after}");
    assert_eq!((&after["published_by"], &after["differs_from_source"]), (&"swap".into(), &true.into()), "{after}");
    assert!(after["source"].as_str().is_some_and(|source| source.ends_with("guest.wasm")), "{after}");
    let revisions = host.revisions("guest");
    assert_eq!(revisions[0]["digest"], digest(&bytes), "{revisions:?}");
    assert_eq!(revisions[0]["state"], "active", "{revisions:?}");
    assert_eq!(revisions[0]["size"], bytes.len(), "{revisions:?}");
    assert_eq!(revisions[1]["digest"], before["digest"], "{revisions:?}");
    assert_eq!(revisions[1]["state"], "warm", "{revisions:?}");
}

#[test]
fn what_already_runs_is_not_swapped() {
    let host = Host::with_stamped("").start();
    let same = host.swap("guest", stamped("stamped", 0)).expect(200).json();
    assert_eq!(same["changed"], false, "{same}");
    host.swap("guest", stamped("stamped", 1)).expect(200);
    let same = host.swap("guest", stamped("stamped", 1)).expect(200).json();
    assert_eq!(same["changed"], false, "{same}");
    let back = host.swap("guest", stamped("stamped", 0)).expect(200).json();
    assert_eq!((&back["changed"], answering(&host)), (&true.into(), 0), "{back}");
}

#[test]
fn the_built_in_components_are_swapped_too() {
    let host = Host::start();
    host.get("/data").expect(200);
    let before = host.component("storage");
    assert_eq!(before["source"], "builtin:storage", "{before}");
    host.swap("storage", stamped("stamped-storage", 7)).expect(200);
    for _ in 0..6 {
        assert!(host.get("/data").expect(200).header("x-served-by").ends_with("@000007"));
    }
    host.get("/status").expect(200);
}

/// A request holds its revision until the last byte of its answer.
#[test]
fn a_request_in_flight_ends_where_it_began() {
    let host = Load::assembly().start();
    host.swap("echo", stamped("stamped-echo", 1)).expect(200);
    let mut wire = host.wire();
    wire.send("POST /services/echo/ HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n");
    let head = wire.head().expect("an answer begins");
    assert_eq!(head.headers["x-echo-revision"], "000001");
    assert_eq!(wire.chunk().expect("it goes on"), Some(b"one".to_vec()));
    for number in 2..5 {
        host.swap("echo", stamped("stamped-echo", number)).expect(200);
        let reply = host.request("POST", "/services/echo/").body("new").send().expect(200);
        assert_eq!((reply.text().as_str(), reply.header("x-echo-revision")), ("new", &*format!("{number:06}")));
        wire.send("3\r\ntwo\r\n");
        assert_eq!(wire.chunk().expect("it goes on"), Some(b"two".to_vec()), "after swap {number}");
    }
    let first = digest(&stamped("stamped-echo", 1));
    let listed = host.revisions("echo");
    let held = listed.iter().find(|revision| revision["digest"] == first).expect("it still has a request");
    assert_eq!(held["state"], "draining", "{listed:?}");
    assert!(host.component("echo")["draining"].as_u64().is_some_and(|draining| draining > 0));
    wire.send("0\r\n\r\n");
    assert_eq!(wire.chunk().expect("it ends"), None);
    eventually_true("the old revision is gone", || {
        host.revisions("echo").iter().all(|revision| revision["digest"] != first || revision["state"] == "kept")
    });
}

/// At the drain deadline they are thrown away under their requests.
#[test]
fn an_old_revision_does_not_stay_for_ever() {
    let host = Host::builder().manifest(
        "[components.echo]\nsource = \"builtin:echo\"\nroute = \"/\"\nwatch-for = \"100ms\"\ndrain-timeout = \"200ms\"\n",
    );
    let host = host.start();
    let mut wire = host.wire();
    wire.send("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n");
    wire.head().expect("an answer begins");
    assert_eq!(wire.chunk().expect("it goes on"), Some(b"one".to_vec()));
    host.swap("echo", stamped("stamped-echo", 1)).expect(200);
    assert!(wire.chunk().is_err(), "the answer is cut off, and not ended");
    eventually_true("nothing drains", || host.component("echo")["draining"] == 0);
    host.request("POST", "/").body("new").send().expect(200);
}

/// Two swaps of one component queue up, and the later wins.
#[test]
fn swaps_of_one_component_queue_up() {
    let host = Host::with_stamped("").start();
    let acknowledged = std::thread::scope(|scope| {
        let host = &host;
        let swaps: Vec<_> = (1..=6)
            .map(|number| scope.spawn(move || host.swap("guest", stamped("stamped", number)).expect(200).json()))
            .collect();
        swaps.into_iter().map(|swap| swap.join().expect("every swap is done")).collect::<Vec<_>>()
    });
    assert!(acknowledged.iter().all(|swapped| swapped["changed"] == true), "{acknowledged:?}");
    // Each replaced another one: they were done one after the other.
    let mut replaced: Vec<&str> = acknowledged.iter().filter_map(|swapped| swapped["previous"].as_str()).collect();
    replaced.sort_unstable();
    replaced.dedup();
    assert_eq!(replaced.len(), acknowledged.len(), "{acknowledged:?}");
    // The last one, whose revision replaced that of everybody else, answers.
    let last = host.component("guest")["digest"].clone();
    assert!(!replaced.contains(&last.as_str().expect("a digest")), "{acknowledged:?}, {last}");
    let number = answering(&host);
    assert_eq!(digest(&stamped("stamped", number)), last);
}

#[test]
fn components_are_swapped_side_by_side() {
    let host = Host::start();
    std::thread::scope(|scope| {
        for stamper in Stamper::ASSEMBLY {
            let host = &host;
            scope.spawn(move || host.swap(stamper.name(), stamped(stamper.guest(), 9)).expect(200));
        }
    });
    let reply = host.request("POST", "/services/echo/").body("x").send().expect(200);
    assert_eq!((reply.header("x-gateway-revision"), reply.header("x-echo-revision")), ("000009", "000009"));
    assert!(host.get("/data").expect(200).header("x-served-by").ends_with("@000009"));
}

#[test]
fn what_the_last_one_wrote_the_next_one_reads() {
    let host = Host::start();
    host.post("/api/set", &serde_json::json!({ "key": "k", "value": "v" })).expect(200);
    host.swap("storage", stamped("stamped-storage", 1)).expect(200);
    assert_eq!(host.get("/api/get?key=k").expect(200).json()["value"], "v");
}

#[test]
fn the_command_line_swaps_as_well() {
    let host = Host::with_stamped("").start();
    let file = host.directory().join("next.wasm");
    std::fs::write(&file, stamped("stamped", 3)).expect("a writable directory");
    let file = file.to_str().expect("the path is UTF-8");
    let run = host.ask(&["swap", "guest", file]).expect(0, &[]);
    assert!(run.stdout.contains(&digest(&stamped("stamped", 3))[..8]), "{run:?}");
    assert_eq!(answering(&host), 3);
    let run = host.ask(&["revisions", "guest"]).expect(0, &[]);
    assert!(run.stdout.contains("active"), "{run:?}");
    let run = host.ask(&["status"]).expect(0, &[]);
    assert!(run.stdout.contains(&digest(&stamped("stamped", 3))[..8]), "{run:?}");

    std::fs::write(file, "no component").expect("a writable directory");
    let reply = host.swap("guest", "no component").problem(422, "swap_failed");
    // The same text.
    host.ask(&["swap", "guest", file]).expect(1, &[reply["detail"].as_str().expect("text")]);
    host.ask(&["swap", "guest", "nowhere.wasm"]).expect(1, &["nowhere.wasm"]);
    host.ask(&["swap", "nobody", file]).expect(1, &["guest"]);
    assert_eq!(answering(&host), 3);
}

/// Resident memory, threads and open files after many swaps are those after the first ones.
#[test]
fn swaps_in_a_row_leave_nothing_behind() {
    let swaps = rounds("SWAPS_IN_A_ROW", 60);
    let host = Host::with_stamped("watch-for = \"0s\"\n").start();
    let client = Client::new(host.url());
    let mut warmed_up = None;
    for swap in 1..=swaps {
        // Never the one that runs, nor the one before it.
        let number = 1 + swap % 100;
        host.swap("guest", stamped("stamped", number)).expect(200);
        assert_eq!(answering(&client), number, "after swap {swap}");
        if swap == swaps.min(100) / 2 {
            warmed_up = Some(host.usage());
        }
    }
    let warmed_up = warmed_up.expect("there were swaps");
    eprintln!("{warmed_up} in the beginning, {} after {swaps} swaps", host.usage());
    eventually(&format!("no more than the {warmed_up} of the beginning"), || {
        let now = host.usage();
        let grown = now.resident > warmed_up.resident + warmed_up.resident / 10;
        (!grown && now.threads <= warmed_up.threads && now.files <= warmed_up.files).then_some(())
    });
}
