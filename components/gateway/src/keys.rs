//! The API keys: a list from the environment, read once per guest and held as digests only.

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

type Digest = [u8; 32];

/// The digests of the keys that are let in. None at all lets nobody in.
#[derive(Debug, Default)]
pub struct Keys(Vec<Digest>);

impl Keys {
    /// Reads a list separated by commas, as in `HOSTLER_API_KEYS`. Each entry is a key, or the SHA-256 digest of one in
    /// 64 hexadecimal digits. Space around entries, and empty entries, are ignored.
    #[must_use]
    pub fn parse(list: &str) -> Self {
        let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        Keys(entries.map(|entry| from_hex(entry).unwrap_or_else(|| Sha256::digest(entry).into())).collect())
    }

    /// Whether `presented`, the values of a request's `x-api-key` headers, is exactly one of the keys. Takes the same
    /// time whichever key it is and however much of it is right.
    #[must_use]
    pub fn admit(&self, presented: &[Vec<u8>]) -> bool {
        let [presented] = presented else { return false };
        let presented: Digest = Sha256::digest(presented).into();
        self.0.iter().fold(Choice::from(0), |found, key| found | key.ct_eq(&presented)).into()
    }
}

fn from_hex(text: &str) -> Option<Digest> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, digits) in digest.iter_mut().zip(0..) {
        *byte = u8::from_str_radix(&text[2 * digits..2 * digits + 2], 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(list: &str, key: &str) -> bool {
        Keys::parse(list).admit(&[key.as_bytes().to_vec()])
    }

    #[test]
    fn plain_keys_and_digests() {
        // echo -n secret | sha256sum
        let digest = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
        for list in ["secret", " other , secret,", digest, &digest.to_uppercase()] {
            assert!(admits(list, "secret"), "{list}");
            assert!(!admits(list, "secre"), "{list}");
            assert!(!admits(list, ""), "{list}");
        }
        assert!(!admits(digest, digest), "a digest is not the key");
    }

    #[test]
    fn no_keys_admit_nobody() {
        for list in ["", ",", " , "] {
            assert!(!admits(list, ""), "{list:?}");
            assert!(!admits(list, ","), "{list:?}");
        }
        assert!(!Keys::parse("a").admit(&[]));
    }

    #[test]
    fn two_headers_are_no_key() {
        assert!(!Keys::parse("a").admit(&[b"a".to_vec(), b"a".to_vec()]));
    }
}
