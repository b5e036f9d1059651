//! `x-forwarded-for`, `-proto` and `-host`: set by the edge, so that components can believe them.

use std::net::{IpAddr, SocketAddr};

use http::header::{HOST, HeaderMap};
use http::{HeaderName, HeaderValue};
use ipnet::IpNet;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The client at the other end of a connection.
pub(super) struct Peer {
    address: IpAddr,
    /// The address, as a header's value.
    value: HeaderValue,
}

impl Peer {
    pub(super) fn new(address: SocketAddr) -> Self {
        let address = address.ip().to_canonical();
        let value =
            HeaderValue::from_str(&address.to_string()).expect("an address has no character a header can't have");
        Self { address, value }
    }
}

/// Says where the request came from. What the client says itself is dropped, unless its address is trusted: then the
/// client's address is added to the list, and protocol and host stay as they are.
pub(super) fn set(headers: &mut HeaderMap, peer: &Peer, trusted: &[IpNet]) {
    if trusted.iter().any(|network| network.contains(&peer.address)) {
        let before = headers.get_all(&FOR).iter().filter_map(|list| list.to_str().ok());
        let list: Vec<&str> = before.chain(peer.value.to_str().ok()).collect();
        if let Ok(list) = HeaderValue::from_str(&list.join(", ")) {
            headers.insert(FOR, list);
        }
    } else {
        headers.remove(&PROTO);
        headers.remove(&FORWARDED_HOST);
        headers.insert(FOR, peer.value.clone());
    }
    headers.entry(PROTO).or_insert(HeaderValue::from_static("http"));
    if let Some(host) = headers.get(HOST).cloned() {
        headers.entry(FORWARDED_HOST).or_insert(host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarded(trusted: &[&str], sent: &[(&'static str, &str)]) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(*name, value.parse().expect("a test's value"));
        }
        let trusted: Vec<IpNet> = trusted.iter().map(|text| text.parse().expect("a test's network")).collect();
        set(&mut headers, &Peer::new("10.1.2.3:4".parse().expect("an address")), &trusted);
        let mut all: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().expect("text").to_owned()))
            .filter(|(name, _)| name != "host")
            .collect();
        all.sort();
        all
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    const SPOOFED: [(&str, &str); 4] = [
        ("host", "a.example"),
        ("x-forwarded-for", "1.1.1.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "b"),
    ];

    #[test]
    fn a_stranger_is_not_believed() {
        let expected =
            pairs(&[("x-forwarded-for", "10.1.2.3"), ("x-forwarded-host", "a.example"), ("x-forwarded-proto", "http")]);
        assert_eq!(forwarded(&[], &SPOOFED), expected);
        assert_eq!(forwarded(&["10.1.2.4/32", "11.0.0.0/8"], &SPOOFED), expected);
    }

    #[test]
    fn a_trusted_proxy_is_believed() {
        let expected = pairs(&[
            ("x-forwarded-for", "1.1.1.1, 10.1.2.3"),
            ("x-forwarded-host", "b"),
            ("x-forwarded-proto", "https"),
        ]);
        assert_eq!(forwarded(&["10.0.0.0/8"], &SPOOFED), expected);
    }
}
