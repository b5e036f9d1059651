//! One problem, as it goes to the client.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE as CONTENT_TYPE_NAME, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response};
use serde::Serialize;

use crate::Code;

/// The media type of a problem's body.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// Why one request failed: an RFC 9457 document and the headers that belong to it.
///
/// Meant for the client. What only the operator may see (a trap, a path on the host) goes to the log instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What kind of problem it is. Decides status, title and type.
    pub code: Code,
    /// What happened this time, to which thing, and what to do about it. A sentence or two.
    pub detail: Cow<'static, str>,
    /// After how many seconds to try again, if that may help. Sent as `Retry-After`.
    pub retry_after: Option<u32>,
    /// The methods that the path has, for example `GET, HEAD`. Sent as `Allow`.
    pub allow: Option<&'static str>,
    /// Numbers that programs may want, as further members of the document (RFC 9457, 3.2): `limit`, for example.
    pub members: BTreeMap<&'static str, u64>,
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    #[serde(flatten)]
    members: &'a BTreeMap<&'static str, u64>,
}

impl Problem {
    /// A problem without further headers.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, detail: detail.into(), retry_after: None, allow: None, members: BTreeMap::new() }
    }

    /// A method that the path doesn't have. `allow` lists those it has, separated by `, `.
    #[must_use]
    pub fn method_not_allowed(allow: &'static str) -> Self {
        let detail = format!("this path takes {allow}");
        Self { allow: Some(allow), ..Self::new(Code::MethodNotAllowed, detail) }
    }

    /// A path that doesn't exist.
    #[must_use]
    pub fn not_found() -> Self {
        Self::new(Code::NotFound, "no resource has this path")
    }

    /// The same problem, asking the client to try again after `seconds`.
    #[must_use]
    pub fn retry_after(self, seconds: u32) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    /// The same problem with a further number in its document.
    #[must_use]
    pub fn with(mut self, member: &'static str, number: u64) -> Self {
        self.members.insert(member, number);
        self
    }

    /// The status of the response, as a number.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.code.status().as_u16()
    }

    /// The response's body.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        let document = Document {
            r#type: self.code.type_uri(),
            title: self.code.title(),
            status: self.status(),
            detail: &self.detail,
            code: self.code.as_str(),
            members: &self.members,
        };
        serde_json::to_vec(&document).expect("a struct of strings and numbers is always JSON")
    }

    /// The response's headers besides `content-length`.
    pub fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let challenge = match self.code {
            Code::InvalidApiKey => Some("ApiKey header=\"x-api-key\""),
            Code::Unauthorized => Some("Bearer"),
            _ => None,
        };
        [
            Some((CONTENT_TYPE_NAME, HeaderValue::from_static(CONTENT_TYPE))),
            self.retry_after.map(|seconds| (RETRY_AFTER, HeaderValue::from(seconds))),
            self.allow.map(|methods| (ALLOW, HeaderValue::from_static(methods))),
            challenge.map(|challenge| (WWW_AUTHENTICATE, HeaderValue::from_static(challenge))),
        ]
        .into_iter()
        .flatten()
    }

    /// The whole response, with a body of any type that bytes turn into.
    #[must_use]
    pub fn into_response<B: From<Vec<u8>>>(self) -> Response<B> {
        let body = self.body();
        let length = body.len();
        let mut response = Response::new(B::from(body));
        *response.status_mut() = self.code.status();
        response.headers_mut().extend(self.headers());
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
        response
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_an_rfc_9457_document() {
        let response: Response<Vec<u8>> = Problem::new(Code::KeyNotFound, "no key \"a\"").into_response();
        assert_eq!(response.status(), 404);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.headers()["content-length"], response.body().len().to_string().as_str());
        let document: serde_json::Value = serde_json::from_slice(response.body()).expect("a problem is JSON");
        assert_eq!(
            document,
            serde_json::json!({
                "type": "urn:hostler:problem:key_not_found",
                "title": "There is no such key",
                "status": 404,
                "detail": "no key \"a\"",
                "code": "key_not_found",
            })
        );
    }

    #[test]
    fn carries_further_numbers() {
        let body = Problem::new(Code::KeyTooLarge, "").with("limit", 1024).with("len", 2000).body();
        let document: serde_json::Value = serde_json::from_slice(&body).expect("a problem is JSON");
        assert_eq!((&document["limit"], &document["len"]), (&1024.into(), &2000.into()));
    }

    #[test]
    fn carries_the_headers_of_its_kind() {
        let overloaded: Response<Vec<u8>> = Problem::new(Code::Overloaded, "").retry_after(1).into_response();
        assert_eq!(overloaded.headers()["retry-after"], "1");
        let method: Response<Vec<u8>> = Problem::method_not_allowed("GET, HEAD").into_response();
        assert_eq!(
            (method.status().as_u16(), &method.headers()["allow"]),
            (405, &HeaderValue::from_static("GET, HEAD"))
        );
        let key: Response<Vec<u8>> = Problem::new(Code::InvalidApiKey, "").into_response();
        assert_eq!(key.headers()["www-authenticate"], "ApiKey header=\"x-api-key\"");
    }
}
