//! Builds the guests of the built-in assembly for `wasm32-wasip2` into this script's own folder, so that
//! `src/builtin.rs` can embed them and `cargo build -p host` is all it takes.
//!
//! The inner cargo shares nothing with the outer one but the sources, `Cargo.lock` and the job server: whatever wraps
//! or instruments the build of the host (clippy, coverage, `RUSTFLAGS`) would break or bloat the guests.

use std::path::Path;
use std::process::Command;

const TARGET: &str = "wasm32-wasip2";

/// Packages to embed. Each becomes the environment variable `HOSTLER_<NAME>_WASM` for `include_bytes!`.
const GUESTS: [&str; 3] = ["gateway", "storage", "echo"];

/// What of cargo's own configuration the inner build keeps: where it downloads from, and the job server.
const KEPT: [&str; 7] =
    ["CARGO_HOME", "CARGO_HTTP_", "CARGO_MAKEFLAGS", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_", "CARGO_TERM_"];

/// Variables that change how rustc is called without starting with `CARGO_`.
const DROPPED: [&str; 8] = [
    "CLIPPY_ARGS",
    "LLVM_PROFILE_FILE",
    "RUSTC_BOOTSTRAP",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOCFLAGS",
    "RUSTFLAGS",
    "TARGET",
];

fn main() {
    if let Err(message) = build() {
        // One line, and the build fails.
        println!("cargo::error={message}");
    }
}

fn build() -> Result<(), String> {
    for input in ["build.rs", "../components", "../wit", "../Cargo.lock", "../Cargo.toml"] {
        println!("cargo::rerun-if-changed={input}");
    }
    let out = variable("OUT_DIR")?;
    require_target()?;

    let target_dir = Path::new(&out).join("guests");
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .args(["build", "--release", "--locked", "--target", TARGET, "--target-dir"])
        .arg(&target_dir)
        .current_dir("..");
    for guest in GUESTS {
        cargo.args(["-p", guest]);
    }
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let foreign = name.starts_with("CARGO") && !KEPT.iter().any(|kept| name.starts_with(kept));
        if foreign || DROPPED.contains(&&*name) {
            cargo.env_remove(&*name);
        }
    }
    let status = cargo.status().map_err(|error| format!("cargo could not be started to build the guests: {error}"))?;
    if !status.success() {
        println!("cargo::error=building the guests for {TARGET} failed ({status}); what cargo said is below");
        // Only a script that fails has its stderr shown, which is where the inner cargo wrote what is wrong.
        std::process::exit(1);
    }

    for guest in GUESTS {
        let file = target_dir.join(TARGET).join("release").join(format!("{guest}.wasm"));
        println!("cargo::rustc-env=HOSTLER_{}_WASM={}", guest.to_uppercase(), file.display());
    }
    Ok(())
}

/// Fails unless the standard library for the guests is installed. Asked here because cargo's own message, hundreds of
/// lines of `can't find crate for core`, doesn't say what to do.
fn require_target() -> Result<(), String> {
    let rustc = variable("RUSTC")?;
    let output = Command::new(&rustc)
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()
        .map_err(|error| format!("{rustc} could not be started: {error}"))?;
    let folder = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && Path::new(folder.trim()).is_dir() {
        return Ok(());
    }
    Err(format!("the guests need the target {TARGET}; run: rustup target add {TARGET}"))
}

fn variable(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|_| format!("{name} is not set; this script must be run by cargo"))
}
