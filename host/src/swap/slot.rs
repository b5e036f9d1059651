//! A slot: what is known of one component from one swap to the next.
//!
//! Lives as long as the component is in the manifest. Bounded: [`KEPT`] revisions are remembered, and those that are being
//! retired end at their drain timeout.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use runtime::{Code, ComponentSpec, Digest, Revision};
use tokio::sync::{Mutex as Turn, Semaphore};

use super::counts::Counts;
use super::history::{History, KEPT, Publication, SourceIdentity};
use super::probation::Recent;
use super::{ComponentInfo, PublishedBy, RevisionInfo, RevisionState};
use crate::manifest::{Source, SwapPolicy};

/// Most swaps of one component that wait for each other.
pub(super) const WAITING: usize = 8;

/// One component.
pub(super) struct Slot {
    pub(super) name: String,
    /// Whose turn it is: one swap at a time, in the order they came.
    pub(super) turn: Turn<()>,
    /// Places for swaps, the one under way included.
    pub(super) places: Semaphore,
    /// How the swaps of the component of that name have ended.
    pub(super) counts: Arc<Counts>,
    /// What is kept on disk. Locked where blocking is allowed.
    pub(super) history: Mutex<History>,
    state: Mutex<State>,
}

/// What changes with a swap.
pub(super) struct State {
    pub(super) active: Active,
    /// The revision before, ready to be published again, while the active one is on probation.
    pub(super) warm: Option<Arc<Revision>>,
    /// Those that were replaced; dead when their last request is done.
    draining: Vec<Draining>,
    /// Revisions that were active, newest first and the active one among them, each with bytes or configuration of its own.
    past: VecDeque<Past>,
    pub(super) policy: SwapPolicy,
    pub(super) source: Source,
    /// What the source was when it was last read.
    pub(super) identity: SourceIdentity,
}

/// The active revision.
pub(super) struct Active {
    pub(super) revision: Arc<Revision>,
    /// Counts publications of this slot.
    pub(super) number: u64,
    /// What has become of its requests of late.
    pub(super) recent: Recent,
}

/// A revision that was active.
#[derive(Clone)]
pub(super) struct Past {
    /// When and by what it became active.
    pub(super) publication: Publication,
    pub(super) spec: ComponentSpec,
}

struct Draining {
    revision: Weak<Revision>,
    /// None if it never was active.
    past: Option<Past>,
}

impl Draining {
    fn goes_on(&self) -> bool {
        self.revision.strong_count() > 0
    }
}

impl Past {
    /// What is known of a revision that is published now.
    pub(super) fn now(revision: &Revision, size: u64, by: PublishedBy) -> Self {
        Self { publication: Publication::new(revision.digest(), size, by), spec: revision.spec().clone() }
    }

    /// What is on disk of earlier ones, newest first. Of their configuration nothing is: they get this one.
    pub(super) fn recorded<'a>(history: &'a History, spec: &'a ComponentSpec) -> impl Iterator<Item = Self> + 'a {
        history.publications().iter().map(|publication| Self { publication: publication.clone(), spec: spec.clone() })
    }

    pub(super) fn digest(&self) -> Digest {
        self.publication.digest
    }

    /// Whether that was the same revision.
    fn is(&self, other: &Past) -> bool {
        self.digest() == other.digest() && self.spec == other.spec
    }

    pub(super) fn is_revision(&self, revision: &Revision) -> bool {
        self.digest() == revision.digest() && self.spec == *revision.spec()
    }

    fn info(&self, state: RevisionState) -> RevisionInfo {
        let Publication { digest, by, at_ms: _, size, outcome } = &self.publication;
        RevisionInfo {
            digest: digest.to_string(),
            configuration: configuration(&self.spec),
            state,
            size: *size,
            published_by: *by,
            published_ms_ago: self.publication.age_ms(),
            outcome: outcome.clone(),
        }
    }
}

