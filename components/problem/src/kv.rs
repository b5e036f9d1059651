//! Keys and values: their limits, and the JSON bodies that carry them.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

use crate::{Code, Problem, query};

/// The longest key, in bytes of UTF-8. The shortest has one.
pub const MAX_KEY: usize = 1024;

/// The longest value, in bytes.
pub const MAX_VALUE: usize = 1024 * 1024;

/// The longest body of a `set`, in bytes. JSON may write a byte as six (`\u0000`), so that no key and value within
/// their own limits are refused for how they were written.
pub const MAX_SET_BODY: usize = 6 * (MAX_KEY + MAX_VALUE) + 4096;

/// A key and the value to store under it, within the limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The key.
    pub key: Cow<'a, str>,
    /// The value.
    pub value: Cow<'a, str>,
}

/// Checks a key against the limits.
///
/// # Errors
/// `invalid_key` if it is empty, `key_too_large` if it is longer than [`MAX_KEY`].
pub fn check_key(key: &str) -> Result<(), Problem> {
    if key.is_empty() {
        return Err(Problem::new(Code::InvalidKey, format!("the key is empty; it must have 1 to {MAX_KEY} bytes")));
    }
    if key.len() > MAX_KEY {
        let detail = format!("the key has {} bytes; it must have 1 to {MAX_KEY}", key.len());
        return Err(Problem::new(Code::KeyTooLarge, detail));
    }
    Ok(())
}

/// Checks the length of a value, in bytes.
///
/// # Errors
/// `value_too_large` if it is longer than [`MAX_VALUE`].
pub fn check_value(len: usize) -> Result<(), Problem> {
    if len > MAX_VALUE {
        let detail = format!("the value has {len} bytes; it may have up to {MAX_VALUE}");
        return Err(Problem::new(Code::ValueTooLarge, detail));
    }
    Ok(())
}

/// A body longer than a `set` can be.
#[must_use]
pub fn body_too_large() -> Problem {
    Problem::new(Code::BodyTooLarge, format!("the body has more than {MAX_SET_BODY} bytes"))
}

/// Reads the body of a `set`: a JSON object with the strings `key` and `value`. Other fields are ignored.
///
/// # Errors
/// `invalid_json` if it isn't JSON, `invalid_request` if a field is missing, given twice or not a string (the detail
/// names it), and those of [`check_key`] and [`check_value`].
pub fn parse_entry(body: &[u8]) -> Result<Entry<'_>, Problem> {
    let fields: Fields<'_> = serde_json::from_slice(body).map_err(|error| match error.classify() {
        Category::Data => Problem::new(
            Code::InvalidRequest,
            format!("the body must be a JSON object with the strings \"key\" and \"value\": {error}"),
        ),
        Category::Syntax | Category::Eof | Category::Io => Problem::new(Code::InvalidJson, error.to_string()),
    })?;
    let key = text("key", fields.key)?;
    let value = text("value", fields.value)?;
    check_key(&key)?;
    check_value(value.len())?;
    Ok(Entry { key, value })
}

/// Reads the parameter `key` of a query.
///
/// # Errors
/// `invalid_request` if there is no such parameter, `invalid_key` if it can't be decoded, and those of [`check_key`].
pub fn key_from_query(query: Option<&str>) -> Result<Cow<'_, str>, Problem> {
    let key = query::parameter(query, "key")
        .map_err(|error| Problem::new(Code::InvalidKey, format!("the key can't be decoded: {error}")))?
        .ok_or_else(|| Problem::new(Code::InvalidRequest, "the parameter \"key\" is missing: ?key=NAME"))?;
    check_key(&key)?;
    Ok(key)
}

/// Whether a body of this content type is taken for JSON. A request that doesn't say is believed.
///
/// # Errors
/// `unsupported_media_type` for anything but `application/json`, with or without parameters.
pub fn check_content_type(content_type: Option<&[u8]>) -> Result<(), Problem> {
    let Some(content_type) = content_type else {
        return Ok(());
    };
    let media_type = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if media_type.eq_ignore_ascii_case(b"application/json") {
        return Ok(());
    }
    Err(Problem::new(Code::UnsupportedMediaType, "the body must be application/json"))
}

fn text<'a>(name: &str, field: Option<Field<'a>>) -> Result<Cow<'a, str>, Problem> {
    match field {
        Some(Field::Text(text)) => Ok(text),
        Some(Field::Other(found)) => {
            Err(Problem::new(Code::InvalidRequest, format!("the field \"{name}\" must be a string, not {found}")))
        }
        None => Err(Problem::new(Code::InvalidRequest, format!("the field \"{name}\" is missing"))),
    }
}

/// The object. Not derived, because a derived struct also reads an array of its fields.
struct Fields<'a> {
    key: Option<Field<'a>>,
    value: Option<Field<'a>>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Fields { key: None, value: None };
        while let Some(name) = map.next_key::<String>()? {
            let (field, name) = match name.as_str() {
                "key" => (&mut fields.key, "key"),
                "value" => (&mut fields.value, "value"),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            if field.replace(map.next_value()?).is_some() {
                return Err(A::Error::duplicate_field(name));
            }
        }
        Ok(fields)
    }
}

