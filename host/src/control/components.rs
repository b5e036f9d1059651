//! `/components`: what runs, and the swaps of it.
//!
//! A component is received whole before anything is done with it: at most [`LARGEST_COMPONENT`] bytes, within [`TIME`]; all that
//! clients wait for have at most [`ROOM`] together. A swap that has begun goes on if its client leaves.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, HttpBody};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use bytes::Bytes;
use problem::{Code, Problem};
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;

use super::body::{self, Fields, Pace, Room, Unread};
use super::{Control, Failure};
use crate::linger::linger;
use crate::swap::{ComponentInfo, PublishedBy, RevisionInfo, SwapError, SwapOptions, Swapped, Swapper};

/// Most bytes of a component.
pub(crate) const LARGEST_COMPONENT: usize = 64 << 20;

/// For a component to arrive.
const TIME: Duration = Duration::from_secs(60);

/// Two of the largest.
const ROOM: usize = 2 * LARGEST_COMPONENT;

/// What `/components` shows and swaps, and the memory for it.
pub(crate) struct Components {
    swapper: Swapper,
    room: Room,
}

impl Components {
    /// Those that `swapper` swaps.
    pub(crate) fn new(swapper: Swapper) -> Self {
        Components { swapper, room: Room::new(ROOM) }
    }

    /// What `GET /components` lists.
    pub(super) fn list(&self) -> Vec<ComponentInfo> {
        self.swapper.components()
    }
}

/// The document of `GET /components`.
#[derive(Serialize, Deserialize)]
pub(crate) struct Listed {
    /// In order of name.
    pub(crate) components: Vec<ComponentInfo>,
}

/// The document of `GET /components/{name}/revisions`.
#[derive(Serialize, Deserialize)]
pub(crate) struct Revisions {
    /// The component.
    pub(crate) name: String,
    /// Newest publication first.
    pub(crate) revisions: Vec<RevisionInfo>,
}

/// The query of `PUT /components/{name}`. Whoever misspells one of them must not be swapped without a rehearsal.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Options {
    rehearse: Option<u32>,
    promote: Option<String>,
}

type Answer<T> = Result<Json<T>, Failure>;

/// `GET /components`
pub(super) async fn list(State(control): State<Arc<Control>>) -> Json<Listed> {
    Json(Listed { components: control.components.list() })
}

/// `GET /components/{name}/revisions`: 404 `unknown_component`.
pub(super) async fn revisions(
    State(control): State<Arc<Control>>,
    name: Result<Path<String>, PathRejection>,
) -> Answer<Revisions> {
    let name = named(name)?;
    let revisions = control.components.swapper.revisions(&name)?;
    Ok(Json(Revisions { name, revisions }))
}

/// `PUT /components/{name}[?rehearse=N][&promote=…]` with a component as the body: 200 once it is published.
pub(super) async fn swap(
    State(control): State<Arc<Control>>,
    name: Result<Path<String>, PathRejection>,
    options: Result<Query<Options>, QueryRejection>,
    body: Body,
) -> Answer<Swapped> {
    let Components { swapper, room } = &control.components;
    let (announced, most) = (body.size_hint().lower(), body::most(&body, LARGEST_COMPONENT));
    let admit = async {
        let name = named(name)?;
        let Query(Options { rehearse, promote }) = options.map_err(|error| invalid(error.body_text()))?;
        let promote =
            promote.map(|text| text.parse().map_err(|error| invalid(format!("promote: {error}")))).transpose()?;
        let options = SwapOptions { by: PublishedBy::Swap, rehearse, promote };
        ready(&control)?;
        // Says so before the component is sent.
        swapper.check_name(&name)?;
        if announced > LARGEST_COMPONENT as u64 {
            return Err(too_large(announced).into());
        }
        Ok::<_, Failure>((name, options, room.take(most).await?))
    };
    let (name, options, room) = match admit.await {
        Ok(admitted) => admitted,
        Err(failure) => {
            linger(body);
            return Err(failure);
        }
    };
    let bytes = body::read(body, LARGEST_COMPONENT, TIME, Pace::Gentle).await.map_err(|unread| match unread {
        Unread::TooLong(bytes) => too_large(bytes as u64),
        Unread::Failed(problem) => problem,
    })?;
    // Its room is taken for as long as it is held, also by a swap that goes on when the client has left. The digest takes
    // some hundred milliseconds for the largest.
    let bytes = Bytes::from_owner(InRoom { bytes, _room: room });
    let code = tokio::task::spawn_blocking(move || runtime::Code::new(bytes));
    let code = code.await.expect("a digest is computed without a panic");
    Ok(Json(swapper.swap(&name, code, options).await?))
}

/// Bytes, and the room that they take.
struct InRoom {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for InRoom {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// `POST /components/{name}/rollback`, empty or `{"to":DIGEST}` and nothing else: as a swap.
pub(super) async fn rollback(
    State(control): State<Arc<Control>>,
    name: Result<Path<String>, PathRejection>,
    fields: Option<Fields>,
) -> Answer<Swapped> {
    let name = named(name)?;
    let to = match fields {
        None => None,
        Some(fields) => {
            // Whoever misspells it must not be given another revision.
            fields.expect_only("to")?;
            fields.string("to")?.map(str::to_owned)
        }
    };
    ready(&control)?;
    Ok(Json(control.components.swapper.rollback(&name, to.as_deref()).await?))
}

/// The component's name. Whether there is one with it is for the swapper to say.
fn named(name: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    name.map(|Path(name)| name).map_err(|error| invalid(error.body_text()))
}

/// Nothing is swapped that could not be finished.
fn ready(control: &Control) -> Result<(), SwapError> {
    if control.readiness.is_draining() { Err(SwapError::Draining) } else { Ok(()) }
}

fn too_large(bytes: u64) -> Problem {
    let detail = format!("the component has at least {bytes} bytes; at most {LARGEST_COMPONENT} are taken");
    Problem::new(Code::BodyTooLarge, detail)
}

fn invalid(detail: String) -> Problem {
    Problem::new(Code::InvalidRequest, detail)
}

/// What the client is told.
impl From<SwapError> for Failure {
    fn from(error: SwapError) -> Self {
        let code = match &error {
            SwapError::UnknownComponent { .. } => Code::UnknownComponent,
            SwapError::UnknownRevision { .. } => Code::UnknownRevision,
            SwapError::NoPreviousRevision { .. } => Code::NoPreviousRevision,
            SwapError::Rejected { .. } | SwapError::NotPromoted { .. } => Code::SwapFailed,
            SwapError::Busy { .. } => Code::Overloaded,
            SwapError::Draining => Code::Draining,
            SwapError::Full { .. } => Code::StoreFull,
            SwapError::NotRecorded { .. } => Code::SwapNotRecorded,
        };
        let detail = match &error {
            SwapError::NotPromoted { reason, report } => format!("{reason}\n{report}"),
            error => error.to_string(),
        };
        let problem = Problem::new(code, detail);
        Failure(if code == Code::Overloaded { problem.retry_after(1) } else { problem })
    }
}
