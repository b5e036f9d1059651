//! `/kv`: the store, for operators and for hosts that use this one's. [`crate::kv`] has the table of requests.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequestParts, RawQuery, Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use bytes::Bytes;
use problem::{Code, Problem, query};
use serde::Serialize;
use store::{Bucket, Error, Limits, Store, Swap, Value, Versioned};
use tokio::sync::OwnedSemaphorePermit;

use super::body::{self, Housed, Pace, Room, Unread};
use super::{Control, Failure};
use crate::kv::wire::{self, Batch, Blob, Keys, Values};

/// How often a write is tried whose condition holds but whose key others write meanwhile. Each time somebody else's write
/// succeeded.
const ATTEMPTS: usize = 16;

/// Most bytes that values and batches have together while they are received and sent.
const ROOM: usize = 64 << 20;

/// The store and what bounds its requests.
pub(crate) struct Kv {
    store: Arc<dyn Store>,
    limits: Limits,
    borrowed: bool,
    room: Room,
    /// Added to versions to make `ETag`s of them: another process's, which count anew, must not match by chance.
    salt: u64,
}

impl Kv {
    /// `borrowed` if the store is another host's: then it isn't lent to a third, so that hosts that name each other
    /// don't ask in a circle.
    pub(crate) fn new(store: Arc<dyn Store>, limits: Limits, borrowed: bool) -> Self {
        Kv { store, limits, borrowed, room: Room::new(ROOM), salt: RandomState::new().hash_one(()) }
    }

    fn etag(&self, version: u64) -> HeaderValue {
        wire::etag(version.wrapping_add(self.salt))
    }

    fn version(&self, etag: &HeaderValue) -> Option<u64> {
        wire::version(etag).map(|version| version.wrapping_sub(self.salt))
    }

    /// The value and its `ETag`; without a value, the problem.
    fn answer(&self, status: StatusCode, found: Versioned, absent: impl FnOnce() -> Problem) -> Response {
        let mut answer = match found.value {
            Some(value) => (status, [(CONTENT_TYPE, "application/octet-stream")], value).into_response(),
            None => absent().into_response(),
        };
        answer.headers_mut().insert(ETAG, self.etag(found.version));
        answer
    }

    fn conflict(&self, found: Versioned) -> Response {
        self.answer(StatusCode::PRECONDITION_FAILED, found, || {
            Problem::new(Code::PreconditionFailed, "the key has no value; the header \"etag\" is for this state of it")
        })
    }

    /// A body, and the room it takes, of at most `limit` bytes; what a longer one is called is for the caller to say.
    async fn read(
        &self,
        request: Request,
        limit: usize,
        too_long: impl FnOnce(usize) -> Problem,
    ) -> Result<(Bytes, OwnedSemaphorePermit), Problem> {
        let body = request.into_body();
        let room = self.room.take(body::most(&body, limit)).await?;
        match body::read(body, limit, body::TIMEOUT, Pace::Fast).await {
            Ok(body) => Ok((body, room)),
            Err(Unread::TooLong(len)) => Err(too_long(len)),
            Err(Unread::Failed(problem)) => Err(problem),
        }
    }
}

/// An empty store in memory.
#[cfg(test)]
impl Default for Kv {
    fn default() -> Self {
        Kv::new(Arc::new(store::MemoryStore::default()), Limits::default(), false)
    }
}

/// A JSON answer of about so many bytes.
async fn json(kv: &Kv, bytes: usize, document: &impl Serialize) -> Answer {
    let room = kv.room.take(bytes).await?;
    let text = serde_json::to_vec(document).expect("texts and bytes are always JSON");
    let body = Body::new(Housed::new(text.into(), room));
    Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure(wire::problem(&error))
    }
}

type Answer<T = Response> = Result<T, Failure>;

/// `/kv/{bucket}`
pub(super) fn of_bucket() -> MethodRouter<Arc<Control>> {
    get(list).post(batch)
}

/// `/kv/{bucket}/{key}`
pub(super) fn of_key() -> MethodRouter<Arc<Control>> {
    get(value).put(set).delete(remove).post(increment)
}

/// The bucket and the key in the path; without a key, an empty one. Not decoded by axum, which takes what isn't
/// percent-encoded properly as it is.
struct At(Bucket, String);

