//! Files that change: the components', and the manifest itself. Each change is exactly one swap, and none if it is no good.

use std::time::Duration;

use e2e::load::Load;
use e2e::revision::{digest, stamped};
use e2e::{Builder, Host, Run, eventually};
use serde_json::Value;

/// Writes a file as careful programs do: another one, which then takes its name.
fn replace(host: &Host, name: &str, contents: impl AsRef<[u8]>) {
    let new = host.directory().join("new");
    std::fs::write(&new, contents).expect("it can be written");
    std::fs::rename(new, host.directory().join(name)).expect("it can be renamed");
}

/// Waits until this number is published. From then on, it answers.
#[track_caller]
fn wait_for(host: &Host, number: u32) {
    let digest = digest(&stamped("stamped", number));
    eventually(&format!("revision {number}; the log:\n{}", host.log().text()), || {
        (host.component("guest")["digest"] == *digest).then_some(())
    });
    assert_eq!(host.get("/").expect(200).header("x-revision"), format!("{number:06}"));
}

/// The digests of all publications since the start, the newest first: each swap made one.
#[track_caller]
fn published(host: &Host) -> Vec<Value> {
    host.revisions("guest").into_iter().map(|revision| revision["digest"].clone()).collect()
}

/// These numbers were published, the newest first, and nothing was between them: no file was taken half written.
#[track_caller]
fn assert_published(host: &Host, numbers: &[u32]) {
    let expected: Vec<Value> = numbers.iter().map(|number| digest(&stamped("stamped", *number)).into()).collect();
    assert_eq!(published(host), expected);
    // A moment later it is in the log.
    eventually(&format!("one publication for each change in\n{}", host.log().text()), || {
        let swaps = host.log().events().into_iter().filter(is_publication).count();
        (swaps == numbers.len() - 1).then_some(())
    });
}

/// Whether this event of the log says that a revision was published after the start.
fn is_publication(event: &Value) -> bool {
    event["message"].as_str().is_some_and(|message| message.contains("published")) && event["by"] != "start"
}

/// Whether this event of the log says that what is in the file can't be served.
fn is_rejection(event: &Value) -> bool {
    event["level"] == "WARN" && event["component"] == "guest"
}

#[test]
fn an_atomic_rename_is_one_swap() {
    let host = Host::with_stamped("").start();
    let load = Load::on_guest(&host, 8, Duration::from_millis(2));
    for number in 1..=3 {
        replace(&host, "guest.wasm", stamped("stamped", number));
        wait_for(&host, number);
        let component = host.component("guest");
        assert_eq!(component["published_by"], "file", "{component}");
        assert_eq!(component["differs_from_source"], false, "{component}");
    }
    assert_published(&host, &[3, 2, 1, 0]);
    load.stop().expect_flawless();
}

/// Who writes in place leaves half a file for a while. It is not taken, and the whole one is.
#[test]
fn a_write_in_two_halves_is_one_swap() {
    let host = Host::with_stamped("").start();
    let load = Load::on_guest(&host, 8, Duration::from_millis(2));
    let bytes = stamped("stamped", 1);
    let file = host.directory().join("guest.wasm");
    std::fs::write(&file, &bytes[..bytes.len() / 2]).expect("it can be written");
    // It was looked at, and found wanting.
    let event = eventually(&format!("a warning; the log:\n{}", host.log().text()), || host.log().find(is_rejection));
    assert_eq!(host.component("guest")["published_by"], "start", "{event}");
    let mut opened = std::fs::OpenOptions::new().append(true).open(&file).expect("it is there");
    std::io::Write::write_all(&mut opened, &bytes[bytes.len() / 2..]).expect("it can be written");
    wait_for(&host, 1);
    assert_published(&host, &[1, 0]);
    load.stop().expect_flawless();
}

/// Half a file that stays so is reported once.
#[test]
fn a_file_that_is_no_component_changes_nothing() {
    let host = Host::with_stamped("").start();
    replace(&host, "guest.wasm", "no component");
    let warnings = || host.log().events().iter().filter(|event| is_rejection(event)).count();
    eventually("a warning", || (warnings() > 0).then_some(()));
    replace(&host, "guest.wasm", stamped("stamped", 1));
    wait_for(&host, 1);
    assert_eq!(warnings(), 1, "{}", host.log().text());
    assert_published(&host, &[1, 0]);
}

#[test]
fn a_file_that_is_gone_for_a_while_changes_nothing() {
    let host = Host::with_stamped("").start();
    std::fs::remove_file(host.directory().join("guest.wasm")).expect("it is there");
    host.get("/").expect(200);
    replace(&host, "guest.wasm", stamped("stamped", 1));
    wait_for(&host, 1);
    assert_published(&host, &[1, 0]);
}

