//! What a manifest means, and what is said about each kind of mistake.

use std::path::Path;
use std::time::Duration;

use runtime::{Buckets, Code};

use super::*;
use crate::cli::RunArgs;
use crate::value::{Listen, Wait};

const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

/// A folder with some files that manifests refer to.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, bytes) in [
        ("a.wasm", COMPONENT),
        ("token", b"s3cret\n"),
        ("empty", b"\n"),
        ("keys", b"# comment\nkey-1\n\n key-2 \n"),
        ("bad-keys", b"key-1\nkey 2\n"),
        ("no-keys", b"# none\n"),
    ] {
        std::fs::write(folder.path().join(name), bytes).expect("a writable folder");
    }
    std::fs::create_dir(folder.path().join("data")).expect("a writable folder");
    folder
}

fn load_from(folder: &Path, text: &str, mut args: RunArgs, process: &Environment) -> Result<Manifest, ManifestError> {
    let path = folder.join("hostler.toml");
    std::fs::write(&path, text).expect("a writable folder");
    args.manifest = Some(path);
    load(&args, process)
}

fn loaded(text: &str) -> Manifest {
    load_from(folder().path(), text, RunArgs::default(), &Environment::default())
        .unwrap_or_else(|error| panic!("{error}"))
}

fn environment_of<'a>(manifest: &'a Manifest, component: &str) -> Vec<(&'a str, &'a str)> {
    let component = manifest.components.iter().find(|found| found.spec.name == component).expect("it is declared");
    component.spec.environment.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn without_a_manifest_the_built_in_assembly_runs() {
    let manifest = load(&RunArgs::default(), &Environment::default()).expect("it is right");
    let summary: Vec<_> = manifest
        .components
        .iter()
        .map(|component| {
            let instances: Vec<_> = component.spec.instances.iter().map(|name| name.as_str()).collect();
            (component.spec.namespace.as_str(), component.spec.route.as_deref(), instances.join(" "))
        })
        .collect();
    assert_eq!(
        summary,
        [
            ("echo", None, "echo-1 echo-2 echo-3".to_owned()),
            ("gateway", Some("/"), "gateway".to_owned()),
            ("storage", None, "storage-1 storage-2 storage-3".to_owned()),
        ]
    );
    assert_eq!(environment_of(&manifest, "storage"), [("STORAGE_NAME", "{instance}")]);
    assert_eq!(manifest.public.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(manifest.internal.listen.to_string(), "127.0.0.1:9090");
    assert!(manifest.run.data_dir.is_absolute() && manifest.run.data_dir.ends_with(".hostler"));
    assert!(manifest.run.workers >= 1);
    assert_eq!(manifest.run.drain_timeout, seconds(30));
}

#[test]
fn a_manifest_without_components_changes_the_built_in_assembly() {
    let manifest = loaded("[public]\nlisten = '127.0.0.1:1234'\nmax-body = '1MiB'");
    assert_eq!(manifest.components.len(), 3);
    assert_eq!(manifest.public.listen.port(), 1234);
    assert_eq!(manifest.public.max_body, 1 << 20);
}

#[test]
fn everything_can_be_said() {
    let folder = folder();
    let text = r#"
        [run]
        data-dir = "state"
        workers = 3
        log-format = "json"
        log-level = "debug"
        access-log = false
        drain-timeout = "5s"
        [public]
        listen = "127.0.0.1:0"
        trusted-proxies = ["10.0.0.0/8", "127.0.0.1"]
        api-keys-file = "keys"
        max-connections = 10
        header-timeout = "1s"
        max-header-bytes = "16KiB"
        max-headers = 20
        body-idle-timeout = "2s"
        max-body = 1000
        metrics = false
        [internal]
        listen = "0.0.0.0:0"
        token-file = "token"
        [store]
        backend = "memory"
        [join]
        url = "http://gateway:9090"
        advertise = "http://storage-1:8080"
        token-file = "token"
        [components.gateway]
        source = "builtin:gateway"
        [components.own]
        source = "a.wasm"
        route = "/"
        namespace = "storage"
        instances = ["storage-1", "storage-2"]
        environment = { STORAGE_NAME = "{instance}", MODE = "test" }
        config = { colour = "green" }
        allowed-outbound-hosts = ["https://*.example.org"]
        directories = { "/data" = "data", "/state" = { path = "data", writable = true } }
        sockets = ["10.0.0.7:5432", "10.0.0.8:*"]
        max-instance-reuse-count = 7
        max-instance-concurrent-reuse-count = 8
        max-guests = 9
        queue = 0
        queue-timeout = "0s"
        idle-instance-timeout = "10s"
        request-timeout = "11s"
        memory-limit = "64MiB"
        table-elements = 12
        resources = 13
        health-check = { path = "/ok", interval = "1s", timeout = "500ms", unhealthy-after = 1, healthy-after = 4 }
        watch = false
        watch-for = "0s"
        rollback-threshold = "1%"
        drain-timeout = "7s"
        rehearse = 100
        promote = "identical"
    "#;
    let manifest = load_from(folder.path(), text, RunArgs::default(), &Environment::default())
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(manifest.run.data_dir, folder.path().join("state"));
    assert_eq!((manifest.run.workers, manifest.run.drain_timeout), (3, seconds(5)));
    assert_eq!(manifest.public.trusted_proxies.len(), 2);
    assert_eq!(manifest.public.max_header_bytes, 16 << 10);
    assert!(manifest.internal.token.as_ref().is_some_and(|token| token.matches(b"s3cret")));
    assert_eq!(environment_of(&manifest, "gateway"), [("HOSTLER_API_KEYS", "key-1,key-2")]);
    assert_eq!(environment_of(&manifest, "own"), [("MODE", "test"), ("STORAGE_NAME", "{instance}")]);

    let own = &manifest.components[1];
    assert_eq!(own.spec.route.as_deref(), Some("/"));
    assert_eq!(own.code, Code::new(COMPONENT));
    assert_eq!(own.spec.config, [("colour".to_owned(), "green".to_owned())]);
    let directories: Vec<_> = own.spec.directories.iter().map(|found| (found.guest.as_str(), found.writable)).collect();
    assert_eq!(directories, [("/data", false), ("/state", true)]);
    let sockets: Vec<_> = own.spec.sockets.iter().map(|socket| socket.address.to_string()).collect();
    assert_eq!(sockets, ["10.0.0.7:5432", "10.0.0.8:0"]);
    let limits = &own.spec.limits;
    assert_eq!((limits.max_instance_reuse_count, limits.max_instance_concurrent_reuse_count), (7, 8));
    assert_eq!((limits.max_guests, limits.queue, limits.queue_timeout), (9, 0, Duration::ZERO));
    assert_eq!((limits.idle_instance_timeout, limits.request_timeout), (seconds(10), seconds(11)));
    assert_eq!((limits.memory, limits.table_elements, limits.resources), (64 << 20, 12, 13));
    let health = &own.spec.health;
    assert_eq!((health.path.as_deref(), health.unhealthy_after, health.healthy_after), (Some("/ok"), 1, 4));

    let swap = SwapPolicy {
        watch: false,
        watch_for: Duration::ZERO,
        rollback_threshold: 0.01,
        drain_timeout: seconds(7),
        rehearse: 100,
        promote: Promote::Identical,
    };
    assert_eq!((&own.swap, &manifest.components[0].swap), (&swap, &SwapPolicy::default()));

    let join = manifest.join.expect("it is there");
    assert_eq!(join.instances.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>(), ["storage-1", "storage-2"]);
}

#[test]
fn the_store_is_durable_unless_it_is_told_otherwise() {
    let store = |lines: &str| loaded(&format!("[store]\n{lines}")).store;
    assert_eq!(loaded("").store, Store::Durable { sync: store::SyncPolicy::Always });
    assert_eq!(store("backend = 'txlog'"), Store::Durable { sync: store::SyncPolicy::Always });
    assert_eq!(store("sync = 'never'"), Store::Durable { sync: store::SyncPolicy::Never });
    let sync = store::SyncPolicy::Every(Duration::from_millis(100));
    assert_eq!(store("backend = 'txlog'\nsync = '100ms'"), Store::Durable { sync });
    assert_eq!(store("backend = 'memory'"), Store::Memory);
}

#[test]
fn flags_beat_the_manifest_and_variables_beat_files() {
    let folder = folder();
    let args = RunArgs {
        listen: Some(Listen("127.0.0.1:1".parse().expect("an address"))),
        internal_listen: Some(Listen("127.0.0.1:2".parse().expect("an address"))),
        data_dir: Some("/elsewhere".into()),
        workers: Some(5),
        log_format: Some(LogFormat::Text),
        log_level: Some(LogLevel::Error),
        drain_timeout: Some(Wait(Duration::ZERO)),
        environment: vec![("MODE".to_owned(), "flag".to_owned())],
        ..RunArgs::default()
    };
    let process = Environment {
        api_keys: Some("from-variable".to_owned()),
        internal_token: Some("t0ken".to_owned()),
        ..Environment::default()
    };
    let text = "[run]\ndata-dir = 'x'\nworkers = 1\nlog-format = 'json'\nlog-level = 'info'\ndrain-timeout = '9s'\n\
        [public]\nlisten = '127.0.0.1:8'\napi-keys-file = 'keys'\n\
        [internal]\nlisten = '127.0.0.1:9'\ntoken-file = 'token'\n\
        [components.g]\nsource = 'builtin:gateway'\nenvironment = { MODE = 'manifest' }";
    let manifest = load_from(folder.path(), text, args, &process).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((manifest.public.listen.port(), manifest.internal.listen.port()), (1, 2));
    assert_eq!((manifest.run.data_dir.as_path(), manifest.run.workers), (Path::new("/elsewhere"), 5));
    assert_eq!((manifest.run.log_format, manifest.run.log_level), (LogFormat::Text, LogLevel::Error));
    assert_eq!(manifest.run.drain_timeout, Duration::ZERO);
    assert!(manifest.internal.token.is_some_and(|token| token.matches(b"t0ken")));
    let component = &manifest.components[0].spec;
    let expected = [("HOSTLER_API_KEYS", "from-variable"), ("MODE", "flag")];
    assert_eq!(component.environment, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    assert!(manifest.notes.iter().any(|note| note.contains("no component has a route")));
}

#[test]
fn more_guests_than_the_process_has_room_for_are_noted() {
    let names: Vec<_> = (0..10).map(|number| format!("'i-{number}'")).collect();
    for (guests, noted) in [(100, false), (101, true)] {
        let text = format!(
            "[run]\nworkers = 1\n[components.a]\nsource = 'a.wasm'\nroute = '/'\ninstances = [{}]\nmax-guests = {guests}",
            names.join(", ")
        );
        let notes = loaded(&text).notes;
        assert_eq!(
            notes.iter().any(|note| note.contains("1010 guests") && note.contains("room for 1000")),
            noted,
            "{notes:?}"
        );
        assert_eq!(notes.len(), usize::from(noted), "{notes:?}");
    }
}

#[test]
fn api_keys_that_nobody_gets_are_noted() {
    let routed = "source = 'a.wasm'\nroute = '/'\n";
    let given = "environment = { HOSTLER_API_KEYS = 'key' }\n";
    for (component, noted) in [
        (routed.to_owned(), true),
        (format!("{routed}{given}"), false),
        ("source = 'builtin:gateway'\nroute = '/'\n".to_owned(), false),
    ] {
        let text = |keys: &str| format!("[public]\n{keys}[components.shop]\n{component}");
        let notes = loaded(&text("api-keys-file = 'keys'\n")).notes;
        let told = |note: &String| {
            note.contains("no component gets them")
                && note.contains("[components.shop] environment = { HOSTLER_API_KEYS = ")
        };
        assert_eq!((notes.iter().any(told), notes.len()), (noted, usize::from(noted)), "{component}: {notes:?}");
        assert!(loaded(&text("")).notes.is_empty(), "without keys nobody has to get any");
    }
}

#[test]
fn an_open_internal_address_needs_a_token_or_consent() {
    let open = "[internal]\nlisten = '0.0.0.0:0'\n";
    loaded(&format!("{open}token-file = 'token'"));
    loaded(&format!("{open}allow-unauthenticated = true"));
}

#[test]
fn no_value_of_an_environment_or_configuration_is_printed() {
    let folder = folder();
    for table in ["environment", "config"] {
        for value in [
            "987654321",
            "-987654321",
            "98765432198765432198765432100",
            "98765.4321",
            "0x987654321",
            "9876-05-04T03:02:01Z",
            "9876-05-04",
            "['987654321']",
            "{ a = 987654321 }",
            "[9876-05-04]",
            "0987654321",
            "s3cret",
            "98s3cret",
            "'s3cret",
            "\"s3cret\\z\"",
            "s3cret\"",
            "true",
        ] {
            for rest in [
                format!("{table} = {{ PASSWORD = {value} }}"),
                format!("[components.a.{table}]\nPASSWORD = {value}"),
                format!("{table}.PASSWORD = {value}"),
                format!("{table} = {value}"),
                format!("{table} = 's3cret'"),
            ] {
                let text = format!("[components.a]\nsource = 'a.wasm'\n{rest}\n");
                let error = load_from(folder.path(), &text, RunArgs::default(), &Environment::default());
                let said = error.err().unwrap_or_else(|| panic!("this was accepted:\n{text}")).to_string();
                let said = said.replace(&folder.path().display().to_string(), "");
                for part in ["9876", "4321", "s3cret", "true", "05"] {
                    assert!(!said.contains(part), "{text}\n{said}");
                }
                assert!(said.contains(":3:") || said.contains(":4:"), "{text}\n{said}");
            }
        }
    }
}

/// Each mistake: the manifest, the line that must be named, and what must be said about it.
#[test]
fn every_mistake_is_named_with_its_line_and_the_fix() {
    let component = |rest: &str| format!("[components.a]\nsource = 'a.wasm'\n{rest}");
    let mistakes: &[(String, usize, &[&str])] = &[
        // What TOML itself finds.
        ("[public\n".into(), 1, &[]),
        ("[public]\nlisten = '127.0.0.1:1'\nlisten = '127.0.0.1:1'".into(), 3, &["duplicate key"]),
        // Unknown keys, at every level.
        ("[public]\nlisen = '127.0.0.1:1'".into(), 2, &["unknown key \"lisen\"", "did you mean \"listen\""]),
        ("[publik]".into(), 1, &["did you mean \"public\""]),
        ("[run]\nwrokers = 1".into(), 2, &["did you mean \"workers\""]),
        ("[internal]\ntoken_file = 'x'".into(), 2, &["did you mean \"token-file\""]),
        ("[store]\nzzz = 1".into(), 2, &["possible here: backend, sync, token-file"]),
        (component("rout = '/'"), 3, &["did you mean \"route\""]),
        (component("health-check = { intervall = '1s' }"), 3, &["did you mean \"interval\""]),
        (component("directories = { '/d' = { path = 'data', writeable = true } }"), 3, &["did you mean \"writable\""]),
        // Wrong types and values.
        ("[public]\nlisten = 8080".into(), 2, &["8080", "an address like \"127.0.0.1:8080\""]),
        ("[public]\nlisten = '8080'".into(), 2, &["\"8080\" is not an address", "\"127.0.0.1:8080\""]),
        ("[internal]\nallow-unauthenticated = 'yes'".into(), 2, &["\"yes\"", "expected a boolean"]),
        ("[public]\ntrusted-proxies = ['10.0.0.0/99']".into(), 2, &["\"10.0.0.0/99\"", "\"10.0.0.0/8\""]),
        ("[public]\nheader-timeout = '0s'".into(), 2, &["too short", "1ms"]),
        ("[public]\nmax-header-bytes = '1KiB'".into(), 2, &["1KiB is out of range", "8KiB"]),
        ("[public]\nmax-connections = 0".into(), 2, &["at least 1"]),
        ("[public]\nmax-body = '10MB'".into(), 2, &["\"10MB\" is not a size", "\"10MiB\""]),
        ("[public]\nmax-body = -1".into(), 2, &["is not a size"]),
        ("[run]\nworkers = 0".into(), 2, &["at least 1"]),
        ("[run]\nworkers = 5000".into(), 2, &["at most 1024"]),
        ("[run]\nlog-format = 'xml'".into(), 2, &["xml", "json"]),
        ("[run]\nlog-level = 'loud'".into(), 2, &["loud", "trace"]),
        ("[run]\ndrain-timeout = 30".into(), 2, &["a duration like \"30s\""]),
        (component("request-timeout = '30 seconds'"), 3, &["\"30s\""]),
        (component("memory-limit = '1KiB'"), 3, &["1KiB is out of range", "64KiB"]),
        (component("memory-limit = '5GiB'"), 3, &["5GiB is out of range", "4GiB"]),
        (component("table-elements = 100001"), 3, &["1 to 100000"]),
        (component("queue = -1"), 3, &["-1 is out of range: at least 0"]),
        (component("queue = 'x'"), 3, &["expected a whole number"]),
        (component("max-guests = 'x'"), 3, &["expected a whole number"]),
        (component("max-guests = 0"), 3, &["at least 1"]),
        (component("sockets = ['example.org:80']"), 3, &["\"example.org:80\"", "\"10.0.0.7:5432\""]),
        (component("allowed-outbound-hosts = ['example.org']"), 3, &["example.org"]),
        (component("health-check = { path = 'healthz' }"), 3, &["must begin with \"/\""]),
        // Routes, names, instances.
        (component("route = 'api'"), 3, &["must begin with \"/\"", "\"/api\""]),
        (component("route = '/a b'"), 3, &["\" \" can't occur in a path"]),
        (
            component("route = '/api'\n[components.b]\nsource = 'a.wasm'\nroute = '/api/'"),
            6,
            &["the route \"/api\" of \"b\"", "\"a\"", ":3)", "change one"],
        ),
        ("[components.'a b']\nsource = 'a.wasm'".into(), 1, &["\"a b\" can't be a component's name"]),
        (component("namespace = 'a.b'"), 3, &["\"a.b\""]),
        (component("instances = []"), 3, &["1 to 1000"]),
        (component("instances = ['x y']"), 3, &["\"x y\""]),
        (component("instances = ['x',\n 'x']"), 4, &["\"x\" is there twice"]),
        (
            component("namespace = 'n'\n[components.b]\nsource = 'a.wasm'\nnamespace = 'n'\ninstances = ['a']"),
            7,
            &["the instance \"a\" of \"b\"", "one of \"a\"", "rename"],
        ),
        ("[components]".into(), 1, &["[components] is empty", "builtin:echo"]),
        ("[components.a]\nroute = '/'".into(), 1, &["the key \"source\" is missing"]),
        ("components = 3".into(), 1, &["expected a map"]),
        ("[components]\na = 'x'".into(), 2, &["expected a table"]),
        // Sources.
        (
            component("").replace("a.wasm", "missing.wasm"),
            2,
            &["missing.wasm can't be read", "; check the path, which starts from the manifest's folder"],
        ),
        (component("").replace("a.wasm", "data"), 2, &["data can't be read", "; name a file in it"]),
        (component("").replace("a.wasm", "builtin:gatway"), 2, &["did you mean \"builtin:gateway\""]),
        (component("").replace("a.wasm", "builtin:x"), 2, &["built in are: gateway, storage, echo"]),
        // What components are granted.
        (component("environment = { '' = 'x' }"), 3, &["can't be a variable's name"]),
        (component("environment = { A = 1 }"), 3, &["\"A\"", "expected a string"]),
        (component("config = { who = '{instance}' }"), 3, &["only known in the values of environment"]),
        (component("directories = { '/d' = '{instance}' }"), 3, &["only known in the values of environment"]),
        (component("directories = { '/d' = 'nowhere' }"), 3, &["nowhere can't be opened", "create it"]),
        (component("directories = { '/d' = 'a.wasm' }"), 3, &["is not a directory"]),
        (component("directories = { 'd' = 'data' }"), 3, &["must begin with \"/\""]),
        (component("directories = { '/d' = 3 }"), 3, &["{ path = \"./data\", writable = true }"]),
        // Tokens and keys.
        ("[internal]\ntoken-file = 'nowhere'".into(), 2, &["nowhere", "can't be read"]),
        ("[internal]\ntoken-file = 'empty'".into(), 2, &["holds no token", "openssl rand"]),
        ("[public]\napi-keys-file = 'nowhere'".into(), 2, &["nowhere", "can't be read", "; check the path"]),
        ("[public]\napi-keys-file = 'bad-keys'".into(), 2, &["bad-keys: line 2", "one key per line"]),
        ("[public]\napi-keys-file = 'no-keys'".into(), 2, &["holds no key"]),
        ("[internal]\nlisten = '0.0.0.0:0'".into(), 2, &["HOSTLER_INTERNAL_TOKEN", "allow-unauthenticated = true"]),
        ("[public]\nlisten = '127.0.0.1:9090'".into(), 0, &["also the public address", ":2)", "another port"]),
        // The store.
        ("[store]\nbackend = 'http://gateway:9090/kv'".into(), 2, &["it has a path", "\"http://127.0.0.1:9090\""]),
        ("[store]\nbackend = 'ftp://gateway'".into(), 2, &["\"ftp://gateway\": it doesn't begin with http://"]),
        ("[store]\nbackend = 'http://g:1'\nsync = 'always'".into(), 3, &["the other host decides", "remove this line"]),
        ("[store]\nbackend = 'http://g:1'\ntoken-file = 'nowhere'".into(), 3, &["nowhere", "can't be read"]),
        (
            "[store]\nbackend = 'redis'".into(),
            2,
            &["there is no backend \"redis\"", "\"txlog\"", "\"http://gateway:9090\""],
        ),
        ("[store]\nbackend = ''".into(), 2, &["there is no backend \"\""]),
        ("[store]\nbackend = 'memory'\nsync = 'always'".into(), 3, &["syncs nothing", "remove this line"]),
        ("[store]\nsync = 'sometimes'".into(), 2, &["\"sometimes\"", "\"always\", \"never\"", "\"100ms\""]),
        ("[store]\nsync = '0ms'".into(), 2, &["too short", "1ms"]),
        ("[store]\nsync = '100'".into(), 2, &["not a duration", "ms"]),
        ("[store]\nsync = 100".into(), 2, &["an interval like \"100ms\""]),
        ("[store]\ntoken-file = 'token'".into(), 2, &["\"txlog\" needs no token", "remove this line"]),
        ("[store]\nbackend = 'memory'\ntoken-file = 'token'".into(), 3, &["\"memory\" needs no token"]),
        (component("key-value-buckets = ['default',\n 'a/b']"), 4, &["\"a/b\"", "at most 64 characters", "\"*\""]),
        (component("key-value-buckets = 'default'"), 3, &["expected a sequence"]),
        // Joining.
        ("[join]\nurl = 'http://gateway:9090'".into(), 1, &["the key \"advertise\" is missing"]),
        ("[join]\nurl = 'gateway'\nadvertise = 'http://x'".into(), 2, &["http://127.0.0.1:9090"]),
        ("[join]\nurl = 'http://g:1'\nadvertise = 'http://x/path'".into(), 3, &["http://x/path"]),
        (format!("[join]\nurl = 'http://g:1'\nadvertise = 'http://x'\n{}", component("")), 1, &["route = \"/\""]),
    ];
    let folder = folder();
    for (text, line, said) in mistakes {
        let Err(error) = load_from(folder.path(), text, RunArgs::default(), &Environment::default()) else {
            panic!("this was accepted:\n{text}");
        };
        let error = error.to_string();
        if *line > 0 {
            let place = format!("{}:{line}: ", folder.path().join("hostler.toml").display());
            assert!(error.starts_with(&place), "line {line} should be named in: {error}\n{text}");
        }
        for said in *said {
            assert!(error.contains(said), "{said:?} is missing in: {error}\n{text}");
        }
        assert_eq!(error.lines().count(), 1, "more than a line: {error}");
    }
}

#[test]
fn buckets_are_granted_by_name() {
    let buckets = |lines: &str| {
        let text = format!("[components.a]\nsource = 'builtin:echo'\nroute = '/'\n{lines}");
        loaded(&text).components[0].spec.buckets.clone()
    };
    let only = |names: &[&str]| Buckets::Only(names.iter().map(|name| name.parse().expect("a name")).collect());
    assert_eq!(buckets(""), only(&["default"]));
    assert_eq!(buckets("key-value-buckets = ['sessions', '']"), only(&["sessions", "default"]));
    assert_eq!(buckets("key-value-buckets = []"), only(&[]));
    assert_eq!(buckets("key-value-buckets = ['default', '*']"), Buckets::All);
}

#[test]
fn the_store_of_another_host_is_named_by_its_address() {
    let url = || "http://gateway:9090".parse().expect("an address");
    let token = |text| Some(Token::new(text).expect("a token"));
    let text = "[store]\nbackend = 'http://gateway:9090/'\n";
    assert_eq!(loaded(text).store, Store::Remote { url: url(), token: None });
    let text = format!("{text}token-file = 'token'\n");
    assert_eq!(loaded(&text).store, Store::Remote { url: url(), token: token("s3cret") });
    let process = Environment { store_token: Some("t0ken".to_owned()), ..Environment::default() };
    let manifest = load_from(folder().path(), &text, RunArgs::default(), &process).expect("it is right");
    assert_eq!(manifest.store, Store::Remote { url: url(), token: token("t0ken") });
}

#[test]
fn settings_outside_the_manifest_are_named_too() {
    let folder = folder();
    let args =
        RunArgs { internal_listen: Some(Listen("0.0.0.0:0".parse().expect("an address"))), ..RunArgs::default() };
    let error = load_from(folder.path(), "", args, &Environment::default()).expect_err("no token");
    assert!(error.to_string().starts_with("--internal-listen: "), "{error}");

    let process = Environment { internal_token: Some("two words".to_owned()), ..Environment::default() };
    let error = load_from(folder.path(), "", RunArgs::default(), &process).expect_err("no token");
    assert!(error.to_string().starts_with("HOSTLER_INTERNAL_TOKEN: "), "{error}");
    assert!(!error.to_string().contains("two words"), "{error}");

    let args = RunArgs { manifest: Some("/nowhere/hostler.toml".into()), ..RunArgs::default() };
    let error = load(&args, &Environment::default()).expect_err("no manifest");
    assert!(error.to_string().starts_with("/nowhere/hostler.toml: the manifest can't be read"), "{error}");
}

#[test]
fn what_takes_a_new_start_is_named() {
    let folder = folder();
    let sections = |text: &str, args: RunArgs| {
        let manifest = load_from(folder.path(), text, args, &Environment::default());
        manifest.unwrap_or_else(|error| panic!("{error}")).sections()
    };
    let started = sections("[components.a]\nsource = \"a.wasm\"", RunArgs::default());
    let components = "[components.b]\nsource = \"a.wasm\"\nroute = \"/\"";
    assert_eq!(started.unlike(&sections(components, RunArgs::default())), [""; 0]);
    let text = "[internal]\nlisten = \"127.0.0.1:1\"\n[store]\nsync = \"never\"\n".to_owned() + components;
    assert_eq!(started.unlike(&sections(&text, RunArgs::default())), ["[internal]", "[store]"]);
    let args = RunArgs { workers: Some(77), ..RunArgs::default() };
    assert_eq!(started.unlike(&sections(components, args)), ["[run]"]);
}

#[test]
fn files_are_looked_at_before_they_are_read() {
    let folder = folder();
    let text = "[components.a]\nsource = \"a.wasm\"\n[components.b]\nsource = \"builtin:echo\"";
    let manifest = load_from(folder.path(), text, RunArgs::default(), &Environment::default());
    let manifest = manifest.unwrap_or_else(|error| panic!("{error}"));
    let (file, component) = (folder.path().join("hostler.toml"), folder.path().join("a.wasm"));
    assert_eq!(manifest.file, Some((file.clone(), Look::at(&file))));
    let sources: Vec<_> = manifest.components.into_iter().map(|component| component.source).collect();
    let look = Look::at(&component);
    assert_eq!(sources, [Source::File { path: component, look }, Source::Builtin("echo".to_owned())]);
    let manifest = load(&RunArgs::default(), &Environment::default()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(manifest.file, None);
}
