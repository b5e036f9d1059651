//! A guest that misbehaves fails its own request, and nobody else's; and it sees nothing that it wasn't given.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use e2e::{Client, Host, Reply, eventually};

/// Both flavours of the guest that does as its path says.
const GUESTS: [&str; 2] = ["misbehaving-p2", "misbehaving-p3"];

/// Deadlines that a test can wait for.
const SHORT: &str = "request-timeout = \"500ms\"\n";

/// Does something and sees to it that meanwhile every request of the neighbours is answered.
fn with_neighbours<T>(host: &Host, deed: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    let url = host.url();
    let (result, answers) = std::thread::scope(|scope| {
        let neighbours: Vec<_> = ["/neighbour", "/ok"]
            .into_iter()
            .map(|path| {
                let done = &done;
                scope.spawn(move || {
                    let client = Client::new(url);
                    let mut answers = 0;
                    loop {
                        // The last request begins after the deed.
                        let last = done.load(SeqCst);
                        client.get(path).expect(200);
                        answers += 1;
                        if last {
                            return answers;
                        }
                        std::thread::sleep(Duration::from_millis(2));
                    }
                })
            })
            .collect();
        let result = deed();
        done.store(true, SeqCst);
        let answers: Vec<i32> =
            neighbours.into_iter().map(|neighbour| neighbour.join().expect("every request is answered")).collect();
        (result, answers)
    });
    assert!(answers.iter().all(|answers| *answers > 0), "{answers:?}");
    result
}

/// Asks both workers and both instances often enough that each is met, and expects this.
fn all_fail(host: &Host, path: &str, status: u16, code: &str) {
    let replies: Vec<Reply> = with_neighbours(host, || {
        std::thread::scope(|scope| {
            let requests: Vec<_> = (0..6).map(|_| scope.spawn(|| Client::new(host.url()).get(path))).collect();
            requests.into_iter().map(|request| request.join().expect("an answer, whatever it is")).collect()
        })
    });
    for reply in replies {
        reply.problem(status, code);
    }
    host.get("/ok").expect(200);
}

#[test]
fn a_guest_that_loops_is_a_504() {
    for guest in GUESTS {
        let host = Host::with_guest(guest, SHORT).flag("--workers").flag("2").start();
        all_fail(&host, "/loop", 504, "deadline_exceeded");
    }
}

#[test]
fn a_guest_that_blocks_is_a_504() {
    for guest in GUESTS {
        let host = Host::with_guest(guest, SHORT).flag("--workers").flag("2").start();
        all_fail(&host, "/block", 504, "deadline_exceeded");
        all_fail(&host, "/block-sync", 504, "deadline_exceeded");
    }
}

#[test]
fn a_guest_that_allocates_without_end_is_a_502() {
    for guest in GUESTS {
        let host = Host::with_guest(guest, "memory-limit = \"32MiB\"\n").start();
        all_fail(&host, "/allocate", 502, "component_failed");
    }
}

#[test]
fn a_guest_that_traps_panics_or_exits_is_a_502() {
    for guest in GUESTS {
        let host = Host::with_guest(guest, "").start();
        for path in ["/trap", "/panic", "/exit"] {
            all_fail(&host, path, 502, "component_failed");
        }
    }
}

/// Behind the gateway it runs on its caller's stack.
#[test]
fn a_guest_that_another_guest_asks_fails_nothing_but_that() {
    for guest in GUESTS {
        let lines = format!(
            "{SHORT}memory-limit = \"32MiB\"\n[components.gateway]\nsource = \"builtin:gateway\"\nroute = \"/services\"\n"
        );
        let host = Host::with_guest(guest, &lines).start();
        for deed in ["trap", "panic", "exit", "allocate"] {
            all_fail(&host, &format!("/services/guest/{deed}"), 502, "component_failed");
        }
        for deed in ["loop", "block", "block-sync"] {
            all_fail(&host, &format!("/services/guest/{deed}"), 504, "deadline_exceeded");
        }
        let failures = host.metrics().by("guest_failures_total", &["component"]);
        let failed: Vec<_> = failures.into_iter().filter(|(_, count)| *count > 0.0).map(|(of, _)| of).collect();
        assert_eq!(failed, [["guest"]], "the gateway answers for itself");
    }
}

#[test]
fn a_guest_that_never_starts_is_a_502() {
    let host = Host::with_guest("instantiation-trap", "").start();
    host.get("/").problem(502, "component_failed");
    host.get("/neighbour").expect(200);
}

