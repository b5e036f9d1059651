//! The store from outside: `/kv` on the internal address, `host kv`, and another host's store.

use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use e2e::{Host, Reply, artifact, eventually_true};
use serde_json::json;

/// All bytes there are.
const BYTES: [u8; 256] = {
    let mut bytes = [0; 256];
    let mut index = 0;
    while index < bytes.len() {
        bytes[index] = index as u8;
        index += 1;
    }
    bytes
};

/// The longest value.
const LONGEST: usize = 1 << 20;

/// Runs `host kv` with something on stdin.
fn kv(host: &Host, arguments: &[&str], stdin: &[u8]) -> Output {
    let mut command = Host::command();
    command.arg("kv").args(arguments).args(["--internal", host.internal().url()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it can be started");
    // It may end before it has read everything.
    let _ = child.stdin.take().expect("it is piped").write_all(stdin);
    child.wait_with_output().expect("it ends")
}

#[track_caller]
fn succeeds(output: &Output, stdout: &[u8]) {
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, stdout);
}

#[track_caller]
fn fails(output: &Output, said: &str) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains(said), "{said:?} is missing in {stderr}");
}

/// The built-in storage and gateway, with the store of the host at `url`.
fn borrower(url: &str, more: &str) -> e2e::Builder {
    Host::builder().manifest(&format!("[store]\nbackend = \"{url}\"\n{more}"))
}

fn set(host: &Host, key: &str, value: &str) -> Reply {
    host.post("/api/set", &json!({ "key": key, "value": value }))
}

fn get(host: &Host, key: &str) -> Reply {
    host.get(&format!("/api/get?key={key}"))
}

#[test]
fn the_internal_path_carries_any_bytes() {
    let host = Host::start();
    let path = "/kv/default/a/b%20%2F%3F";
    host.internal().request("PUT", path).body(BYTES).send().expect(204);
    let value = host.internal().get(path).expect(200);
    assert_eq!(value.body, BYTES);
    assert_eq!(value.header("content-type"), "application/octet-stream");
    get(&host, "a/b%20/%3F").problem(409, "value_not_text");
    set(&host, "text", "words").expect(200);
    assert_eq!(host.internal().get("/kv/default/text").expect(200).text(), "words");
    host.internal().get("/kv/other/text").problem(404, "key_not_found");
    assert_eq!(host.internal().get("/kv/default").expect(200).json(), json!({ "keys": ["a/b /?", "text"] }));
    host.internal().delete(path).expect(204);
    host.internal().delete(path).problem(404, "key_not_found");

    let long = "k".repeat(1025);
    host.internal().get("/kv/default/").problem(400, "invalid_key");
    host.internal().get(&format!("/kv/default/{long}")).problem(400, "key_too_large");
    let put = |bytes: usize| host.internal().request("PUT", "/kv/default/large").body(vec![b'x'; bytes]).send();
    put(LONGEST).expect(204);
    put(LONGEST + 1).problem(413, "value_too_large");
    assert_eq!(host.internal().get("/kv/default/large").expect(200).body.len(), LONGEST);
}

#[test]
fn the_token_guards_the_store() {
    let host = Host::builder().env("HOSTLER_INTERNAL_TOKEN", "s3cret").start();
    host.internal().get("/kv/default/k").problem(401, "unauthorized");
    host.internal().get("/kv/default").problem(401, "unauthorized");
    host.ask(&["kv", "set", "k", "v"]).expect(1, &["401", "--token-file"]);
    let file = host.directory().join("token");
    std::fs::write(&file, "s3cret\n").expect("a file can be written");
    host.ask(&["kv", "set", "k", "v", "--token-file", file.to_str().expect("UTF-8")]).expect(0, &[]);
    assert_eq!(get(&host, "k").expect(200).json()["value"], "v");
}

