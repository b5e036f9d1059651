//! `GET /instances`, and `PUT` of one of them: whether it is in rotation.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use problem::{Code, Problem};
use registry::{InstanceInfo, Name, Namespace};
use serde::{Deserialize, Serialize};

use super::body::Fields;
use super::{Control, Failure};
use crate::value::milliseconds;

const AVAILABLE: &str = "available";

/// Bytes of an instance in JSON that are always the same, and a comma.
const FIXED: usize = 107;

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
#[derive(Clone, Debug, Serialize, Deserialize)]
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
    /// `out` if an operator took it out of rotation; then it is unavailable, however well it is.
    #[serde(default, skip_serializing_if = "Rotation::is_in")]
    pub(crate) rotation: Rotation,
    /// Checks that failed, requests that did not reach it and leases that it missed since it came or was replaced.
    #[serde(default)]
    pub(crate) failures: u64,
}

/// Whether an instance takes its turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Rotation {
    /// When it is well.
    #[default]
    In,
    /// Not until it is set into rotation again.
    Out,
}

impl Rotation {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    fn is_in(&self) -> bool {
        *self == Rotation::In
    }
}

impl FromStr for Rotation {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "in" => Ok(Rotation::In),
            "out" => Ok(Rotation::Out),
            _ => Err("it is \"in\" or \"out\""),
        }
    }
}

impl Instance {
    /// Whether it is picked for requests.
    pub(crate) fn is_available(&self) -> bool {
        self.state == AVAILABLE
    }

    /// At least as many bytes as it takes in a list in JSON, where no character of it is escaped.
    pub(crate) fn size(&self) -> usize {
        let digits = |number: u64| number.checked_ilog10().unwrap_or(0) as usize + 1;
        let numbers = digits(self.last_seen_ms) + digits(self.failures);
        FIXED + self.namespace.len() + self.name.len() + self.address.len() + numbers
    }
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
            state: if instance.available { AVAILABLE } else { "unavailable" }.to_owned(),
            address: instance.location.to_string(),
            last_seen_ms: milliseconds(instance.last_seen),
            rotation: match instance.rotation {
                registry::Rotation::In => Rotation::In,
                registry::Rotation::Out => Rotation::Out,
            },
            failures: instance.failures,
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

/// `PUT /instances/{namespace}/{name} {"rotation":"out"}` or `"in"`: 200 with the instance; 404 `unknown_instance`. Requests
/// that it has already are finished. Holds until it is changed again, the instance is removed, or the process ends.
pub(super) async fn rotate(
    State(control): State<Arc<Control>>,
    path: Result<Path<(String, String)>, PathRejection>,
    fields: Fields,
) -> Result<Json<Instance>, Failure> {
    let (namespace, name) = named(path)?;
    let rotation = match fields.parse("rotation")? {
        Rotation::In => registry::Rotation::In,
        Rotation::Out => registry::Rotation::Out,
    };
    let rotated = control.registry.set_rotation(&namespace, &name, rotation, Instant::now());
    let instance = rotated.map_err(|_| {
        let detail = format!("there is no instance \"{name}\" in the namespace \"{namespace}\"");
        Problem::new(Code::UnknownInstance, detail)
    })?;
    tracing::info!(
        namespace = namespace.as_str(),
        instance = name.as_str(),
        ?rotation,
        "an instance's rotation was set"
    );
    Ok(Json(instance.into()))
}

/// The instance that a path names.
pub(super) fn named(path: Result<Path<(String, String)>, PathRejection>) -> Result<(Namespace, Name), Problem> {
    let invalid = |detail: String| Problem::new(Code::InvalidRequest, detail);
    let Path((namespace, name)) = path.map_err(|error| invalid(error.body_text()))?;
    let namespace = namespace.parse().map_err(|error| invalid(format!("the namespace: {error}")))?;
    let name = name.parse().map_err(|error| invalid(format!("the name: {error}")))?;
    Ok((namespace, name))
}
