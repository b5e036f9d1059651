//! The forms that keys, versions, batches and errors have in HTTP. Both sides use them.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderValue;
use problem::{Code, Problem};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use store::{Error, Limits};

/// A request on several keys of a bucket.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Batch<'a> {
    Get(Cow<'a, [String]>),
    Set(Vec<(String, Blob)>),
    Delete(Cow<'a, [String]>),
}

impl Batch<'_> {
    /// Bytes that the longest batch within `limits` can have: base64 makes four bytes of three, and JSON up to six of
    /// one in a key.
    pub(crate) fn longest(limits: &Limits) -> usize {
        limits.batch_bytes.div_ceil(3) * 4 + limits.batch * (6 * limits.key + 16) + 64
    }
}

/// The answer to [`Batch::Get`].
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Values {
    /// In the order of the keys.
    pub(crate) values: Vec<Option<Blob>>,
}

/// A page of keys.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Keys {
    /// In order.
    pub(crate) keys: Vec<String>,
    /// Where the next page begins.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) cursor: Option<String>,
}

/// Any bytes; in JSON, base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Blob(pub(crate) Bytes);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Base64;
        impl Visitor<'_> for Base64 {
            type Value = Blob;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a value in base64")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Blob, E> {
                let bytes = STANDARD.decode(text).map_err(|error| E::custom(format!("not base64: {error}")))?;
                Ok(Blob(bytes.into()))
            }
        }
        from.deserialize_str(Base64)
    }
}

/// A version as an `ETag`: 16 hexadecimal digits in quotes.
pub(crate) fn etag(version: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{version:016x}\"")).expect("digits in quotes can be a header's value")
}

/// The version in an `ETag`, if it is one of [`etag`]'s.
pub(crate) fn version(etag: &HeaderValue) -> Option<u64> {
    let digits = etag.to_str().ok()?.strip_prefix('"')?.strip_suffix('"')?;
    let plain = digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain.then(|| u64::from_str_radix(digits, 16).ok())?
}

/// What a store's error is to the client of this address.
pub(crate) fn problem(error: &Error) -> Problem {
    let problem = Problem::new(runtime::store_error_code(error), error.to_string());
    match *error {
        Error::KeyTooLarge { len, limit }
        | Error::ValueTooLarge { len, limit }
        | Error::BatchTooLarge { len, limit }
        | Error::BatchTooHeavy { len, limit } => problem.with("len", len as u64).with("limit", limit as u64),
        Error::Full { limit } => problem.with("limit", limit),
        Error::Unavailable(_) | Error::Failed(_) => problem.retry_after(1),
        Error::EmptyKey | Error::NotANumber | Error::Overflow | Error::DiskFull => problem,
    }
}

/// A problem document, as far as it matters to [`error`].
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Document {
    pub(crate) code: String,
    pub(crate) detail: String,
    len: usize,
    limit: Option<u64>,
}

impl Document {
    /// Reads one; what isn't one says nothing.
    pub(crate) fn parse(body: &[u8]) -> Self {
        serde_json::from_slice(body).unwrap_or_default()
    }
}

/// The store's error that [`problem()`] made this document of. None if it is about something else.
pub(crate) fn error(document: &Document) -> Option<Error> {
    let Document { len, limit, .. } = *document;
    let code = Code::ALL.iter().find(|code| code.as_str() == document.code)?;
    let bound = || limit.and_then(|limit| usize::try_from(limit).ok());
    Some(match code {
        Code::InvalidKey => Error::EmptyKey,
        Code::KeyTooLarge => Error::KeyTooLarge { len, limit: bound()? },
        Code::ValueTooLarge => Error::ValueTooLarge { len, limit: bound()? },
        Code::BatchTooLarge => Error::BatchTooLarge { len, limit: bound()? },
        Code::BatchTooHeavy => Error::BatchTooHeavy { len, limit: bound()? },
        Code::NotANumber => Error::NotANumber,
        Code::NumberOverflow => Error::Overflow,
        Code::StoreFull => limit.map_or(Error::DiskFull, |limit| Error::Full { limit }),
        Code::StoreUnavailable => Error::Unavailable(format!("it answered: {}", document.detail)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_are_told_from_others() {
        for number in [0, 1, u64::MAX] {
            assert_eq!(version(&etag(number)), Some(number));
        }
        for text in ["*", "", "\"\"", "\"1\"", "0000000000000001", "W/\"0000000000000001\"", "\"+00000000000000f\""] {
            assert_eq!(version(&HeaderValue::from_static(text)), None, "{text}");
        }
    }

    #[test]
    fn errors_come_back_as_they_were() {
        for original in [
            Error::EmptyKey,
            Error::KeyTooLarge { len: 2, limit: 1 },
            Error::ValueTooLarge { len: 4, limit: 3 },
            Error::BatchTooLarge { len: 6, limit: 5 },
            Error::BatchTooHeavy { len: 8, limit: 7 },
            Error::NotANumber,
            Error::Overflow,
            Error::Full { limit: 1 << 40 },
            Error::DiskFull,
        ] {
            let document = serde_json::from_slice(&problem(&original).body()).expect("a document");
            assert_eq!(error(&document), Some(original));
        }
        for away in [Error::Unavailable("x".to_owned()), Error::Failed("x".to_owned())] {
            let document = serde_json::from_slice(&problem(&away).body()).expect("a document");
            assert!(matches!(error(&document), Some(Error::Unavailable(text)) if text.contains(&away.to_string())));
        }
        assert_eq!(error(&Document { code: "not_found".to_owned(), ..Document::default() }), None);
    }

    #[test]
    fn batches_carry_any_bytes() {
        let value = Blob(Bytes::from_static(b"\xff\0"));
        let keys = ["a".to_owned(), "\0".to_owned()];
        for (batch, text) in [
            (Batch::Get(keys.as_slice().into()), r#"{"get":["a","\u0000"]}"#),
            (Batch::Set(vec![("a".to_owned(), value.clone())]), r#"{"set":[["a","/wA="]]}"#),
            (Batch::Delete(keys.as_slice().into()), r#"{"delete":["a","\u0000"]}"#),
        ] {
            assert_eq!(serde_json::to_string(&batch).expect("JSON"), text);
            assert_eq!(serde_json::from_str::<Batch<'_>>(text).expect("a batch"), batch);
        }
        let values = Values { values: vec![Some(value), None] };
        assert_eq!(serde_json::to_string(&values).expect("JSON"), r#"{"values":["/wA=",null]}"#);
        for text in
            [r#"{"set":[["a","?"]]}"#, r#"{"set":[["a"]]}"#, r#"{"move":[]}"#, r#"{"get":[],"delete":[]}"#, "{}"]
        {
            assert!(serde_json::from_str::<Batch<'_>>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_longest_batch_is_long_enough() {
        let limits = Limits { key: 2, value: 3, batch: 3, batch_bytes: 15, ..Limits::default() };
        let entry = ("\0\0".to_owned(), Blob(Bytes::from_static(b"abc")));
        let batch = serde_json::to_vec(&Batch::Set(vec![entry; 3])).expect("JSON");
        assert!(batch.len() <= Batch::longest(&limits));
    }
}
