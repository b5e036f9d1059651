//! The manifest: each kind of mistake is found before anything listens, with its line and what to do about it.

use e2e::{Host, artifact};

/// Runs a manifest with a mistake: exit code 2, and `hostler.toml:LINE` and the parts on stderr.
#[track_caller]
fn mistake(manifest: &str, line: usize, parts: &[&str]) {
    let run = Host::builder().manifest(manifest).run();
    let place = format!("hostler.toml:{line}:");
    let run = run.expect(2, &[&place]);
    assert_eq!(run.stdout, "", "nothing is announced");
    for part in parts {
        assert!(run.stderr.contains(part), "{part:?} is not in: {}", run.stderr);
    }
}

const GATEWAY: &str = "[components.gateway]\nsource = \"builtin:gateway\"\nroute = \"/\"\n";

#[test]
fn not_toml() {
    mistake("[public]\nlisten = \n", 2, &[]);
    mistake("[public\n", 1, &[]);
    mistake("public = 1\npublic = 2\n", 2, &["duplicate"]);
}

#[test]
fn unknown_keys_are_told_with_the_one_that_was_meant() {
    mistake("[public]\nlisten = \"127.0.0.1:0\"\nlisen = \"x\"\n", 3, &["\"lisen\"", "\"listen\""]);
    mistake("[publik]\n", 1, &["\"publik\"", "\"public\""]);
    mistake(&format!("{GATEWAY}\nmax-guest = 1\n"), 5, &["max-guest", "max-guests"]);
    mistake(&format!("{GATEWAY}memory_limit = \"1MiB\"\n"), 4, &["memory-limit"]);
    mistake(&format!("{GATEWAY}health-check = {{ pfad = \"/\" }}\n"), 4, &["pfad"]);
    mistake("[run]\nzzz = 1\n", 2, &["zzz", "workers"]);
}

#[test]
fn wrong_types() {
    mistake("[public]\nlisten = 8080\n", 2, &["127.0.0.1:8080"]);
    mistake("[run]\nworkers = \"two\"\n", 2, &[]);
    mistake("[public]\nmetrics = \"yes\"\n", 2, &[]);
    mistake(&format!("{GATEWAY}instances = \"one\"\n"), 4, &[]);
    mistake(&format!("{GATEWAY}environment = {{ A = 1 }}\n"), 4, &[]);
    mistake(&format!("{GATEWAY}request-timeout = 30\n"), 4, &["30s"]);
}

#[test]
fn values_out_of_range() {
    mistake("[public]\nlisten = \"example.org:80\"\n", 2, &["127.0.0.1:8080"]);
    mistake("[run]\nworkers = 0\n", 2, &["at least 1"]);
    mistake("[run]\nworkers = 100000\n", 2, &["1024"]);
    mistake("[run]\ndrain-timeout = \"soon\"\n", 2, &["30s"]);
    mistake("[public]\nmax-header-bytes = \"1KiB\"\n", 2, &["8KiB"]);
    mistake("[public]\ntrusted-proxies = [\"everybody\"]\n", 2, &["10.0.0.0/8"]);
    mistake(&format!("{GATEWAY}memory-limit = \"1KiB\"\n"), 4, &["64KiB"]);
    mistake(&format!("{GATEWAY}memory-limit = \"1 lot\"\n"), 4, &["MiB"]);
    mistake(&format!("{GATEWAY}idle-instance-timeout = \"0s\"\n"), 4, &["1ms"]);
    mistake(&format!("{GATEWAY}max-instance-reuse-count = 0\n"), 4, &["at least 1"]);
    mistake(&format!("{GATEWAY}max-instance-concurrent-reuse-count = -1\n"), 4, &["at least 1"]);
    mistake(&format!("{GATEWAY}table-elements = 1000000000\n"), 4, &["out of range"]);
    mistake(&format!("{GATEWAY}instances = []\n"), 4, &["1 to"]);
    mistake(&format!("{GATEWAY}health-check = {{ path = \"healthz\" }}\n"), 4, &["\"/healthz\""]);
}

#[test]
fn names() {
    mistake("[components.\"a b\"]\nsource = \"builtin:echo\"\n", 1, &["a b"]);
    mistake(&format!("{GATEWAY}namespace = \"a.b\"\n"), 4, &["a.b"]);
    mistake(&format!("{GATEWAY}instances = [\n  \"fine\",\n  \"not fine\",\n]\n"), 6, &["not fine"]);
    mistake(&format!("{GATEWAY}instances = [\"a\", \"a\"]\n"), 4, &["twice"]);
    let other = "[components.echo]\nsource = \"builtin:echo\"\nnamespace = \"gateway\"\ninstances = [\"g\"]\n";
    mistake(&format!("{GATEWAY}instances = [\"g\"]\n{other}"), 4, &["\"g\"", "rename", "hostler.toml:8"]);
}

