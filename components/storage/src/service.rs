//! What each request is answered with. Pure: no WASI, no I/O but through [`Values`].

use problem::{Code, Problem, kv, query};
use serde::Serialize;

/// The items of `/data`.
const DATA: [u32; 3] = [1, 2, 3];

/// The methods that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    Get,
    /// `HEAD`: answered as `GET`; the server drops the body.
    Head,
    /// `POST`
    Post,
    /// `DELETE`
    Delete,
    /// Any other.
    Other,
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Call<'a> {
    /// The data: [`data`], the same for every request.
    Data,
    /// Whether it is well: [`health`], the same for every request.
    Health,
    /// Store the entry in the body: [`set`].
    Set,
    /// Read a value: [`get`]. The query is still to be parsed.
    Get(Option<&'a str>),
    /// Remove a key: [`delete`]. The query is still to be parsed.
    Delete(Option<&'a str>),
}

/// Where values are kept.
pub trait Values {
    /// The value of `key`.
    ///
    /// # Errors
    /// The store failed.
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// Stores `value` under `key`.
    ///
    /// # Errors
    /// The store failed; it is unknown whether the value is stored.
    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError>;

    /// Removes `key`. Says whether it was there.
    ///
    /// # Errors
    /// The store failed; it is unknown whether the key is gone.
    fn delete(&self, key: &str) -> Result<bool, StoreError>;
}

/// A store's failure, in its own words. Our host's begin with a problem code and a colon.
#[derive(Debug)]
pub struct StoreError(pub String);

impl From<StoreError> for Problem {
    fn from(StoreError(text): StoreError) -> Self {
        match Code::leading(&text) {
            Some(code) => {
                let detail = text[code.as_str().len() + 1..].trim_start().to_owned();
                Problem::new(code, detail)
            }
            // In whose words it failed is for the log of the host, which wrote them.
            None => Problem::new(Code::StoreUnavailable, "the key-value store failed; try again").retry_after(1),
        }
    }
}

/// Finds what a request asks for.
///
/// # Errors
/// `not_found` for an unknown path, `method_not_allowed` for a known one.
pub fn route(method: Method, target: &str) -> Result<Call<'_>, Problem> {
    let (path, query) = query::split(target);
    let readable = matches!(method, Method::Get | Method::Head);
    let (call, allowed, methods) = match path {
        "/data" => (Call::Data, readable, "GET, HEAD"),
        "/healthz" | "/health" | "/health_check" => (Call::Health, readable, "GET, HEAD"),
        "/kv/set" => (Call::Set, method == Method::Post, "POST"),
        "/kv/get" => (Call::Get(query), readable, "GET, HEAD"),
        "/kv/delete" => (Call::Delete(query), method == Method::Delete, "DELETE"),
        _ => return Err(Problem::not_found()),
    };
    if allowed { Ok(call) } else { Err(Problem::method_not_allowed(methods)) }
}

/// The body of `/data`.
#[must_use]
pub fn data(name: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct Data<'a> {
        storage: &'a str,
        data: [u32; 3],
    }
    json(&Data { storage: name, data: DATA })
}

/// The body of the health paths.
#[must_use]
pub fn health(name: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct Health<'a> {
        status: &'a str,
        name: &'a str,
    }
    json(&Health { status: "available", name })
}

/// How much of a refused body is read all the same. An answer before the end of a body makes servers reset the
/// connection, and then a proxy in between may never see the answer.
const MAX_DRAINED: usize = 16 * 1024 * 1024;

/// The body of a `set` on its way in. Holds at most [`kv::MAX_SET_BODY`] bytes; of a refused one, nothing.
#[derive(Debug)]
pub struct Upload {
    body: Vec<u8>,
    /// What the head announced.
    length: Option<usize>,
    received: usize,
    refusal: Option<Problem>,
}

impl Upload {
    /// Begins with what the head says.
    #[must_use]
    pub fn new(content_type: Option<&[u8]>, content_length: Option<&[u8]>) -> Self {
        let length = content_length
            .and_then(|length| std::str::from_utf8(length).ok())
            .and_then(|length| length.parse::<usize>().ok());
        let expected = length.unwrap_or_default();
        let refusal = match kv::check_content_type(content_type) {
            Ok(()) if expected > kv::MAX_SET_BODY => Some(kv::body_too_large()),
            checked => checked.err(),
        };
        let body = if refusal.is_none() { Vec::with_capacity(expected) } else { Vec::new() };
        Upload { body, length, received: 0, refusal }
    }

