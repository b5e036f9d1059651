//! `POST /api/lookup`: the next instance of a namespace, for clients that send their requests themselves.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{ConnectInfo, State};
use problem::{Code, Problem};
use registry::Location;
use serde::Serialize;

use super::body::Fields;
use super::server::Connection;
use super::{Control, Failure};

/// Where to send the next request.
#[derive(Serialize)]
pub(super) struct Found {
    name: String,
    /// `http://HOST:PORT`
    address: String,
    host: String,
    port: u16,
}

/// `POST /api/lookup {"namespace"}`: 200 with the next available instance by round robin, over the same cursor as the
/// data plane's. A remote instance answers with the address it registered. One in this process has none of its own:
/// it answers with this host's public address, where `/services/{namespace}/…` leads to its namespace.
pub(super) async fn lookup(
    State(control): State<Arc<Control>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    fields: Fields,
) -> Result<Json<Found>, Failure> {
    let namespace: registry::Namespace = fields.parse("namespace")?;
    let snapshot = control.registry.snapshot();
    let group = snapshot.namespace(namespace.as_str()).ok_or_else(|| {
        Problem::new(Code::UnknownNamespace, format!("nobody registered in the namespace \"{namespace}\""))
    })?;
    let member = group.pick().ok_or_else(|| {
        let detail = format!("none of the {} instances of \"{namespace}\" is available", group.total());
        Problem::new(Code::NoInstanceAvailable, detail).retry_after(1)
    })?;
    let (host, port) = match member.location() {
        Location::Remote(address) => (address.host().to_owned(), address.port()),
        Location::InProcess => {
            let public = control.public;
            // Behind 0.0.0.0, the address the caller came to is one that works for it.
            let host = if public.ip().is_unspecified() { connection.local.ip().to_canonical() } else { public.ip() };
            (in_url(host), public.port())
        }
    };
    let address = format!("http://{host}:{port}");
    Ok(Json(Found { name: member.name().to_string(), address, host, port }))
}

/// An IP address as the host of a URL.
pub(super) fn in_url(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}