/// Cargo makes the file anew, under another inode, and links it.
#[test]
fn a_rebuild_by_cargo_is_one_swap() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let package = directory.path().join("package");
    let target = directory.path().join("target");
    std::fs::create_dir_all(package.join("src")).expect("a directory");
    let write = |name: &str, text: &str| std::fs::write(package.join(name), text).expect("it can be written");
    // Without dependencies, so without a lock file or a registry. The component is data that the build script links
    // under the name that the manifest watches, as cargo does with what it has built.
    write(
        "Cargo.toml",
        "[package]\nname = \"rebuilt\"\nversion = \"0.0.0\"\nedition = \"2021\"\nbuild = \"build.rs\"\n[workspace]\n",
    );
    write("src/lib.rs", "");
    write(
        "build.rs",
        "fn main() {\n    println!(\"cargo::rerun-if-changed=guest.wasm\");\n    let out = std::env::var(\"OUTPUT\").unwrap();\n    \
         let made = format!(\"{}/made.wasm\", std::env::var(\"OUT_DIR\").unwrap());\n    let _ = std::fs::remove_file(&made);\n    \
         std::fs::copy(\"guest.wasm\", &made).unwrap();\n    let _ = std::fs::remove_file(&out);\n    std::fs::hard_link(&made, &out).unwrap();\n}\n",
    );
    let output = directory.path().join("guest.wasm");
    let build = |number: u32| {
        std::fs::write(package.join("guest.wasm"), stamped("stamped", number)).expect("it can be written");
        let mut cargo = std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--quiet", "--offline", "--target-dir"]).arg(&target).current_dir(&package);
        Run::of(cargo.env("OUTPUT", &output)).expect(0, &[]);
    };
    build(0);
    let manifest = format!("[components.guest]\nsource = \"{}\"\nroute = \"/\"\n", output.display());
    let host = Host::builder().manifest(&manifest).start();
    for number in 1..=2 {
        build(number);
        wait_for(&host, number);
    }
    assert_published(&host, &[2, 1, 0]);
}

#[test]
fn a_swap_by_hand_is_not_undone_by_the_file() {
    let host = Host::with_stamped("").start();
    host.swap("guest", stamped("stamped", 1)).expect(200);
    // It was there before the swap, and nobody has touched it since. A neighbour's file shows that looks were taken.
    replace(&host, "guest.wasm", stamped("stamped", 2));
    wait_for(&host, 2);
    assert_published(&host, &[2, 1, 0]);
}

#[test]
fn who_does_not_want_to_be_watched_is_not() {
    let host = Host::builder()
        .file("guest.wasm", stamped("stamped", 0))
        .file("other.wasm", stamped("stamped", 0))
        .manifest(
            "[components.guest]\nsource = \"guest.wasm\"\nroute = \"/\"\nwatch = false\n\
             [components.other]\nsource = \"other.wasm\"\nroute = \"/other\"\n",
        )
        .start();
    replace(&host, "guest.wasm", stamped("stamped", 1));
    replace(&host, "other.wasm", stamped("stamped", 1));
    eventually("the other one", || (host.get("/other").expect(200).header("x-revision") == "000001").then_some(()));
    assert_eq!(host.get("/").expect(200).header("x-revision"), "000000");
}

/// A manifest with these tables, and the file its guest is read from.
fn manifest(tables: &str) -> Builder {
    Host::builder().file("guest.wasm", stamped("stamped", 0)).file("other.wasm", stamped("stamped", 5)).manifest(tables)
}

const GUEST: &str = "[components.guest]\nsource = \"guest.wasm\"\nroute = \"/\"\n";

fn rewrite(host: &Host, text: &str) {
    replace(host, "hostler.toml", text);
}

#[test]
fn a_changed_environment_is_a_swap_of_the_configuration() {
    let with = |greeting: &str| format!("{GUEST}environment = {{ GREETING = \"{greeting}\" }}\n");
    let host = manifest(&with("one")).start();
    let greeting = || host.get("/").expect(200).json()["greeting"].clone();
    assert_eq!(greeting(), "one");
    let before = host.revisions("guest");
    rewrite(&host, &with("two"));
    eventually("a publication", || (host.component("guest")["published_by"] == "manifest").then_some(()));
    assert_eq!(greeting(), "two");
    assert_eq!(host.component("guest")["digest"], before[0]["digest"]);
    let after = host.revisions("guest");
    assert_ne!(after[0]["configuration"], before[0]["configuration"], "{after:?}");
    // What was swapped by hand stays when only the configuration changes.
    host.swap("guest", stamped("stamped", 1)).expect(200);
    rewrite(&host, &with("three"));
    eventually("the third greeting", || (greeting() == "three").then_some(()));
    assert_eq!(host.get("/").expect(200).header("x-revision"), "000001");
}