    /// Takes the next piece. False if no more is wanted; after the last byte that was announced nothing comes, and to hear
    /// that costs a call to the host.
    pub fn push(&mut self, piece: &[u8]) -> bool {
        self.received = self.received.saturating_add(piece.len());
        if self.refusal.is_some() {
            return self.received <= MAX_DRAINED;
        }
        if self.received > kv::MAX_SET_BODY {
            self.refusal = Some(kv::body_too_large());
            self.body = Vec::new();
        } else {
            self.body.extend_from_slice(piece);
        }
        self.length != Some(self.received)
    }

    /// The body.
    ///
    /// # Errors
    /// `unsupported_media_type`, `body_too_large`.
    pub fn finish(self) -> Result<Vec<u8>, Problem> {
        match self.refusal {
            None => Ok(self.body),
            Some(problem) => Err(problem),
        }
    }
}

/// Stores the entry in `body`. Answers once the store has acknowledged it.
///
/// # Errors
/// Those of [`kv::parse_entry`], and the store's.
pub fn set(values: &impl Values, body: &[u8]) -> Result<Vec<u8>, Problem> {
    let entry = kv::parse_entry(body)?;
    values.set(&entry.key, entry.value.as_bytes())?;
    Ok(done(&entry.key, "stored"))
}

/// Reads the value of the query's key.
///
/// # Errors
/// Those of [`kv::key_from_query`], `key_not_found`, `value_not_text`, and the store's.
pub fn get(values: &impl Values, query: Option<&str>) -> Result<Vec<u8>, Problem> {
    #[derive(Serialize)]
    struct Found<'a> {
        key: &'a str,
        value: &'a str,
    }
    let key = kv::key_from_query(query)?;
    let value = values.get(&key)?.ok_or_else(|| no_such_key(&key))?;
    let value = std::str::from_utf8(&value).map_err(|_| {
        let detail = "the value is not UTF-8; it was stored by other means, and can be read the same way";
        Problem::new(Code::ValueNotText, detail)
    })?;
    Ok(json(&Found { key: &key, value }))
}

/// Removes the query's key.
///
/// # Errors
/// Those of [`kv::key_from_query`], `key_not_found`, and the store's.
pub fn delete(values: &impl Values, query: Option<&str>) -> Result<Vec<u8>, Problem> {
    let key = kv::key_from_query(query)?;
    if values.delete(&key)? { Ok(done(&key, "deleted")) } else { Err(no_such_key(&key)) }
}

fn no_such_key(key: &str) -> Problem {
    Problem::new(Code::KeyNotFound, format!("the store has no key {key:?}"))
}

fn done(key: &str, status: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct Done<'a> {
        key: &'a str,
        status: &'a str,
    }
    json(&Done { key, status })
}

