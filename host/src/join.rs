//! Keeps an instance registered with another host: a foreign service's (`host join`), or this host's own (`[join]`).
//!
//! One [`Joiner`] for each instance. Lives until its `stop` completes, and then deregisters, for at most [`GOODBYE`].
//! At most one request is under way at a time; a host that is away is asked ever more slowly, up to the heartbeat's
//! interval.

use std::time::Duration;

use anyhow::Context;
use registry::{Address, Name, Namespace, Registry};
use reqwest::{StatusCode, Url};

use crate::client::{CallError, Client, http_client};
use crate::manifest;

/// For one check of a service's health.
const CHECK: Duration = Duration::from_secs(2);

/// How often to look, as long as the host has not said how often it wants a heartbeat.
const INTERVAL: Duration = Duration::from_secs(1);

/// The first wait after the host could not be reached; each further one is twice as long.
const FIRST_RETRY: Duration = Duration::from_millis(200);

/// The longest wait between two attempts.
const LAST_RETRY: Duration = Duration::from_secs(5);

/// For the last request.
const GOODBYE: Duration = Duration::from_secs(2);

/// How to find out whether the instance can take requests.
#[derive(Clone)]
pub(crate) enum Health {
    /// It answers 2xx to a `GET` of this URL.
    Url(reqwest::Client, Url),
    /// The registry of this process says that it is available.
    Registry(Registry),
}

/// Keeps one instance registered.
pub(crate) struct Joiner {
    client: Client,
    namespace: Namespace,
    name: Name,
    address: Address,
    health: Health,
    /// Whether a refused registration ends it. It does on the command line, where somebody reads why.
    gives_up: bool,
    state: State,
}

/// What is known of the registration.
struct State {
    /// The host may know the instance.
    announced: bool,
    /// The interval it wants heartbeats in, once registered.
    registered: Option<Duration>,
    /// The next wait after a failure.
    retry: Duration,
    /// What was last complained about, so that each trouble is logged once.
    trouble: Option<String>,
}

/// The host refused to register the instance, and would do so again.
#[derive(Debug)]
pub(crate) struct Refused(CallError);

impl std::fmt::Display for Refused {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "the host refused the registration: {}", self.0)
    }
}

impl std::error::Error for Refused {}

impl Joiner {
    /// Keeps a foreign service registered: the one at `address`, as long as `health_path` answers 2xx there.
    pub(crate) fn of_service(
        client: Client,
        namespace: Namespace,
        name: Name,
        address: Address,
        health_path: &str,
    ) -> anyhow::Result<Self> {
        let url = format!("{address}{health_path}");
        let url = Url::parse(&url).with_context(|| format!("{url} is not a URL; check --health-path"))?;
        let health = Health::Url(http_client(CHECK)?, url);
        Ok(Joiner { client, namespace, name, address, health, gives_up: true, state: State::new() })
    }

    /// One joiner for each instance that the manifest's `[join]` registers. They never give up.
    pub(crate) fn of_manifest(join: &manifest::Join, registry: &Registry) -> anyhow::Result<Vec<Self>> {
        let client = Client::new(join.url.clone(), join.token.clone())?;
        let joiners = join.instances.iter().map(|(namespace, name)| Joiner {
            client: client.clone(),
            namespace: namespace.clone(),
            name: name.clone(),
            address: join.advertise.clone(),
            health: Health::Registry(registry.clone()),
            gives_up: false,
            state: State::new(),
        });
        Ok(joiners.collect())
    }

