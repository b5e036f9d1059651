//! Requests that guests send: to a namespace or an instance of this host through the dispatcher, to any other host
//! that the manifest allows.
//!
//! `http://<namespace>.internal/…` goes to the instance that the registry picks, `http://<instance>.<namespace>.internal/…`
//! to that one. Both work for every component; everything else must be in its `allowed-outbound-hosts`.

use std::sync::{Arc, LazyLock};

use http::{HeaderName, Request, Response, Uri};
use registry::Name;
use wasmtime_wasi_http::{DEFAULT_FORBIDDEN_HEADERS, ForbiddenHeaderFilter, RequestOptions, WasiHttpHooks};

use crate::body::{Body, BodyError};
use crate::dispatch::{Hop, Target};
use crate::guest::Guest;
use crate::outbound::{OutboundPolicy, allowing_line, origin};
use crate::rehearsal::Stage;
use crate::steps;
use crate::worker::Worker;

/// The domain of this host's namespaces.
const INTERNAL: &str = ".internal";

type Sent = Box<dyn Future<Output = Result<(), BodyError>> + Send>;
type Answer = Box<dyn Future<Output = Result<(Response<Body>, Sent), BodyError>> + Send>;

/// The way out of a guest.
pub(crate) struct Outgoing {
    worker: Worker,
    policy: Arc<OutboundPolicy>,
    guest: Arc<Guest>,
    component: Arc<str>,
    instance: Name,
    /// Set while it serves a request of a rehearsal.
    stage: Option<Stage>,
}

impl Outgoing {
    pub(crate) fn new(
        worker: Worker,
        policy: Arc<OutboundPolicy>,
        guest: Arc<Guest>,
        component: Arc<str>,
        instance: Name,
    ) -> Self {
        Self { worker, policy, guest, component, instance, stage: None }
    }

    /// What is sent from here on goes by way of the stage.
    pub(crate) fn enter(&mut self, stage: Stage) {
        self.stage = Some(stage);
    }
}

/// Headers that guests can neither see nor set: they concern one connection, or are the host's to set.
static FORBIDDEN: LazyLock<ForbiddenHeaderFilter> =
    LazyLock::new(|| Arc::new(|name| DEFAULT_FORBIDDEN_HEADERS.contains(name)));

impl WasiHttpHooks for Outgoing {
    /// The default one, but not made anew for every message.
    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        FORBIDDEN.clone()
    }

    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        FORBIDDEN(name)
    }

    fn send_request(&mut self, mut request: Request<Body>, options: Option<RequestOptions>, _received: Sent) -> Answer {
        let target = Target::from_uri(request.uri());
        if target.is_none() && !self.policy.allows(request.uri()) {
            tracing::warn!(
                component = &*self.component,
                instance = self.instance.as_str(),
                request_id = self.guest.request_ids(),
                trace_id = self.guest.trace_ids(),
                "a request to {} was denied; to allow it, write under [components.{}] in the manifest: {}",
                origin(request.uri()),
                self.component,
                allowing_line(request.uri())
            );
            return Box::new(std::future::ready(Err(BodyError::HttpRequestDenied)));
        }
        let worker = self.worker.clone();
        let (trace, step) = steps::out_of_guest(worker.tracer(), &mut request, &self.guest);
        let hop = Hop::from_guest(&self.guest, trace);
        // Boxed, and so is whatever is seldom: all that may be awaited is in the future that every request gets.
        let request = Box::new(request);
        let send = async move |request: Box<Request<Body>>| match target {
            Some(target) => Ok(worker.dispatch(&target, request, hop).await),
            None => Box::pin(worker.client().send_outside(*request, &hop, &options.unwrap_or_default())).await,
        };
        let stage = self.stage.clone();
        let held = self.guest.held();
        self.guest.sends();
        Box::new(async move {
            if let Some(held) = held {
                // The answer will say more than this.
                held.await.map_err(|_| BodyError::InternalError(None))?;
            }
            let answer = match stage {
                None => send(request).await,
                Some(Stage::Live(tape)) => {
                    let send = async move |request| send(Box::new(request)).await;
                    Box::pin(tape.record(*request, send)).await
                }
                Some(Stage::Rehearsed(replay)) => Box::pin(replay.answer(*request)).await,
            };
            Ok((steps::answered(step, answer)?, nothing_left_to_send()))
        })
    }
}

/// What `send_request` returns beside the answer: here the connection is driven elsewhere.
fn nothing_left_to_send() -> Sent {
    Box::new(std::future::ready(Ok(())))
}

impl Target {
    /// The namespace or instance of this host that the URI names, if it names one.
    pub(crate) fn from_uri(uri: &Uri) -> Option<Self> {
        let name = uri.host()?.strip_suffix(INTERNAL)?;
        Some(match name.rsplit_once('.') {
            None => Self::Namespace(name.into()),
            Some((instance, namespace)) => Self::Instance { namespace: namespace.into(), name: instance.into() },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn internal_names_are_told_from_others() {
        let target = |uri: &str| Target::from_uri(&uri.parse().expect("a test's URI"));
        assert_eq!(target("http://storage.internal/data"), Some(Target::Namespace("storage".into())));
        assert_eq!(
            target("http://storage-1.storage.internal:80/"),
            Some(Target::Instance { namespace: "storage".into(), name: "storage-1".into() })
        );
        assert_eq!(
            target("http://a.b.storage.internal/"),
            Some(Target::Instance { namespace: "storage".into(), name: "a.b".into() })
        );
        assert_eq!(target("http://internal/"), None);
        assert_eq!(target("http://example.com/"), None);
    }
}