#[test]
fn host_kv_reads_and_writes() {
    let host = Host::start();
    succeeds(&kv(&host, &["set", "from-stdin"], &BYTES), b"");
    succeeds(&kv(&host, &["get", "from-stdin"], b""), &BYTES);
    succeeds(&kv(&host, &["set", "dash", "-"], b"\n"), b"");
    succeeds(&kv(&host, &["get", "dash"], b""), b"\n");
    succeeds(&kv(&host, &["set", "argument", "ä"], b""), b"");
    assert_eq!(get(&host, "argument").expect(200).json()["value"], "ä");
    succeeds(&kv(&host, &["set", "empty", ""], b""), b"");
    succeeds(&kv(&host, &["get", "empty"], b""), b"");
    // Keys that URLs are fond of changing.
    for key in ["..", ".", "a/../b", "?", "%2e", " "] {
        succeeds(&kv(&host, &["set", key, key, "--bucket", "odd"], b""), b"");
        succeeds(&kv(&host, &["get", key, "-b", "odd"], b""), key.as_bytes());
    }
    succeeds(&kv(&host, &["list", "-b", "odd"], b""), b" \n%2e\n.\n..\n?\na/../b\n");
    fails(&kv(&host, &["get", "missing"], b""), "no key \"missing\"");
    succeeds(&kv(&host, &["delete", "dash"], b""), b"");
    fails(&kv(&host, &["delete", "dash"], b""), "no key \"dash\"");
    fails(&kv(&host, &["set", ""], b"v"), "must not be empty");
    fails(&kv(&host, &["set", "k"], &vec![0; LONGEST + 1]), "more than 1048576 bytes");
    succeeds(&kv(&host, &["set", "k"], &vec![0; LONGEST]), b"");
    let gone = Host::cli(["kv", "get", "k", "--internal", "http://127.0.0.1:1"]);
    gone.expect(1, &["http://127.0.0.1:1", "--internal", "refused"]);
}

#[test]
fn host_kv_lists_page_by_page() {
    let host = Host::start();
    succeeds(&kv(&host, &["list"], b""), b"");
    succeeds(&kv(&host, &["list", "-o", "json"], b""), b"{\"keys\":[]}\n");
    let keys: Vec<String> = (0..2001).map(|number| format!("{number:04}\n\"")).collect();
    for keys in keys.chunks(1000) {
        let entries: Vec<_> = keys.iter().map(|key| json!([key, "dg=="])).collect();
        host.internal().post("/kv/default", &json!({ "set": entries })).expect(204);
    }
    let listed = kv(&host, &["list", "-o", "json"], b"");
    let document: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert_eq!(document, json!({ "keys": keys }));
    let lines: String = keys.iter().map(|key| format!("{key}\n")).collect();
    succeeds(&kv(&host, &["list"], b""), lines.as_bytes());
}

#[test]
fn hosts_that_use_one_store_agree() {
    let owner = Host::start();
    let hosts = [borrower(owner.internal().url(), "").start(), borrower(owner.internal().url(), "").start()];
    for (index, writer) in [&owner, &hosts[0], &hosts[1]].into_iter().enumerate() {
        let key = format!("key-{index}");
        for value in ["one", "two"] {
            set(writer, &key, value).expect(200);
            for reader in [&owner, &hosts[0], &hosts[1]] {
                assert_eq!(get(reader, &key).expect(200).json()["value"], value);
            }
        }
    }
    hosts[1].delete("/api/delete?key=key-0").expect(200);
    for reader in [&owner, &hosts[0], &hosts[1]] {
        get(reader, "key-0").problem(404, "key_not_found");
    }
    // Also on the internal address of those whose store it isn't.
    assert_eq!(hosts[0].ask(&["kv", "get", "key-1"]).expect(0, &[]).stdout, "two");
    assert_eq!(hosts[0].internal().get("/kv/default").expect(200).json(), json!({ "keys": ["key-1", "key-2"] }));
    // They are counted where they are.
    for (host, counted) in [(&owner, true), (&hosts[0], false)] {
        let keys = host.internal().get("/status").expect(200).json()["store"]["keys"].clone();
        assert_eq!(keys, if counted { json!(2) } else { json!(null) });
        assert_eq!(host.internal().get("/metrics").expect(200).text().contains("store_keys"), counted);
        let text = host.ask(&["status"]).expect(0, &[]).stdout;
        assert_eq!(text.contains("store: 2 keys"), counted, "{text}");
    }
}

#[test]
fn limits_are_the_same_from_afar() {
    let owner = Host::start();
    let host = borrower(owner.internal().url(), "").start();
    let (key, value) = ("k".repeat(1024), "v".repeat(LONGEST));
    set(&host, &key, &value).expect(200);
    assert_eq!(get(&host, &key).expect(200).json()["value"], value);
    set(&host, &format!("{key}k"), "").problem(400, "key_too_large");
    set(&host, "k", &format!("{value}v")).problem(413, "value_too_large");
    set(&host, "", "v").problem(400, "invalid_key");
}

