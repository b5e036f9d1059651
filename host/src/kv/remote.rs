//! Another host's store, used over its internal address: the manifest's `store.backend = "http://…"`, and `host kv`.
//!
//! One request for each operation. The other host decides everything; this one keeps nothing, so all hosts that use one
//! store agree on every key. It promises what the other host's backend promises, but for its own limits, which are
//! checked before anything is sent.
//!
//! While the other host is away, or refuses, every operation fails with [`Error::Unavailable`], and works again as soon
//! as it answers: connections are made when they are needed. The reason is logged once, when it changes.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::header::{IF_MATCH, IF_NONE_MATCH};
use http::{HeaderValue, Method, StatusCode};
use problem::{Code, query};
use serde::de::DeserializeOwned;
use store::{BoxFuture, Bucket, Error, Limits, Page, Stats, Store, Swap, Value, Versioned};

use super::connection::{Answer, Call, Connections, User};
use super::wire::{self, Batch, Blob, Document, Keys, Values};
use crate::client::HostUrl;
use crate::token::Token;

/// What a value is sent as.
const BYTES: &str = "application/octet-stream";

/// What a batch is sent as.
const JSON: &str = "application/json";

/// A [`Store`] of another host.
pub(crate) struct RemoteStore {
    connections: Connections,
    limits: Limits,
    /// What was logged last: one of the constants below; and above its bits, how often that has changed.
    state: AtomicU64,
}

/// It answered the last request.
const REACHED: u64 = 0;
/// It did not.
const AWAY: u64 = 1;
/// It did, but would not have this host's request.
const REFUSED: u64 = 2;
/// What the constants take of a number.
const STATES: u64 = 4;

impl RemoteStore {
    /// The store of `host`, which need not be there yet.
    pub(crate) fn new(host: HostUrl, user: User, token: Option<Token>, limits: Limits) -> Self {
        // Batches are the longest, but those that set many values are not answered: this leaves room for other limits.
        let longest_answer = Batch::longest(&limits);
        Self {
            connections: Connections::new(host, user, token, longest_answer),
            limits,
            state: AtomicU64::new(REACHED),
        }
    }

    /// What `read` makes of the answer, unless that is an error. `read` gets successes, 304, 412, and the problems that are
    /// answers; None stands for what no host of this version would answer.
    async fn call<T>(&self, call: Call, read: impl FnOnce(Answer) -> Option<T>) -> Result<T, Error> {
        let seen = self.state.load(Ordering::Relaxed);
        let answer = match self.connections.call(call).await {
            Ok(answer) => answer,
            Err(reason) => return Err(self.unavailable(seen, AWAY, reason.to_string())),
        };
        let status = answer.status;
        let document = if answer.is_problem { Document::parse(&answer.body) } else { Document::default() };
        let readable = match document.code.as_str() {
            KEY_NOT_FOUND | PRECONDITION_FAILED => true,
            _ => !answer.is_problem && is_answer(status),
        };
        if readable {
            let Some(result) = read(answer) else {
                return Err(self.not_understood(seen, status, &document));
            };
            self.log(seen, REACHED, "");
            return Ok(result);
        }
        match wire::error(&document) {
            Some(Error::Unavailable(reason)) => Err(self.unavailable(seen, AWAY, reason)),
            Some(error) => {
                self.log(seen, REACHED, "");
                Err(error)
            }
            None => Err(self.not_understood(seen, status, &document)),
        }
    }

    fn not_understood(&self, seen: u64, status: StatusCode, document: &Document) -> Error {
        let (state, advice) = match status {
            StatusCode::UNAUTHORIZED => {
                (REFUSED, "; give its token by store.token-file or HOSTLER_STORE_TOKEN (host kv: --token-file)")
            }
            _ if status.is_server_error() => (AWAY, ""),
            _ => (REFUSED, "; is that a host's internal address, and the host of this version?"),
        };
        let detail = if document.detail.is_empty() { "" } else { ": " };
        self.unavailable(seen, state, format!("it answered {}{detail}{}{advice}", status.as_u16(), document.detail))
    }

    fn unavailable(&self, seen: u64, state: u64, reason: String) -> Error {
        self.log(seen, state, &reason);
        Error::Unavailable(reason)
    }

    /// Logs what has changed since a request began, which has `seen` the state then. What another request has found out
    /// meanwhile is newer: an answer that was on its way when the other host died doesn't say that it is back.
    fn log(&self, seen: u64, state: u64, reason: &str) {
        let next = (seen / STATES + 1) * STATES + state;
        let changed = seen % STATES != state
            && self.state.compare_exchange(seen, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if !changed {
            return;
        }
        let host = self.connections.host();
        if state == REACHED {
            tracing::info!("the store of {host} can be used again");
        } else {
            tracing::warn!(
                "the store of {host} (store.backend) can't be used: {reason}. Requests that need it are answered \
                 503 store_unavailable until it can"
            );
        }
    }
}

/// The problems that are answers.
const KEY_NOT_FOUND: &str = Code::KeyNotFound.as_str();
const PRECONDITION_FAILED: &str = Code::PreconditionFailed.as_str();

/// Whether operations know what to do with this status, if it comes without a problem.
fn is_answer(status: StatusCode) -> bool {
    status.is_success() || matches!(status, StatusCode::NOT_MODIFIED | StatusCode::PRECONDITION_FAILED)
}

impl Answer {
    /// The value and its version; without a value if there is none.
    fn versioned(self) -> Option<Versioned> {
        let version = self.version?;
        match self.status {
            StatusCode::OK | StatusCode::PRECONDITION_FAILED if !self.is_problem => {
                Some(Versioned { value: Some(self.body), version })
            }
            StatusCode::NOT_FOUND | StatusCode::PRECONDITION_FAILED => Some(Versioned { value: None, version }),
            _ => None,
        }
    }