#[test]
fn components_come_and_go() {
    let host = manifest(GUEST).start();
    let other = "[components.other]\nsource = \"other.wasm\"\nroute = \"/other\"\n";
    let load = Load::on_guest(&host, 8, Duration::from_millis(2));
    load.wait_for_answers(20);
    rewrite(&host, &format!("{GUEST}{other}"));
    eventually("the new one", || (host.get("/other").expect(200).header("x-revision") == "000005").then_some(()));
    assert!(!host.instances("other").is_empty());
    eventually("its listing", || {
        let listed = host.internal().get("/components").expect(200).json()["components"].clone();
        let mut listed = listed.as_array().into_iter().flatten();
        listed.any(|one| one["name"] == "other" && one["published_by"] == "manifest").then_some(())
    });
    rewrite(&host, GUEST);
    eventually("the old answer", || (host.get("/other").expect(200).header("x-revision") == "000000").then_some(()));
    eventually("no instances of it", || {
        host.instances("*").iter().all(|one| one["namespace"] != "other").then_some(())
    });
    eventually("no such component", || (host.swap("other", stamped("stamped", 1)).status == 404).then_some(()));
    // What is known of it and counted goes on when it comes again.
    let published = || host.metrics().sum("swaps_total", &[("component", "other"), ("result", "published")]);
    assert_eq!(published(), 1.0);
    replace(&host, "other.wasm", stamped("stamped", 6));
    rewrite(&host, &format!("{GUEST}{other}"));
    eventually("it comes again", || (host.get("/other").expect(200).header("x-revision") == "000006").then_some(()));
    eventually("another publication", || (published() == 2.0).then_some(()));
    assert_eq!(host.revisions("other").len(), 2);
    load.stop().expect_flawless();
}

#[test]
fn routes_change() {
    let routes = |guest: &str, other: &str| {
        format!(
            "[components.guest]\nsource = \"guest.wasm\"\nroute = \"{guest}\"\n\
             [components.other]\nsource = \"other.wasm\"\nroute = \"{other}\"\n"
        )
    };
    let host = manifest(&routes("/a", "/b")).start();
    let answer = |path: &str| host.get(path).header("x-revision").to_owned();
    assert_eq!((answer("/a"), answer("/b")), ("000000".to_owned(), "000005".to_owned()));
    rewrite(&host, &routes("/b", "/a"));
    eventually("both at once", || (answer("/a") == "000005" && answer("/b") == "000000").then_some(()));
    rewrite(&host, &routes("/b", "/c"));
    eventually("the third path", || (answer("/c") == "000005").then_some(()));
    host.get("/a").expect(404);
}

#[test]
fn instances_change() {
    let with = |instances: &str| format!("{GUEST}instances = [{instances}]\n");
    let host = manifest(&with("\"one\", \"two\"")).start();
    let names = || {
        let mut names: Vec<_> = host.instances("guest").iter().map(|one| one["name"].to_string()).collect();
        names.sort();
        names.join(",").replace('"', "")
    };
    assert_eq!(names(), "one,two");
    let load = Load::on_guest(&host, 8, Duration::from_millis(2));
    for changed in ["one,three,two", "three", "four,one"] {
        rewrite(&host, &with(&changed.split(',').map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")));
        eventually(&format!("instances {changed}"), || (names() == changed).then_some(()));
        let mut served: Vec<_> = (0..12).map(|_| host.get("/").expect(200).header("x-served-by").to_owned()).collect();
        served.sort();
        served.dedup();
        assert_eq!(served.join(","), changed);
    }
    load.stop().expect_flawless();
}

/// Everything in it or nothing: also what would have been fine for itself isn't done.
#[test]
fn an_invalid_manifest_changes_nothing() {
    let with = |greeting: &str| format!("{GUEST}environment = {{ GREETING = \"{greeting}\" }}\n");
    let host = manifest(&with("one")).file("bad.wasm", "no component").start();
    let load = Load::on_greeting_guest(&host, 4, Duration::from_millis(2), "one");
    let other = |source: &str, route: &str| {
        format!("{}[components.other]\nsource = \"{source}\"\nroute = \"{route}\"\n", with("two"))
    };
    let invalid = [
        ("colour", format!("{}colour = \"red\"\n", with("two"))),
        ("hostler.toml", format!("{}[components.", with("two"))),
        ("route", other("other.wasm", "/")),
        ("nowhere.wasm", other("nowhere.wasm", "/other")),
        ("isn't WebAssembly", other("bad.wasm", "/other")),
    ];
    for (before, (part, text)) in invalid.into_iter().enumerate() {
        rewrite(&host, &text);
        let refusal = eventually(&format!("{part} in the log:\n{}", host.log().text()), || {
            host.log().events().into_iter().filter(|event| event["level"] == "ERROR").nth(before)
        });
        assert!(refusal["message"].as_str().is_some_and(|message| message.contains(part)), "{part}: {refusal}");
        assert_eq!(host.get("/").expect(200).json()["greeting"], "one", "{part}");
        assert_eq!(host.component("guest")["published_by"], "start", "{part}");
    }
    load.stop().expect_flawless();
    rewrite(&host, &with("three"));
    eventually("a good one", || (host.get("/").expect(200).json()["greeting"] == "three").then_some(()));
}

/// What can't change while it runs is said, and the rest isn't done.
#[test]
fn what_only_a_start_can_change_is_said() {
    let host = manifest(GUEST).start();
    rewrite(&host, &format!("[store]\nsync = \"never\"\n{GUEST}"));
    eventually(&format!("a word about it in\n{}", host.log().text()), || {
        host.log().find(|event| event["level"] == "WARN" && event["message"].to_string().contains("started again"))
    });
    host.get("/").expect(200);
}
