//! What a client is told when a request fails, and the rules a request is held to.
//!
//! Shared by the host and the guests, so that there is one table of codes, one document format and one set of limits.
//! Pure: no I/O, no clock; compiles natively and for `wasm32-wasip2`.
//!
//! - [`Code`]: the stable names, with their HTTP statuses and titles.
//! - [`Problem`]: one RFC 9457 document and the headers that go with it.
//! - [`kv`]: keys, values and the JSON bodies that carry them.
//! - [`query`]: queries and percent-encoding.

mod code;
mod document;
pub mod kv;
pub mod query;

pub use code::Code;
pub use document::{CONTENT_TYPE, Problem};
