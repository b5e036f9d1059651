//! `POST /register`, `/heartbeat`, `/api/register` and `DELETE /register/{namespace}/{name}`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::StatusCode;
use problem::{Code, Problem};
use registry::{Address, Name, Namespace, RegisterError, Registration};
use serde::{Deserialize, Serialize};

use super::body::Fields;
use super::server::Connection;
use super::{Control, Failure, listing, lookup, own};
use crate::value::milliseconds;

/// What a registered service has to know.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Registered {
    /// The instance's name.
    pub(crate) name: String,
    /// The namespace it serves.
    pub(crate) namespace: String,
    /// How often to send a heartbeat.
    pub(crate) heartbeat_interval_ms: u64,
    /// How long after its last heartbeat the instance becomes unavailable.
    pub(crate) ttl_ms: u64,
}

type Answer = Result<(StatusCode, Json<Registered>), Failure>;

/// `POST /register {"name","address"[,"namespace"]}`: 201 if the name is new, 200 if it is known. The newest address
/// counts, because a service that starts again may come back on another port.
pub(super) async fn register(State(control): State<Arc<Control>>, fields: Fields) -> Answer {
    let (name, namespace) = (fields.parse("name")?, fields.namespace()?);
    let address = fields.parse("address")?;
    admit(&control, namespace, name, address).await
}

/// `POST /api/register {"namespace","port"}`: as [`register`]; the address is the caller's IP and that port, the name is
/// made of both.
pub(super) async fn register_caller(
    State(control): State<Arc<Control>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    fields: Fields,
) -> Answer {
    let (namespace, port) = (fields.namespace()?, fields.port()?);
    let caller = connection.peer.ip().to_canonical();
    let name = derived_name(caller, port);
    let address = format!("http://{}:{port}", lookup::in_url(caller));
    let address = address.parse().map_err(|error| {
        Problem::new(Code::InvalidRequest, format!("your address {address} can't be registered: {error}"))
    })?;
    admit(&control, namespace, name, address).await
}

/// `10.0.0.7` and 8080 become `10.0.0.7-8080`. The colons of IPv6 can't be in a name.
fn derived_name(caller: IpAddr, port: u16) -> Name {
    let host = match caller {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => address.segments().map(|segment| format!("{segment:x}")).join("-"),
    };
    format!("{host}-{port}").parse().expect("digits, letters, dots and dashes between digits make a name")
}

async fn admit(control: &Control, namespace: Namespace, name: Name, address: Address) -> Answer {
    if own::is_own(&address, [control.public, control.internal]).await {
        let detail = format!("{address} is this host's own address; register the service's");
        return Err(Problem::new(Code::InvalidRequest, detail).into());
    }
    let shown = address.to_string();
    let registration = control.registry.register(&namespace, &name, address, Instant::now()).map_err(|error| {
        let code = match error {
            RegisterError::Full { .. } => Code::RegistryFull,
            RegisterError::NameTaken { .. } => Code::InvalidRequest,
        };
        Problem::new(code, error.to_string())
    })?;
    let status = match registration {
        Registration::New => {
            tracing::info!(namespace = namespace.as_str(), instance = name.as_str(), address = shown, "registered");
            StatusCode::CREATED
        }
        Registration::Known => StatusCode::OK,
    };
    let config = control.registry.config();
    let registered = Registered {
        name: name.to_string(),
        namespace: namespace.to_string(),
        heartbeat_interval_ms: milliseconds(config.heartbeat_interval),
        ttl_ms: milliseconds(config.ttl),
    };
    Ok((status, Json(registered)))
}

/// `POST /heartbeat {"name"[,"namespace"]}`: 200; 404 `unknown_instance` tells the service to register again.
pub(super) async fn heartbeat(
    State(control): State<Arc<Control>>,
    fields: Fields,
) -> Result<Json<serde_json::Value>, Failure> {
    let (name, namespace): (Name, _) = (fields.parse("name")?, fields.namespace()?);
    control.registry.heartbeat(&namespace, &name, Instant::now()).map_err(|_| unknown(&namespace, &name))?;
    Ok(Json(serde_json::json!({"name": name.as_str(), "namespace": namespace.as_str()})))
}

/// `DELETE /register/{namespace}/{name}`: 204; 404 `unknown_instance` if there is no such remote instance.
pub(super) async fn deregister(
    State(control): State<Arc<Control>>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<StatusCode, Failure> {
    let (namespace, name) = listing::named(path)?;
    if !control.registry.deregister(&namespace, &name) {
        return Err(unknown(&namespace, &name).into());
    }
    tracing::info!(namespace = namespace.as_str(), instance = name.as_str(), "deregistered");
    Ok(StatusCode::NO_CONTENT)
}

fn unknown(namespace: &Namespace, name: &Name) -> Problem {
    let detail = format!("no remote instance \"{name}\" is registered in the namespace \"{namespace}\"; register it");
    Problem::new(Code::UnknownInstance, detail)
}
