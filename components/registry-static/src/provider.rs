//! The interface `registry`, over the fleet.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{Either, join_all, select};
use registry::{InstanceInfo, Member};
use wasip3::clocks::monotonic_clock;
use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Request, Scheme};
use wasip3::random::random::get_random_u64;
use wasip3::wit_future;

use crate::bindings::exports::hostler::assembly::registry::{Endpoint, Guest, Instance, LookupError, Outcome, State};
use crate::fleet::{Fleet, Nobody, authority};

/// How long a probe of an instance's health may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// What a probe asks for.
const PROBE_PATH: &str = "/healthz";

thread_local! {
    static FLEET: Fleet = fleet();
}

struct Provider;

/// What the macro makes of [`Provider`].
#[allow(unsafe_code)]
mod exported {
    crate::bindings::export!(Provider with_types_in crate::bindings);

    use super::Provider;
}

impl Guest for Provider {
    fn lookup(namespace: String) -> Result<Endpoint, LookupError> {
        FLEET.with(|fleet| fleet.lookup(&namespace, Instant::now())).map(endpoint).map_err(|nobody| match nobody {
            Nobody::UnknownNamespace => LookupError::UnknownNamespace,
            Nobody::NoneAvailable(seconds) => LookupError::NoInstanceAvailable(seconds),
        })
    }

    fn retry(namespace: String, tried: Vec<String>) -> Option<Endpoint> {
        FLEET.with(|fleet| fleet.retry(&namespace, &tried, Instant::now())).map(endpoint)
    }

    fn report(namespace: String, name: String, outcome: Outcome) {
        let reached = matches!(outcome, Outcome::Reached);
        FLEET.with(|fleet| fleet.report(&namespace, &name, reached, Instant::now()));
    }

    async fn instances(namespace: Option<String>) -> Vec<Instance> {
        let members = FLEET.with(|fleet| fleet.members(namespace.as_deref()));
        let passed = join_all(members.iter().map(|member| probe(authority(member)))).await;
        let now = Instant::now();
        FLEET.with(|fleet| {
            for (member, passed) in members.iter().zip(passed) {
                fleet.checked(member, passed, now);
            }
            fleet.instances(namespace.as_deref(), now).into_iter().map(instance).collect()
        })
    }
}

fn fleet() -> Fleet {
    let list = std::env::var("STORAGE_SERVICES").unwrap_or_default();
    let fleet = Fleet::parse(&list, Instant::now()).unwrap_or_else(|error| panic!("{error}"));
    fleet.skip(get_random_u64());
    fleet
}

fn endpoint(member: Arc<Member>) -> Endpoint {
    Endpoint { name: Some(member.name().to_string()), authority: authority(&member).to_owned() }
}

fn instance(info: InstanceInfo) -> Instance {
    Instance {
        namespace: info.namespace.to_string(),
        name: info.name.to_string(),
        state: if info.available { State::Available } else { State::Unavailable },
        address: info.location.to_string(),
        last_seen_ms: u64::try_from(info.last_seen.as_millis()).unwrap_or(u64::MAX),
    }
}

/// Whether the instance says in time that it is well.
async fn probe(authority: &str) -> bool {
    let timeout = u64::try_from(PROBE_TIMEOUT.as_nanos()).expect("a second fits");
    let answer = std::pin::pin!(ask(authority));
    match select(answer, std::pin::pin!(monotonic_clock::wait_for(timeout))).await {
        Either::Left((Ok(status), _)) => status < 500,
        Either::Left((Err(_), _)) | Either::Right(_) => false,
    }
}

async fn ask(authority: &str) -> Result<u16, ErrorCode> {
    let (_trailers, trailers_reader) = wit_future::new(|| Ok(None));
    let (request, _sent) = Request::new(Fields::new(), None, trailers_reader, None);
    request.set_scheme(Some(&Scheme::Http)).map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
    request.set_authority(Some(authority)).map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
    request.set_path_with_query(Some(PROBE_PATH)).map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
    Ok(client::send(request).await?.get_status_code())
}
