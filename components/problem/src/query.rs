//! Queries and percent-encoding.
//!
//! A query is form-encoded (`application/x-www-form-urlencoded`): parameters are separated by `&`, name and value by
//! the first `=`, and `+` is a space. In a path segment `+` is a plus. In both, a `%` must be followed by two
//! hexadecimal digits, and the bytes must be UTF-8; anything else is an error instead of a guess.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Why percent-decoding failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// A `%` isn't followed by two hexadecimal digits.
    Escape,
    /// The decoded bytes aren't UTF-8.
    Utf8,
}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DecodeError::Escape => "a % must be followed by two hexadecimal digits (a % itself is %25)",
            DecodeError::Utf8 => "the decoded bytes are not UTF-8",
        })
    }
}

impl std::error::Error for DecodeError {}

/// Splits a request target into its path and its query, without the `?`.
#[must_use]
pub fn split(target: &str) -> (&str, Option<&str>) {
    match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    }
}

/// The first parameter called `name`, decoded. `None` if there is none.
///
/// # Errors
/// The parameter's value can't be decoded.
pub fn parameter<'a>(query: Option<&'a str>, name: &str) -> Result<Option<Cow<'a, str>>, DecodeError> {
    for pair in query.unwrap_or_default().split('&') {
        let (found, value) = pair.split_once('=').unwrap_or((pair, ""));
        if found == name || decode_form(found).is_ok_and(|found| found == name) {
            return decode_form(value).map(Some);
        }
    }
    Ok(None)
}

/// Decodes a name or value of a query.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode_form(text: &str) -> Result<Cow<'_, str>, DecodeError> {
    if text.contains('+') {
        decode(&text.replace('+', " ")).map(|decoded| Cow::Owned(decoded.into_owned()))
    } else {
        decode(text)
    }
}

/// Decodes a segment of a path.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode(text: &str) -> Result<Cow<'_, str>, DecodeError> {
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| *byte == b'%') {
        let digits = rest.get(at + 1..at + 3).ok_or(DecodeError::Escape)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(DecodeError::Escape);
        }
        rest = &rest[at + 3..];
    }
    percent_decode_str(text).decode_utf8().map_err(|_| DecodeError::Utf8)
}

/// Encodes text so that it can stand as a path segment or as a query's value.
#[must_use]
pub fn encode(text: &str) -> String {
    /// RFC 3986's unreserved characters stay.
    const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(text, RESERVED).to_string()
}

/// A path segment, still percent-encoded, as a query's value: what means itself in a path but not in a query is
/// escaped.
#[must_use]
pub fn segment_to_value(segment: &str) -> Cow<'_, str> {
    if !segment.bytes().any(|byte| matches!(byte, b'+' | b'&')) {
        return Cow::Borrowed(segment);
    }
    Cow::Owned(segment.replace('+', "%2B").replace('&', "%26"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn finds_parameters() {
        let query = Some("a=1&key=x%2Fy+z&key=second&empty=&bare");
        assert_eq!(parameter(query, "key"), Ok(Some("x/y z".into())));
        assert_eq!(parameter(query, "empty"), Ok(Some("".into())));
        assert_eq!(parameter(query, "bare"), Ok(Some("".into())));
        assert_eq!(parameter(query, "ke"), Ok(None));
        assert_eq!(parameter(None, "key"), Ok(None));
        assert_eq!(parameter(Some("k%65y=1"), "key"), Ok(Some("1".into())));
        assert_eq!(parameter(Some("key=a=b"), "key"), Ok(Some("a=b".into())));
    }

    #[test]
    fn refuses_what_it_can_not_decode() {
        for text in ["%", "%4", "%zz", "a%2", "%%41"] {
            assert_eq!(decode(text), Err(DecodeError::Escape), "{text}");
        }
        assert_eq!(decode("%ff"), Err(DecodeError::Utf8));
        assert_eq!(parameter(Some("key=%"), "key"), Err(DecodeError::Escape));
    }

    #[test]
    fn a_plus_is_a_space_in_a_query_only() {
        assert_eq!(decode("a+b"), Ok("a+b".into()));
        assert_eq!(decode_form("a+b%2B"), Ok("a b+".into()));
        assert_eq!(decode_form(&segment_to_value("a+b&c%2Fd")), Ok("a+b&c/d".into()));
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_itself(text in any::<String>()) {
            let encoded = encode(&text);
            prop_assert_eq!(decode(&encoded).expect("encoded text decodes"), text.as_str());
            prop_assert_eq!(decode_form(&encoded).expect("encoded text decodes"), text.as_str());
            let query = format!("x=1&key={encoded}&y=2");
            prop_assert_eq!(parameter(Some(&query), "key"), Ok(Some(Cow::Borrowed(text.as_str()))));
        }

        #[test]
        fn decoding_never_panics(text in any::<String>()) {
            let _ = decode(&text);
            let _ = decode_form(&text);
            let _ = parameter(Some(&text), "key");
        }
    }
}