#[test]
fn a_guest_that_loops_after_its_answer_costs_nobody_anything() {
    for guest in GUESTS {
        let host = Host::with_guest(guest, SHORT).start();
        with_neighbours(&host, || {
            for _ in 0..4 {
                assert_eq!(host.get("/post-return-loop").expect(200).text(), "ok", "{guest}");
            }
            host.get("/ok").expect(200);
        });
    }
}

#[test]
fn what_a_trap_says_goes_to_the_log_and_not_to_the_client() {
    for guest in GUESTS {
        let host = Host::with_guest(guest, "").start();
        for (path, said) in [("/trap", "unreachable"), ("/panic", "the path says so")] {
            let id = format!("mine-{}", &path[1..]);
            let reply = host.request("GET", path).header("x-request-id", &id).send();
            reply.problem(502, "component_failed");
            for secret in [said, "wasm", "backtrace", "misbehaving"] {
                assert!(!reply.text().contains(secret), "{guest}: {}", reply.text());
            }
            eventually(&format!("{said} of {id} in the log of {guest}: {}", host.log().text()), || {
                host.log().find(|event| {
                    event["request_id"].as_str().is_some_and(|ids| ids.contains(&id))
                        && event.to_string().contains(said)
                })
            });
        }
    }
}

#[test]
fn a_guest_is_thrown_away_after_a_failure() {
    for guest in GUESTS {
        let host = Host::with_only(guest, &format!("{SHORT}max-guests = 1\n")).start();
        let count = || host.get("/count").expect(200).text().parse::<u32>().expect("a number");
        for path in ["/trap", "/loop", "/block-sync", "/exit"] {
            let before = count();
            assert_eq!(count(), before + 1, "{guest}: a guest is used again");
            let reply = host.get(path);
            assert!(reply.status >= 500, "{guest} {path}: {}", reply.status);
            assert_eq!(count(), 1, "{guest} {path}: it is another guest");
        }
    }
}

#[test]
fn a_guest_is_thrown_away_with_a_cancelled_request() {
    for guest in GUESTS {
        let host = Host::with_only(guest, "max-guests = 1\n").start();
        let count = || host.get("/count").expect(200).text();
        assert_eq!((count(), count()), ("1".to_owned(), "2".to_owned()), "{guest}");
        let mut wire = host.wire();
        wire.send("GET /stream?chunks=1000000000&delay_ms=1 HTTP/1.1\r\nhost: a\r\n\r\n");
        wire.head().expect("the answer begins");
        wire.reset();
        eventually(&format!("another {guest}"), || (count() == "1").then_some(()));
    }
}

#[test]
fn an_answer_without_a_body_does_not_cost_a_guest() {
    for guest in GUESTS {
        let host = Host::with_only(guest, "max-guests = 1\n").start();
        for count in 1..=3 {
            host.request("HEAD", "/count").send().expect(200);
            assert_eq!(host.get("/count").expect(200).text(), (2 * count).to_string(), "{guest}");
        }
    }
}

#[test]
fn a_guest_is_used_so_often_and_no_more() {
    for guest in GUESTS {
        let host = Host::with_only(guest, "max-instance-reuse-count = 3\n").start();
        let counts: Vec<String> = (0..30).map(|_| host.get("/count").expect(200).text()).collect();
        assert!(counts.iter().all(|count| ["1", "2", "3"].contains(&count.as_str())), "{guest}: {counts:?}");
        assert!(counts.contains(&"3".to_owned()), "{guest}: {counts:?}");
    }
}

#[test]
fn an_idle_guest_ends() {
    for guest in GUESTS {
        let host = Host::with_only(guest, "idle-instance-timeout = \"100ms\"\n").start();
        host.get("/count").expect(200);
        eventually("another guest", || {
            std::thread::sleep(Duration::from_millis(500));
            (host.get("/count").expect(200).text() == "1").then_some(())
        });
    }
}

#[test]
fn a_full_queue_is_a_503() {
    for guest in GUESTS {
        let lines = "max-guests = 1\nqueue = 1\nqueue-timeout = \"100ms\"\nmax-instance-concurrent-reuse-count = 1\n";
        let host = Host::with_only(guest, lines).start();
        let mut busy = host.wire();
        busy.send("GET /stream?chunks=2&delay_ms=600000 HTTP/1.1\r\nhost: a\r\n\r\n");
        busy.head().expect("its answer begins");
        let reply = host.get("/ok");
        reply.problem(503, "overloaded");
        assert!(reply.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0), "{:?}", reply.headers);
        drop(busy);
        eventually("the guest is given up on", || (host.get("/ok").status == 200).then_some(()));
    }
}

