//! Tests that need something this machine may not have, or more time than everybody has.

use std::path::PathBuf;

/// How often to do something: what this environment variable says, or else this.
pub fn rounds(variable: &str, otherwise: u32) -> u32 {
    std::env::var(variable).map_or(otherwise, |rounds| rounds.parse().expect("a number of rounds"))
}

/// Says that a test is skipped for want of `what`.
///
/// # Panics
/// With `REQUIRE_ALL=1`, so that in CI nothing is skipped.
pub fn missing(what: &str) {
    assert!(std::env::var("REQUIRE_ALL").as_deref() != Ok("1"), "needs {what}, and REQUIRE_ALL is set");
    // Not `println!`, which the test harness keeps to itself when a test passes.
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("skipped: needs {what}\n").as_bytes());
}

/// The path of a program, if it is installed.
pub fn program(name: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// The value of an option, or the end of the test: `let wasmtime = need!(find("wasmtime"), "wasmtime");`
#[macro_export]
macro_rules! need {
    ($found:expr, $what:expr) => {
        match $found {
            Some(found) => found,
            None => {
                $crate::missing($what);
                return;
            }
        }
    };
}
