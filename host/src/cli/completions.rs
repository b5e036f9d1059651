//! `host completions`.

use clap::CommandFactory;

use super::{Cli, CompletionsArgs, print};

/// Prints the completions to stdout.
///
/// # Errors
/// Stdout can't be written.
pub(crate) fn completions(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "host", &mut script);
    print(&String::from_utf8_lossy(&script))
}