    /// Keeps the instance registered until `stop` completes, then deregisters it.
    ///
    /// # Errors
    /// Only a joiner of a foreign service: the host refused the registration in a way that asking again won't change.
    pub(crate) async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), Refused> {
        tokio::pin!(stop);
        loop {
            let step = async {
                let wait = self.step().await?;
                tokio::time::sleep(wait).await;
                Ok(())
            };
            tokio::select! {
                biased;
                () = &mut stop => break,
                done = step => done?,
            }
        }
        self.leave().await;
        Ok(())
    }

    /// Does what is due. Returns how long to wait until something is due again.
    async fn step(&mut self) -> Result<Duration, Refused> {
        if let Err(reason) = self.healthy().await {
            // The lease lapses by itself; the next heartbeat makes the instance available again.
            self.trouble(format!("the service is not healthy: {reason}"));
            return Ok(self.state.registered.unwrap_or(INTERVAL).min(INTERVAL));
        }
        let outcome = match self.state.registered {
            None => {
                self.state.announced = true;
                self.client.register(&self.namespace, &self.name, &self.address).await
            }
            Some(interval) => self.client.heartbeat(&self.namespace, &self.name).await.map(|()| interval),
        };
        match outcome {
            Ok(interval) => {
                if self.state.registered.is_none() || self.state.trouble.is_some() {
                    self.log_registered();
                }
                let interval = interval.max(Duration::from_millis(1));
                self.state = State { announced: true, registered: Some(interval), ..State::new() };
                Ok(interval)
            }
            Err(CallError::Refused { code, .. }) if code == "unknown_instance" => {
                self.state.registered = None;
                self.trouble("the host forgot the instance; registering it again".to_owned());
                Ok(Duration::ZERO)
            }
            Err(error) if self.gives_up && self.state.registered.is_none() && is_final(&error) => Err(Refused(error)),
            Err(error) => {
                self.trouble(error.to_string());
                let longest = self.state.registered.unwrap_or(LAST_RETRY).min(LAST_RETRY);
                let wait = self.state.retry.min(longest);
                self.state.retry = wait * 2;
                Ok(wait)
            }
        }
    }

    async fn healthy(&self) -> Result<(), String> {
        match &self.health {
            Health::Url(client, url) => match client.get(url.clone()).send().await {
                Ok(response) if response.status().is_success() => Ok(()),
                Ok(response) => Err(format!("{url} answered {}", response.status())),
                Err(error) => Err(format!("{url}: {}", crate::client::innermost(&error))),
            },
            Health::Registry(registry) => {
                let snapshot = registry.snapshot();
                let member =
                    snapshot.namespace(self.namespace.as_str()).and_then(|group| group.find(self.name.as_str()));
                let available = member.is_some_and(|member| member.is_available());
                available.then_some(()).ok_or_else(|| "its health checks fail".to_owned())
            }
        }
    }

    /// Deregisters, unless the host never heard of the instance.
    async fn leave(&self) {
        if !self.state.announced {
            return;
        }
        let goodbye = self.client.deregister(&self.namespace, &self.name);
        let failure = match tokio::time::timeout(GOODBYE, goodbye).await {
            Ok(Ok(())) => return,
            Ok(Err(CallError::Refused { status: StatusCode::NOT_FOUND, .. })) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        tracing::warn!(
            namespace = self.namespace.as_str(),
            instance = self.name.as_str(),
            host = %self.client.host(),
            reason = failure,
            "could not deregister; the lease will lapse"
        );
    }

    fn log_registered(&self) {
        tracing::info!(
            namespace = self.namespace.as_str(),
            instance = self.name.as_str(),
            address = %self.address,
            host = %self.client.host(),
            "registered"
        );
    }

    /// Logs a trouble, unless it is still the same.
    fn trouble(&mut self, reason: String) {
        if self.state.trouble.as_ref() != Some(&reason) {
            tracing::warn!(
                namespace = self.namespace.as_str(),
                instance = self.name.as_str(),
                host = %self.client.host(),
                reason,
                "not registered at the moment"
            );
            self.state.trouble = Some(reason);
        }
    }
}

impl State {
    fn new() -> Self {
        State { announced: false, registered: None, retry: FIRST_RETRY, trouble: None }
    }
}

