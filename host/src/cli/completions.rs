//! `host completions`.

use clap::CommandFactory;

use super::{Cli, CompletionsArgs};

/// Prints the completions to stdout.
pub(crate) fn completions(args: &CompletionsArgs) {
    clap_complete::generate(args.shell, &mut Cli::command(), "host", &mut std::io::stdout());
}
