//! What people write in a manifest or behind a flag, as values: durations, sizes, addresses, routes, networks,
//! times to sync. And [`milliseconds`], as which documents tell durations.
//!
//! Each type checks its own text, so that a manifest's parser can point at the line and clap at the flag, and nothing
//! downstream has to look again. Errors are sentences that say what to write instead.

use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// No wait is longer; keeps `Instant + Duration` from overflowing.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// A duration as a number in a document.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A duration that may be zero, written `100ms`, `30s`, `5m` or `2h`. At most 365 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wait(pub(crate) Duration);

/// A [`Wait`] of at least a millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Period(pub(crate) Duration);

/// A number of bytes, written `10MiB`, `64KiB`, `2GiB` or as a plain number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

/// A count of at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Count(pub(crate) u32);

/// A count that may be zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Amount(pub(crate) u32);

/// An address to listen on: `IP:port` or `localhost:port`. Port 0 lets the system choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listen(pub(crate) SocketAddr);

/// A prefix of request paths. It starts with `/`, matches whole segments, and (but for `/` itself) ends without one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Route(pub(crate) String);

/// One address or a network in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network(pub(crate) IpNet);

/// An address that a guest may open sockets to, `IP:port`; `*` for any port, which becomes port 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Socket(pub(crate) SocketAddr);

/// A share of at most all, written `5%` or `0.5%`, as a fraction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Share(pub(crate) f64);

/// When a write is made durable: `always` before its reply, `never` by the store itself, or an interval like `100ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sync(pub(crate) store::SyncPolicy);

impl FromStr for Wait {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is not a duration: write a whole number and ms, s, m or h, like \"30s\"");
        let (number, unit) = number_and_unit(text).ok_or_else(wrong)?;
        let milliseconds = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(wrong()),
        };
        let wait = Duration::from_millis(number.saturating_mul(milliseconds));
        if wait > LONGEST {
            return Err(format!("\"{text}\" is too long: at most 365 days"));
        }
        Ok(Wait(wait))
    }
}

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Wait(wait) = text.parse()?;
        if wait.is_zero() {
            return Err(format!("\"{text}\" is too short: at least \"1ms\""));
        }
        Ok(Period(wait))
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is not a size: write a whole number and B, KiB, MiB or GiB, like \"10MiB\"");
        let (number, unit) = number_and_unit(text).ok_or_else(wrong)?;
        let bytes: u64 = match unit {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(wrong()),
        };
        number
            .checked_mul(bytes)
            .filter(|size| *size <= 1 << 50)
            .map(Size)
            .ok_or_else(|| format!("\"{text}\" is too large: at most 1048576GiB"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            size if size == 0 || size % (1 << 10) != 0 => write!(out, "{size}B"),
            size if size % (1 << 20) != 0 => write!(out, "{}KiB", size >> 10),
            size if size % (1 << 30) != 0 => write!(out, "{}MiB", size >> 20),
            size => write!(out, "{}GiB", size >> 30),
        }
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let percent = text.strip_suffix('%').and_then(|number| number.trim_end().parse::<f64>().ok());
        percent
            .filter(|percent| (0.0..=100.0).contains(percent))
            .map(|percent| Share(percent / 100.0))
            .ok_or_else(|| format!("\"{text}\" is not a share: write a number from 0 to 100 and %, like \"5%\""))
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let local = || {
            let port = text.strip_prefix("localhost:")?.parse().ok()?;
            Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        };
        text.parse().ok().or_else(local).map(Listen).ok_or_else(|| {
            format!(
                "\"{text}\" is not an address to listen on: write an IP address and a port, like \"127.0.0.1:8080\""
            )
        })
    }
}

