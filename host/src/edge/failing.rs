//! Why an answer is a failure: what its problem document says.
//!
//! Made for answers that fail, and for no others. The document may come from the host or from a component, which may send
//! anything: at most [`LARGEST`] bytes of it are looked at.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use problem::CONTENT_TYPE as PROBLEM;
use serde::Deserialize;

/// Most bytes of a document.
const LARGEST: usize = 4 << 10;

/// An answer that is a failure.
pub(super) enum Failing {
    /// With what has come of its problem document.
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
    pub(super) fn by_head(status: StatusCode, headers: &HeaderMap) -> Option<Box<Self>> {
        if !status.is_server_error() {
            return None;
        }
        let explained = headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(PROBLEM.as_bytes()));
        Some(Box::new(if explained { Self::Explained(Vec::new()) } else { Self::Unexplained }))
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
            Self::Explained(document) => match serde_json::from_slice(document) {
                Ok(Document { code }) => code,
                Err(_) => "the problem has no code".to_owned(),
            },
            Self::Unexplained => "answered so by the instance".to_owned(),
            Self::BrokenOff => "the answer broke off".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(status: u16, kind: &str) -> Option<Box<Failing>> {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, kind.parse().expect("a test's value"))]);
        Failing::by_head(StatusCode::from_u16(status).expect("a status"), &headers)
    }

    #[test]
    fn the_reason_is_the_code_of_the_problem() {
        assert!(failing(404, PROBLEM).is_none());
        let mut problem = failing(502, PROBLEM).expect("a failure");
        problem.read(br#"{"title":"x","code":"#);
        problem.read(br#""component_failed"}"#);
        assert_eq!(problem.reason(), "component_failed");
        assert_eq!(failing(500, "text/plain").expect("a failure").reason(), "answered so by the instance");
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
