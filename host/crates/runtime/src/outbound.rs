//! Which hosts a component may send requests to: the manifest's `allowed-outbound-hosts`, in Spin's syntax.
//!
//! A rule is `scheme://host[:port]`, where the scheme may be `*`, the host may be a name, `*.domain` (any name below
//! the domain, not the domain itself), an address, a network (`10.0.0.0/8`) or `*`, and the port may be a number, a
//! range (`8000..9000`, the end not included) or `*`. Without a port, the scheme's own is meant. Nothing is allowed that no rule allows.

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;

use http::Uri;
use ipnet::IpNet;

/// The hosts a component may reach. Immutable; checked on the URI that is really connected to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutboundPolicy {
    rules: Vec<Rule>,
}

/// A rule that can't be understood: which, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule:?} in allowed-outbound-hosts: {reason}")]
pub struct OutboundRuleError {
    /// The rule as it was written.
    pub rule: String,
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    scheme: Option<String>,
    host: HostRule,
    ports: PortRule,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum HostRule {
    Any,
    /// `*.domain`, kept as `.domain`.
    Below(String),
    Name(String),
    Network(IpNet),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum PortRule {
    Any,
    In(Range<u32>),
}

impl OutboundPolicy {
    /// Reads the rules of a manifest.
    ///
    /// # Errors
    /// The first rule that isn't one, with what is wrong.
    pub fn parse<S: AsRef<str>>(rules: &[S]) -> Result<Self, OutboundRuleError> {
        let rules = rules.iter().map(|rule| {
            let rule = rule.as_ref();
            Rule::parse(rule).map_err(|reason| OutboundRuleError { rule: rule.to_owned(), reason })
        });
        Ok(Self { rules: rules.collect::<Result<_, _>>()? })
    }

    /// Whether a request to this URI may be sent. One without scheme or host may not.
    pub fn allows(&self, uri: &Uri) -> bool {
        let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host()) else {
            return false;
        };
        let Some(port) = uri.port_u16().or_else(|| default_port(scheme)) else {
            return false;
        };
        self.rules.iter().any(|rule| rule.allows(scheme, host, port))
    }
}

/// The manifest line that would allow a request to this URI.
pub(crate) fn allowing_line(uri: &Uri) -> impl fmt::Display {
    let origin = origin(uri).to_string();
    fmt::from_fn(move |f| write!(f, "allowed-outbound-hosts = [\"{origin}\"]"))
}

/// Scheme, host and port of a URI, for the log: never the user and password that its authority may have.
pub(crate) fn origin(uri: &Uri) -> impl fmt::Display {
    fmt::from_fn(move |f| {
        write!(f, "{}://{}", uri.scheme_str().unwrap_or("http"), uri.host().unwrap_or_default())?;
        match uri.port_u16() {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    })
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

impl Rule {
    fn parse(rule: &str) -> Result<Self, String> {
        let (scheme, rest) = rule.split_once("://").ok_or(
            "a scheme is missing; write for example \"https://api.example.com\" or \"*://*.example.com:8080\"",
        )?;
        let scheme = match scheme {
            "*" => None,
            "http" | "https" => Some(scheme.to_owned()),
            other => return Err(format!("the scheme {other:?} isn't one a component can use; write http, https or *")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = split_port(rest)?;
        let path = host.split_once('/').filter(|(address, _)| address.parse::<IpAddr>().is_err());
        if host.contains(['?', '#', '@']) || path.is_some() {
            return Err("only scheme, host and port can be given, no path, query or user".into());
        }
        let host = HostRule::parse(host)?;
        let ports = match (port, scheme.as_deref().and_then(default_port)) {
            (Some(port), _) => PortRule::parse(port)?,
            (None, Some(port)) => PortRule::In(port.into()..u32::from(port) + 1),
            (None, None) => PortRule::Any,
        };
        Ok(Self { scheme, host, ports })
    }

    fn allows(&self, scheme: &str, host: &str, port: u16) -> bool {
        self.scheme.as_deref().is_none_or(|rule| rule == scheme)
            && self.host.allows(host)
            && match &self.ports {
                PortRule::Any => true,
                PortRule::In(range) => range.contains(&port.into()),
            }
    }
}

/// Splits `host[:port]`, where the host may be an IPv6 address in brackets.
fn split_port(authority: &str) -> Result<(&str, Option<&str>), String> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("the bracket isn't closed")?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err("after the bracket only a port can follow".into()),
        };
    }
    Ok(match authority.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    })
}

impl HostRule {
    fn parse(host: &str) -> Result<Self, String> {
        if host == "*" {
            return Ok(Self::Any);
        }
        if let Some(domain) = host.strip_prefix("*.") {
            return if domain.is_empty() || domain.contains('*') {
                Err("a `*` can only stand for the whole host or before a domain, as in *.example.com".into())
            } else {
                Ok(Self::Below(format!(".{}", domain.to_ascii_lowercase())))
            };
        }
        if host.is_empty() || host.contains('*') {
            return Err("a host is missing; write a name, an address, *.domain or *".into());
        }
        if host.contains('/') {
            return host.parse().map(Self::Network).map_err(|_| "a network is written like 10.0.0.0/8".into());
        }
        Ok(match host.parse::<IpAddr>() {
            Ok(address) => Self::Network(address.into()),
            Err(_) => Self::Name(host.to_ascii_lowercase()),
        })
    }