#[test]
fn routes() {
    mistake("[components.a]\nsource = \"builtin:echo\"\nroute = \"a\"\n", 3, &["\"/a\""]);
    mistake("[components.a]\nsource = \"builtin:echo\"\nroute = \"/a/../b\"\n", 3, &[]);
    mistake(
        &format!("{GATEWAY}[components.hello]\nsource = \"builtin:echo\"\nroute = \"/\"\n"),
        6,
        &["hostler.toml:3", "gateway"],
    );
    // Written differently, it is still the same.
    let two = "[components.a]\nsource = \"builtin:echo\"\nroute = \"/x\"\n[components.b]\nsource = \"builtin:echo\"\nroute = \"/x/\"\n";
    mistake(two, 6, &["hostler.toml:3"]);
}

#[test]
fn files_that_are_not_there() {
    Host::builder().flag("-f").flag("nowhere.toml").run().expect(2, &["nowhere.toml"]);
    Host::builder().flag("-f").flag(".").run().expect(2, &["can't be read"]);
    mistake("[components.a]\nsource = \"./nowhere.wasm\"\n", 2, &["nowhere.wasm"]);
    mistake("[components.a]\nsource = \"builtin:storag\"\n", 2, &["builtin:storage"]);
    mistake("[public]\napi-keys-file = \"nowhere\"\n", 2, &["nowhere"]);
    mistake("[internal]\ntoken-file = \"nowhere\"\n", 2, &["nowhere"]);
    mistake(&format!("{GATEWAY}directories = {{ \"/data\" = \"./nowhere\" }}\n"), 4, &["nowhere", "create it"]);
}

#[test]
fn paths_are_relative_to_the_manifest() {
    let builder = Host::builder();
    let folder = builder.directory().join("folder");
    std::fs::create_dir(&folder).expect("a directory can be made");
    std::fs::copy(artifact::guest("hello-p2"), folder.join("hello.wasm")).expect("it can be copied");
    std::fs::write(folder.join("m.toml"), "[components.hello]\nsource = \"hello.wasm\"\nroute = \"/\"\n")
        .expect("writable");
    let host = builder.flag("-f").flag("folder/m.toml").start();
    assert_eq!(host.get("/there").expect(200).text(), "Hello from /there\n");
}

#[test]
fn files_that_are_no_components() {
    for (bytes, part) in [
        (&b"\0asm\x01\0\0\0"[..], "wasm32-wasip2"),
        (b"\0asm\x0d", "copy it again"),
        (b"", "empty"),
        (b"(component)", "isn't WebAssembly"),
        (b"hello, world", "isn't WebAssembly"),
    ] {
        let run = Host::builder().file("a.wasm", bytes).manifest("[components.a]\nsource = \"a.wasm\"\n").run();
        run.expect(2, &["hostler.toml:2:", "\"a\"", part]);
    }
    let whole = std::fs::read(artifact::guest("hello-p2")).expect("it was built");
    let half = &whole[..whole.len() / 2];
    let run = Host::builder().file("a.wasm", half).manifest("[components.a]\nsource = \"a.wasm\"\n").run();
    run.expect(2, &["hostler.toml:", "a"]);
}

#[test]
fn a_component_that_can_not_be_linked() {
    let component = wat::parse_str(
        "(component (import \"fermyon:spin/redis@2.0.0\" (instance (export \"connection\" (type (sub resource))))))",
    );
    let builder = Host::builder().file("a.wasm", component.expect("a component"));
    let run = builder.manifest("\n[components.a]\nsource = \"a.wasm\"\n").run();
    run.expect(2, &["hostler.toml:", "fermyon:spin/redis@2.0.0", "wasi:http"]);
}

#[test]
fn outbound_rules() {
    mistake(&format!("{GATEWAY}allowed-outbound-hosts = [\"api.example.com\"]\n"), 4, &["scheme is missing"]);
    mistake(&format!("{GATEWAY}allowed-outbound-hosts = [\"redis://a\"]\n"), 4, &["redis"]);
    mistake(&format!("{GATEWAY}sockets = [\"db:5432\"]\n"), 4, &["10.0.0.7:5432"]);
}

