//! Round robin is exact: over all connections, all workers, and both ways of asking.

use std::collections::HashMap;
use std::sync::Barrier;

use e2e::{Client, Host};
use serde_json::json;

fn count(answers: impl IntoIterator<Item = String>) -> Vec<(String, usize)> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    for name in answers {
        *counts.entry(name).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort();
    counts
}

fn thousand_each() -> Vec<(String, usize)> {
    ["storage-1", "storage-2", "storage-3"].map(|name| (name.to_owned(), 1000)).into()
}

fn ask(client: &Client) -> String {
    let reply = client.get("/data").expect(200);
    assert_eq!(reply.json()["storage"], reply.header("x-served-by"));
    reply.header("x-served-by").to_owned()
}

#[test]
fn three_thousand_one_after_the_other() {
    let host = Host::start();
    let answers: Vec<String> = (0..3000).map(|_| ask(&host)).collect();
    let period = &answers[..3];
    assert!(answers.chunks(3).all(|three| three == period), "always in the same order");
    assert_eq!(count(answers), thousand_each());
}

#[test]
fn three_thousand_at_once_over_32_connections() {
    const CONNECTIONS: usize = 32;
    let host = Host::builder().flag("--workers").flag("4").start();
    let start = Barrier::new(CONNECTIONS);
    let answers: Vec<String> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CONNECTIONS)
            .map(|index| {
                let (url, start) = (host.url(), &start);
                scope.spawn(move || {
                    // A client of its own: a connection of its own.
                    let client = Client::new(url);
                    let requests = 3000 / CONNECTIONS + usize::from(index < 3000 % CONNECTIONS);
                    start.wait();
                    (0..requests).map(|_| ask(&client)).collect::<Vec<_>>()
                })
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().expect("every request is answered")).collect()
    });
    assert_eq!(answers.len(), 3000);
    assert_eq!(count(answers), thousand_each());
}

#[test]
fn a_connection_for_every_request_changes_nothing() {
    let host = Host::builder().flag("--workers").flag("3").start();
    let answers: Vec<String> = (0..30).map(|_| ask(&Client::new(host.url()))).collect();
    assert!(answers.chunks(3).all(|three| three == &answers[..3]), "{answers:?}");
}

#[test]
fn look_ups_share_the_cursor() {
    let host = Host::start();
    let look_up = || {
        let found = host.internal().post("/api/lookup", &json!({ "namespace": "storage" })).expect(200).json();
        found["name"].as_str().expect("a name").to_owned()
    };
    let mixed: Vec<String> = (0..6).map(|turn| if turn % 2 == 0 { ask(&host) } else { look_up() }).collect();
    assert_eq!(mixed[..3], mixed[3..]);
    assert_eq!(count(mixed[..3].to_vec()).len(), 3);
}

#[test]
fn a_routed_component_goes_round_too() {
    let manifest = "[components.storage]\nsource = \"builtin:storage\"\nroute = \"/\"\n\
                    instances = [\"a\", \"b\"]\nenvironment = { STORAGE_NAME = \"{instance}\" }\n";
    let host = Host::builder().manifest(manifest).start();
    let answers: Vec<String> = (0..10).map(|_| ask(&host)).collect();
    assert_eq!(count(answers), [("a".to_owned(), 5), ("b".to_owned(), 5)]);
}
