//! Why an answer is a failure: what the host knows of its own answers, and what a component's problem document says.
//!
//! Made for answers that fail, and for no others. A component may send anything: at most [`LARGEST`] bytes of a document are
//! looked at.

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use problem::{CONTENT_TYPE as PROBLEM, Code};
use serde::Deserialize;

/// Most bytes of a document.
const LARGEST: usize = 4 << 10;

/// The reason of an answer that says none.
const UNEXPLAINED: &str = "answered so by the instance";

/// An answer that is a failure.
pub(super) enum Failing {
    /// The host answered for this reason.
    Known(Code),
    /// With what has come of the component's problem document.
    Explained(Vec<u8>),
    /// Whoever answered doesn't say why.
    Unexplained,
    /// Its head was fine.
    BrokenOff,
}

/// What matters of a problem document.
#[derive(Deserialize)]
struct Document {
    code: String,
}

impl Failing {
    /// By the answer's head: a 5xx is one.
    pub(super) fn by_head<B>(answer: &Response<B>) -> Option<Box<Self>> {
        if !answer.status().is_server_error() {
            return None;
        }
        let is_problem = |kind: &HeaderValue| kind.as_bytes().starts_with(PROBLEM.as_bytes());
        Some(Box::new(match answer.extensions().get::<Code>() {
            Some(code) => Self::Known(*code),
            None if answer.headers().get(CONTENT_TYPE).is_some_and(is_problem) => Self::Explained(Vec::new()),
            None => Self::Unexplained,
        }))
    }

    /// By the answer's body, which ended before its end.
    pub(super) fn by_body() -> Box<Self> {
        Box::new(Self::BrokenOff)
    }

    /// Reads on in the document.
    pub(super) fn read(&mut self, bytes: &[u8]) {
        if let Self::Explained(document) = self {
            let room = LARGEST - document.len();
            document.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }

    /// The problem's code, or a sentence.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Known(code) => code.to_string(),
            // The answer to a HEAD has none.
            Self::Explained(document) if document.is_empty() => UNEXPLAINED.to_owned(),
            Self::Explained(document) => match serde_json::from_slice(document) {
                Ok(Document { code }) => code,
                Err(_) => "the problem has no code".to_owned(),
            },
            Self::Unexplained => UNEXPLAINED.to_owned(),
            Self::BrokenOff => "the answer broke off".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn answer(status: u16, kind: &'static str) -> Response<()> {
        let mut answer = Response::new(());
        *answer.status_mut() = StatusCode::from_u16(status).expect("a status");
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        answer
    }

    fn failing(status: u16, kind: &'static str) -> Option<Box<Failing>> {
        Failing::by_head(&answer(status, kind))
    }

    #[test]
    fn the_host_knows_why_it_fails() {
        // Also where nothing is sent, as to a HEAD.
        let mut answer = answer(502, PROBLEM);
        answer.extensions_mut().insert(Code::ComponentFailed);
        assert_eq!(Failing::by_head(&answer).expect("a failure").reason(), "component_failed");
        *answer.status_mut() = StatusCode::NOT_FOUND;
        assert!(Failing::by_head(&answer).is_none());
    }

    #[test]
    fn the_reason_is_the_code_of_the_problem() {
        assert!(failing(404, PROBLEM).is_none());
        let mut problem = failing(502, PROBLEM).expect("a failure");
        assert_eq!(problem.reason(), UNEXPLAINED, "nothing has come of it");
        problem.read(br#"{"title":"x","code":"#);
        problem.read(br#""component_failed"}"#);
        assert_eq!(problem.reason(), "component_failed");
        assert_eq!(failing(500, "text/plain").expect("a failure").reason(), UNEXPLAINED);
    }

    #[test]
    fn a_document_that_is_none_is_bounded() {
        let mut problem = failing(500, PROBLEM).expect("a failure");
        for _ in 0..3 {
            problem.read(&[b'x'; LARGEST - 1]);
        }
        assert!(matches!(&*problem, Failing::Explained(document) if document.len() == LARGEST));
        assert_eq!(problem.reason(), "the problem has no code");
    }
}
