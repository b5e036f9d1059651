//! The name of a bucket: a set of keys of its own.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

/// A bucket's name: up to 64 characters out of `A-Z a-z 0-9 . _ -`. The empty name and `default` are the same bucket.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket(Arc<str>);

/// A text is not a valid [`Bucket`]. The message states the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a bucket's name has at most 64 characters out of A-Z, a-z, 0-9, `.`, `_` and `-`")]
pub struct InvalidBucket;

impl Bucket {
    /// The name; never empty.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Bucket {
    fn default() -> Self {
        Self("default".into())
    }
}

/// In order and equal as its name is.
impl Borrow<str> for Bucket {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for Bucket {
    type Err = InvalidBucket;

    fn from_str(text: &str) -> Result<Self, InvalidBucket> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        match text {
            "" => Ok(Self::default()),
            _ if text.len() <= 64 && text.bytes().all(allowed) => Ok(Self(text.into())),
            _ => Err(InvalidBucket),
        }
    }
}

impl TryFrom<&str> for Bucket {
    type Error = InvalidBucket;

    fn try_from(text: &str) -> Result<Self, InvalidBucket> {
        text.parse()
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_name_is_the_default() {
        assert_eq!("".parse(), Ok(Bucket::default()));
        assert_eq!("default".parse(), Ok(Bucket::default()));
        assert_ne!("Default".parse(), Ok(Bucket::default()));
    }

    #[test]
    fn names_follow_the_rule() {
        for good in ["a", "A.b_c-9", ".", "-", &"x".repeat(64)] {
            assert_eq!(good.parse::<Bucket>().map(|bucket| bucket.to_string()), Ok(good.to_owned()));
        }
        for bad in ["a b", "a/b", "ä", "\0", &"x".repeat(65)] {
            assert_eq!(bad.parse::<Bucket>(), Err(InvalidBucket), "{bad:?}");
        }
    }
}
