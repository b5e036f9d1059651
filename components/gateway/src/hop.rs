//! Headers that belong to one connection and are not passed on.

/// The hop-by-hop headers of RFC 9110, and those that clients made up.
pub const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The header that brings an API key. It is meant for the gateway only.
pub const API_KEY: &str = "x-api-key";

/// The names that `Connection` headers list, in lower case. Each such header belongs to the connection too.
pub fn named_by_connection(values: &[Vec<u8>]) -> impl Iterator<Item = String> {
    values
        .iter()
        .flat_map(|value| value.split(|byte| *byte == b','))
        .filter_map(|name| std::str::from_utf8(name.trim_ascii()).ok())
        .filter(|name| !name.is_empty())
        .map(str::to_ascii_lowercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_connection_headers() {
        let values = [b"close, X-Secret".to_vec(), b" ,te,\xff".to_vec()];
        assert_eq!(named_by_connection(&values).collect::<Vec<_>>(), ["close", "x-secret", "te"]);
        assert_eq!(named_by_connection(&[]).count(), 0);
    }
}
