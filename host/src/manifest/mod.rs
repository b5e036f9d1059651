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
use runtime::Promote;

use crate::client::HostUrl;
use crate::look::Look;
use crate::telemetry::{LogFormat, LogLevel};
use crate::token::Token;

pub(crate) use error::{ManifestError, Place};
pub(crate) use resolve::load;
pub(crate) use source::Source;

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
    /// The file it is in, and what that looked like before it was read. None if it is the built-in one.
    pub(crate) file: Option<(PathBuf, Look)>,
}

/// What of a manifest counts from the start of the process to its end.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sections {
    run: Run,
    public: Public,
    internal: Internal,
    store: Store,
    join: Option<Join>,
}

impl Manifest {
    /// Those of this manifest.
    pub(crate) fn sections(&self) -> Sections {
        let Manifest { run, public, internal, store, join, .. } = self;
        Sections {
            run: run.clone(),
            public: public.clone(),
            internal: internal.clone(),
            store: store.clone(),
            join: join.clone(),
        }
    }
}

impl Sections {
    /// The names of those that are not the same.
    pub(crate) fn unlike(&self, other: &Sections) -> Vec<&'static str> {
        let same = [
            ("[run]", self.run == other.run),
            ("[public]", self.public == other.public),
            ("[internal]", self.internal == other.internal),
            ("[store]", self.store == other.store),
            ("[join]", self.join == other.join),
        ];
        same.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect()
    }
}

/// `[run]`: this process.
#[derive(Clone, Debug, PartialEq)]
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
#[derive(Clone, Debug, PartialEq)]
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
#[derive(Clone, Debug, PartialEq)]
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
#[derive(Clone, Debug, PartialEq)]
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

/// `[components.NAME]`: a component.
#[derive(Clone, Debug)]
pub(crate) struct Component {
    /// Where its source is named, for errors that only loading it can find: `component.place.error("…")`.
    pub(crate) place: Place,
    /// Everything it is run with. Its route is unique among the components, its instances within their namespace; its
    /// directories existed.
    pub(crate) spec: runtime::ComponentSpec,
    /// Where its bytes came from.
    pub(crate) source: Source,
    /// Its bytes. Whether they are a component that links is for the runtime to find out.
    pub(crate) code: runtime::Code,
    /// How it is swapped.
    pub(crate) swap: SwapPolicy,
}

/// How a component is swapped.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SwapPolicy {
    /// Whether its file is watched.
    pub(crate) watch: bool,
    /// How long a new revision is watched, and the old one kept warm. Zero: not at all.
    pub(crate) watch_for: Duration,
    /// The share of failed requests above which a new revision is rolled back, if it is also worse than the old one.
    pub(crate) rollback_threshold: f64,
    /// How long requests may stay on a revision that was replaced.
    pub(crate) drain_timeout: Duration,
    /// How many requests are rehearsed before a revision is published.
    pub(crate) rehearse: u32,
    /// What a rehearsal must show.
    pub(crate) promote: Promote,
}

/// Files are watched; 10 s, 5 %, 30 s; no rehearsal.
impl Default for SwapPolicy {
    fn default() -> Self {
        SwapPolicy {
            watch: true,
            watch_for: Duration::from_secs(10),
            rollback_threshold: 0.05,
            drain_timeout: Duration::from_secs(30),
            rehearse: 0,
            promote: Promote::default(),
        }
    }
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