    fn allows(&self, host: &str) -> bool {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        match self {
            Self::Any => true,
            Self::Below(domain) => host.len() > domain.len() && ends_with_ignoring_case(host, domain),
            Self::Name(name) => host.eq_ignore_ascii_case(name),
            Self::Network(network) => bare.parse::<IpAddr>().is_ok_and(|address| network.contains(&address)),
        }
    }
}

fn ends_with_ignoring_case(host: &str, suffix: &str) -> bool {
    host.len()
        .checked_sub(suffix.len())
        .and_then(|start| host.get(start..))
        .is_some_and(|end| end.eq_ignore_ascii_case(suffix))
}

impl PortRule {
    fn parse(port: &str) -> Result<Self, String> {
        let number = |text: &str| {
            text.parse::<u16>()
                .map_err(|_| format!("the port {port:?} isn't one; write a number, a range like 8000..9000, or *"))
        };
        if port == "*" {
            return Ok(Self::Any);
        }
        if let Some((from, to)) = port.split_once("..") {
            let (from, to) = (number(from)?, number(to)?);
            return if from < to {
                Ok(Self::In(from.into()..to.into()))
            } else {
                Err(format!("the range {port} is empty"))
            };
        }
        let port = number(port)?;
        Ok(Self::In(port.into()..u32::from(port) + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(rule: &str, uri: &str) -> bool {
        let uri = uri.parse().expect("a test's URI");
        OutboundPolicy::parse(&[rule]).expect("a test's rule").allows(&uri)
    }

    #[test]
    fn allows_what_a_rule_names_and_nothing_else() {
        for (rule, yes, no) in [
            ("https://api.example.com", "https://api.example.com/x?y", "http://api.example.com/"),
            ("https://api.example.com", "https://API.example.com:443/", "https://api.example.com:8443/"),
            ("http://api.example.com:8080", "http://api.example.com:8080/", "http://api.example.com/"),
            ("http://*.example.com", "http://a.b.example.com/", "http://example.com/"),
            ("http://*.example.com", "http://a.Example.com/", "http://a.badexample.com/"),
            ("*://*:*", "https://anything:1/", "ftp://anything/"),
            ("*://localhost", "http://localhost:3000/", "http://localhost.evil/"),
            ("http://h:8000..9000", "http://h:8000/", "http://h:9000/"),
            ("http://10.0.0.0/8:*", "http://10.9.8.7:99/", "http://11.0.0.1:99/"),
            ("http://10.0.0.1", "http://10.0.0.1/", "http://10.0.0.2/"),
            ("http://[::1]:80", "http://[::1]/", "http://[::2]/"),
        ] {
            assert!(allows(rule, yes), "{rule} should allow {yes}");
            assert!(!allows(rule, no), "{rule} should not allow {no}");
        }
    }

    #[test]
    fn nothing_is_allowed_without_rules() {
        assert!(!OutboundPolicy::default().allows(&Uri::from_static("http://localhost/")));
    }

    #[test]
    fn a_rule_that_is_not_one_is_refused_with_what_is_wrong() {
        for (rule, part) in [
            ("api.example.com", "scheme is missing"),
            ("redis://host", "isn't one a component can use"),
            ("http://", "host is missing"),
            ("http://a*b", "host is missing"),
            ("http://*.*", "before a domain"),
            ("http://host/path", "no path"),
            ("http://user@host", "no path, query or user"),
            ("http://host:http", "isn't one"),
            ("http://host:9..8", "empty"),
            ("http://10.0.0.0/33", "a network is written like"),
            ("http://[::1", "bracket"),
        ] {
            let error = OutboundPolicy::parse(&[rule]).expect_err(rule).to_string();
            assert!(error.contains(part), "{rule}: {error}");
        }
    }

    #[test]
    fn a_denial_names_no_user_and_no_password() {
        for (uri, expected) in [
            ("http://u:5ecretpw@example.test/5ecret?5ecret", "http://example.test"),
            ("https://5ecret@[::1]:9/", "https://[::1]:9"),
            ("http://u:5ecret%40pw@h:80/", "http://h:80"),
        ] {
            let uri: Uri = uri.parse().expect("a test's URI");
            assert_eq!(origin(&uri).to_string(), expected);
            assert_eq!(allowing_line(&uri).to_string(), format!("allowed-outbound-hosts = [\"{expected}\"]"));
        }
    }

    #[test]
    fn the_line_of_a_denial_allows_it() {
        for uri in ["http://api.example.com/x", "https://h:8443/", "http://[::1]:9/"] {
            let uri: Uri = uri.parse().expect("a test's URI");
            let line = allowing_line(&uri).to_string();
            let rule = line.trim_start_matches("allowed-outbound-hosts = [\"").trim_end_matches("\"]");
            assert!(OutboundPolicy::parse(&[rule]).expect("its own rule").allows(&uri), "{line}");
        }
    }
}
