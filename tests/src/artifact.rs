//! What is tested: the binary and the components, built once per test process by the same cargo that runs the tests.
//!
//! `HOST_BIN` names another binary to test, for example the one that ships.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// What components are built for.
const WASM: &str = "wasm32-wasip2";

/// The components of `components/`.
const COMPONENTS: [&str; 4] = ["gateway", "storage", "echo", "registry-static"];

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this package is a folder of the repository")
}

/// Cargo's target directory.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |named| root().join(named))
}

/// A directory for what tests keep from one run to the next. Removed by `cargo clean`.
pub fn scratch(name: &str) -> PathBuf {
    let directory = target().join("e2e").join(name);
    std::fs::create_dir_all(&directory).expect("the target directory can be written");
    directory.canonicalize().expect("the directory was just made")
}

/// The binary `host`.
pub fn host() -> &'static Path {
    static HOST: OnceLock<PathBuf> = OnceLock::new();
    HOST.get_or_init(|| match std::env::var_os("HOST_BIN") {
        Some(path) => path.into(),
        None => {
            let files = build(&["-p", "host"]);
            files.into_iter().find(|file| file.ends_with("host")).expect("the package host makes the binary host")
        }
    })
}

/// The guest `tests/guests/NAME`, or the component `components/NAME`.
///
/// # Panics
/// There is none of that name.
pub fn guest(name: &str) -> &'static Path {
    static GUESTS: OnceLock<Vec<PathBuf>> = OnceLock::new();
    let guests = GUESTS.get_or_init(|| {
        let mut packages: Vec<String> = COMPONENTS.map(str::to_owned).into();
        for folder in std::fs::read_dir(root().join("tests/guests")).expect("there are guests") {
            let folder = folder.expect("the folder can be read");
            packages.push(folder.file_name().into_string().expect("names of guests are ASCII"));
        }
        let directory = guests();
        let directory = directory.to_str().expect("the path is UTF-8");
        let mut arguments = vec!["--release", "--target", WASM, "--target-dir", directory];
        for package in &packages {
            arguments.extend(["-p", package]);
        }
        build(&arguments)
    });
    let file = format!("{}.wasm", name.replace('-', "_"));
    guests.iter().find(|guest| guest.ends_with(&file)).unwrap_or_else(|| panic!("no guest is called {name}"))
}

/// The target directory of the guests. Apart from the host's own, so that building them never waits for somebody who
/// builds the host.
pub fn guests() -> PathBuf {
    target().join("guests")
}

/// Builds what `components/serve.sh` builds when it is told to build in [`guests`], however long that takes.
pub fn prepare_serve() {
    static PREPARED: OnceLock<()> = OnceLock::new();
    PREPARED.get_or_init(|| {
        guest("gateway");
        let directory = guests();
        build(&["--profile", "tool", "--target-dir", directory.to_str().expect("the path is UTF-8"), "-p", "compose"]);
    });
}

/// Runs `cargo build` and returns the files it made, or had made before.
fn build(arguments: &[&str]) -> Vec<PathBuf> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--locked", "--message-format=json-render-diagnostics"]).args(arguments);
    // What cargo tells this process about its own package. Build scripts of dependencies that look at the like would run
    // again, and half of the host be compiled again, each time that somebody builds by hand in between.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&*name);
        }
    }
    let output = command
        .current_dir(root())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo, which runs this test, can be run again");
    assert!(output.status.success(), "cargo build {arguments:?}: {}", output.status);
    let messages = output.stdout.split(|byte| *byte == b'\n');
    let messages = messages.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    messages
        .filter_map(|message| message["filenames"].as_array().cloned())
        .flatten()
        .filter_map(|file| file.as_str().map(PathBuf::from))
        .collect()
}