#[test]
fn stores() {
    mistake("[store]\nbackend = \"etcd\"\n", 2, &["txlog", "memory"]);
    mistake("[store]\nsync = \"sometimes\"\n", 2, &["sometimes", "always"]);
    mistake("[store]\nbackend = \"memory\"\nsync = \"always\"\n", 3, &["sync"]);
}

#[test]
fn an_internal_address_for_everybody_needs_a_token() {
    let manifest = "[internal]\nlisten = \"0.0.0.0:0\"\n";
    let run = Host::builder().own_addresses().manifest(manifest).flag("--listen").flag("127.0.0.1:0").run();
    run.expect(2, &["hostler.toml:2:", "HOSTLER_INTERNAL_TOKEN", "allow-unauthenticated"]);
    let run = Host::builder().own_addresses().flag("--internal-listen").flag("0.0.0.0:0").run();
    run.expect(2, &["--internal-listen", "HOSTLER_INTERNAL_TOKEN"]);
    let start = |manifest: &str, token: &str| {
        let builder = Host::builder().own_addresses().manifest(manifest).env("HOSTLER_INTERNAL_TOKEN", token);
        builder.flag("--listen").flag("127.0.0.1:0").start().stop().expect(0, &[])
    };
    start(manifest, "s3cret");
    start(&format!("{manifest}allow-unauthenticated = true\n"), "");
}

#[test]
fn tokens_and_keys_that_are_none() {
    for text in ["", "\n", "two words", "t\u{f6}ken"] {
        let run = Host::builder().manifest("[internal]\ntoken-file = \"token\"\n").file("token", text).run();
        run.expect(2, &["hostler.toml:2:", "token"]);
    }
    Host::builder().env("HOSTLER_INTERNAL_TOKEN", "two words").run().expect(2, &["HOSTLER_INTERNAL_TOKEN"]);
    let run = Host::builder().manifest("[public]\napi-keys-file = \"keys\"\n").file("keys", "# none\n").run();
    run.expect(2, &["hostler.toml:2:", "one key per line"]);
}

#[test]
fn secrets_are_not_shown() {
    let text = "two s3cret words";
    let run = Host::builder().manifest("[internal]\ntoken-file = \"token\"\n").file("token", text).run();
    assert!(!run.stderr.contains("s3cret"), "{}", run.stderr);
}

#[test]
fn joining_needs_a_component_on_the_root() {
    let join = "[join]\nurl = \"http://127.0.0.1:1\"\nadvertise = \"http://127.0.0.1:2\"\n";
    mistake(&format!("{join}[components.echo]\nsource = \"builtin:echo\"\nroute = \"/echo\"\n"), 1, &["route = \"/\""]);
    mistake("[join]\nurl = \"http://127.0.0.1:1\"\n", 1, &["advertise"]);
    mistake("[join]\nurl = \"gateway\"\nadvertise = \"http://a:1\"\n", 2, &[]);
    mistake("[join]\nurl = \"http://a:1\"\nadvertise = \"http://a:1/path\"\n", 3, &["path"]);
}

#[test]
fn the_manifest_may_have_no_components() {
    let host = Host::builder().manifest("").start();
    host.get("/data").expect(200);
    let run = Host::builder().manifest("[components]\n").run();
    run.expect(2, &["hostler.toml:1:", "empty"]);
}

#[test]
fn a_manifest_nobody_asked_for_is_mentioned() {
    let host = Host::builder().file("hostler.toml", "nonsense").start();
    host.log().wait_for("host run -f hostler.toml");
    host.get("/data").expect(200);
}

#[test]
fn the_longest_route_wins_and_paths_stay_whole() {
    let hello = artifact::guest("hello-p3").display().to_string();
    let echo = "[components.echo]\nsource = \"builtin:echo\"\nroute = \"/hello/echo\"\n";
    let host = Host::builder();
    let host = host.manifest(&format!("[components.hello]\nsource = \"{hello}\"\nroute = \"/hello\"\n{echo}")).start();
    assert_eq!(host.get("/hello?a=b").expect(200).text(), "Hello from /hello?a=b\n");
    assert_eq!(host.get("/hello/a%2Fb//c").expect(200).text(), "Hello from /hello/a%2Fb//c\n");
    let echoed = host.request("POST", "/hello/echo/x").body("back").send().expect(200);
    assert_eq!(echoed.text(), "back");
    assert_eq!(host.get("/hello/echoes").expect(200).text(), "Hello from /hello/echoes\n");
    host.get("/hellos").problem(404, "not_found");
    host.get("/").problem(404, "not_found");
}