/// A field that may have any type, so that a wrong one can be reported by the field's name, which serde's errors lack.
enum Field<'a> {
    Text(Cow<'a, str>),
    /// Not a string; says what it is.
    Other(&'static str),
}

impl<'de: 'a, 'a> Deserialize<'de> for Field<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldVisitor)
    }
}

struct FieldVisitor;

impl<'de> Visitor<'de> for FieldVisitor {
    type Value = Field<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Field::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Field::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
        Ok(Field::Text(Cow::Owned(text)))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Field::Other("null"))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Field::Other("a boolean"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Field::Other("a number"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Field::Other("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Field::Other("a number"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Field::Other("an array"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Field::Other("an object"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn code(body: &str) -> (Code, String) {
        let problem = parse_entry(body.as_bytes()).expect_err("the body is bad");
        (problem.code, problem.detail.into_owned())
    }

    #[test]
    fn reads_an_entry_and_ignores_other_fields() {
        let entry = parse_entry(br#"{"value":"a\nb\u0000","ttl":[1,{"x":null}],"key":"k/ \ud83d\ude00"}"#)
            .expect("a good body");
        assert_eq!((entry.key.as_ref(), entry.value.as_ref()), ("k/ \u{1f600}", "a\nb\0"));
        assert_eq!(parse_entry(br#"{"key":"k","value":""}"#).expect("an empty value is a value").value, "");
    }

    #[test]
    fn what_is_not_json_is_invalid_json() {
        for body in ["", "{", "nope", r#"{"key":"a","value":"b"} x"#, r#"{"key":"\ud800","value":""}"#] {
            assert_eq!(code(body).0, Code::InvalidJson, "{body}");
        }
        assert_eq!(parse_entry(b"{\"key\":\"\xff\",\"value\":\"\"}").expect_err("not UTF-8").code, Code::InvalidJson);
    }

    #[test]
    fn a_wrong_field_is_named() {
        for (body, name) in [
            (r#"{"value":"v"}"#, "\"key\" is missing"),
            (r#"{"key":"k"}"#, "\"value\" is missing"),
            (r#"{"key":1,"value":"v"}"#, "\"key\" must be a string, not a number"),
            (r#"{"key":"k","value":null}"#, "\"value\" must be a string, not null"),
            (r#"{"key":"k","value":{"a":[1]}}"#, "\"value\" must be a string, not an object"),
            (r#"{"key":["k"],"value":""}"#, "\"key\" must be a string, not an array"),
            (r#"{"key":true,"value":""}"#, "\"key\" must be a string, not a boolean"),
            (r#"{"key":"k","key":"k","value":""}"#, "duplicate field `key`"),
            ("[1]", "JSON object"),
            ("\"x\"", "JSON object"),
        ] {
            let (code, detail) = code(body);
            assert_eq!(code, Code::InvalidRequest, "{body}");
            assert!(detail.contains(name), "{body}: {detail}");
        }
    }

    #[test]
    fn the_limits_include_their_ends() {
        assert_eq!(check_key("").expect_err("empty").code, Code::InvalidKey);
        assert_eq!(check_key(&"k".repeat(MAX_KEY)), Ok(()));
        assert_eq!(check_key(&"k".repeat(MAX_KEY + 1)).expect_err("too long").code, Code::KeyTooLarge);
        assert_eq!(check_value(MAX_VALUE), Ok(()));
        assert_eq!(check_value(MAX_VALUE + 1).expect_err("too long").code, Code::ValueTooLarge);
        let body = serde_json::json!({ "key": "\0".repeat(MAX_KEY), "value": "\0".repeat(MAX_VALUE) }).to_string();
        assert!(body.len() <= MAX_SET_BODY);
        assert!(parse_entry(body.as_bytes()).is_ok());
    }

    #[test]
    fn reads_the_key_of_a_query() {
        assert_eq!(key_from_query(Some("key=a%2Fb")), Ok("a/b".into()));
        assert_eq!(key_from_query(None).expect_err("none").code, Code::InvalidRequest);
        assert_eq!(key_from_query(Some("key=")).expect_err("empty").code, Code::InvalidKey);
        assert_eq!(key_from_query(Some("key=%ff")).expect_err("not UTF-8").code, Code::InvalidKey);
    }

    #[test]
    fn content_types() {
        for good in [None, Some("application/json"), Some("Application/JSON; charset=utf-8")] {
            assert_eq!(check_content_type(good.map(str::as_bytes)), Ok(()), "{good:?}");
        }
        for bad in ["text/plain", "", "application/jsonx", "application/x-www-form-urlencoded"] {
            assert_eq!(
                check_content_type(Some(bad.as_bytes())).expect_err("not JSON").code,
                Code::UnsupportedMediaType
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_survives(key in "\\PC{1,64}", value in any::<String>()) {
            let body = serde_json::json!({ "key": key, "value": value }).to_string();
            prop_assert_eq!(parse_entry(body.as_bytes()), Ok(Entry { key: key.into(), value: value.into() }));
        }

        #[test]
        fn no_body_makes_it_panic(body in any::<Vec<u8>>()) {
            let _ = parse_entry(&body);
        }
    }
}
