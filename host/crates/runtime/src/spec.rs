//! What a component is to be run with: the part of the manifest that the runtime acts on, checked and complete.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use registry::{Name, Namespace};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::Digest as _;

use crate::OutboundPolicy;
use crate::gently::gently;
use crate::router::PathPattern;

/// A component's configuration: everything but its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentSpec {
    /// Its name in the manifest.
    pub name: String,
    /// The prefix of public paths that it answers; whole segments match.
    pub route: Option<String>,
    /// What its public paths are called in metrics and the log; others are called as the component.
    pub handlers: Vec<(String, PathPattern)>,
    /// The namespace that its instances serve.
    pub namespace: Namespace,
    /// The instances to serve in process, at least one.
    pub instances: Vec<Name>,
    /// The guests' environment. `{instance}` in a value becomes the instance's name.
    pub environment: Vec<(String, String)>,
    /// What `wasi:config/store` answers.
    pub config: Vec<(String, String)>,
    /// Where its guests may send requests, apart from the namespaces of this host.
    pub outbound: OutboundPolicy,
    /// The buckets of the store that its guests may open.
    pub buckets: Buckets,
    /// The directories its guests see.
    pub directories: Vec<Directory>,
    /// The addresses its guests may open sockets to. None: no sockets.
    pub sockets: Vec<SocketRule>,
    /// What bounds its guests.
    pub limits: Limits,
    /// How its instances' health is checked.
    pub health: HealthCheck,
}

/// The bytes of a component, with what they are named by. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Code {
    bytes: Bytes,
    digest: Digest,
}

/// The SHA-256 of a component's bytes: what its revisions are named by. Displays as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Code {
    /// Computes the digest, [`gently`]: some milliseconds per megabyte.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let mut hash = sha2::Sha256::new();
        let Ok(()) = gently(&bytes, |piece| {
            hash.update(piece);
            Ok::<_, Infallible>(())
        });
        Self { digest: Digest(hash.finalize().into()), bytes }
    }

    /// The `.wasm` file.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// What it is named by.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

/// Without the bytes.
impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Code({}, {} bytes)", self.digest, self.bytes.len())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 64 hexadecimal digits")]
pub struct NotADigest;

impl FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let digits = text.as_bytes();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(NotADigest);
        }
        let mut digest = [0; 32];
        for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| NotADigest)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| NotADigest)?;
        }
        Ok(Self(digest))
    }
}

/// As its digits.
impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Which buckets of the store a component may open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Buckets {
    /// Any.
    All,
    /// These.
    Only(Vec<store::Bucket>),
}

/// The default bucket.
impl Default for Buckets {
    fn default() -> Self {
        Self::Only(vec![store::Bucket::default()])
    }
}

impl Buckets {
    pub(crate) fn allows(&self, bucket: &store::Bucket) -> bool {
        match self {
            Self::All => true,
            Self::Only(buckets) => buckets.contains(bucket),
        }
    }

    /// The manifest line that would allow this bucket too.
    pub(crate) fn line_allowing(&self, bucket: &store::Bucket) -> String {
        let allowed: &[_] = match self {
            Self::All => &[],
            Self::Only(buckets) => buckets,
        };
        let names: Vec<String> = allowed.iter().chain([bucket]).map(|bucket| format!("\"{bucket}\"")).collect();
        format!("key-value-buckets = [{}]", names.join(", "))
    }
}

/// A directory of the machine that guests see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// Where it is on this machine.
    pub host: PathBuf,
    /// Where guests see it.
    pub guest: String,
    /// Whether they may change it.
    pub writable: bool,
}

/// An address that guests may connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketRule {
    /// The address; port 0 stands for every port.
    pub address: SocketAddr,
}

impl SocketRule {
    pub(crate) fn allows(&self, address: SocketAddr) -> bool {
        self.address.ip() == address.ip() && (self.address.port() == 0 || self.address.port() == address.port())
    }
}

/// What bounds a component's guests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Guests alive at once per instance and worker.
    pub max_guests: usize,
    /// Requests of the component waiting for a guest.
    pub queue: usize,
    /// How long a request waits for a guest before it is shed.
    pub queue_timeout: Duration,
    /// Requests a guest serves in its life.
    pub max_instance_reuse_count: u64,
    /// Requests a 0.3 guest serves at once. A 0.2 guest serves one at a time.
    pub max_instance_concurrent_reuse_count: usize,
    /// How long a guest without requests is kept.
    pub idle_instance_timeout: Duration,
    /// How long a request may take until its answer begins.
    pub request_timeout: Duration,
    /// Bytes of linear memory a guest may have, all its memories together.
    pub memory: usize,
    /// Elements each of a guest's tables may have; at most 100,000.
    pub table_elements: usize,
    /// Resources (requests, bodies, streams, sockets…) a guest may hold.
    pub resources: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_guests: 64,
            queue: 1024,
            queue_timeout: Duration::from_secs(1),
            max_instance_reuse_count: 100_000,
            max_instance_concurrent_reuse_count: 16,
            idle_instance_timeout: Duration::from_secs(60),
            request_timeout: Duration::from_secs(30),
            memory: 128 << 20,
            table_elements: crate::engine::MAX_TABLE_ELEMENTS,
            resources: 10_000,
        }
    }
}

/// How the health of a component's instances is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The path to `GET`; only an answer of 2xx passes. `None`: `/healthz`, and anything below 500 passes, because
    /// the component never promised to know that path.
    pub path: Option<String>,
    /// From one check to the next.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Failures in a row that make an instance unavailable.
    pub unhealthy_after: u32,
    /// Passes in a row that make it available again.
    pub healthy_after: u32,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            path: None,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            unhealthy_after: 3,
            healthy_after: 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_as_it_is_written() {
        let digest = Code::new("abc").digest();
        assert_eq!(digest.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        for wrong in ["", "ba", &"g".repeat(64), &"+1".repeat(32), &"ab".repeat(33)] {
            assert_eq!(wrong.parse::<Digest>(), Err(NotADigest), "{wrong:?}");
        }
    }
}
