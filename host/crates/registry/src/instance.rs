//! What an instance is called and where it is: validated values, cheap to clone.
//!
//! They are checked once, where they enter (a manifest, a registration); nothing downstream checks them again. Bounds: a
//! namespace is at most 63 characters, an instance's name 128, an address 300.

use std::borrow::Borrow;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

/// A text is not a valid [`Namespace`] or [`Name`]. The message states the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidName {
    /// Not a namespace.
    #[error(
        "a namespace has 1 to 63 characters out of A-Z, a-z, 0-9, `_` and `-`, and neither starts nor ends with `-`"
    )]
    Namespace,
    /// Not an instance's name.
    #[error(
        "an instance's name has 1 to 128 characters out of A-Z, a-z, 0-9, `.`, `_` and `-`, and neither starts nor ends \
         with `.` or `-`"
    )]
    Instance,
}

/// Both kinds of name become parts of host names (`storage-1.storage.internal`), hence the alphabet.
fn is_host_label(text: &str, longest: usize, dots: bool) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| !matches!(byte, b'-' | b'.'));
    let bytes = text.as_bytes();
    bytes.len() <= longest
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') || (dots && *byte == b'.'))
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $error:expr, $longest:expr, $dots:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// The name as it was given; case is significant.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                if is_host_label(text, $longest, $dots) { Ok(Self(text.into())) } else { Err($error) }
            }
        }

        impl TryFrom<&str> for $type {
            type Error = InvalidName;

            fn try_from(text: &str) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

name_type! {
    /// A set of instances that serve the same requests, for example `storage`.
    ///
    /// 1 to 63 characters out of `A-Z a-z 0-9 _ -`, neither starting nor ending with `-`.
    Namespace, InvalidName::Namespace, 63, false
}

name_type! {
    /// One instance's name, unique within its namespace, for example `storage-1`.
    ///
    /// 1 to 128 characters out of `A-Z a-z 0-9 . _ -`, neither starting nor ending with `.` or `-`.
    Name, InvalidName::Instance, 128, true
}

/// Where a remote instance listens: an `http://` URL without path, query or user.
///
/// Kept in normal form (host in lower case, no port 80, IPv6 in brackets), so that two spellings of one address are
/// equal.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Address {
    authority: Arc<str>,
    /// The length of the host in `authority`, brackets included.
    host: usize,
    port: u16,
}

/// Why a text is not an [`Address`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidAddress {
    /// Longer than 300 characters.
    #[error("an address has at most 300 characters")]
    TooLong,
    /// Another scheme, or none.
    #[error("an address starts with `http://`, like `http://10.0.0.7:8080`; no other scheme is supported")]
    Scheme,
    /// It has a user or a password.
    #[error("an address has no user or password: remove what is before the `@`")]
    Userinfo,
    /// It has more than a host and a port.
    #[error("an address ends after host and port: remove the path, query or fragment")]
    Path,
    /// The host is no host name and no IP address.
    #[error("an address names a host: a host name, an IPv4 address, or an IPv6 address in brackets")]
    Host,
    /// The port is no number from 1 to 65535.
    #[error("an address's port is a number from 1 to 65535")]
    Port,
}

impl Address {
    const LONGEST: usize = 300;
    const SCHEME: &str = "http://";

    /// `host:port`, or only `host` if the port is 80: what goes into a `Host` header.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The host alone; an IPv6 address is in brackets.
    pub fn host(&self) -> &str {
        &self.authority[..self.host]
    }

    /// The port, 80 if the URL had none.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        if text.len() > Self::LONGEST {
            return Err(InvalidAddress::TooLong);
        }
        let rest = match text.split_at_checked(Self::SCHEME.len()) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case(Self::SCHEME) => rest,
            _ => return Err(InvalidAddress::Scheme),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '\\']) {
            return Err(InvalidAddress::Path);
        }
        if rest.contains('@') {
            return Err(InvalidAddress::Userinfo);
        }

        let host_end = if rest.starts_with('[') {
            rest.find(']').map(|bracket| bracket + 1).ok_or(InvalidAddress::Host)?
        } else {
            rest.find(':').unwrap_or(rest.len())
        };
        let (host, port) = rest.split_at(host_end);
        let host = parse_host(host)?;
        let port = match port.strip_prefix(':') {
            Some(port) => parse_port(port)?,
            None if port.is_empty() => 80,
            None => return Err(InvalidAddress::Host),
        };
        let authority = if port == 80 { host.clone() } else { format!("{host}:{port}") };
        Ok(Self { authority: authority.into(), host: host.len(), port })
    }
}

fn parse_host(host: &str) -> Result<String, InvalidAddress> {
    if let Some(inner) = host.strip_prefix('[') {
        let inner = inner.strip_suffix(']').ok_or(InvalidAddress::Host)?;
        let ip: Ipv6Addr = inner.parse().map_err(|_| InvalidAddress::Host)?;
        return Ok(format!("[{ip}]"));
    }
    // A last label of digits means an IPv4 address (WHATWG URL): `256.1.1.1` is a mistake, no host name.
    let last = host.rsplit('.').next().unwrap_or_default();
    if !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()) {
        let ip: Ipv4Addr = host.parse().map_err(|_| InvalidAddress::Host)?;
        return Ok(ip.to_string());
    }
    if host.len() <= 253 && host.split('.').all(|label| is_host_label(label, 63, false)) {
        Ok(host.to_ascii_lowercase())
    } else {
        Err(InvalidAddress::Host)
    }
}

