//! Rehearsals: live requests are run once more on a revision before it is published. Clients notice nothing of it, nothing
//! gets out of it, and what it finds decides.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use e2e::revision::{digest, numbered, stamped, unwell};
use e2e::{Builder, Client, Host, Remote, Reply};
use serde_json::{Value, json};

/// How many clients send requests during a rehearsal.
const CLIENTS: usize = 4;

/// The guest `understudy` on `/`, with further lines for its table.
fn assembly(lines: &str) -> Builder {
    let manifest = format!("[components.guest]\nsource = \"guest.wasm\"\nroute = \"/\"\n{lines}\n");
    Host::builder().file("guest.wasm", stamped("understudy", 0)).manifest(&manifest)
}

/// Swaps the guest while clients send requests, each with a number of its own. Returns what came of the swap, and the
/// clients' answers.
fn swap_under_load(
    host: &Host,
    query: &str,
    bytes: Vec<u8>,
    request: impl Fn(&Client, u64) -> Reply + Sync,
) -> (Reply, Vec<Reply>) {
    let (stop, number, request) = (AtomicBool::new(false), AtomicU64::new(0), &request);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let client = Client::new(host.url());
                let (stop, number) = (&stop, &number);
                scope.spawn(move || {
                    let mut answers = Vec::new();
                    while !stop.load(SeqCst) {
                        answers.push(request(&client, number.fetch_add(1, SeqCst)));
                    }
                    answers
                })
            })
            .collect();
        let swapped = host.internal().request("PUT", &format!("/components/guest{query}")).body(bytes).try_send();
        // The clients end also if there is no answer.
        stop.store(true, SeqCst);
        let answers = clients.into_iter().flat_map(|client| client.join().expect("a client's answers")).collect();
        (swapped.expect("an answer"), answers)
    })
}

fn count(client: &Client, number: u64) -> Reply {
    client.request("POST", "/count").body(format!("number {number}")).send()
}

/// What the swap was refused with, which begins so. The revision before goes on.
#[track_caller]
fn expect_refused(host: &Host, swapped: &Reply, before: &Value, reason: &str) -> String {
    let problem = swapped.problem(422, "swap_failed");
    let detail = problem["detail"].as_str().expect("a text");
    assert!(detail.contains(reason), "{detail}");
    assert_eq!(host.component("guest")["digest"], before["digest"]);
    detail.to_owned()
}

#[track_caller]
fn expect_counted(answers: &[Reply]) {
    let mut counts: Vec<u64> = answers
        .iter()
        .map(|answer| answer.clone().expect(200).json()["count"].as_u64().expect("the answer of the active revision"))
        .collect();
    counts.sort_unstable();
    assert!(counts.iter().copied().eq(1..=answers.len() as u64), "each counted once: {counts:?}");
}

#[test]
fn the_same_answers_promote_although_others_write_too() {
    let host = assembly("").start();
    let bytes = stamped("understudy", 1);
    let (swapped, answers) = swap_under_load(&host, "?rehearse=40&promote=identical", bytes.clone(), count);
    let swapped = swapped.expect(200).json();
    let report = &swapped["rehearsal"];
    for (member, value) in [("requested", 40), ("compared", 40), ("identical", 40), ("worse", 0)] {
        assert_eq!(report[member], value, "{member}: {report}");
    }
    assert_eq!((&report["differences"], &report["refused"]["count"]), (&json!([]), &json!(0)), "{report}");
    assert!(report["latency"]["old"]["p99_us"].is_u64() && report["latency"]["new"]["p50_us"].is_u64(), "{report}");
    assert_eq!((&swapped["changed"], &swapped["digest"]), (&json!(true), &json!(digest(&bytes))));
    assert_eq!(host.component("guest")["digest"], digest(&bytes));
    expect_counted(&answers);
}

#[test]
fn other_answers_are_told_in_groups_with_examples() {
    let host = assembly("").start();
    let before = host.component("guest");
    let other = unwell("understudy", "other", 1);
    let mixed = |client: &Client, number: u64| match number % 4 {
        0 => client.get("/fine"),
        _ => count(client, number),
    };
    let (swapped, answers) = swap_under_load(&host, "?rehearse=20&promote=identical", other.clone(), mixed);
    let detail = expect_refused(&host, &swapped, &before, "rehearsed requests got another answer from it (body)");
    assert!(
        detail.contains("x header x-mood, for example \"POST /count\"\n    old: \"(none)\"\n    new: \"other\""),
        "{detail}"
    );
    assert!(answers.iter().all(|answer| !answer.headers.contains_key("x-mood")), "a client saw the new revision");
    let counted: Vec<Reply> = answers.into_iter().filter(|answer| answer.text() != "ok").collect();
    expect_counted(&counted);

    // They are other answers, not worse ones.
    let (swapped, _) = swap_under_load(&host, "?rehearse=20", other.clone(), mixed);
    let swapped = swapped.expect(200).json();
    let report = &swapped["rehearsal"];
    let groups = report["differences"].as_array().expect("a list");
    assert_eq!(groups.iter().map(|group| &group["kind"]).collect::<Vec<_>>(), ["body", "header x-mood"], "{report}");
    assert_eq!(groups[0]["count"], groups[1]["count"], "{report}");
    let example = &groups[0]["example"];
    assert_eq!(example["request"], "POST /count", "{report}");
    assert!(example["old"].as_str().is_some_and(|old| old.contains("\"count\":")), "{report}");
    assert!(example["new"].as_str().is_some_and(|new| new.contains("\"sum\":")), "{report}");
    assert_eq!(host.component("guest")["digest"], digest(&other));
    assert_eq!(host.get("/count").header("x-mood"), "other");
}

