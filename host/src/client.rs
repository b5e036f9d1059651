//! The client of another host's internal address: what client commands like `host status` and the
//! manifest's `[join]` speak.
//!
//! Every call is bounded by [`CONNECT`], [`CALL`] or [`SWAP`], and [`ANSWER`]. Events may come for ever, but each within
//! [`CALL`].

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use registry::{Address, Name, Namespace};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::token::Token;

/// For a connection.
const CONNECT: Duration = Duration::from_secs(2);

/// For a whole call.
const CALL: Duration = Duration::from_secs(10);

/// For a call that swaps a component: others may come first, it is compiled, and a rehearsal takes its time.
const SWAP: Duration = Duration::from_secs(15 * 60);

/// For a stream of events: it ends when somebody ends it.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Most bytes of an answer: some 100,000 instances.
const ANSWER: usize = 32 << 20;

/// The URL of a host's internal address: `http://HOST[:PORT]` or `https://…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostUrl(Url);

impl FromStr for HostUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |reason: &str| format!("{reason}; write a host's internal address, like \"http://127.0.0.1:9090\"");
        let url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(wrong("it doesn't begin with http:// or https://"));
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("it has a path, query or fragment"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("it has a user or password"));
        }
        Ok(HostUrl(url))
    }
}

impl fmt::Display for HostUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

/// Speaks to one host. Clones share connections.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    host: HostUrl,
    token: Option<Token>,
}

/// Why a call failed.
#[derive(Debug)]
pub(crate) enum CallError {
    /// There was no usable answer: the host is away, or something else answers at its address.
    Away(String),
    /// The host refused.
    Refused {
        /// The answer's status.
        status: StatusCode,
        /// The stable code of its problem, empty if it sent none.
        code: String,
        /// Its explanation.
        detail: String,
    },
}

impl fmt::Display for CallError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Away(reason) => out.write_str(reason),
            CallError::Refused { status, detail, .. } => {
                write!(out, "it answered {status}")?;
                if !detail.is_empty() {
                    write!(out, ": {detail}")?;
                }
                if *status == StatusCode::UNAUTHORIZED {
                    out.write_str(
                        "; give its token by --token-file or HOSTLER_INTERNAL_TOKEN, \
                         or, for [join] in a manifest, by join.token-file or HOSTLER_JOIN_TOKEN",
                    )?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for CallError {}

/// What matters of the answer to a registration.
#[derive(Deserialize)]
struct Registered {
    heartbeat_interval_ms: u64,
}

/// What matters of a problem document.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    code: String,
    detail: String,
}

impl Client {
    /// A client for `host`. Fails only if the machine's TLS set-up is broken.
    pub(crate) fn new(host: HostUrl, token: Option<Token>) -> anyhow::Result<Self> {
        Ok(Client { http: http_client(CALL)?, host, token })
    }

    /// The host it speaks to.
    pub(crate) fn host(&self) -> &HostUrl {
        &self.host
    }

    /// Registers an instance. Returns how often it must send a heartbeat.
    pub(crate) async fn register(
        &self,
        namespace: &Namespace,
        name: &Name,
        address: &Address,
    ) -> Result<Duration, CallError> {
        let body = json!({
            "namespace": namespace.as_str(),
            "name": name.as_str(),
            "address": address.to_string(),
        });
        let registered: Registered = self.call(self.request(Method::POST, "register")?.json(&body)).await?;
        Ok(Duration::from_millis(registered.heartbeat_interval_ms))
    }

    /// Renews an instance's lease.
    pub(crate) async fn heartbeat(&self, namespace: &Namespace, name: &Name) -> Result<(), CallError> {
        let body = json!({"namespace": namespace.as_str(), "name": name.as_str()});
        self.call(self.request(Method::POST, "heartbeat")?.json(&body)).await.map(|_: Value| ())
    }

    /// Takes an instance out of the registry.
    pub(crate) async fn deregister(&self, namespace: &Namespace, name: &Name) -> Result<(), CallError> {
        self.send(self.request(Method::DELETE, &format!("register/{namespace}/{name}"))?).await.map(drop)
    }

    /// Gets a document.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        self.call(self.request(Method::GET, path)?).await
    }

    /// Swaps a component: sends bytes to `path`.
    pub(crate) async fn swap<T: DeserializeOwned>(&self, path: &str, bytes: Vec<u8>) -> Result<T, CallError> {
        self.call(self.request(Method::PUT, path)?.timeout(SWAP).body(bytes)).await
    }

    /// Brings a component back to another revision: sends a document to `path`.
    pub(crate) async fn roll_back<T: DeserializeOwned>(&self, path: &str, document: &Value) -> Result<T, CallError> {
        self.call(self.request(Method::POST, path)?.timeout(SWAP).json(document)).await
    }

    /// Begins to read server-sent events.
    pub(crate) async fn events(&self, path: &str) -> Result<Events, CallError> {
        let request = self.request(Method::GET, path)?.timeout(FOREVER);
        let sent = tokio::time::timeout(CALL, request.send()).await.map_err(|_| silent())?;
        let response = sent.map_err(|error| CallError::Away(innermost(&error)))?;
        if !response.status().is_success() {
            return Err(refused(response).await);
        }
        Ok(Events { response, read: Vec::new() })
    }

    fn request(&self, method: Method, path: &str) -> Result<RequestBuilder, CallError> {
        let url = self.host.0.join(path).map_err(|error| CallError::Away(error.to_string()))?;
        let request = self.http.request(method, url);
        Ok(match &self.token {
            Some(token) => request.bearer_auth(token.reveal()),
            None => request,
        })
    }

    /// The document of an answer that is a success.
    async fn call<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, CallError> {
        let answer = self.send(request).await?;
        serde_json::from_slice(&answer)
            .map_err(|_| CallError::Away(format!("what answers at {} is no host's internal address", self.host)))
    }

    /// The body of an answer that is a success.
    async fn send(&self, request: RequestBuilder) -> Result<Vec<u8>, CallError> {
        let response = request.send().await.map_err(|error| CallError::Away(innermost(&error)))?;
        if response.status().is_success() { whole(response).await } else { Err(refused(response).await) }
    }
}

