//! Which request goes where: the public table.

use std::borrow::Cow;

use http::Method;
use problem::query::{self, segment_to_value};
use problem::{Code, Problem};

/// The namespace that `/data`, `/api` and `/v1/values` are forwarded to.
pub const STORAGE: &str = "storage";

/// What to do with a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Route<'a> {
    /// Say that the gateway is well.
    Health,
    /// List the instances of a namespace, or of all if `None`.
    Status(Option<Cow<'a, str>>),
    /// Send it to an instance.
    Forward(Forward<'a>),
}

/// How a request is forwarded. Its headers and its body stay as they are.
#[derive(Debug, PartialEq, Eq)]
pub struct Forward<'a> {
    /// The namespace whose next instance gets it.
    pub namespace: &'a str,
    /// The method there, if it isn't the same.
    pub method: Option<Method>,
    /// The path and query there, if they aren't the same.
    pub target: Option<Cow<'a, str>>,
    /// What the client hears if the namespace isn't known.
    pub unknown: Code,
    /// Whether the request may carry headers that must not be passed on: the API key, or those of the connection. Where
    /// it can't matter, looking for them is left out, because each look is a call to the host.
    pub withhold: bool,
}

impl<'a> Forward<'a> {
    fn to_storage(method: Option<Method>, target: Option<Cow<'a, str>>) -> Self {
        Forward { namespace: STORAGE, method, target, unknown: Code::NoInstanceAvailable, withhold: false }
    }

    /// The same, without the API key.
    fn without_key(self) -> Self {
        Forward { withhold: true, ..self }
    }
}

/// Whether a request needs an API key. Decided before anything else, so that without a key nothing is revealed.
#[must_use]
pub fn is_protected(target: &str) -> bool {
    let (path, _) = query::split(target);
    path == "/v1" || path.starts_with("/v1/")
}

/// Finds what to do with a request.
///
/// # Errors
/// `not_found` for an unknown path, `method_not_allowed` for a known one, `invalid_request` for a `namespace` of
/// `/status` that can't be decoded.
pub fn route<'a>(method: &Method, target: &'a str) -> Result<Route<'a>, Problem> {
    let (path, query) = query::split(target);
    let storage = Forward::to_storage;
    let forward = match path {
        "/data" => {
            allow_reading(method)?;
            storage(None, None)
        }
        "/status" => {
            allow_reading(method)?;
            return status(query);
        }
        "/health" => {
            allow_reading(method)?;
            return Ok(Route::Health);
        }
        "/api/set" => {
            allow(method, &[Method::POST], "POST")?;
            storage(None, Some("/kv/set".into()))
        }
        "/api/get" => {
            allow_reading(method)?;
            storage(None, Some(with_query("/kv/get", query)))
        }
        "/api/delete" => {
            allow(method, &[Method::DELETE], "DELETE")?;
            storage(None, Some(with_query("/kv/delete", query)))
        }
        "/v1/values" => {
            allow(method, &[Method::PUT], "PUT")?;
            storage(Some(Method::POST), Some("/kv/set".into())).without_key()
        }
        _ => {
            if let Some(key) = path.strip_prefix("/v1/values/") {
                value(method, key)?
            } else if let Some(rest) = path.strip_prefix("/services/") {
                service(rest, query)?
            } else {
                return Err(Problem::not_found());
            }
        }
    };
    Ok(Route::Forward(forward))
}

fn status(query: Option<&str>) -> Result<Route<'_>, Problem> {
    let namespace = query::parameter(query, "namespace").map_err(|error| {
        Problem::new(Code::InvalidRequest, format!("the parameter \"namespace\" can't be decoded: {error}"))
    })?;
    Ok(Route::Status(match namespace {
        None => Some(STORAGE.into()),
        Some(all) if all == "*" => None,
        Some(namespace) => Some(namespace),
    }))
}

/// `/v1/values/{key}`. The key is the rest of the path, so a slash in it may be written as it is or as `%2F`.
fn value<'a>(method: &Method, key: &'a str) -> Result<Forward<'a>, Problem> {
    allow(method, &[Method::GET, Method::HEAD, Method::DELETE], "GET, HEAD, DELETE")?;
    let path = if *method == Method::DELETE { "/kv/delete" } else { "/kv/get" };
    let target = format!("{path}?key={}", segment_to_value(key));
    Ok(Forward::to_storage(None, Some(target.into())).without_key())
}

/// `/services/{namespace}/{path…}`: everything after the namespace goes there, and the query with it.
fn service<'a>(rest: &'a str, query: Option<&'a str>) -> Result<Forward<'a>, Problem> {
    let (namespace, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
    if namespace.is_empty() {
        return Err(Problem::new(Code::NotFound, "name a namespace: /services/NAMESPACE/PATH"));
    }
    let target = Some(with_query(path, query));
    Ok(Forward { namespace, method: None, target, unknown: Code::UnknownNamespace, withhold: true })
}

fn with_query<'a>(path: &'a str, query: Option<&str>) -> Cow<'a, str> {
    match query {
        None => path.into(),
        Some(query) => format!("{path}?{query}").into(),
    }
}

