//! What it means that a forwarded request failed: for the client, for the registry, and for a second attempt.
//!
//! Under our host this is rarely met: its dispatcher answers for instances that fail.

use problem::{Code, Problem};
use wasip3::http::types::ErrorCode;

/// How far a request got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// No connection: no byte of the request reached the instance.
    Nowhere,
    /// The connection broke before the head of an answer. The instance may have acted on the request.
    Broken,
    /// The instance may be well. It was slow, or the request itself was refused.
    Reached,
}

/// How far a request got that failed with `error`.
pub(crate) fn reach(error: &ErrorCode) -> Reach {
    match error {
        ErrorCode::DnsTimeout
        | ErrorCode::DnsError(_)
        | ErrorCode::DestinationNotFound
        | ErrorCode::DestinationUnavailable
        | ErrorCode::DestinationIpUnroutable
        | ErrorCode::ConnectionRefused
        | ErrorCode::ConnectionTimeout => Reach::Nowhere,
        ErrorCode::ConnectionTerminated
        | ErrorCode::ConnectionWriteTimeout
        | ErrorCode::HttpResponseIncomplete
        | ErrorCode::HttpProtocolError
        | ErrorCode::InternalError(_) => Reach::Broken,
        _ => Reach::Reached,
    }
}

/// What the client is told.
pub(crate) fn problem(error: &ErrorCode) -> Problem {
    match error {
        ErrorCode::ConnectionTimeout
        | ErrorCode::ConnectionReadTimeout
        | ErrorCode::ConnectionWriteTimeout
        | ErrorCode::DnsTimeout
        | ErrorCode::HttpResponseTimeout => {
            Problem::new(Code::DeadlineExceeded, "the instance did not answer in time; try again")
        }
        ErrorCode::HttpRequestBodySize(_) => {
            Problem::new(Code::BodyTooLarge, "the body is longer than its limit, or than its content-length")
        }
        ErrorCode::LoopDetected => Problem::new(Code::LoopDetected, "the request went through too many components"),
        ErrorCode::ConnectionLimitReached => {
            Problem::new(Code::Overloaded, "too many connections to the instance are open; try again").retry_after(1)
        }
        _ => Problem::new(Code::InstanceUnreachable, "the instance can't be reached; try again"),
    }
}