impl FromStr for Route {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.starts_with('/') {
            return Err(format!("\"{text}\" is not a route: it must begin with \"/\", like \"/{text}\""));
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@%".contains(&byte);
        if let Some(byte) = text.bytes().find(|byte| !allowed(*byte)) {
            let shown = char::from(byte).escape_default();
            return Err(format!("\"{}\" is not a route: \"{shown}\" can't occur in a path", text.escape_default()));
        }
        let trimmed = text.strip_suffix('/').unwrap_or(text);
        let odd = |segment: &str| matches!(segment, "" | "." | "..");
        if trimmed.split('/').skip(1).any(odd) {
            return Err(format!("\"{text}\" is not a route: no segment may be empty, \".\" or \"..\""));
        }
        Ok(Route(if trimmed.is_empty() { "/" } else { trimmed }.to_owned()))
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = text.parse::<IpAddr>().map(IpNet::from).ok();
        address.or_else(|| text.parse().ok()).map(Network).ok_or_else(|| {
            format!("\"{text}\" is not an address or network: write it like \"10.0.0.7\" or \"10.0.0.0/8\"")
        })
    }
}

impl FromStr for Socket {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let exact = || text.parse().ok().filter(|address: &SocketAddr| address.port() != 0);
        let any_port = || format!("{}:0", text.strip_suffix(":*")?).parse().ok();
        exact().or_else(any_port).map(Socket).ok_or_else(|| {
            format!(
                "\"{text}\" is not a socket rule: write an IP address and a port or \"*\", \
                 like \"10.0.0.7:5432\", \"10.0.0.7:*\" or \"[::1]:5432\""
            )
        })
    }
}

impl FromStr for Sync {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "always" => Ok(Sync(store::SyncPolicy::Always)),
            "never" => Ok(Sync(store::SyncPolicy::Never)),
            _ if text.starts_with(|letter: char| letter.is_ascii_digit()) => {
                text.parse().map(|Period(interval)| Sync(store::SyncPolicy::Every(interval)))
            }
            _ => {
                Err(format!("\"{text}\" is no time to sync: write \"always\", \"never\" or an interval like \"100ms\""))
            }
        }
    }
}

/// Splits `30s` into 30 and `s`. None without a number, or if it is too large for any use.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim_start_matches(' ')))
}

/// Deserializes a string through [`FromStr`], and says what it wants when it gets something else.
macro_rules! deserialize_text {
    ($($value:ty: $expected:literal),* $(,)?) => {$(
        impl<'de> Deserialize<'de> for $value {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                from.deserialize_str(Text { expected: $expected, value: PhantomData })
            }
        }
    )*};
}

deserialize_text! {
    Wait: "a duration like \"30s\"",
    Period: "a duration like \"30s\"",
    Listen: "an address like \"127.0.0.1:8080\"",
    Route: "a path like \"/\"",
    Network: "an address or network like \"10.0.0.0/8\"",
    Share: "a share like \"5%\"",
    Socket: "a socket rule like \"10.0.0.7:5432\"",
    Sync: "\"always\", \"never\" or an interval like \"100ms\"",
}

struct Text<T> {
    expected: &'static str,
    value: PhantomData<T>,
}

impl<T: FromStr<Err = String>> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Sizes;
        impl Visitor<'_> for Sizes {
            type Value = Size;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a size like \"10MiB\" or a number of bytes")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_i64<E: Error>(self, bytes: i64) -> Result<Size, E> {
                bytes.to_string().parse().map_err(E::custom)
            }

            fn visit_u64<E: Error>(self, bytes: u64) -> Result<Size, E> {
                bytes.to_string().parse().map_err(E::custom)
            }
        }
        from.deserialize_any(Sizes)
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        whole_number(from, 1).map(Count)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        whole_number(from, 0).map(Amount)
    }
}

