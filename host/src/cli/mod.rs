//! What can be typed: the commands, their flags and variables, and the exit codes.
//!
//! Flags that are also manifest keys have no default here; [`crate::manifest`] merges them (flag, variable, manifest,
//! default, in this order).

mod check;
mod completions;
mod join;
mod kv;
mod log;
mod revisions;
mod rollback;
mod status;
mod swap;
mod table;
mod watch;

use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::builder::{RangedU64ValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use problem::query;
use registry::{Name, Namespace};
use store::Bucket;

use crate::client::{Client, HostUrl};
use crate::kv::{RemoteStore, User};
use crate::telemetry::{LogFormat, LogLevel};
use crate::token::Token;
use crate::value::{Listen, Wait};

pub(crate) use check::check;
pub(crate) use completions::completions;
pub(crate) use join::join;
pub(crate) use kv::kv;
pub(crate) use log::log;
pub(crate) use revisions::revisions;
pub(crate) use rollback::rollback;
pub(crate) use status::status;
pub(crate) use swap::swap;

/// Exit codes. clap exits with [`exit::USAGE`] by itself.
pub(crate) mod exit {
    /// All went well.
    pub(crate) const OK: u8 = 0;
    /// The operation failed.
    pub(crate) const FAILED: u8 = 1;
    /// Wrong usage, or a mistake in the manifest.
    pub(crate) const USAGE: u8 = 2;
    /// An address could not be bound.
    pub(crate) const BIND: u8 = 3;
    /// The store is damaged; the message names file and offset.
    pub(crate) const DAMAGED: u8 = 4;
    /// The data directory could not be written, or the store not be synced.
    pub(crate) const STORE: u8 = 5;
    /// A second signal during the drain.
    pub(crate) const INTERRUPTED: u8 = 130;
}

/// A failure with an exit code of its own.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Exit {
    /// One of [`exit`].
    pub(crate) code: u8,
    message: String,
}

impl Exit {
    /// Ends the process with this code and message.
    pub(crate) fn new(code: u8, message: impl std::fmt::Display) -> Self {
        Exit { code, message: message.to_string() }
    }
}

/// Most workers that can be asked for.
pub(crate) const MOST_WORKERS: u16 = 1024;

/// Runs WebAssembly HTTP components the way nginx runs sites.
#[derive(Debug, Parser)]
#[command(name = "host", version, propagate_version = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands. What each is for is said by its arguments, where clap takes the help from.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(RunArgs),
    Check(CheckArgs),
    Status(StatusArgs),
    Swap(SwapArgs),
    Rollback(RollbackArgs),
    Revisions(RevisionsArgs),
    Join(JoinArgs),
    Kv(KvArgs),
    Log(LogArgs),
    Completions(CompletionsArgs),
}