#[test]
fn guests_do_from_afar_what_they_do_at_home() {
    let owner = Host::start();
    for guest in ["kv-draft", "kv-draft2"] {
        let components = format!(
            "[components.guest]\nsource = \"{}\"\nroute = \"/\"\nkey-value-buckets = [\"*\"]\n\
             health-check = {{ interval = \"1h\" }}\n",
            artifact::guest(guest).display()
        );
        let near = Host::builder().manifest(&components).start();
        let far = borrower(owner.internal().url(), &components).start();
        for path in [format!("/?bucket={guest}"), format!("/?pages={guest}-2"), "/?bucket=not/a/bucket".to_owned()] {
            assert_eq!(far.get(&path).expect(200).json(), near.get(&path).expect(200).json(), "{guest} {path}");
        }
    }
}

/// The built-in assembly with this internal address, on the data that is there.
fn at(internal: &str, data: &Path) -> Host {
    let builder = Host::builder().data(data).own_addresses().flag("--listen").flag("127.0.0.1:0");
    builder.flag("--internal-listen").flag(internal).start()
}

#[test]
fn the_owner_may_die_and_come_back() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let owner = Host::builder().data(data.path()).start();
    let address = owner.internal().url().trim_start_matches("http://").to_owned();
    let host = borrower(owner.internal().url(), "").start();
    let stop = AtomicBool::new(false);
    let owner = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let (host, stop) = (&host, &stop);
                scope.spawn(move || {
                    let mut acknowledged = Vec::new();
                    for number in 0.. {
                        if stop.load(Ordering::SeqCst) {
                            break;
                        }
                        let key = format!("{writer}-{number}");
                        let reply = set(host, &key, &key);
                        if reply.status != 200 {
                            reply.problem(503, "store_unavailable");
                        } else {
                            acknowledged.push(key);
                        }
                    }
                    acknowledged
                })
            })
            .collect();
        eventually_true("writes from all", || {
            let keys = owner.internal().get("/kv/default").expect(200).text();
            (0..4).all(|writer| keys.contains(&format!("\"{writer}-5\"")))
        });
        // Killed, in the middle of writes.
        drop(owner);
        eventually_true("it is missed", || host.log().text().contains("can't be used"));
        get(&host, "0-0").problem(503, "store_unavailable");
        let owner = at(&address, data.path());
        eventually_true("it is found again", || host.log().text().contains("can be used again"));
        set(&host, "last", "seen").expect(200);
        stop.store(true, Ordering::SeqCst);
        for writer in writers {
            for key in writer.join().expect("no writer panics") {
                assert_eq!(owner.internal().get(&format!("/kv/default/{key}")).expect(200).text(), key);
            }
        }
        owner
    });
    assert_eq!(owner.internal().get("/kv/default/last").expect(200).text(), "seen");
    eventually_true("it is said once", || host.log().text().matches("can be used again").count() == 1);
    assert_eq!(host.log().text().matches("can't be used").count(), 1, "{}", host.log().text());
}

#[test]
fn a_store_that_is_not_there_yet_is_waited_for() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    drop(listener);
    let host = borrower(&format!("http://{address}"), "").start();
    eventually_true("it warns", || host.log().text().contains(&format!("the store of http://{address}")));
    let problem = get(&host, "k").problem(503, "store_unavailable");
    assert!(!problem["detail"].to_string().contains(&address), "clients learn nothing: {problem}");
    host.get("/data").expect(200);
    let data = tempfile::tempdir().expect("a temporary directory");
    let _owner = at(&address, data.path());
    eventually_true("it works", || set(&host, "k", "v").status == 200);
}

#[test]
fn a_wrong_token_is_said_clearly() {
    let owner = Host::builder().env("HOSTLER_INTERNAL_TOKEN", "s3cret").start();
    let wrong = borrower(owner.internal().url(), "token-file = \"token\"\n").file("token", "guess").start();
    eventually_true("it says what to do", || {
        let log = wrong.log().text();
        log.contains("it answered 401") && log.contains("store.token-file")
    });
    get(&wrong, "k").problem(503, "store_unavailable");
    let right = borrower(owner.internal().url(), "token-file = \"token\"\n").file("token", "s3cret").start();
    set(&right, "k", "v").expect(200);
    let right = borrower(owner.internal().url(), "").env("HOSTLER_STORE_TOKEN", "s3cret").start();
    assert_eq!(get(&right, "k").expect(200).json()["value"], "v");
}

#[test]
fn two_hosts_that_name_each_other_end_at_once() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    drop(listener);
    let url = format!("http://{address}");
    let own = borrower(&url, "").own_addresses().flag("--listen").flag("127.0.0.1:0");
    let host = own.flag("--internal-listen").flag(&address).start();
    get(&host, "k").problem(503, "store_unavailable");
    eventually_true("it says why", || host.log().text().contains("508"));
}