impl Slot {
    /// For a component that is about to be served for the first time.
    pub(super) fn new(
        revision: Arc<Revision>,
        past: VecDeque<Past>,
        policy: SwapPolicy,
        source: Source,
        identity: SourceIdentity,
        history: History,
        counts: Arc<Counts>,
    ) -> Arc<Self> {
        let recent = Recent::new(policy.watch_for, Instant::now(), revision.outcomes());
        let state = State {
            active: Active { revision: revision.clone(), number: 0, recent },
            warm: None,
            draining: Vec::new(),
            past,
            policy,
            source,
            identity,
        };
        Arc::new(Self {
            counts,
            name: revision.spec().name.clone(),
            turn: Turn::default(),
            places: Semaphore::new(WAITING),
            history: Mutex::new(history),
            state: Mutex::new(state),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Makes a revision the active one. Returns the one that was; none if it is the first of its component.
    pub(super) fn publish(&mut self, revision: Arc<Revision>, past: Past) -> Option<Arc<Revision>> {
        self.past.retain(|earlier| !earlier.is(&past));
        self.past.push_front(past);
        self.past.truncate(KEPT);
        let recent = Recent::new(self.policy.watch_for, Instant::now(), revision.outcomes());
        let active = Active { revision, number: self.active.number + 1, recent };
        let before = std::mem::replace(&mut self.active, active).revision;
        Some(before).filter(|before| !Arc::ptr_eq(before, &self.active.revision))
    }

    /// By what the active revision became active.
    pub(super) fn by(&self) -> PublishedBy {
        self.past.front().map_or(PublishedBy::Start, |past| past.publication.by)
    }

    /// How many bytes a revision has, if that is remembered.
    pub(super) fn size_of(&self, revision: &Revision) -> u64 {
        self.past.iter().find(|past| past.is_revision(revision)).map_or(0, |past| past.publication.size)
    }

    /// Remembers why a revision was replaced.
    pub(super) fn set_outcome(&mut self, revision: &Revision, outcome: &str) {
        if let Some(past) = self.past.iter_mut().find(|past| past.is_revision(revision)) {
            past.publication.outcome = Some(outcome.to_owned());
        }
    }

    /// Lists a revision as being retired.
    pub(super) fn drains(&mut self, revision: &Arc<Revision>) {
        let past = self.past.iter().find(|past| past.is_revision(revision)).cloned();
        self.draining.retain(Draining::goes_on);
        self.draining.push(Draining { revision: Arc::downgrade(revision), past });
    }

    /// How many revisions are being retired.
    pub(super) fn draining(&self) -> usize {
        self.draining.iter().filter(|draining| draining.goes_on()).count()
    }

    /// The newest one that is not the active one and was not taken back because it failed.
    pub(super) fn previous(&self) -> Option<&Past> {
        self.past.iter().find(|past| !past.is_revision(&self.active.revision) && past.publication.outcome.is_none())
    }

    /// The newest one whose digest begins so; none if that isn't one digest.
    pub(super) fn find(&self, digest: &str) -> Option<&Past> {
        let mut found = self.past.iter().filter(|past| past.digest().to_string().starts_with(digest));
        let newest = found.next()?;
        found.all(|past| past.digest() == newest.digest()).then_some(newest)
    }

    /// The digests of all that can be gone back to, newest first.
    pub(super) fn kept(&self) -> Vec<String> {
        let mut digests: Vec<String> = Vec::new();
        for digest in self.past.iter().map(|past| past.digest().to_string()) {
            if !digests.contains(&digest) {
                digests.push(digest);
            }
        }
        digests
    }

    pub(super) fn component(&self) -> ComponentInfo {
        let revision = &self.active.revision;
        let spec = revision.spec();
        let digest = revision.digest();
        ComponentInfo {
            name: spec.name.clone(),
            namespace: spec.namespace.to_string(),
            route: spec.route.clone(),
            instances: spec.instances.iter().map(ToString::to_string).collect(),
            published_ms_ago: self.past.front().map_or(0, |past| past.publication.age_ms()),
            published_by: self.by(),
            source: self.source.to_string(),
            source_digest: self.identity.digest().map(|digest| digest.to_string()),
            differs_from_source: self.identity.digest() != Some(digest),
            draining: self.draining(),
            watching: self.warm.is_some(),
            digest: digest.to_string(),
        }
    }

    pub(super) fn revisions(&self) -> Vec<RevisionInfo> {
        let draining: Vec<&Past> = self
            .draining
            .iter()
            .filter(|draining| draining.goes_on())
            .filter_map(|draining| draining.past.as_ref())
            .collect();
        let kept = self.past.iter().map(|past| {
            let state = if past.is_revision(&self.active.revision) {
                RevisionState::Active
            } else if self.warm.as_ref().is_some_and(|warm| past.is_revision(warm)) {
                RevisionState::Warm
            } else if draining.iter().any(|other| other.is(past)) {
                RevisionState::Draining
            } else {
                RevisionState::Kept
            };
            past.info(state)
        });
        let forgotten = draining.iter().filter(|draining| !self.past.iter().any(|past| past.is(draining)));
        kept.chain(forgotten.map(|past| past.info(RevisionState::Draining))).collect()
    }
}

/// Eight digits by which configurations are told apart. They give nothing of it away.
fn configuration(spec: &ComponentSpec) -> String {
    let mut digest = Code::new(format!("{spec:?}")).digest().to_string();
    digest.truncate(8);
    digest
}
