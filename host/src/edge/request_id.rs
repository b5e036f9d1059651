//! Request ids: the client's own if it is sane, else one that no other request has.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::{HeaderName, HeaderValue};

/// The header that carries it.
pub(super) const NAME: HeaderName = HeaderName::from_static("x-request-id");
/// Bytes an id of a client may have.
const MAX: usize = 128;

/// Where this process begins to count: random, so that the ids of two starts differ.
static START: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one("request id"));
static NEXT: AtomicU64 = AtomicU64::new(0);

/// The client's id if it is 1 to 128 characters of `A-Za-z0-9._-`, else a new one of 16 hexadecimal digits.
pub(super) fn choose(clients: Option<&HeaderValue>) -> HeaderValue {
    match clients {
        Some(id) if is_sane(id.as_bytes()) => id.clone(),
        _ => new(),
    }
}

fn is_sane(id: &[u8]) -> bool {
    let fine = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=MAX).contains(&id.len()) && id.iter().all(fine)
}

fn new() -> HeaderValue {
    // An odd factor permutes the numbers: no two of one process are alike.
    let number = NEXT.fetch_add(1, Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ *START;
    let mut digits = [0; 16];
    for (index, digit) in digits.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(number >> (60 - 4 * index)) as usize & 15];
    }
    HeaderValue::from_bytes(&digits).expect("digits are allowed in a header")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_sane_id_of_the_client_is_kept() {
        let id = HeaderValue::from_static("Trace_1.2-3");
        assert_eq!(choose(Some(&id)), id);
    }

    #[test]
    fn anything_else_is_replaced() {
        let long = "x".repeat(MAX + 1);
        for id in ["", "two words", "a\"b", long.as_str()] {
            let id = HeaderValue::from_str(id).expect("a test's value");
            assert_ne!(choose(Some(&id)), id);
        }
    }

    #[test]
    fn no_two_new_ids_are_alike() {
        let ids: HashSet<_> = (0..1000).map(|_| choose(None)).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.len() == 16));
    }
}
