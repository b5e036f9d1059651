//! Which addresses are this host's own. Registering one would send its requests round in circles.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use registry::Address;

/// For the name of a registered host to be looked up.
const LOOKUP: Duration = Duration::from_secs(2);

/// Whether `address` leads to one of `own`, the addresses this host listens on. Names are only looked up if the port is
/// one of theirs. One that can't be looked up now is not taken for our own; a request that goes round nevertheless is
/// cut off by its depth.
pub(super) async fn is_own(address: &Address, own: [SocketAddr; 2]) -> bool {
    let port = address.port();
    let own: Vec<IpAddr> = own.iter().filter(|own| own.port() == port).map(SocketAddr::ip).collect();
    if own.is_empty() {
        return false;
    }
    let host = address.host().trim_start_matches('[').trim_end_matches(']');
    let targets: Vec<IpAddr> = match host.parse() {
        Ok(ip) => vec![ip],
        Err(_) => match tokio::time::timeout(LOOKUP, tokio::net::lookup_host((host, port))).await {
            Ok(Ok(found)) => found.map(|found| found.ip()).collect(),
            Ok(Err(_)) | Err(_) => Vec::new(),
        },
    };
    targets.iter().any(|target| own.iter().any(|own| reaches(*target, *own)))
}

/// Whether a connection to `target` arrives at a listener bound to `own`, the ports being equal.
fn reaches(target: IpAddr, own: IpAddr) -> bool {
    let (target, own) = (target.to_canonical(), own.to_canonical());
    if own.is_unspecified() {
        return target.is_unspecified() || is_local(target);
    }
    // To connect to 0.0.0.0 is to connect to the loopback address.
    target == own || (target.is_unspecified() && own.is_loopback())
}

/// Whether this machine has the address: only then can a socket be bound to it.
fn is_local(address: IpAddr) -> bool {
    address.is_loopback() || UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn own_addresses_are_known_in_every_spelling() {
        let own = |first: &str, second: &str| [first, second].map(|text| text.parse().expect("an address"));
        let loopback = own("127.0.0.1:8080", "127.0.0.1:9090");
        let everywhere = own("0.0.0.0:8080", "[::]:9090");
        for (url, on_loopback, on_everywhere) in [
            ("http://127.0.0.1:8080", true, true),
            ("http://127.0.0.1:9090", true, true),
            ("http://localhost:8080", true, true),
            ("http://0.0.0.0:8080", true, true),
            ("http://[::ffff:127.0.0.1]:8080", true, true),
            ("http://127.0.0.2:8080", false, true),
            ("http://127.0.0.1:8081", false, false),
            ("http://192.0.2.1:8080", false, false),
            ("http://[2001:db8::1]:9090", false, false),
            ("http://name.invalid:8080", false, false),
        ] {
            let address: Address = url.parse().expect("an address");
            assert_eq!(is_own(&address, loopback).await, on_loopback, "{url}");
            assert_eq!(is_own(&address, everywhere).await, on_everywhere, "{url}");
        }
    }
}