#[test]
fn a_client_that_goes_away_frees_its_guest() {
    for guest in GUESTS {
        let lines = "max-guests = 1\nmax-instance-concurrent-reuse-count = 1\nqueue-timeout = \"30s\"\n";
        let host = Host::with_only(guest, lines).start();
        for path in ["/slow?ms=600000", "/block-sync", "/loop", "/stream?chunks=1000000000"] {
            let mut wire = host.wire();
            wire.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n"));
            // Whether it has begun can't be seen from here; either way the next request must be served.
            std::thread::sleep(Duration::from_millis(50));
            wire.reset();
            host.get("/ok").expect(200);
        }
    }
}

#[test]
fn no_files_without_a_line_in_the_manifest() {
    for guest in GUESTS {
        let host = Host::with_guest(guest, "").start();
        for path in ["/", ".", "/etc/passwd", "/proc/self/environ"] {
            let reply = host.get(&format!("/fs?path={path}"));
            assert!(reply.status == 500 || reply.text().is_empty(), "{guest} {path}: {}", reply.text());
        }
    }
}

#[test]
fn files_with_a_line_in_the_manifest_and_nothing_else() {
    for guest in GUESTS {
        let builder = Host::with_guest(guest, "directories = { \"/given\" = \"./given\" }\n").file("secret", "hidden");
        let given = builder.directory().join("given");
        std::fs::create_dir(&given).expect("a directory can be made");
        std::fs::write(given.join("a"), "inside").expect("a file can be written");
        std::os::unix::fs::symlink("../secret", given.join("link")).expect("a link can be made");
        std::os::unix::fs::symlink("/etc/passwd", given.join("absolute")).expect("a link can be made");
        let host = builder.start();
        assert_eq!(host.get("/fs?path=/given/a").expect(200).text(), "inside");
        for path in ["/given/../secret", "/given/link", "/given/absolute", "/secret", "/etc/passwd"] {
            assert_eq!(host.get(&format!("/fs?path={path}")).status, 500, "{guest} {path}");
        }
    }
}

#[test]
fn no_sockets_without_a_line_in_the_manifest() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    for guest in GUESTS {
        let host = Host::with_guest(guest, "").start();
        host.get(&format!("/socket?addr={address}")).expect(500);
        let host = Host::with_guest(guest, &format!("sockets = [\"{address}\"]\n")).start();
        host.get(&format!("/socket?addr={address}")).expect(200);
        host.get("/socket?addr=127.0.0.1:1").expect(500);
    }
}

#[test]
fn what_a_guest_prints_is_logged_with_its_origin() {
    for guest in GUESTS {
        let host = Host::with_guest(guest, "").start();
        let reply = host.request("GET", "/log").header("x-request-id", "a-printing-one").send().expect(200);
        for (stream, line) in [("stdout", "a line on stdout"), ("stderr", "a line on stderr")] {
            let event = host.log().wait_for(line);
            assert_eq!(event["message"], line);
            assert_eq!(event["stream"], stream);
            assert_eq!(event["component"], "guest");
            assert_eq!(event["instance"], reply.header("x-served-by"));
            assert_eq!(event["request_id"], "a-printing-one", "{guest}: {event}");
        }
    }
}

/// Wasmtime ends the body of a guest that is gone as if it had been whole.
#[test]
fn an_answer_that_its_guest_does_not_finish_breaks_off() {
    let broken = |host: &Host, path: &str, then: &dyn Fn()| {
        let mut wire = host.wire();
        wire.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n"));
        let head = wire.head().expect("an answer begins");
        assert_eq!((head.status, wire.chunk().expect("a chunk").as_deref()), (200, Some(&b"chunk 0\n"[..])), "{path}");
        then();
        wire.body(&head).expect_err("there is no last chunk")
    };
    for guest in GUESTS {
        let host = Host::with_guest(guest, "drain-timeout = \"0s\"\nwatch-for = \"0s\"\n").start();
        assert_eq!(broken(&host, "/stream-trap?chunks=2", &|| ()), b"chunk 1\n", "{guest}");
        // Neither is what a swap leaves behind at its drain timeout.
        let swap = || {
            let bytes = e2e::revision::numbered(std::fs::read(e2e::artifact::guest(guest)).expect("it is built"), 1);
            host.swap("guest", bytes).expect(200);
        };
        broken(&host, "/stream?chunks=1000000&delay_ms=5", &swap);
        host.log().wait_for("requests were cut off");
    }
}