impl FromRequestParts<Arc<Control>> for At {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, control: &Arc<Control>) -> Result<Self, Failure> {
        if control.kv.borrowed && parts.headers.contains_key(runtime::HOPS) {
            let detail = "this host's store is another host's; name that one in store.backend";
            return Err(Problem::new(Code::LoopDetected, detail).into());
        }
        let path = parts.uri.path().strip_prefix("/kv/").unwrap_or_default();
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let bucket = query::decode(bucket).map_err(|error| invalid(format!("the bucket in the path: {error}")))?;
        let bucket = bucket.parse().map_err(|error| invalid(format!("{error}")))?;
        let key = query::decode(key).map_err(|error| {
            Problem::new(Code::InvalidKey, format!("the key in the path is not percent-encoded text: {error}"))
        })?;
        Ok(At(bucket, key.into_owned()))
    }
}

fn invalid(detail: String) -> Problem {
    Problem::new(Code::InvalidRequest, detail)
}

/// What a request wants of the key.
enum Condition {
    Any,
    Version(u64),
    Present,
    Absent,
}

impl Condition {
    /// The only one that writes can have.
    fn of_write(kv: &Kv, headers: &HeaderMap) -> Result<Self, Problem> {
        match (headers.get(IF_MATCH), headers.get(IF_NONE_MATCH)) {
            (None, None) => Ok(Condition::Any),
            (Some(value), None) if value == "*" => Ok(Condition::Present),
            (None, Some(value)) if value == "*" => Ok(Condition::Absent),
            (Some(value), None) => match kv.version(value) {
                Some(version) => Ok(Condition::Version(version)),
                None => Err(not_an_etag(&IF_MATCH)),
            },
            _ => Err(invalid("a PUT takes \"if-match\" with an etag or *, or \"if-none-match: *\"".to_owned())),
        }
    }

    /// No condition.
    fn none(headers: &HeaderMap) -> Result<(), Problem> {
        match [IF_MATCH, IF_NONE_MATCH].iter().find(|name| headers.contains_key(*name)) {
            Some(name) => Err(invalid(format!("this request can't have the condition \"{name}\"; PUT and GET can"))),
            None => Ok(()),
        }
    }
}

fn not_an_etag(name: &HeaderName) -> Problem {
    invalid(format!("\"{name}\" takes * or one etag of this address, like \"0123456789abcdef\""))
}

/// `GET` and `HEAD`
async fn value(State(control): State<Arc<Control>>, At(bucket, key): At, headers: HeaderMap) -> Answer {
    let kv = &control.kv;
    let found = kv.store.read_versioned(&bucket, &key).await?;
    let unchanged = match headers.get(IF_NONE_MATCH) {
        None => false,
        Some(value) if value == "*" => found.value.is_some(),
        Some(value) => kv.version(value).ok_or_else(|| not_an_etag(&IF_NONE_MATCH))? == found.version,
    };
    if unchanged {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, kv.etag(found.version))]).into_response());
    }
    Ok(kv.answer(StatusCode::OK, found, || not_found(&key)))
}

fn not_found(key: &str) -> Problem {
    Problem::new(Code::KeyNotFound, format!("the bucket has no key {key:?}"))
}

/// `PUT`
async fn set(State(control): State<Arc<Control>>, At(bucket, key): At, request: Request) -> Answer {
    let kv = &control.kv;
    kv.limits.check_key(&key)?;
    let condition = Condition::of_write(kv, request.headers())?;
    let limit = kv.limits.value;
    let (value, _room) = kv.read(request, limit, |len| wire::problem(&Error::ValueTooLarge { len, limit })).await?;
    let outcome = match condition {
        Condition::Any => {
            kv.store.set(&bucket, &key, value).await?;
            Swap::Done
        }
        Condition::Version(version) => kv.store.swap(&bucket, &key, version, value).await?,
        Condition::Present => swap_if(kv, &bucket, &key, value, |found| found.is_some()).await?,
        Condition::Absent => swap_if(kv, &bucket, &key, value, |found| found.is_none()).await?,
    };
    Ok(match outcome {
        Swap::Done => StatusCode::NO_CONTENT.into_response(),
        Swap::Conflict(found) => kv.conflict(found),
    })
}

