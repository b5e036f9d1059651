//! `GET /instances`.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use problem::{Code, Problem};
use registry::InstanceInfo;
use serde::{Deserialize, Serialize};

use super::{Control, Failure};

/// The document of `GET /instances`, the same as that of the public `GET /status`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Instances {
    /// How many of them are picked for requests.
    pub(crate) available: usize,
    /// How many there are.
    pub(crate) total: usize,
    /// In order of namespace and name.
    pub(crate) instances: Vec<Instance>,
}

/// One instance.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Instance {
    /// The namespace it serves.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
    /// `available` or `unavailable`.
    pub(crate) state: String,
    /// `in-process`, or the URL it registered with.
    pub(crate) address: String,
    /// Milliseconds since it last gave a sign of life.
    pub(crate) last_seen_ms: u64,
}

impl From<Vec<InstanceInfo>> for Instances {
    fn from(instances: Vec<InstanceInfo>) -> Self {
        Instances {
            available: instances.iter().filter(|instance| instance.available).count(),
            total: instances.len(),
            instances: instances.into_iter().map(Instance::from).collect(),
        }
    }
}

impl From<InstanceInfo> for Instance {
    fn from(instance: InstanceInfo) -> Self {
        Instance {
            namespace: instance.namespace.to_string(),
            name: instance.name.to_string(),
            state: if instance.available { "available" } else { "unavailable" }.to_owned(),
            address: instance.location.to_string(),
            last_seen_ms: u64::try_from(instance.last_seen.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// The query of `GET /instances`.
#[derive(Deserialize)]
pub(super) struct Filter {
    namespace: Option<String>,
}

/// `GET /instances[?namespace=NS]`: 200, also with none. Without a namespace, or with `*`, those of all.
pub(super) async fn instances(
    State(control): State<Arc<Control>>,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Result<Json<Instances>, Failure> {
    let Query(filter) = filter.map_err(|error| Problem::new(Code::InvalidRequest, error.body_text()))?;
    let namespace = filter.namespace.as_deref().filter(|namespace| *namespace != "*");
    Ok(Json(control.registry.instances(namespace, Instant::now()).into()))
}
