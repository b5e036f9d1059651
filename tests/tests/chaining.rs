//! Requests that guests send: to the host's namespaces and instances, to others only if the manifest says so, and not
//! round in circles.

use e2e::{Builder, Host, Remote, artifact};
use serde_json::json;

const GUESTS: [&str; 2] = ["misbehaving-p2", "misbehaving-p3"];

/// The guest with instances `one` and `two`, storages `s-1` and `s-2`, and more lines for the guest's table.
fn assembly(guest: &str, lines: &str) -> Builder {
    let manifest = format!(
        "[components.guest]\nsource = \"{}\"\nroute = \"/\"\ninstances = [\"one\", \"two\"]\n{lines}\n\
         [components.storage]\nsource = \"builtin:storage\"\ninstances = [\"s-1\", \"s-2\"]\n\
         environment = {{ STORAGE_NAME = \"{{instance}}\" }}\n",
        artifact::guest(guest).display()
    );
    Host::builder().manifest(&manifest)
}

#[test]
fn a_namespace_is_its_next_instance() {
    for guest in GUESTS {
        let host = assembly(guest, "").start();
        let ask = || host.get("/outbound?url=http://storage.internal/data").expect(200).json()["storage"].clone();
        let answers = [ask(), ask(), ask(), ask()];
        assert_ne!(answers[0], answers[1], "{guest}: {answers:?}");
        assert_eq!(answers[..2], answers[2..], "{guest}");
    }
}

#[test]
fn an_instance_is_that_instance() {
    for guest in GUESTS {
        let host = assembly(guest, "").start();
        for name in ["s-1", "s-2", "s-2", "s-2"] {
            let reply = host.get(&format!("/outbound?url=http://{name}.storage.internal/data")).expect(200);
            assert_eq!(reply.json()["storage"], name, "{guest}");
        }
    }
}

#[test]
fn what_there_is_not_is_answered_by_the_host() {
    for guest in GUESTS {
        let host = assembly(guest, "").start();
        let ask = |authority: &str| host.get(&format!("/outbound?url=http://{authority}/data"));
        let reply = ask("nobody.internal");
        assert_eq!((reply.status, reply.code().as_str()), (404, "unknown_namespace"), "{guest}: {}", reply.text());
        let reply = ask("nobody.storage.internal");
        assert_eq!((reply.status, reply.code().as_str()), (503, "no_instance_available"), "{guest}: {}", reply.text());
    }
}

#[test]
fn a_remote_instance_is_reached_the_same_way() {
    let remote = Remote::storage("far");
    for guest in GUESTS {
        let host = assembly(guest, "").start();
        let body = json!({ "name": "far", "namespace": "away", "address": remote.url() });
        host.internal().post("/register", &body).expect(201);
        for authority in ["away.internal", "far.away.internal"] {
            let reply = host.get(&format!("/outbound?url=http://{authority}/data")).expect(200);
            assert_eq!(reply.json()["storage"], "far", "{guest}");
        }
    }
}

#[test]
fn anything_else_is_denied_and_the_log_says_which_line_would_allow_it() {
    let remote = Remote::storage("outside");
    for guest in GUESTS {
        let host = assembly(guest, "").start();
        let before = remote.connections();
        let url = format!("{}/data", remote.url());
        let reply = host.get(&format!("/outbound?url={url}"));
        assert_eq!(reply.status, 502, "{guest}: {}", reply.text());
        assert!(reply.text().contains("HttpRequestDenied"), "{guest}: {}", reply.text());
        assert_eq!(remote.connections(), before, "not even a connection was made");

        let event = host.log().wait_for("was denied");
        let message = event["message"].as_str().expect("a message");
        let line = format!("allowed-outbound-hosts = [\"{}\"]", remote.url());
        assert!(message.contains(&line), "{message}");
        // The line does what it says.
        let host = assembly(guest, &line).start();
        assert_eq!(host.get(&format!("/outbound?url={url}")).expect(200).json()["storage"], "outside");
        host.get("/outbound?url=http://127.0.0.1:1/").expect(502);
    }
}