/// Sets the key if what it holds is as wanted, whatever its version.
async fn swap_if(
    kv: &Kv,
    bucket: &Bucket,
    key: &str,
    value: Value,
    wanted: impl Fn(&Option<Value>) -> bool,
) -> Answer<Swap> {
    let mut found = kv.store.read_versioned(bucket, key).await?;
    for _ in 0..ATTEMPTS {
        if !wanted(&found.value) {
            return Ok(Swap::Conflict(found));
        }
        match kv.store.swap(bucket, key, found.version, value.clone()).await? {
            Swap::Done => return Ok(Swap::Done),
            Swap::Conflict(newer) => found = newer,
        }
    }
    Err(Problem::new(Code::Overloaded, "others keep writing this key; nothing was changed").retry_after(1).into())
}

/// `DELETE`
async fn remove(State(control): State<Arc<Control>>, At(bucket, key): At, headers: HeaderMap) -> Answer<StatusCode> {
    Condition::none(&headers)?;
    let existed = control.kv.store.delete(&bucket, &key).await?;
    if existed { Ok(StatusCode::NO_CONTENT) } else { Err(not_found(&key).into()) }
}

/// `POST …?increment=N`
async fn increment(
    State(control): State<Arc<Control>>,
    At(bucket, key): At,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Answer<Json<i64>> {
    Condition::none(&headers)?;
    let delta = number(query.as_deref(), "increment")?
        .ok_or_else(|| invalid("the parameter \"increment\" is missing: by how much?".to_owned()))?;
    Ok(Json(control.kv.store.increment(&bucket, &key, delta).await?))
}

/// `GET /kv/{bucket}`
async fn list(State(control): State<Arc<Control>>, At(bucket, _): At, RawQuery(query): RawQuery) -> Answer {
    let kv = &control.kv;
    let query = query.as_deref();
    let cursor = query::parameter(query, "cursor").map_err(|error| invalid(format!("\"cursor\": {error}")))?;
    let limit = number(query, "limit")?.unwrap_or(kv.limits.batch);
    let page = kv.store.list(&bucket, cursor.as_deref(), limit).await?;
    let bytes = page.keys.iter().map(String::len).sum();
    json(kv, bytes, &Keys { keys: page.keys, cursor: page.next }).await
}

/// A number in the query.
fn number<T: std::str::FromStr>(query: Option<&str>, name: &str) -> Result<Option<T>, Problem> {
    let text = query::parameter(query, name).map_err(|error| invalid(format!("\"{name}\": {error}")))?;
    let number = text.map(|text| text.parse().map_err(|_| invalid(format!("\"{name}\" must be a whole number"))));
    number.transpose()
}

/// `POST /kv/{bucket}`
async fn batch(State(control): State<Arc<Control>>, At(bucket, _): At, request: Request) -> Answer {
    let kv = &control.kv;
    Condition::none(request.headers())?;
    problem::kv::check_content_type(request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes))?;
    let limit = Batch::longest(&kv.limits).max(body::LIMIT);
    let too_long = |_| Problem::new(Code::BodyTooLarge, format!("the body has more than {limit} bytes"));
    let (body, _room) = kv.read(request, limit, too_long).await?;
    match serde_json::from_slice(&body).map_err(|error| not_a_batch(&body, &error))? {
        Batch::Get(keys) => {
            let values = kv.store.get_many(&bucket, &keys).await?;
            let len = values.iter().flatten().map(Bytes::len).sum::<usize>();
            let values = values.into_iter().map(|value| value.map(Blob)).collect();
            json(kv, len / 3 * 4, &Values { values }).await
        }
        Batch::Set(values) => {
            let values = values.into_iter().map(|(key, Blob(value))| (key, value)).collect();
            kv.store.set_many(&bucket, values).await?;
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        Batch::Delete(keys) => {
            kv.store.delete_many(&bucket, &keys).await?;
            Ok(StatusCode::NO_CONTENT.into_response())
        }
    }
}

fn not_a_batch(body: &[u8], error: &serde_json::Error) -> Problem {
    if serde_json::from_slice::<serde::de::IgnoredAny>(body).is_err() {
        return Problem::new(Code::InvalidJson, error.to_string());
    }
    invalid(format!("{error}; write {{\"get\":[KEY,…]}}, {{\"set\":[[KEY,BASE64],…]}} or {{\"delete\":[KEY,…]}}"))
}
