//! JSON bodies of requests: small, checked, and complaints name the field.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, Request};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use problem::{Code, Problem};
use registry::Namespace;
use serde_json::{Map, Value};

use super::Failure;

/// Most bytes of a body.
pub(super) const LIMIT: usize = 64 << 10;

/// For a body to arrive.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The namespace of a request that names none.
const DEFAULT_NAMESPACE: &str = "storage";

/// The fields of a JSON object. Unknown ones are passed over.
pub(super) struct Fields(Map<String, Value>);

impl<S: Sync> FromRequest<S> for Fields {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let headers = request.headers();
        problem::kv::check_content_type(headers.get(CONTENT_TYPE).map(|value| value.as_bytes()))?;
        let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| length > LIMIT as u64) {
            return Err(too_large().into());
        }
        let body = read(request.into_body()).await?;
        match serde_json::from_slice(&body) {
            Ok(Value::Object(fields)) => Ok(Fields(fields)),
            Ok(_) => Err(Problem::new(Code::InvalidRequest, "the body must be a JSON object").into()),
            Err(error) => Err(Problem::new(Code::InvalidJson, error.to_string()).into()),
        }
    }
}

async fn read(body: Body) -> Result<bytes::Bytes, Problem> {
    match tokio::time::timeout(TIMEOUT, to_bytes(body, LIMIT)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) if is_length_limit(&error) => Err(too_large()),
        Ok(Err(_)) => Err(Problem::new(Code::InvalidRequest, "the body ended early")),
        Err(_) => {
            Err(Problem::new(Code::RequestTimeout, format!("the body did not arrive within {} s", TIMEOUT.as_secs())))
        }
    }
}

fn is_length_limit(error: &axum::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<http_body_util::LengthLimitError>())
}

fn too_large() -> Problem {
    Problem::new(Code::BodyTooLarge, format!("the body has more than {LIMIT} bytes"))
}

impl Fields {
    /// The string `name`, as `T` parses it.
    pub(super) fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(&self, name: &str) -> Result<T, Problem> {
        let text = self.string(name)?.ok_or_else(|| missing(name))?;
        text.parse().map_err(|error| invalid(format!("the field \"{name}\" is not valid: {error}")))
    }

    /// The namespace, `storage` if there is none.
    pub(super) fn namespace(&self) -> Result<Namespace, Problem> {
        if self.string("namespace")?.is_none() {
            return Ok(DEFAULT_NAMESPACE.parse().expect("the default is a namespace"));
        }
        self.parse("namespace")
    }

    /// The number `port`.
    pub(super) fn port(&self) -> Result<u16, Problem> {
        match self.0.get("port") {
            None | Some(Value::Null) => Err(missing("port")),
            Some(value) => value
                .as_u64()
                .and_then(|port| u16::try_from(port).ok())
                .filter(|port| *port != 0)
                .ok_or_else(|| invalid("the field \"port\" must be a number from 1 to 65535".to_owned())),
        }
    }

    fn string(&self, name: &str) -> Result<Option<&str>, Problem> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(invalid(format!("the field \"{name}\" must be a string"))),
        }
    }
}

fn missing(name: &str) -> Problem {
    invalid(format!("the field \"{name}\" is missing"))
}

fn invalid(detail: String) -> Problem {
    Problem::new(Code::InvalidRequest, detail)
}