#[test]
fn allowed_hosts_are_checked_on_the_final_address() {
    let inside = Remote::start(|exchange| exchange.answer(200, &[], b"inside"));
    let target = inside.url();
    let outside = Remote::start(move |exchange| exchange.answer(302, &[("location", target.as_str())], b"moved"));
    let host = assembly("misbehaving-p2", &format!("allowed-outbound-hosts = [\"{}\"]", outside.url())).start();
    let reply = host.get(&format!("/outbound?url={}/", outside.url()));
    assert_eq!((reply.status, reply.text().as_str()), (302, "moved"), "a redirection is the guest's to follow");
    host.get(&format!("/outbound?url={}/", inside.url())).expect(502);
    assert_eq!(inside.requests(), 0);
}

#[test]
fn names_that_only_look_internal_are_not() {
    let host = assembly("misbehaving-p2", "").start();
    for authority in ["internal", "storage.internal.example.com", "storageXinternal", "localhost"] {
        let reply = host.get(&format!("/outbound?url=http://{authority}/data"));
        assert_eq!(reply.status, 502, "{authority}: {}", reply.text());
        assert!(reply.text().contains("HttpRequestDenied"), "{authority}: {}", reply.text());
    }
}

#[test]
fn a_loop_is_cut_with_508() {
    for guest in GUESTS {
        let host = assembly(guest, "").start();
        let reply = host.get("/mutual?namespace=guest");
        assert_eq!((reply.status, reply.code().as_str()), (508, "loop_detected"), "{guest}: {}", reply.text());
        host.get("/ok").expect(200);
    }
}

#[test]
fn a_loop_over_two_hosts_is_cut_too() {
    let first = assembly("misbehaving-p3", "").start();
    let second = assembly("misbehaving-p3", "").start();
    for (here, there) in [(&first, &second), (&second, &first)] {
        let body = json!({ "name": "other", "namespace": "peer", "address": there.url() });
        here.internal().post("/register", &body).expect(201);
    }
    let reply = first.get("/mutual?namespace=peer");
    assert_eq!((reply.status, reply.code().as_str()), (508, "loop_detected"), "{}", reply.text());
}

#[test]
fn the_depth_can_not_be_reset_by_a_guest_or_wound_up_by_a_client() {
    let host = Host::start();
    for hops in ["7", "200", "-1", "x"] {
        let reply = host.request("GET", "/data").header("x-hostler-hops", hops).send();
        assert!([200, 508].contains(&reply.status), "{hops}: {}", reply.status);
    }
}

#[test]
fn the_gateway_sends_what_came_and_returns_what_comes() {
    let remote = Remote::start(|exchange| {
        let body = exchange.body().expect("a body");
        let seen = json!({
            "method": exchange.method,
            "target": exchange.target,
            "headers": exchange.headers,
            "body": String::from_utf8_lossy(&body),
        });
        exchange.answer(
            418,
            &[("x-their-own", "yes"), ("content-type", "application/json")],
            seen.to_string().as_bytes(),
        );
    });
    let host = Host::start();
    host.internal()
        .post("/register", &json!({ "name": "far", "namespace": "away", "address": remote.url() }))
        .expect(201);
    let request = host.request("PATCH", "/services/away/a%2Fb//c?d=e%20f&g");
    let request = request.header("x-mine", "kept").header("content-type", "text/x-mine").header("cookie", "a=b");
    let request = request.header("x-api-key", "secret").header("connection", "close, x-hop").header("x-hop", "dropped");
    let reply = request.body("the body").send().expect(418);
    assert_eq!(reply.header("x-their-own"), "yes");
    assert_eq!(reply.header("x-served-by"), "far");
    let seen = reply.json();
    assert_eq!(seen["method"], "PATCH");
    assert_eq!(seen["target"], "/a%2Fb//c?d=e%20f&g");
    assert_eq!(seen["body"], "the body");
    let headers = &seen["headers"];
    for (name, value) in [("x-mine", "kept"), ("content-type", "text/x-mine"), ("cookie", "a=b")] {
        assert_eq!(headers[name], value, "{headers}");
    }
    for name in ["x-api-key", "x-hop", "connection", "keep-alive", "te", "upgrade"] {
        assert!(headers[name].is_null(), "{name}: {headers}");
    }
    assert_eq!(headers["x-request-id"], reply.header("x-request-id"));
}