fn whole_number<'de, D: Deserializer<'de>>(from: D, least: u32) -> Result<u32, D::Error> {
    struct Number;
    impl Visitor<'_> for Number {
        type Value = i64;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("a whole number")
        }

        fn visit_i64<E: Error>(self, number: i64) -> Result<i64, E> {
            Ok(number)
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<i64, E> {
            // What doesn't fit is out of range anyway.
            Ok(i64::try_from(number).unwrap_or(i64::MAX))
        }
    }
    let number = from.deserialize_i64(Number)?;
    match u32::try_from(number) {
        Ok(fitting) if fitting >= least => Ok(fitting),
        _ => Err(D::Error::custom(format!("{number} is out of range: at least {least}, at most {}", u32::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, milliseconds) in [("100ms", 100), ("30s", 30_000), ("5m", 300_000), ("2h", 7_200_000), ("0s", 0)] {
            assert_eq!(text.parse(), Ok(Wait(Duration::from_millis(milliseconds))), "{text}");
        }
        for text in ["", "30", "s", "-1s", "1.5s", "1d", "30sek", "99999999999999999999s", "9000h"] {
            assert!(text.parse::<Wait>().is_err(), "{text}");
        }
        assert!("0ms".parse::<Period>().is_err());
    }

    #[test]
    fn times_to_sync() {
        let every = |milliseconds| store::SyncPolicy::Every(Duration::from_millis(milliseconds));
        for (text, sync) in [
            ("always", store::SyncPolicy::Always),
            ("never", store::SyncPolicy::Never),
            ("100ms", every(100)),
            ("1s", every(1000)),
        ] {
            assert_eq!(text.parse(), Ok(Sync(sync)), "{text}");
        }
        for text in ["", "Always", "sometimes", "0ms", "100", "-1s"] {
            assert!(text.parse::<Sync>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("0", 0), ("17", 17), ("1B", 1), ("64KiB", 65_536), ("10 MiB", 10 << 20), ("2GiB", 2 << 30)]
        {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "MiB", "10MB", "10mib", "-1", "1.5MiB", "18446744073709551615GiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        for text in ["0B", "1023B", "64KiB", "10MiB", "4GiB"] {
            assert_eq!(text.parse::<Size>().map(|size| size.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn shares() {
        for (text, share) in [("0%", 0.0), ("5%", 0.05), ("0.5 %", 0.005), ("100%", 1.0)] {
            assert_eq!(text.parse(), Ok(Share(share)), "{text}");
        }
        for text in ["", "%", "5", "-1%", "101%", "NaN%", "inf%", "5 percent"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_to_listen_on() {
        for (text, parsed) in [("0.0.0.0:80", "0.0.0.0:80"), ("[::1]:0", "[::1]:0"), ("localhost:1", "127.0.0.1:1")] {
            assert_eq!(text.parse(), Ok(Listen(parsed.parse().expect("an address"))), "{text}");
        }
        for text in ["", "8080", ":8080", "127.0.0.1", "127.0.0.1:65536", "example.org:80", "localhost:"] {
            assert!(text.parse::<Listen>().is_err(), "{text}");
        }
    }

    #[test]
    fn routes() {
        for (text, route) in [("/", "/"), ("/api", "/api"), ("/api/", "/api"), ("/a/b.c~d", "/a/b.c~d")] {
            assert_eq!(text.parse(), Ok(Route(route.to_owned())), "{text}");
        }
        for text in ["", "api", "//", "/a//b", "/a/../b", "/.", "/a?b", "/a#b", "/a b", "/ä", "/\n"] {
            assert!(text.parse::<Route>().is_err(), "{text}");
        }
    }

    #[test]
    fn networks_and_socket_rules() {
        for text in ["10.0.0.7", "10.0.0.0/8", "::1", "fe80::/10"] {
            assert!(text.parse::<Network>().is_ok(), "{text}");
        }
        for text in ["", "10.0.0", "10.0.0.0/33", "example.org"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
        for (text, address) in [("10.0.0.7:80", "10.0.0.7:80"), ("10.0.0.7:*", "10.0.0.7:0"), ("[::1]:*", "[::1]:0")] {
            assert_eq!(text.parse(), Ok(Socket(address.parse().expect("an address"))), "{text}");
        }
        for text in ["", "10.0.0.7", "10.0.0.7:", "10.0.0.7:0", "::1:80:*", "host:80", "10.0.0.7:http"] {
            assert!(text.parse::<Socket>().is_err(), "{text}");
        }
    }
}
