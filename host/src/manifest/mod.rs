//! The manifest: what the operator wants to run, complete and checked.
//!
//! [`load`] is the one place where what was typed (flags, variables, `hostler.toml`, defaults) becomes what it means.
//! It runs before anything listens; nothing downstream validates again. Parts: `file` (as written), `resolve` (as
//! meant), `source` (component files), `error` (places and messages).

mod error;
mod file;
mod resolve;
mod source;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use registry::{Address, Name, Namespace};

use crate::client::HostUrl;
use crate::telemetry::{LogFormat, LogLevel};
use crate::token::Token;
use crate::value::{HandlerName, Pattern};

pub(crate) use error::{ManifestError, Place};
pub(crate) use resolve::load;

/// What `host run` runs.
#[derive(Debug)]
pub(crate) struct Manifest {
    /// This process.
    pub(crate) run: Run,
    /// The public address.
    pub(crate) public: Public,
    /// The internal address.
    pub(crate) internal: Internal,
    /// Where values are kept.
    pub(crate) store: Store,
    /// The host to register with.
    pub(crate) join: Option<Join>,
    /// At least one, in order of name.
    pub(crate) components: Vec<Component>,
    /// What is legal but probably not meant, for the log.
    pub(crate) notes: Vec<String>,
}

/// `[run]`: this process.
#[derive(Debug)]
pub(crate) struct Run {
    /// Where data and compiled components are kept. Absolute; need not exist yet.
    pub(crate) data_dir: PathBuf,
    /// Data-plane threads, at least 1.
    pub(crate) workers: usize,
    /// How log events are written.
    pub(crate) log_format: LogFormat,
    /// The least important events that are written.
    pub(crate) log_level: LogLevel,
    /// Whether each request at the public address is logged.
    pub(crate) access_log: bool,
    /// How long requests in flight may take to finish after a signal. May be zero.
    pub(crate) drain_timeout: Duration,
}

/// `[public]`: the public address and what bounds its connections.
#[derive(Debug)]
pub(crate) struct Public {
    /// Where to listen. Port 0 lets the system choose.
    pub(crate) listen: SocketAddr,
    /// Peers whose `x-forwarded-*` are believed.
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// Most connections at a time.
    pub(crate) max_connections: usize,
    /// For a request's head to arrive.
    pub(crate) header_timeout: Duration,
    /// Most bytes of a request's head, at least 8 KiB.
    pub(crate) max_header_bytes: usize,
    /// Most header lines of a request.
    pub(crate) max_headers: usize,
    /// Longest pause within a request's body.
    pub(crate) body_idle_timeout: Duration,
    /// Most bytes of a request's body.
    pub(crate) max_body: u64,
    /// Whether `/metrics` is answered by the host.
    pub(crate) metrics: bool,
}

/// `[internal]`: the internal address.
#[derive(Debug)]
pub(crate) struct Internal {
    /// Where to listen. Port 0 lets the system choose.
    pub(crate) listen: SocketAddr,
    /// What requests must show. None only on a loopback address, or if `allow-unauthenticated` says so.
    pub(crate) token: Option<Token>,
}

/// `[store]`: where values are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    /// In a transaction log in the data directory.
    Durable {
        /// When a write is made durable.
        sync: store::SyncPolicy,
    },
    /// In memory: they are gone when the process ends.
    Memory,
    /// In the store of another host.
    Remote {
        /// Its internal address.
        url: HostUrl,
        /// Its token.
        token: Option<Token>,
    },
}

/// `[join]`: the host to register this one's instances with.
#[derive(Clone, Debug)]
pub(crate) struct Join {
    /// Its internal address.
    pub(crate) url: HostUrl,
    /// Its token.
    pub(crate) token: Option<Token>,
    /// Where it reaches this host's public address.
    pub(crate) advertise: Address,
    /// What is registered: the instances of the component on `/`, the only one that a request to `advertise` reaches
    /// with its path unchanged.
    pub(crate) instances: Vec<(Namespace, Name)>,
}

/// `[components.NAME]`: a component and where it answers.
#[derive(Clone, Debug)]
pub(crate) struct Component {
    /// Where its source is named, for errors that only loading it can find: `component.place.error("…")`.
    pub(crate) place: Place,
    /// Prefix of public paths; unique among the components. Whole segments match; ends with `/` only if it is `/`.
    pub(crate) route: Option<String>,
    /// What its public paths are called in metrics and the log; others are called as the component.
    pub(crate) handlers: Vec<(HandlerName, Pattern)>,
    /// Everything it is run with. Its instances are unique within their namespace over all components; its directories
    /// existed; whether its bytes are a component that links is for the runtime to find out.
    pub(crate) spec: runtime::ComponentSpec,
}

/// What [`load`] takes from the process besides the flags. Empty variables are as good as none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment {
    /// `HOSTLER_API_KEYS`: API keys or their SHA-256 digests, separated by commas.
    pub(crate) api_keys: Option<String>,
    /// `HOSTLER_INTERNAL_TOKEN`: the token of the internal address.
    pub(crate) internal_token: Option<String>,
    /// `HOSTLER_JOIN_TOKEN`: the token of the host to join.
    pub(crate) join_token: Option<String>,
    /// `HOSTLER_STORE_TOKEN`: the token of the host whose store is used.
    pub(crate) store_token: Option<String>,
}

impl Environment {
    /// That of this process.
    pub(crate) fn of_process() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Environment {
            api_keys: variable("HOSTLER_API_KEYS"),
            internal_token: variable("HOSTLER_INTERNAL_TOKEN"),
            join_token: variable("HOSTLER_JOIN_TOKEN"),
            store_token: variable("HOSTLER_STORE_TOKEN"),
        }
    }
}