/// Run an assembly of components and serve it
///
/// Each setting is looked up in this order: flag, environment variable, manifest, default. Once ready, the two
/// addresses are printed to stdout; everything else goes to stderr. SIGTERM and SIGINT stop accepting, finish the
/// requests in flight, sync the store and exit with 0; a second signal exits at once with 130.
///
/// Also read from the environment: HOSTLER_API_KEYS (API keys, separated by commas; beats public.api-keys-file),
/// HOSTLER_INTERNAL_TOKEN (token of the internal address; beats internal.token-file), HOSTLER_JOIN_TOKEN (token of the
/// host to join; beats join.token-file), HOSTLER_STORE_TOKEN (token of the host whose store is used; beats
/// store.token-file).
///
/// Exit codes: 0 drained, 1 failed, 2 wrong usage or manifest, 3 an address could not be bound, 4 the store is damaged
/// (the message names file and offset), 5 the store could not be written or synced, 130 second signal.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct RunArgs {
    /// The manifest; without it the built-in assembly is run: gateway, storage-1 to storage-3, echo-1 to echo-3
    #[arg(short = 'f', long = "manifest", env = "HOSTLER_MANIFEST", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) manifest: Option<PathBuf>,

    /// Public address, IP:PORT; port 0 lets the system choose [manifest: public.listen] [default: 127.0.0.1:8080]
    #[arg(long, env = "HOSTLER_LISTEN", value_name = "ADDRESS")]
    pub(crate) listen: Option<Listen>,

    /// Internal address, IP:PORT [manifest: internal.listen] [default: 127.0.0.1:9090]
    #[arg(long, env = "HOSTLER_INTERNAL_LISTEN", value_name = "ADDRESS")]
    pub(crate) internal_listen: Option<Listen>,

    /// Where data and compiled components are kept [manifest: run.data-dir] [default: ./.hostler]
    #[arg(long, env = "HOSTLER_DATA_DIR", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) data_dir: Option<PathBuf>,

    /// Worker threads, 1 to 1024 [manifest: run.workers] [default: number of cores]
    #[arg(long, env = "HOSTLER_WORKERS", value_name = "N", value_parser = workers())]
    pub(crate) workers: Option<usize>,

    /// How log events are written to stderr [manifest: run.log-format] [default: text on a terminal, else json]
    #[arg(long, env = "HOSTLER_LOG_FORMAT", value_name = "FORMAT", value_enum)]
    pub(crate) log_format: Option<LogFormat>,

    /// The least important events to log [manifest: run.log-level] [default: info]
    #[arg(long, env = "HOSTLER_LOG_LEVEL", value_name = "LEVEL", value_enum)]
    pub(crate) log_level: Option<LogLevel>,

    /// How long requests in flight may take to finish after a signal [manifest: run.drain-timeout] [default: 30s]
    #[arg(long, env = "HOSTLER_DRAIN_TIMEOUT", value_name = "DURATION")]
    pub(crate) drain_timeout: Option<Wait>,

    /// A variable for the environment of every component; may be repeated [manifest: components.NAME.environment]
    #[arg(short = 'e', long = "env", value_name = "KEY=VALUE", value_parser = key_and_value)]
    pub(crate) environment: Vec<(String, String)>,
}

/// Say whether a component could be loaded, and if not, why and what to do
///
/// Prints the world it exports (WASI HTTP 0.2 or 0.3) and each import; for every import that isn't provided, the reason
/// and the fix. Exit code 0 only if `host run` could load the component.
#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// The component
    #[arg(value_name = "FILE.wasm", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
}

/// Show what is going on in a running host: instances, components, requests, the store, the last failures
///
/// With --watch, what is shown is kept up to date until Ctrl-C: in place on a terminal, else one after the other, with
/// -o json as one line each.
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// Show it again every second
    #[arg(short, long)]
    pub(crate) watch: bool,

    /// How to write it
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,

    #[command(flatten)]
    host: HostArgs,
}

/// Swap a component of a running host for another one, without a request that fails
///
/// The host compiles the new component, starts its guests and checks their health before the first request goes to it.
/// Requests that have begun end on the old one. If the new one fails too often afterwards, the old one comes back by
/// itself. What was swapped survives a restart, unless the manifest or the file that it names is changed later.
///
/// Exit codes: 0 every new request is served by the component, 1 it was refused (the old one serves on, the message says
/// why) or, with --watch, taken back, 2 wrong usage.
#[derive(Args, Debug)]
pub(crate) struct SwapArgs {
    #[command(flatten)]
    component: ComponentArgs,

    /// The component that takes its place
    #[arg(value_name = "FILE.wasm", value_hint = ValueHint::FilePath)]
    file: PathBuf,

    /// Run the next N requests on the new component too, for at most 60 s, and compare the answers before any client gets
    /// one from it [manifest: components.NAME.rehearse] [default: 0]
    #[arg(long, value_name = "N")]
    rehearse: Option<u32>,

    /// When to go through with it after the rehearsal: never, identical (every answer was the same), safe (nothing
    /// got worse) or always [manifest: components.NAME.promote] [default: safe]
    #[arg(long, value_name = "WHEN", value_parser = ["never", "identical", "safe", "always"], hide_possible_values = true)]
    promote: Option<String>,

    /// Wait until the new component has proved itself
    #[arg(long)]
    watch: bool,
}

/// Bring a component of a running host back to the revision before, or to another one that is kept
///
/// Exit codes: 0 every new request is served by that revision, 1 there is none or it was refused, 2 wrong usage.
#[derive(Args, Debug)]
pub(crate) struct RollbackArgs {
    #[command(flatten)]
    component: ComponentArgs,

    /// The revision's digest, or at least its first 8 digits; `host revisions` lists them
    #[arg(long, value_name = "DIGEST")]
    to: Option<String>,
}