    fn done(self) -> Option<()> {
        (self.status == StatusCode::NO_CONTENT).then_some(())
    }

    fn json<T: DeserializeOwned>(self) -> Option<T> {
        (self.status == StatusCode::OK).then(|| serde_json::from_slice(&self.body).ok())?
    }
}

fn at(bucket: &Bucket, key: &str) -> String {
    format!("/kv/{bucket}/{}", query::encode(key))
}

/// A request that changes nothing.
fn reading(path: String) -> Call {
    Call { method: Method::GET, path, condition: None, body: None, repeatable: true }
}

fn writing(method: Method, path: String, body: Option<(&'static str, Bytes)>) -> Call {
    Call { method, path, condition: None, body, repeatable: false }
}

fn batch(bucket: &Bucket, batch: &Batch<'_>) -> Call {
    let body = serde_json::to_vec(batch).expect("texts and bytes are always JSON");
    let call = writing(Method::POST, format!("/kv/{bucket}"), Some((JSON, body.into())));
    Call { repeatable: matches!(batch, Batch::Get(_)), ..call }
}

impl Store for RemoteStore {
    fn get<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<Option<Value>, Error>> {
        Box::pin(async move { Ok(self.read_versioned(bucket, key).await?.value) })
    }

    fn set<'a>(&'a self, bucket: &'a Bucket, key: &'a str, value: Value) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.limits.check_key(key)?;
            self.limits.check_value(&value)?;
            self.call(writing(Method::PUT, at(bucket, key), Some((BYTES, value))), Answer::done).await
        })
    }

    fn delete<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(async move {
            self.limits.check_key(key)?;
            let call = writing(Method::DELETE, at(bucket, key), None);
            self.call(call, |answer| match answer.status {
                StatusCode::NO_CONTENT => Some(true),
                StatusCode::NOT_FOUND => Some(false),
                _ => None,
            })
            .await
        })
    }

    fn exists<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(async move {
            self.limits.check_key(key)?;
            // Unlike HEAD, this has a body if it fails, and says why.
            let any = (IF_NONE_MATCH, HeaderValue::from_static("*"));
            let call = Call { condition: Some(any), ..reading(at(bucket, key)) };
            self.call(call, |answer| match answer.status {
                StatusCode::NOT_MODIFIED => Some(true),
                StatusCode::NOT_FOUND => Some(false),
                _ => None,
            })
            .await
        })
    }

    fn list<'a>(
        &'a self,
        bucket: &'a Bucket,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, Error>> {
        Box::pin(async move {
            let mut path = format!("/kv/{bucket}?limit={}", self.limits.page(limit));
            if let Some(after) = after {
                path.push_str("&cursor=");
                path.push_str(&query::encode(after));
            }
            let page: Keys = self.call(reading(path), Answer::json).await?;
            Ok(Page { keys: page.keys, next: page.cursor })
        })
    }

    fn increment<'a>(&'a self, bucket: &'a Bucket, key: &'a str, delta: i64) -> BoxFuture<'a, Result<i64, Error>> {
        Box::pin(async move {
            self.limits.check_key(key)?;
            let path = format!("{}?increment={delta}", at(bucket, key));
            self.call(writing(Method::POST, path, None), Answer::json).await
        })
    }

    fn read_versioned<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> BoxFuture<'a, Result<Versioned, Error>> {
        Box::pin(async move {
            self.limits.check_key(key)?;
            self.call(reading(at(bucket, key)), Answer::versioned).await
        })
    }

    fn swap<'a>(
        &'a self,
        bucket: &'a Bucket,
        key: &'a str,
        version: u64,
        value: Value,
    ) -> BoxFuture<'a, Result<Swap, Error>> {
        Box::pin(async move {
            self.limits.check_key(key)?;
            self.limits.check_value(&value)?;
            let call = writing(Method::PUT, at(bucket, key), Some((BYTES, value)));
            let call = Call { condition: Some((IF_MATCH, wire::etag(version))), ..call };
            self.call(call, |answer| match answer.status {
                StatusCode::NO_CONTENT => Some(Swap::Done),
                StatusCode::PRECONDITION_FAILED => answer.versioned().map(Swap::Conflict),
                _ => None,
            })
            .await
        })
    }

    fn get_many<'a>(
        &'a self,
        bucket: &'a Bucket,
        keys: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Option<Value>>, Error>> {
        Box::pin(async move {
            self.limits.check_keys(keys)?;
            let whole = |values: &Values| values.values.len() == keys.len();
            let read = |answer: Answer| answer.json().filter(whole);
            let Values { values } = self.call(batch(bucket, &Batch::Get(keys.into())), read).await?;
            Ok(values.into_iter().map(|value| value.map(|Blob(value)| value)).collect())
        })
    }

    fn set_many<'a>(&'a self, bucket: &'a Bucket, values: Vec<(String, Value)>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.limits.check_values(&values)?;
            let values = values.into_iter().map(|(key, value)| (key, Blob(value))).collect();
            self.call(batch(bucket, &Batch::Set(values)), Answer::done).await
        })
    }

    fn delete_many<'a>(&'a self, bucket: &'a Bucket, keys: &'a [String]) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.limits.check_keys(keys)?;
            self.call(batch(bucket, &Batch::Delete(keys.into())), Answer::done).await
        })
    }

    /// What the other host holds is counted there.
    fn stats(&self) -> Option<Stats> {
        None
    }
}