/// The body of an answer.
async fn whole(mut response: Response) -> Result<Vec<u8>, CallError> {
    let mut answer = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| CallError::Away(innermost(&error)))? {
        extend(&mut answer, &chunk)?;
    }
    Ok(answer)
}

fn extend(answer: &mut Vec<u8>, chunk: &[u8]) -> Result<(), CallError> {
    if answer.len() + chunk.len() > ANSWER {
        return Err(CallError::Away(format!("the answer has more than {ANSWER} bytes")));
    }
    answer.extend_from_slice(chunk);
    Ok(())
}

/// What an answer says that is no success.
async fn refused(response: Response) -> CallError {
    let status = response.status();
    match whole(response).await {
        Ok(answer) => {
            let Problem { code, detail } = serde_json::from_slice(&answer).unwrap_or_default();
            CallError::Refused { status, code, detail }
        }
        Err(error) => error,
    }
}

fn silent() -> CallError {
    CallError::Away("no answer in time".to_owned())
}

/// Server-sent events as they come.
pub(crate) struct Events {
    response: Response,
    /// What has come of the next one.
    read: Vec<u8>,
}

impl Events {
    /// The data of the next event. Waits for it as long as for a whole answer.
    pub(crate) async fn next(&mut self) -> Result<String, CallError> {
        tokio::time::timeout(CALL, self.read_next()).await.unwrap_or_else(|_| Err(silent()))
    }

    async fn read_next(&mut self) -> Result<String, CallError> {
        let mut searched = 0;
        loop {
            let found = self.read[searched..].windows(2).position(|pair| pair == b"\n\n");
            if let Some(end) = found.map(|position| searched + position) {
                let event: Vec<u8> = self.read.drain(..end + 2).take(end).collect();
                let event = String::from_utf8_lossy(&event).into_owned();
                if let Some(data) = event.strip_prefix("data: ") {
                    return Ok(data.to_owned());
                }
                searched = 0;
                continue;
            }
            searched = self.read.len().saturating_sub(1);
            let chunk = self.response.chunk().await.map_err(|error| CallError::Away(innermost(&error)))?;
            let Some(chunk) = chunk else { return Err(CallError::Away("it has stopped".to_owned())) };
            extend(&mut self.read, &chunk)?;
        }
    }
}

/// An HTTP client that goes straight to its target: no proxies, no redirects. `timeout` bounds each request.
pub(crate) fn http_client(timeout: Duration) -> anyhow::Result<reqwest::Client> {
    reqwest::Client::builder()
        .connect_timeout(CONNECT.min(timeout))
        .timeout(timeout)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .context("the HTTP client could not be set up")
}

/// reqwest's own message repeats the URL; its innermost cause says what happened.
pub(crate) fn innermost(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_hosts() {
        for text in ["http://127.0.0.1:9090", "http://gateway:9090/", "https://[::1]:9090"] {
            let url: HostUrl = text.parse().expect(text);
            assert_eq!(url.to_string(), text.trim_end_matches('/'));
        }
        for text in ["", "gateway:9090", "ftp://gateway", "http://", "http://a/b", "http://a?b", "http://u:p@a"] {
            assert!(text.parse::<HostUrl>().is_err(), "{text}");
        }
    }
}