/// List the revisions of a component of a running host, the newest first
#[derive(Args, Debug)]
pub(crate) struct RevisionsArgs {
    #[command(flatten)]
    component: ComponentArgs,

    /// How to write it
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Which component of which host.
#[derive(Args, Debug)]
struct ComponentArgs {
    /// The component's name in the manifest
    #[arg(value_parser = component_name)]
    name: String,

    #[command(flatten)]
    host: HostArgs,
}

impl ComponentArgs {
    /// Its path on the internal address.
    fn path(&self, rest: &str) -> String {
        format!("components/{}{rest}", query::encode(&self.name))
    }
}

/// How a command writes its result to stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Tables for people.
    Text,
    /// One JSON document.
    Json,
}

/// Keep a service registered that is not run by a host
///
/// Checks the service's health, registers it, sends heartbeats while it is healthy, registers again if the host forgot
/// it, keeps trying while the host is away, and deregisters on SIGTERM or SIGINT.
///
/// Exit codes: 0 deregistered, 1 the host refused the registration, 2 wrong usage.
#[derive(Args, Debug)]
pub(crate) struct JoinArgs {
    /// The instance's name, unique in its namespace
    #[arg(long)]
    pub(crate) name: Name,

    /// Where the host reaches the service: http://HOST or http://HOST:PORT
    #[arg(long)]
    pub(crate) url: registry::Address,

    /// The namespace to register in
    #[arg(long, default_value = "storage")]
    pub(crate) namespace: Namespace,

    /// Path of the service that answers 2xx while it is healthy
    #[arg(long, default_value = "/healthz", value_name = "PATH", value_parser = path)]
    pub(crate) health_path: String,

    #[command(flatten)]
    host: HostArgs,
}

/// Read and write the store of a running host
///
/// Values are any bytes; keys are text of 1 to 1024 bytes. `host kv get` prints a value as it is, without a line's end.
///
/// Exit codes: 0 done, 1 the key doesn't exist or the store refused, 2 wrong usage.
#[derive(Args, Debug)]
pub(crate) struct KvArgs {
    #[command(subcommand)]
    command: KvCommand,
}

#[derive(Debug, Subcommand)]
enum KvCommand {
    /// Print the value of a key to stdout, byte by byte
    Get {
        /// The key
        key: String,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Set a key, whatever it was
    Set {
        /// The key
        key: String,
        /// The value; without one, or with -, it is read from stdin
        value: Option<OsString>,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Remove a key
    Delete {
        /// The key
        key: String,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Print the keys in order, one a line
    ///
    /// A key may have line ends itself; JSON tells them apart. Keys that are written or deleted meanwhile may be missed.
    List {
        /// How to write them: lines, or {"keys":[…]}
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
        #[command(flatten)]
        store: StoreArgs,
    },
}

/// Which bucket of which host.
#[derive(Args, Debug)]
struct StoreArgs {
    /// The bucket; it exists while it has a key
    #[arg(short, long, default_value = "default")]
    bucket: Bucket,

    #[command(flatten)]
    host: HostArgs,
}

impl StoreArgs {
    /// That host's store. The error says what is wrong with the token.
    fn open(&self) -> anyhow::Result<RemoteStore> {
        Ok(RemoteStore::new(self.host.internal.clone(), User::Operator, self.host.token()?, store::Limits::default()))
    }
}

/// How client commands find the host.
#[derive(Args, Debug)]
struct HostArgs {
    /// The host's internal address
    #[arg(long, env = "HOSTLER_INTERNAL", default_value = "http://127.0.0.1:9090", value_name = "URL")]
    internal: HostUrl,

    /// File with the internal address's token; without it HOSTLER_INTERNAL_TOKEN is used, if set
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    token_file: Option<PathBuf>,
}

impl HostArgs {
    /// A client for that host. The error says what is wrong with the token.
    fn client(&self) -> anyhow::Result<Client> {
        Client::new(self.internal.clone(), self.token()?)
    }

    fn token(&self) -> anyhow::Result<Option<Token>> {
        match &self.token_file {
            Some(file) => {
                let token = Token::read(file);
                token.map(Some).map_err(|error| anyhow::anyhow!("--token-file {}: {error}", file.display()))
            }
            None => {
                let name = "HOSTLER_INTERNAL_TOKEN";
                let token = Token::from_variable(std::env::var(name).ok().as_deref());
                token.map_err(|error| anyhow::anyhow!("{name}: {error}"))
            }
        }
    }
}

/// Examine or compact the store in a data directory, while no host uses it
#[derive(Args, Debug)]
pub(crate) struct LogArgs {
    /// What to do with it.
    #[command(subcommand)]
    pub(crate) command: LogCommand,
}

/// What can be done with a data directory.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum LogCommand {
    /// Say whether the store is whole, and what `host run` would do if it isn't
    ///
    /// Reads everything and changes nothing.
    ///
    /// Exit codes: 0 a host can start with it, 1 it can't be read or a host uses it, 4 it is damaged: the message names
    /// file and offset.
    Verify(LogDirectory),

    /// Print the store's records, oldest first, one JSON object a line
    ///
    /// {"sequence":7,"operation":"set","bucket":"default","key":"a","value":"text"} or
    /// {"sequence":8,"operation":"delete","bucket":"default","key":"a"}. A value that isn't UTF-8 is in "value_base64"
    /// instead of "value". The changes of one batch have the same sequence. Records that were compacted are gone: each
    /// key that was there is printed once, with the sequence of the record that set it. Changes nothing.
    ///
    /// Exit codes as for verify; what is before the damage is printed.
    Dump(LogDirectory),

    /// Rewrite the store so that it takes no more room than what it holds
    ///
    /// A running host does the same by itself, when it is worth it.
    ///
    /// Exit codes as for verify, and 5 if it can't be written; it is as it was then.
    Compact(LogDirectory),
}

/// Which store.
#[derive(Args, Clone, Debug)]
pub(crate) struct LogDirectory {
    /// The data directory of a host, or the folder `store` in it
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) directory: PathBuf,
}

/// Print the completions for a shell
#[derive(Args, Debug)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

/// Writes a command's result to stdout. A reader that has seen enough (`host status | head`) is no failure.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("writing to stdout"),
        _ => Ok(()),
    }
}