fn parse_port(port: &str) -> Result<u16, InvalidAddress> {
    // `u16::from_str` alone would accept `+80`.
    if port.bytes().all(|byte| byte.is_ascii_digit()) {
        port.parse().ok().filter(|port| *port != 0).ok_or(InvalidAddress::Port)
    } else {
        Err(InvalidAddress::Port)
    }
}

impl TryFrom<&str> for Address {
    type Error = InvalidAddress;

    fn try_from(text: &str) -> Result<Self, InvalidAddress> {
        text.parse()
    }
}

/// The URL, for example `http://10.0.0.7:8080`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Self::SCHEME, self.authority)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Where an instance serves its requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// In this process, by a revision's pool: no socket is involved.
    InProcess,
    /// Behind an address that registered itself.
    Remote(Address),
}

/// `in-process`, or the URL: the `address` of `GET /status`.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InProcess => f.write_str("in-process"),
            Self::Remote(address) => address.fmt(f),
        }
    }
}

/// One instance as `GET /status` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceInfo {
    /// The namespace it serves.
    pub namespace: Namespace,
    /// Its name.
    pub name: Name,
    /// Whether it is picked for requests.
    pub available: bool,
    /// Where it is.
    pub location: Location,
    /// How long ago it gave a sign of life: a registration, a heartbeat, or a health check that passed.
    pub last_seen: Duration,
    /// Whether it may be picked at all.
    pub rotation: Rotation,
    /// Health checks that failed, requests that did not reach it and leases that it missed since it came, or was replaced.
    pub failures: u64,
}

/// Whether an instance takes its turn when it is healthy. An operator says so, and nothing else changes it: neither
/// checks and heartbeats nor that another revision or address takes its place. Forgotten when the instance is removed,
/// and when the process ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rotation {
    /// It does.
    #[default]
    In,
    /// It doesn't, however healthy it is. Requests that it has already are finished.
    Out,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule() {
        for good in ["a", "storage-1", "A_b", "_", "0", &"x".repeat(63)] {
            assert_eq!(good.parse::<Namespace>().map(|name| name.to_string()), Ok(good.to_owned()));
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "a b", "a/b", "ä", "a\0", "a\n", &"x".repeat(64)] {
            assert_eq!(bad.parse::<Namespace>(), Err(InvalidName::Namespace), "{bad:?}");
        }
        assert!("10.0.0.7-8080".parse::<Name>().is_ok());
        assert!("x".repeat(128).parse::<Name>().is_ok());
        for bad in ["", ".a", "a.", "-a", "a-", "a:b", &"x".repeat(129)] {
            assert_eq!(bad.parse::<Name>(), Err(InvalidName::Instance), "{bad:?}");
        }
        assert_eq!("a.b".parse::<Namespace>(), Err(InvalidName::Namespace));
        assert_ne!("A".parse::<Name>(), "a".parse::<Name>());
    }

    #[test]
    fn addresses_are_brought_to_normal_form() {
        for (text, authority, host, port) in [
            ("http://10.0.0.7:8080", "10.0.0.7:8080", "10.0.0.7", 8080),
            ("http://storage-1:8080/", "storage-1:8080", "storage-1", 8080),
            ("HTTP://My_Host.Example", "my_host.example", "my_host.example", 80),
            ("http://a:80", "a", "a", 80),
            ("http://a:00080", "a", "a", 80),
            ("http://[0:0::1]:65535", "[::1]:65535", "[::1]", 65535),
            ("http://[::1]", "[::1]", "[::1]", 80),
        ] {
            let address: Address = text.parse().expect(text);
            assert_eq!((address.authority(), address.host(), address.port()), (authority, host, port));
            assert_eq!(address.to_string(), format!("http://{authority}"));
            assert_eq!(address.to_string().parse(), Ok(address));
        }
    }

    #[test]
    fn a_bad_address_says_what_is_wrong() {
        let long = format!("http://{}", "a".repeat(300));
        for (text, error) in [
            ("", InvalidAddress::Scheme),
            ("10.0.0.7:8080", InvalidAddress::Scheme),
            ("https://a", InvalidAddress::Scheme),
            ("http:/ä", InvalidAddress::Scheme),
            ("http://", InvalidAddress::Host),
            ("http:///", InvalidAddress::Host),
            ("http://:80", InvalidAddress::Host),
            ("http://a b", InvalidAddress::Host),
            ("http://a\r\nx: y", InvalidAddress::Host),
            ("http://-a", InvalidAddress::Host),
            ("http://a..b", InvalidAddress::Host),
            ("http://ä", InvalidAddress::Host),
            ("http://256.1.1.1", InvalidAddress::Host),
            ("http://1", InvalidAddress::Host),
            ("http://[::1", InvalidAddress::Host),
            ("http://[::g]", InvalidAddress::Host),
            ("http://[::1]8080", InvalidAddress::Host),
            ("http://::1", InvalidAddress::Host),
            ("http://a:", InvalidAddress::Port),
            ("http://a:0", InvalidAddress::Port),
            ("http://a:65536", InvalidAddress::Port),
            ("http://a:+80", InvalidAddress::Port),
            ("http://a:80:80", InvalidAddress::Port),
            ("http://user@a", InvalidAddress::Userinfo),
            ("http://a/path", InvalidAddress::Path),
            ("http://a//", InvalidAddress::Path),
            ("http://a?q", InvalidAddress::Path),
            ("http://a#f", InvalidAddress::Path),
            (&long, InvalidAddress::TooLong),
        ] {
            assert_eq!(text.parse::<Address>(), Err(error), "{text:?}");
        }
    }
}