fn json(document: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(document).expect("structs of strings and numbers are always JSON")
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::HashMap;

    use super::*;

    #[derive(Default)]
    struct Memory(RefCell<HashMap<String, Vec<u8>>>);

    impl Values for Memory {
        fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
            Ok(self.0.borrow().get(key).cloned())
        }

        fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
            self.0.borrow_mut().insert(key.to_owned(), value.to_owned());
            Ok(())
        }

        fn delete(&self, key: &str) -> Result<bool, StoreError> {
            Ok(self.0.borrow_mut().remove(key).is_some())
        }
    }

    fn text(body: Vec<u8>) -> String {
        String::from_utf8(body).expect("JSON is UTF-8")
    }

    #[test]
    fn routes() {
        assert_eq!(route(Method::Get, "/data?x=1"), Ok(Call::Data));
        assert_eq!(route(Method::Head, "/health_check"), Ok(Call::Health));
        assert_eq!(route(Method::Post, "/kv/set"), Ok(Call::Set));
        assert_eq!(route(Method::Get, "/kv/get?key=a"), Ok(Call::Get(Some("key=a"))));
        assert_eq!(route(Method::Delete, "/kv/delete"), Ok(Call::Delete(None)));
        for path in ["/", "", "/data/", "/kv", "/kv/set/x", "//data"] {
            assert_eq!(route(Method::Get, path), Err(Problem::not_found()), "{path}");
        }
        for (method, path, allow) in [
            (Method::Post, "/data", "GET, HEAD"),
            (Method::Get, "/kv/set", "POST"),
            (Method::Post, "/kv/get", "GET, HEAD"),
            (Method::Head, "/kv/delete", "DELETE"),
            (Method::Other, "/healthz", "GET, HEAD"),
        ] {
            assert_eq!(route(method, path).expect_err("not allowed").allow, Some(allow), "{path}");
        }
    }

    #[test]
    fn fixed_answers() {
        assert_eq!(text(data("storage-1")), r#"{"storage":"storage-1","data":[1,2,3]}"#);
        assert_eq!(text(health("a\"b")), r#"{"status":"available","name":"a\"b"}"#);
    }

    #[test]
    fn stores_reads_and_deletes() {
        let values = Memory::default();
        let key = "a/b c\u{1f600}";
        let query = format!("key={}", query::encode(key));
        let body = serde_json::json!({ "key": key, "value": "line\nNUL\0" }).to_string();
        let stored = set(&values, body.as_bytes()).expect("a good entry is stored");
        assert_eq!(text(stored), "{\"key\":\"a/b c\u{1f600}\",\"status\":\"stored\"}");
        let found = get(&values, Some(&query)).expect("it is there");
        assert_eq!(text(found), "{\"key\":\"a/b c\u{1f600}\",\"value\":\"line\\nNUL\\u0000\"}");
        let deleted = delete(&values, Some(&query)).expect("it is there");
        assert_eq!(text(deleted), "{\"key\":\"a/b c\u{1f600}\",\"status\":\"deleted\"}");
        assert_eq!(get(&values, Some(&query)).expect_err("it is gone").code, Code::KeyNotFound);
        assert_eq!(delete(&values, Some(&query)).expect_err("it is gone").code, Code::KeyNotFound);
    }

    #[test]
    fn a_value_that_is_not_text_says_so() {
        let values = Memory::default();
        values.set("k", b"\xff").expect("memory takes any bytes");
        assert_eq!(get(&values, Some("key=k")).expect_err("not text").code, Code::ValueNotText);
    }

    #[test]
    fn a_store_error_becomes_the_problem_it_names() {
        let full = Problem::from(StoreError("store_full: 1 GiB is used".to_owned()));
        assert_eq!((full.code, full.detail.as_ref()), (Code::StoreFull, "1 GiB is used"));
        let unknown = Problem::from(StoreError("/var/lib/secret: permission denied".to_owned()));
        assert_eq!(unknown.code, Code::StoreUnavailable);
        assert!(!unknown.detail.contains("secret"));
    }

    #[test]
    fn an_upload_is_kept_up_to_the_limit() {
        let mut upload = Upload::new(Some(b"application/json"), Some(b"5"));
        assert!(upload.push(b"ab"));
        assert!(!upload.push(b"cde"), "that was all");
        assert_eq!(upload.finish(), Ok(b"abcde".to_vec()));

        let mut upload = Upload::new(None, None);
        let piece = vec![b' '; kv::MAX_SET_BODY];
        assert!(upload.push(&piece));
        assert!(upload.push(b" "), "one more is too many, but it is drained");
        assert!(upload.body.is_empty());
        assert_eq!(upload.finish().expect_err("too long").code, Code::BodyTooLarge);
    }

    #[test]
    fn a_refused_upload_is_drained_up_to_a_limit() {
        for (content_type, length, code) in [
            (Some(b"text/plain".as_slice()), None, Code::UnsupportedMediaType),
            (None, Some(b"99999999".as_slice()), Code::BodyTooLarge),
        ] {
            let mut upload = Upload::new(content_type, length);
            let piece = vec![b' '; 1024 * 1024];
            let drained = (0..100).take_while(|_| upload.push(&piece)).count();
            assert_eq!(drained, 16);
            assert_eq!(upload.finish().expect_err("refused").code, code);
        }
    }
}
