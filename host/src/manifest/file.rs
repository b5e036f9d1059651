//! The manifest as it is written: keys, types and spans. What needs only the value itself is checked here, by its type;
//! what needs other values, files or defaults is in `resolve`.
//!
//! Lives from parsing until `resolve` has made a [`super::Manifest`] of it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use registry::{Address, Namespace};
use runtime::PathPattern;
use runtime::Promote;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use toml::Spanned;

use crate::client::HostUrl;
use crate::telemetry::{LogFormat, LogLevel};
use crate::value::{Amount, Count, Listen, Network, Period, Route, Share, Size, Socket, Sync, Wait};

/// A whole manifest.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table", default)]
pub(super) struct File {
    pub(super) run: Run,
    pub(super) public: Public,
    pub(super) internal: Internal,
    pub(super) store: Store,
    pub(super) join: Option<Spanned<Join>>,
    pub(super) components: Option<Spanned<BTreeMap<Spanned<String>, Component>>>,
}

/// `[run]`
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table", default)]
pub(super) struct Run {
    pub(super) data_dir: Option<PathBuf>,
    pub(super) workers: Option<Spanned<Count>>,
    pub(super) log_format: Option<LogFormat>,
    pub(super) log_level: Option<LogLevel>,
    pub(super) access_log: Option<bool>,
    pub(super) drain_timeout: Option<Wait>,
}

/// `[public]`
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table", default)]
pub(super) struct Public {
    pub(super) listen: Option<Spanned<Listen>>,
    pub(super) trusted_proxies: Vec<Network>,
    pub(super) api_keys_file: Option<Spanned<PathBuf>>,
    pub(super) max_connections: Option<Count>,
    pub(super) header_timeout: Option<Period>,
    pub(super) max_header_bytes: Option<Spanned<Size>>,
    pub(super) max_headers: Option<Count>,
    pub(super) body_idle_timeout: Option<Period>,
    pub(super) max_body: Option<Size>,
    pub(super) metrics: Option<bool>,
}

/// `[internal]`
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table", default)]
pub(super) struct Internal {
    pub(super) listen: Option<Spanned<Listen>>,
    pub(super) token_file: Option<Spanned<PathBuf>>,
    pub(super) allow_unauthenticated: bool,
}

/// `[store]`
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table", default)]
pub(super) struct Store {
    pub(super) backend: Option<Spanned<String>>,
    pub(super) sync: Option<Spanned<Sync>>,
    pub(super) token_file: Option<Spanned<PathBuf>>,
}

/// `[join]`
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub(super) struct Join {
    pub(super) url: Parsed<HostUrl>,
    pub(super) advertise: Parsed<Address>,
    #[serde(default)]
    pub(super) token_file: Option<Spanned<PathBuf>>,
}

/// `[components.NAME]`
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub(super) struct Component {
    pub(super) source: Spanned<String>,
    pub(super) route: Option<Spanned<Route>>,
    pub(super) handlers: Option<Spanned<BTreeMap<Spanned<String>, Parsed<PathPattern>>>>,
    pub(super) namespace: Option<Parsed<Namespace>>,
    pub(super) instances: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) environment: Option<Spanned<Unprinted>>,
    pub(super) config: Option<Spanned<Unprinted>>,
    pub(super) allowed_outbound_hosts: Option<Spanned<Vec<String>>>,
    pub(super) key_value_buckets: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    pub(super) directories: BTreeMap<Spanned<String>, Spanned<Directory>>,
    #[serde(default)]
    pub(super) sockets: Vec<Socket>,
    pub(super) max_instance_reuse_count: Option<Count>,
    pub(super) max_instance_concurrent_reuse_count: Option<Count>,
    pub(super) max_guests: Option<Count>,
    pub(super) queue: Option<Amount>,
    pub(super) queue_timeout: Option<Wait>,
    pub(super) idle_instance_timeout: Option<Period>,
    pub(super) request_timeout: Option<Period>,
    pub(super) memory_limit: Option<Spanned<Size>>,
    pub(super) table_elements: Option<Spanned<Count>>,
    pub(super) resources: Option<Count>,
    #[serde(default)]
    pub(super) health_check: HealthCheck,
    pub(super) watch: Option<bool>,
    pub(super) watch_for: Option<Wait>,
    pub(super) rollback_threshold: Option<Share>,
    pub(super) drain_timeout: Option<Wait>,
    pub(super) rehearse: Option<Amount>,
    pub(super) promote: Option<Parsed<Promote>>,
}

/// `health-check`
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table", default)]
pub(super) struct HealthCheck {
    pub(super) path: Option<Spanned<String>>,
    pub(super) interval: Option<Period>,
    pub(super) timeout: Option<Period>,
    pub(super) unhealthy_after: Option<Count>,
    pub(super) healthy_after: Option<Count>,
}

/// What may hold secrets. Takes whatever there is, as the parser's errors would print what they found; whether it is what it
/// should be is for `resolve` to say.
pub(super) enum Unprinted {
    Text(String),
    Table(BTreeMap<Spanned<String>, Spanned<Unprinted>>),
    Other,
}

impl<'de> Deserialize<'de> for Unprinted {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Anything;
        impl<'de> Visitor<'de> for Anything {
            type Value = Unprinted;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a table of strings")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Unprinted, E> {
                Ok(Unprinted::Text(text.to_owned()))
            }

            fn visit_bool<E: Error>(self, _: bool) -> Result<Unprinted, E> {
                Ok(Unprinted::Other)
            }

            fn visit_i64<E: Error>(self, _: i64) -> Result<Unprinted, E> {
                Ok(Unprinted::Other)
            }

            fn visit_u64<E: Error>(self, _: u64) -> Result<Unprinted, E> {
                Ok(Unprinted::Other)
            }

            fn visit_i128<E: Error>(self, _: i128) -> Result<Unprinted, E> {
                Ok(Unprinted::Other)
            }

            fn visit_u128<E: Error>(self, _: u128) -> Result<Unprinted, E> {
                Ok(Unprinted::Other)
            }

            fn visit_f64<E: Error>(self, _: f64) -> Result<Unprinted, E> {
                Ok(Unprinted::Other)
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut items: S) -> Result<Unprinted, S::Error> {
                while items.next_element::<Unprinted>()?.is_some() {}
                Ok(Unprinted::Other)
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Unprinted, M::Error> {
                BTreeMap::deserialize(MapAccessDeserializer::new(map)).map(Unprinted::Table)
            }
        }
        from.deserialize_any(Anything)
    }
}

/// A directory for a guest: `"./data"`, read only, or `{ path = "./data", writable = true }`.
pub(super) struct Directory {
    pub(super) path: PathBuf,
    pub(super) writable: bool,
}

impl<'de> Deserialize<'de> for Directory {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
        struct Table {
            path: PathBuf,
            #[serde(default)]
            writable: bool,
        }

        struct PathOrTable;
        impl<'de> Visitor<'de> for PathOrTable {
            type Value = Directory;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a path like \"./data\" or { path = \"./data\", writable = true }")
            }

            fn visit_str<E: Error>(self, path: &str) -> Result<Directory, E> {
                Ok(Directory { path: path.into(), writable: false })
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Directory, M::Error> {
                let Table { path, writable } = Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Directory { path, writable })
            }
        }
        from.deserialize_any(PathOrTable)
    }
}

/// A string that another crate's type parses.
pub(super) struct Parsed<T>(pub(super) T);

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Parsed<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map(Parsed).map_err(|error| D::Error::custom(format!("\"{}\": {error}", text.escape_debug())))
    }
}