#[test]
fn nothing_gets_out_of_a_rehearsal() {
    let fetched = Remote::start(|exchange| exchange.answer(200, &[], exchange.target.clone().as_bytes()));
    let leaked = Remote::start(|exchange| exchange.answer(200, &[], b"leaked"));
    let lines = format!(
        "allowed-outbound-hosts = [\"{}\", \"{}\"]\nenvironment = {{ LEAK = \"{}/leak\" }}",
        fetched.url(),
        leaked.url(),
        leaked.url()
    );
    let host = assembly(&lines).start();
    let before = host.component("guest");
    host.internal().request("PUT", "/kv/default/keep").body("kept").send().expect(204);
    let mixed = |client: &Client, number: u64| match number % 2 {
        0 => client.get(&format!("/fetch?{}/{number}", fetched.url())),
        _ => count(client, number),
    };
    let leaks = unwell("understudy", "leaks", 1);
    let (swapped, answers) = swap_under_load(&host, "?rehearse=40&promote=never", leaks, mixed);
    let detail = expect_refused(&host, &swapped, &before, "rehearsed and not published");
    assert!(detail.contains("rehearsed 40 of 40 requests: 40 identical, 0 worse"), "{detail}");
    assert!(
        detail.contains(&format!(
            "requests that the active revision didn't send were refused: \"POST {}/leak\"",
            leaked.url()
        )),
        "{detail}"
    );

    let (fetches, counts): (Vec<Reply>, Vec<Reply>) =
        answers.into_iter().partition(|answer| answer.text().starts_with('/'));
    expect_counted(&counts);
    assert_eq!(fetched.requests(), fetches.len(), "only the live runs sent requests");
    assert_eq!(leaked.connections(), 0);
    assert_eq!(host.internal().get("/kv/default/keep").expect(200).text(), "kept");
    assert_eq!(host.internal().get("/kv/default/leak").status, 404);
    let stored = host.internal().get("/kv/default/count").expect(200).text();
    assert_eq!(stored, counts.len().to_string());
}

#[test]
fn what_fails_only_on_the_new_revision_is_not_safe() {
    let host = assembly("").start();
    let before = host.component("guest");
    let odd = |client: &Client, number: u64| {
        let text = if number.is_multiple_of(2) { "even" } else { "odd" };
        client.request("POST", "/count").body(format!("{text} {number}")).send()
    };
    let (swapped, answers) = swap_under_load(&host, "?rehearse=20", unwell("understudy", "odd", 1), odd);
    let detail = expect_refused(
        &host,
        &swapped,
        &before,
        "rehearsed requests failed on it that the active revision answered (trap)",
    );
    assert!(detail.contains("x failed: trap, for example \"POST /count\"\n    old: \"200 {"), "{detail}");
    expect_counted(&answers);
    let event = host.log().wait_for("a guest failed");
    assert_eq!(event["component"], "guest (rehearsal)", "{event}");
    // Nor does it stand in anybody's way.
    host.swap("guest", stamped("understudy", 2)).expect(200);
}

#[test]
fn what_is_much_slower_is_not_safe() {
    let host = assembly("").start();
    let before = host.component("guest");
    let (swapped, answers) = swap_under_load(&host, "?rehearse=20", unwell("understudy", "slow", 1), count);
    let detail =
        expect_refused(&host, &swapped, &before, "half of the 20 rehearsed requests that both answered took more than");
    assert!(detail.contains("rehearsed 20 of 20 requests: 20 identical, 0 worse"), "{detail}");
    expect_counted(&answers);
}

#[test]
fn guests_that_serve_many_at_once_are_rehearsed_too() {
    let host = Host::with_stamped("instances = [\"one\", \"two\"]\nrehearse = 20\npromote = \"identical\"").start();
    let before = host.component("guest");
    let get = |client: &Client, number: u64| client.get(&format!("/{number}"));
    let (swapped, answers) = swap_under_load(&host, "", unwell("stamped", "errs", 0), get);
    expect_refused(
        &host,
        &swapped,
        &before,
        "20 of 20 rehearsed requests got another answer from it (status 200 became 500)",
    );
    assert!(answers.iter().all(|answer| answer.status == 200));
    let (swapped, _) = swap_under_load(&host, "", numbered(stamped("stamped", 0), 1), get);
    assert_eq!(swapped.expect(200).json()["rehearsal"]["identical"], 20);
    let (swapped, _) = swap_under_load(&host, "?rehearse=0", stamped("stamped", 1), get);
    assert_eq!(swapped.expect(200).json()["rehearsal"], json!(null), "what is asked for counts more than the manifest");
}

#[test]
fn what_can_not_be_rehearsed_is_served_and_said() {
    let host = assembly("").start();
    let mixed = |client: &Client, number: u64| match number % 3 {
        // Larger than what is kept of a request.
        0 => client.request("POST", "/large").body(vec![0; (1 << 20) + 1]).send(),
        // Nobody reads it.
        1 => client.request("POST", "/unread").body("some").send(),
        _ => client.get("/fine"),
    };
    let (swapped, answers) = swap_under_load(&host, "?rehearse=10&promote=identical", stamped("understudy", 1), mixed);
    assert!(answers.iter().all(|answer| answer.status == 200));
    let report = &swapped.expect(200).json()["rehearsal"];
    assert_eq!(report["compared"], 10, "{report}");
    let skipped = report["skipped"].as_array().expect("a list");
    let reasons: Vec<_> = skipped.iter().filter_map(|skipped| skipped["reason"].as_str()).collect();
    assert!(reasons.contains(&"the request's body is larger than 1 MiB"), "{report}");
    assert!(reasons.contains(&"the active revision answered without reading the request to its end"), "{report}");
}