fn allow_reading(method: &Method) -> Result<(), Problem> {
    allow(method, &[Method::GET, Method::HEAD], "GET, HEAD")
}

fn allow(method: &Method, allowed: &[Method], names: &'static str) -> Result<(), Problem> {
    if allowed.contains(method) { Ok(()) } else { Err(Problem::method_not_allowed(names)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarded(method: &Method, target: &str) -> (String, Option<Method>, Option<String>) {
        match route(method, target) {
            Ok(Route::Forward(forward)) => {
                (forward.namespace.to_owned(), forward.method, forward.target.map(Cow::into_owned))
            }
            other => panic!("{target} is not forwarded but {other:?}"),
        }
    }

    fn storage(method: Option<Method>, target: Option<&str>) -> (String, Option<Method>, Option<String>) {
        (STORAGE.to_owned(), method, target.map(str::to_owned))
    }

    #[test]
    fn the_storage_paths() {
        assert_eq!(forwarded(&Method::GET, "/data"), storage(None, None));
        assert_eq!(forwarded(&Method::HEAD, "/data?x=1"), storage(None, None));
        assert_eq!(forwarded(&Method::POST, "/api/set?x"), storage(None, Some("/kv/set")));
        assert_eq!(forwarded(&Method::GET, "/api/get?key=a+b"), storage(None, Some("/kv/get?key=a+b")));
        assert_eq!(forwarded(&Method::GET, "/api/get"), storage(None, Some("/kv/get")));
        assert_eq!(forwarded(&Method::DELETE, "/api/delete?key=a"), storage(None, Some("/kv/delete?key=a")));
        assert_eq!(forwarded(&Method::PUT, "/v1/values"), storage(Some(Method::POST), Some("/kv/set")));
        assert_eq!(forwarded(&Method::GET, "/v1/values/a%20b"), storage(None, Some("/kv/get?key=a%20b")));
        assert_eq!(
            forwarded(&Method::DELETE, "/v1/values/a+b/c&d=e?ignored"),
            storage(None, Some("/kv/delete?key=a%2Bb/c%26d=e"))
        );
    }

    #[test]
    fn the_services() {
        let to = |namespace: &str, target: &str| (namespace.to_owned(), None, Some(target.to_owned()));
        assert_eq!(forwarded(&Method::PATCH, "/services/echo/a/b?c=d"), to("echo", "/a/b?c=d"));
        assert_eq!(forwarded(&Method::GET, "/services/echo"), to("echo", "/"));
        assert_eq!(forwarded(&Method::GET, "/services/echo?x"), to("echo", "/?x"));
        assert_eq!(forwarded(&Method::GET, "/services/echo//x"), to("echo", "//x"));
        for nameless in ["/services", "/services/", "/services//x"] {
            assert_eq!(route(&Method::GET, nameless).expect_err("no namespace").code, Code::NotFound, "{nameless}");
        }
    }

    #[test]
    fn the_gateway_itself() {
        assert_eq!(route(&Method::GET, "/health?x"), Ok(Route::Health));
        assert_eq!(route(&Method::HEAD, "/status"), Ok(Route::Status(Some("storage".into()))));
        assert_eq!(route(&Method::GET, "/status?namespace=a%62"), Ok(Route::Status(Some("ab".into()))));
        assert_eq!(route(&Method::GET, "/status?namespace=*"), Ok(Route::Status(None)));
        assert_eq!(route(&Method::GET, "/status?namespace=%").expect_err("bad").code, Code::InvalidRequest);
    }

    #[test]
    fn a_wrong_method_hears_the_right_ones() {
        for (method, target, allow) in [
            (Method::POST, "/data", "GET, HEAD"),
            (Method::PUT, "/status", "GET, HEAD"),
            (Method::OPTIONS, "/health", "GET, HEAD"),
            (Method::GET, "/api/set", "POST"),
            (Method::POST, "/api/get", "GET, HEAD"),
            (Method::GET, "/api/delete", "DELETE"),
            (Method::GET, "/v1/values", "PUT"),
            (Method::PUT, "/v1/values/k", "GET, HEAD, DELETE"),
        ] {
            let problem = route(&method, target).expect_err("not allowed");
            assert_eq!((problem.code, problem.allow), (Code::MethodNotAllowed, Some(allow)), "{method} {target}");
        }
    }

    #[test]
    fn everything_else_is_not_found() {
        for target in ["/", "", "*", "/metrics", "/data/", "/api", "/api/", "/v1", "/v1/other", "/Data", "/%64ata"] {
            assert_eq!(route(&Method::GET, target), Err(Problem::not_found()), "{target}");
        }
    }

    #[test]
    fn the_protected_paths() {
        for target in ["/v1", "/v1/", "/v1?x", "/v1/values", "/v1/values/k?x", "/v1/nothing"] {
            assert!(is_protected(target), "{target}");
        }
        for target in ["/", "/v10", "/data?/v1/", "/services/v1/"] {
            assert!(!is_protected(target), "{target}");
        }
    }
}
