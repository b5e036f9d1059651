//! Ordinary requests.

use http::{HeaderMap, Method};
use serde_json::Value;

use crate::PATIENCE;

/// Sends requests to one address over kept-alive connections. Clones share them.
#[derive(Clone)]
pub struct Client {
    base: String,
    agent: ureq::Agent,
}

impl Client {
    /// A client for a URL without a path.
    pub fn new(base: impl Into<String>) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .max_redirects(0)
            .proxy(None)
            .accept("")
            .accept_encoding("")
            .user_agent("")
            .timeout_global(Some(PATIENCE))
            .max_response_header_size(1 << 20);
        Self { base: base.into(), agent: config.build().into() }
    }

    /// The URL it was made for.
    pub fn url(&self) -> &str {
        &self.base
    }

    /// A request to be filled in and sent.
    pub fn request(&self, method: &str, path: &str) -> Request {
        let method = Method::from_bytes(method.as_bytes()).expect("a test's method");
        let builder = http::Request::builder().method(method).uri(format!("{}{path}", self.base));
        Request { agent: self.agent.clone(), builder, body: None }
    }

    /// `GET path`
    #[track_caller]
    pub fn get(&self, path: &str) -> Reply {
        self.request("GET", path).send()
    }

    /// `POST path` with a JSON body
    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.request("POST", path).json(body).send()
    }

    /// `DELETE path`
    #[track_caller]
    pub fn delete(&self, path: &str) -> Reply {
        self.request("DELETE", path).send()
    }
}

/// A request that is not sent yet.
pub struct Request {
    agent: ureq::Agent,
    builder: http::request::Builder,
    body: Option<Vec<u8>>,
}

impl Request {
    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.builder = self.builder.header(name, value);
        self
    }

    /// Sets the body, and no content type.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Sets the body and its content type.
    #[must_use]
    pub fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }

    /// Sends it and reads the whole answer.
    ///
    /// # Panics
    /// There is no answer. Any status is one.
    #[track_caller]
    pub fn send(self) -> Reply {
        match self.try_send() {
            Ok(reply) => reply,
            Err(error) => panic!("no answer: {error}"),
        }
    }

    /// Sends it and reads the whole answer.
    ///
    /// # Errors
    /// There is no answer, in the client's words. Any status is one.
    pub fn try_send(self) -> Result<Reply, String> {
        let shown = format!("{:?} {:?}", self.builder.method_ref(), self.builder.uri_ref());
        let sent = match self.body {
            Some(body) => self.agent.run(self.builder.body(body).expect("a test's request")),
            None => self.agent.run(self.builder.body(()).expect("a test's request")),
        };
        let (head, mut body) = sent.map_err(|error| format!("{shown}: {error}"))?.into_parts();
        let body = body.with_config().limit(1 << 30).read_to_vec().map_err(|error| format!("{shown}: {error}"))?;
        Ok(Reply { status: head.status.as_u16(), headers: head.headers, body })
    }
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

impl Reply {
    /// The same, if it has this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:?}\n{}", self.headers, self.text());
        self
    }

    /// The first header of this name, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("not JSON ({error}): status {}, {}", self.status, self.text()),
        }
    }

    /// The `code` of its problem document; nothing if it has none.
    pub fn code(&self) -> String {
        let document: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        document["code"].as_str().unwrap_or_default().to_owned()
    }

    /// Its problem document, which must be complete and have this status and code.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!((self.status, self.code().as_str()), (status, code), "{:?}\n{}", self.headers, self.text());
        assert_eq!(self.header("content-type"), "application/problem+json");
        let document = self.json();
        for member in ["type", "title", "detail"] {
            assert!(document[member].as_str().is_some_and(|text| !text.is_empty()), "no {member}: {document}");
        }
        assert_eq!(document["status"], status, "{document}");
        document
    }
}