/// Whether asking again can't help: the request itself is wrong, or the token.
fn is_final(error: &CallError) -> bool {
    let passing = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
    matches!(error, CallError::Refused { status, .. } if status.is_client_error() && !passing.contains(status))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    use axum::Router;
    use axum::routing::get;
    use registry::Config;
    use tokio::net::TcpListener;
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::control::{self, Control, Kv, Readiness, Streams};
    use crate::facts::Observer;
    use crate::metrics::Metrics;
    use crate::telemetry::{Level, LogLevel};
    use crate::token::Token;

    /// A host's internal address, with heartbeats so quick that a test need not wait.
    async fn host(address: SocketAddr, token: Option<Token>) -> (SocketAddr, Registry, JoinHandle<()>) {
        let config = Config {
            heartbeat_interval: Duration::from_millis(20),
            ttl: Duration::from_millis(500),
            ..Config::default()
        };
        let registry = Registry::new(config);
        let listener = TcpListener::bind(address).await.expect("a free port");
        let internal = listener.local_addr().expect("it is bound");
        let control = Control {
            registry: registry.clone(),
            kv: Kv::default(),
            readiness: Readiness::new(),
            token,
            public: SocketAddr::from(([127, 0, 0, 1], 1)),
            internal,
            components: control::Components::new(crate::swap::testing::swapper(Vec::new()).0),
            metrics: Metrics::of(&registry),
            tracer: None,
            log_level: Level::new(LogLevel::Off).0,
            observer: Observer::of(&registry),
            streams: Streams::new(),
        };
        let served = tokio::spawn(control::serve(listener, control, std::future::pending()));
        (internal, registry, served)
    }

    /// A service whose health the test decides.
    async fn service() -> (Address, Arc<AtomicBool>) {
        let healthy = Arc::new(AtomicBool::new(true));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("it is bound"));
        let answer = {
            let healthy = Arc::clone(&healthy);
            move || async move {
                let healthy = healthy.load(Ordering::Relaxed);
                if healthy { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR }
            }
        };
        let router = Router::new().route("/healthz", get(answer));
        tokio::spawn(async move { axum::serve(listener, router).await });
        (address.parse().expect("an address"), healthy)
    }

    fn joiner(host: SocketAddr, token: Option<&str>, service: &Address) -> Joiner {
        let token = token.map(|token| Token::new(token).expect("a token"));
        let client = Client::new(format!("http://{host}").parse().expect("a URL"), token).expect("a client");
        let (namespace, name) = ("storage".parse().expect("a namespace"), "foreign".parse().expect("a name"));
        Joiner::of_service(client, namespace, name, service.clone(), "/healthz").expect("a joiner")
    }

    /// Waits until the instance is as `expected`: None if it is not registered, else whether it is available.
    async fn until(registry: &Registry, expected: Option<bool>) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let found = registry.instances(None, Instant::now());
            let found = found.first().map(|instance| instance.available);
            if found == expected {
                return;
            }
            assert!(Instant::now() < deadline, "{found:?} instead of {expected:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_service_is_kept_registered_through_every_trouble() {
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let (address, healthy) = service().await;
        healthy.store(false, Ordering::Relaxed);
        let (internal, registry, served) = host(any_port, None).await;
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(joiner(internal, None, &address).run(async {
            let _ = stopped.await;
        }));

        // Not registered before it is healthy, unavailable when it falls ill, back when it is well.
        assert!(registry.instances(None, Instant::now()).is_empty());
        healthy.store(true, Ordering::Relaxed);
        until(&registry, Some(true)).await;
        healthy.store(false, Ordering::Relaxed);
        until(&registry, Some(false)).await;
        healthy.store(true, Ordering::Relaxed);
        until(&registry, Some(true)).await;

        // The host forgets it, or is replaced by one that never knew it.
        registry.deregister(&"storage".parse().expect("a namespace"), &"foreign".parse().expect("a name"));
        until(&registry, Some(true)).await;
        served.abort();
        assert!(served.await.is_err());
        let (_, registry, _served) = host(internal, None).await;
        until(&registry, Some(true)).await;

        stop.send(()).expect("it is running");
        running.await.expect("it ends").expect("it was never refused");
        until(&registry, None).await;
    }

    #[tokio::test]
    async fn a_refused_service_gives_up() {
        let (address, _) = service().await;
        let token = Token::new("right").expect("a token");
        let (internal, registry, _served) = host(SocketAddr::from(([127, 0, 0, 1], 0)), Some(token)).await;
        let refused = joiner(internal, Some("wrong"), &address).run(std::future::pending()).await;
        let message = refused.expect_err("the token is wrong").to_string();
        assert!(message.contains("401") && message.contains("Bearer"), "{message}");
        assert!(registry.instances(None, Instant::now()).is_empty());
    }

    #[tokio::test]
    async fn own_instances_are_registered_while_they_are_available() {
        let (internal, registry, _served) = host(SocketAddr::from(([127, 0, 0, 1], 0)), None).await;
        let own = Registry::new(Config::default());
        let (namespace, name): (Namespace, Name) =
            ("storage".parse().expect("a namespace"), "storage-1".parse().expect("a name"));
        let policy = registry::HealthPolicy { unhealthy_after: 1, healthy_after: 1 };
        own.replace_in_process(&[], &[(namespace.clone(), name.clone(), policy)], Instant::now(), || {})
            .expect("there is room");
        let join = manifest::Join {
            url: format!("http://{internal}").parse().expect("a URL"),
            token: None,
            advertise: "http://127.0.0.1:7001".parse().expect("an address"),
            instances: vec![(namespace.clone(), name.clone())],
        };
        let joiner = Joiner::of_manifest(&join, &own).expect("a client").pop().expect("one instance");
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(joiner.run(async {
            let _ = stopped.await;
        }));
        until(&registry, Some(true)).await;
        own.record_check(&namespace, &name, false, Instant::now());
        until(&registry, Some(false)).await;
        stop.send(()).expect("it is running");
        running.await.expect("it ends").expect("it never gives up");
        until(&registry, None).await;
    }
}
