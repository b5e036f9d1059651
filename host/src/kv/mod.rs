//! The store over HTTP: what `/kv` on the internal address speaks, and the store that speaks it to another host.
//!
//! | request | answer |
//! |---|---|
//! | `GET /kv/{bucket}/{key}` | 200 with the value; 404 `key_not_found`. Both with an `ETag` |
//! | the same with `If-None-Match: ETAG` | 304 if nobody wrote or deleted the key since |
//! | the same with `If-None-Match: *` | 304 if the key has a value |
//! | `HEAD /kv/{bucket}/{key}` | as `GET`, without the body |
//! | `PUT /kv/{bucket}/{key}`, body: the value | 204 |
//! | the same with `If-Match: ETAG` | 204 if nobody wrote or deleted the key since; else 412 |
//! | the same with `If-Match: *`, `If-None-Match: *` | 204 if the key has a value, or has none; else 412 |
//! | `DELETE /kv/{bucket}/{key}` | 204; 404 `key_not_found` |
//! | `POST /kv/{bucket}/{key}?increment=N` | 200 with the sum, which is also the new value |
//! | `GET /kv/{bucket}?cursor=C&limit=N` | 200 `{"keys":[…],"cursor":C}`, in order; no cursor after the last page |
//! | `POST /kv/{bucket}`, `{"get":["K",…]}` | 200 `{"values":[V\|null,…]}`, in that order, all of one moment |
//! | `POST /kv/{bucket}`, `{"set":[["K",V],…]}` | 204; all or none |
//! | `POST /kv/{bucket}`, `{"delete":["K",…]}` | 204; all or none |
//!
//! Values are raw bytes, in batches (V) base64. Keys are percent-encoded; a `/` in one may stay as it is. The `ETag` of a
//! key that has no value is that of its absence: with `If-Match`, it says that the key still has none. 412 carries the
//! value there is now, or the problem `precondition_failed` if there is none, and its `ETag`. An `ETag` means nothing to
//! another process: after the end of the one that gave it, it matches no more.
//!
//! Errors are problem documents. Those about a bound have the members `limit` and, where it is known, `len`; `wire` turns
//! errors into documents and back.
//!
//! - `wire`: the forms. The server is [`crate::control`]'s.
//! - [`RemoteStore`]: another host's store, as a [`store::Store`]. `connection`: how it gets there.

mod connection;
mod remote;
#[cfg(test)]
mod tests;
pub(crate) mod wire;

pub(crate) use connection::User;
pub(crate) use remote::RemoteStore;
