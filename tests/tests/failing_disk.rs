//! Disks that are full, and disks that fail.

use e2e::{Client, Disk, Host, Remote, Reply, artifact, need, strace};
use serde_json::json;

fn set(client: &Client, key: &str, value: &str) -> Reply {
    client.post("/api/set", &json!({ "key": key, "value": value }))
}

#[track_caller]
fn holds(client: &Client, keys: impl IntoIterator<Item = usize>, value: &str) {
    for key in keys {
        assert_eq!(client.get(&format!("/api/get?key=k{key}")).expect(200).json()["value"], value, "k{key}");
    }
}

#[test]
fn a_full_disk_refuses_writes_until_there_is_room() {
    let disk = need!(Disk::of_size(1 << 20), "unshare, and the right to mount");
    let ballast = disk.root().join("ballast");
    std::fs::write(&ballast, vec![0; 256 << 10]).expect("the disk is empty");
    let start = || disk.keeps_data_of(Host::builder()).start();
    let value = "v".repeat(4 << 10);

    let host = start();
    let mut stored = 0;
    let refused = loop {
        let reply = set(&host, &format!("k{stored}"), &value);
        if reply.status != 200 {
            break reply;
        }
        stored += 1;
        assert!(stored <= 256, "a disk of 1 MiB has no room for it");
    };
    let problem = refused.problem(507, "store_full");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("disk is full")), "{problem}");
    set(&host, "k0", &value).problem(507, "store_full");
    holds(&host, 0..stored, &value);
    host.get(&format!("/api/get?key=k{stored}")).problem(404, "key_not_found");

    std::fs::remove_file(&ballast).expect("it is there");
    set(&host, &format!("k{stored}"), &value).expect(200);
    host.delete("/api/delete?key=k0").expect(200);
    let check = |host: &Host| {
        holds(host, 1..=stored, &value);
        host.get("/api/get?key=k0").problem(404, "key_not_found");
    };
    check(&host);
    host.stop().expect(0, &[]);
    check(&start());
}

#[test]
fn a_component_tells_nobody_of_a_write_that_fails() {
    let disk = need!(Disk::of_size(1 << 20), "unshare, and the right to mount");
    let ballast = disk.root().join("ballast");
    std::fs::write(&ballast, vec![0; 256 << 10]).expect("the disk is empty");
    let told = Remote::start(|exchange| exchange.answer(200, &[], b"told"));
    let guest = |name: &str| {
        format!(
            "[components.{name}]\nsource = \"{}\"\nroute = \"/{name}\"\nallowed-outbound-hosts = [\"{}\"]\n\
             health-check = {{ path = \"/?bucket=checks\", interval = \"1h\" }}\n\
             key-value-buckets = [\"default\", \"checks\"]\n",
            artifact::guest("kv-draft2").display(),
            told.url()
        )
    };
    let manifest = guest("first") + &guest("second") + &guest("filler");
    let host = disk.keeps_data_of(Host::builder().manifest(&manifest)).start();
    let full = |path: &str| {
        let problem = host.get(path).problem(507, "store_full");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("disk is full")), "{problem}");
    };
    let filled = (0..256).take_while(|number| host.get(&format!("/filler?store=k{number}")).status == 200).count();
    assert!(filled < 256, "a disk of 1 MiB has no room for it");

    // Whether it asks somebody else or answers, nobody hears that it is stored.
    full(&format!("/first?store=told&then={}", told.url()));
    full("/second?store=answered");
    // From then on, a component hears of it itself.
    for component in ["first", "second", "filler"] {
        let heard = host.get(&format!("/{component}?store=heard")).expect(200).json();
        assert!(heard["error"].as_str().is_some_and(|error| error.starts_with("store_full: ")), "{heard}");
    }
    assert_eq!(told.requests(), 0);

    std::fs::remove_file(&ballast).expect("it is there");
    for component in ["first", "second"] {
        for _ in 0..3 {
            assert_eq!(host.get(&format!("/{component}?store=again")).expect(200).json(), "stored");
        }
        let answer = host.get(&format!("/{component}?store=told&then={}", told.url())).expect(200).json();
        assert_eq!(answer, "200 OK");
    }
    assert_eq!(told.requests(), 2);
    for key in ["answered", "heard"] {
        host.internal().get(&format!("/kv/default/{key}")).expect(404);
    }
    host.internal().get("/kv/default/told").expect(200);
}

#[test]
fn a_sync_that_fails_ends_it_with_5() {
    let failing = strace::around(["--trace=fdatasync", "--inject=fdatasync:error=EIO:when=20+"].map(str::to_owned));
    let failing = need!(failing, "strace, and the right to trace");
    let data = tempfile::tempdir().expect("a temporary directory");
    let host = Host::builder().data(data.path()).under(failing).start();

    let clients = std::thread::scope(|scope| {
        let writers = [0, 1, 2, 3].map(|writer| {
            let client = Client::new(host.url());
            scope.spawn(move || {
                let acknowledged = (0..).take_while(|number| {
                    let body = json!({ "key": format!("{writer}-{number}"), "value": "v" });
                    let sent = client.request("POST", "/api/set").json(&body).try_send();
                    // Some may hear that the store has failed, before the connections break.
                    sent.is_ok_and(|reply| {
                        assert!(reply.status == 200 || reply.code() == "store_unavailable", "{}", reply.text());
                        reply.status == 200
                    })
                });
                acknowledged.count()
            })
        });
        writers.map(|writer| writer.join().expect("the writer ends with the host"))
    });
    let run = host.wait().expect(5, &["\"level\":\"ERROR\"", "can't sync"]);
    assert!(!run.stderr.contains("panic"), "{}", run.stderr);

    let host = Host::builder().data(data.path()).start();
    for (writer, acknowledged) in clients.into_iter().enumerate() {
        for number in 0..acknowledged {
            host.get(&format!("/api/get?key={writer}-{number}")).expect(200);
        }
        // The one that was not acknowledged may have happened; none after it was sent.
        host.get(&format!("/api/get?key={writer}-{}", acknowledged + 1)).problem(404, "key_not_found");
    }
    set(&host, "again", "v").expect(200);
    host.stop().expect(0, &[]);
}