fn workers() -> impl TypedValueParser<Value = usize> {
    RangedU64ValueParser::<u16>::new().range(1..=u64::from(MOST_WORKERS)).map(usize::from)
}

/// Parses `KEY=VALUE` as the environment of a component takes it.
fn key_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE".to_owned()),
    }
}

/// Whether there is such a component is for the host to say; these would be other paths.
fn component_name(text: &str) -> Result<String, String> {
    if matches!(text, "" | "." | "..") { Err("it can't be a component's name".to_owned()) } else { Ok(text.to_owned()) }
}

fn path(text: &str) -> Result<String, String> {
    let valid = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic());
    valid.then(|| text.to_owned()).ok_or_else(|| "a path begins with \"/\", like \"/healthz\"".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_commands_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_are_checked_where_they_are_typed() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        assert!(parse("host kv set k - -b sessions --internal http://gateway:9090").is_ok());
        assert!(parse("host swap storage new.wasm --rehearse 100 --promote identical --watch --token-file t").is_ok());
        assert!(parse("host rollback storage --to 0123456789").is_ok());
        assert!(parse("host run -e A=1 -e B= --workers 2 --listen 0.0.0.0:0 --drain-timeout 0s").is_ok());
        for line in [
            "host",
            "host run --workers 0",
            "host run --workers 1025",
            "host run --listen 8080",
            "host run --drain-timeout soon",
            "host run --log-level loud",
            "host run -e A",
            "host run -e =1",
            "host run extra",
            "host join --name a",
            "host join --name a --url ftp://x",
            "host join --name a b --url http://x",
            "host join --name a --url http://x --health-path healthz",
            "host status --internal 127.0.0.1:9090",
            "host status -o yaml",
            "host status --watch=5",
            "host swap storage",
            "host swap .. new.wasm",
            "host swap storage new.wasm --rehearse some",
            "host swap storage new.wasm --promote soon",
            "host rollback",
            "host rollback storage 0123456789",
            "host revisions storage -o yaml",
            "host log",
            "host log verify",
            "host log repair x",
            "host completions dos",
            "host kv",
            "host kv get",
            "host kv get k v",
            "host kv set k v w",
            "host kv list k",
            "host kv list -o yaml",
            "host kv get k --bucket a/b",
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), i32::from(exit::USAGE), "{line}: {error}");
        }
    }
}
