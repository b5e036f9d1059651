//! `host`: runs WebAssembly HTTP components the way nginx runs sites.
//!
//! - [`cli`]: what can be typed. [`manifest`]: what it means.
//! - [`app`]: puts the pieces together and runs them until a signal.
//! - [`data`]: the data directory and the store in it.
//! - [`edge`]: the public address. [`control`]: the internal one.
//! - [`facts`]: what is going on, as operators see it.
//! - [`join`]: registers instances with another host. [`client`]: talks to another host's internal address.
//! - [`kv`]: the store over HTTP, and the use of another host's.
//! - [`linger`]: what becomes of bodies that nobody wants. [`patience`]: how long is waited for a client.
//! - [`look`]: whether a file is still the same. [`memory`]: the allocator.
//! - [`stop`]: the signals that end it.
//! - [`swap`]: one revision of a component after another. [`watch`]: files that lead to swaps.
//! - [`metrics`]: what Prometheus is shown. [`telemetry`]: the log. [`traces`]: what collectors of traces are sent.

mod app;
mod builtin;
mod cli;
mod client;
mod control;
mod data;
mod edge;
mod facts;
mod join;
mod kv;
mod linger;
mod look;
mod manifest;
mod memory;
mod metrics;
mod patience;
mod stop;
mod swap;
mod telemetry;
mod token;
mod traces;
mod value;
mod watch;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command, exit};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => app::run(&args),
        Command::Check(args) => cli::check(&args),
        Command::Status(args) => blocking(cli::status(&args)),
        Command::Swap(args) => blocking(cli::swap(&args)),
        Command::Rollback(args) => blocking(cli::rollback(&args)),
        Command::Revisions(args) => blocking(cli::revisions(&args)),
        Command::Join(args) => {
            let _log = telemetry::start(telemetry::LogFormat::fitting(), telemetry::LogLevel::Info);
            blocking(cli::join(args))
        }
        Command::Kv(args) => blocking(cli::kv(&args)),
        Command::Log(args) => cli::log(&args.command),
        Command::Completions(args) => cli::completions(&args),
    };
    match result {
        Ok(()) => ExitCode::from(exit::OK),
        Err(error) => {
            let code = error.downcast_ref::<cli::Exit>().map_or(exit::FAILED, |exit| exit.code);
            eprintln!("error: {error:#}");
            ExitCode::from(code)
        }
    }
}

/// Runs a client command.
fn blocking(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}
