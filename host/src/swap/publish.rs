//! Publications: what is served from now on is recorded on disk first, and the revision before is let go of when the new
//! one has proved itself.
//!
//! One publication at a time in the process. Each starts a task that watches it until its probation or itself is over, and
//! one for each revision that drains, which ends at the drain timeout.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use runtime::{Change, Code, Digest, Revision};
use tokio::time::sleep;

use super::counts::Ending;
use super::history::{Publication, SourceIdentity};
use super::probation::{Probation, Verdict, failure_rate};
use super::slot::{Slot, State, past_of};
use super::{Item, PublishedBy, SwapError, Swapper, blocking};

/// How often a revision on probation is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Most revisions of one component that are retired at a time. The next publication waits for one to be gone.
const MOST_DRAINING: usize = 16;

/// How often that is looked at.
const PAUSE: Duration = Duration::from_millis(50);

impl Swapper {
    /// Records and serves revisions, in one step, and lets go of those before.
    pub(super) async fn publish(
        &self,
        items: Vec<Item>,
        removed: &[Arc<Slot>],
        by: PublishedBy,
    ) -> Result<(), SwapError> {
        let _publishing = self.0.publishing.lock().await;
        self.publish_locked(items, removed, by).await
    }

    async fn publish_locked(&self, items: Vec<Item>, removed: &[Arc<Slot>], by: PublishedBy) -> Result<(), SwapError> {
        for item in &items {
            while item.slot.state().draining() >= MOST_DRAINING {
                sleep(PAUSE).await;
            }
        }
        let mut recorded: Vec<&Item> = Vec::new();
        let mut failure = None;
        for item in &items {
            match record(&item.slot, item.revision.digest(), item.size, item.code.clone(), by).await {
                Ok(()) => recorded.push(item),
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        if failure.is_none() {
            let change = Change {
                revisions: items.iter().map(|item| item.revision.clone()).collect(),
                removed: removed.iter().map(|slot| slot.name.clone()).collect(),
            };
            let published = self.0.runtime.publish(change).await;
            failure = published.err().map(|error| SwapError::Rejected { reason: error.to_string() });
        }
        if let Some(failure) = failure {
            for item in recorded {
                unrecord(&item.slot).await;
            }
            items.iter().for_each(|item| item.slot.counts.add(Ending::Failed));
            for item in items {
                self.retire_unpublished(&item);
            }
            return Err(failure);
        }
        for item in items {
            self.published(item, by);
        }
        for slot in removed {
            self.slots().remove(&slot.name);
            let mut state = slot.state();
            let (active, warm) = (state.active.revision.clone(), state.warm.take());
            for revision in [Some(active), warm].into_iter().flatten() {
                self.retire(slot, &mut state, revision);
            }
            tracing::info!(component = slot.name, "a component is not served any more");
        }
        Ok(())
    }

    /// Ends a revision that could not be published, unless it is ready for a rollback.
    fn retire_unpublished(&self, item: &Item) {
        let mut state = item.slot.state();
        if !state.warm.as_ref().is_some_and(|warm| Arc::ptr_eq(warm, &item.revision)) {
            self.retire(&item.slot, &mut state, item.revision.clone());
        }
    }

    /// Brings a slot up to date with what is served now, and lets go of what was.
    fn published(&self, item: Item, by: PublishedBy) {
        let Item { slot, revision, size, code: _ } = item;
        self.slots().insert(slot.name.clone(), slot.clone());
        tracing::info!(component = slot.name, digest = %revision.digest(), %by, "a revision is published");
        slot.counts.add(match by {
            PublishedBy::Start | PublishedBy::Swap | PublishedBy::File | PublishedBy::Manifest => Ending::Published,
            PublishedBy::Rollback => Ending::RolledBack,
            PublishedBy::AutomaticRollback => Ending::RolledBackAutomatically,
        });
        let mut state = slot.state();
        let failed_before = failure_rate(state.active.recent.until(state.active.revision.outcomes()));
        let past = past_of(&revision, size, by);
        let Some(before) = state.publish(revision, past) else { return };
        // The one before the one before has been waiting in vain.
        let older = state.warm.take();
        if let Some(older) = older.filter(|older| !Arc::ptr_eq(older, &state.active.revision)) {
            self.retire(&slot, &mut state, older);
        }
        let proven = matches!(by, PublishedBy::Rollback | PublishedBy::AutomaticRollback);
        if proven || state.policy.watch_for.is_zero() {
            self.retire(&slot, &mut state, before);
            return;
        }
        state.warm = Some(before);
        let outcomes = state.active.revision.outcomes();
        let (policy, number) = (&state.policy, state.active.number);
        let now = Instant::now();
        let probation = Probation::new(policy.rollback_threshold, policy.watch_for, failed_before, now, outcomes);
        let (this, slot) = (self.clone(), slot.clone());
        tokio::spawn(async move { this.watch(&slot, number, probation).await });
    }

    /// Watches a publication until it has proved itself, has failed, or is over.
    async fn watch(&self, slot: &Arc<Slot>, number: u64, mut probation: Probation) {
        loop {
            sleep(LOOK).await;
            let verdict = {
                let mut state = slot.state();
                if state.active.number != number {
                    return;
                }
                let verdict = probation.observe(Instant::now(), state.active.revision.outcomes());
                if verdict == Verdict::Passed
                    && let Some(before) = state.warm.take()
                {
                    self.retire(slot, &mut state, before);
                }
                verdict
            };
            match verdict {
                Verdict::Open => {}
                Verdict::Passed => return,
                Verdict::Failed(reason) => return self.roll_back_automatically(slot, number, &reason).await,
            }
        }
    }

    async fn roll_back_automatically(&self, slot: &Arc<Slot>, number: u64, reason: &str) {
        let _publishing = self.0.publishing.lock().await;
        let item = {
            let mut state = slot.state();
            let Some(warm) = state.warm.clone().filter(|_| state.active.number == number) else { return };
            tracing::error!(
                component = slot.name,
                digest = %state.active.revision.digest(),
                to = %warm.digest(),
                "a revision is rolled back: {reason}"
            );
            state.set_outcome(&format!("rolled back: {reason}"));
            let size = state.size_of(&warm);
            Item { slot: slot.clone(), revision: warm, size, code: None }
        };
        if let Err(error) = self.publish_locked(vec![item], &[], PublishedBy::AutomaticRollback).await {
            tracing::error!(component = slot.name, "it could not be rolled back: {error}");
        }
    }

    /// Lets a revision drain that isn't served any more.
    pub(super) fn retire(&self, slot: &Slot, state: &mut State, revision: Arc<Revision>) {
        state.drains(&revision);
        let (component, patience) = (slot.name.clone(), state.policy.drain_timeout);
        tokio::spawn(async move {
            let cut_off = revision.retire(patience).await;
            let digest = revision.digest();
            if cut_off > 0 {
                tracing::warn!(component, %digest, cut_off, "requests were cut off with their revision after {patience:?}");
            } else {
                tracing::debug!(component, %digest, "a revision has drained");
            }
        });
    }

    /// Records that the active revision was asked for once more: it wins over a file that was written before.
    pub(super) async fn record_again(&self, slot: &Arc<Slot>, by: PublishedBy) -> Result<(), SwapError> {
        let _publishing = self.0.publishing.lock().await;
        let (digest, size) = {
            let state = slot.state();
            (state.active.revision.digest(), state.size_of(&state.active.revision))
        };
        record(slot, digest, size, None, by).await
    }
}

/// Writes down that a revision is active from now on, after its bytes.
pub(super) async fn record(
    slot: &Arc<Slot>,
    digest: Digest,
    size: u64,
    code: Option<Code>,
    by: PublishedBy,
) -> Result<(), SwapError> {
    let slot = slot.clone();
    let recorded = blocking({
        let slot = slot.clone();
        move || {
            let (source, known, ended) = {
                let state = slot.state();
                (state.source.clone(), state.identity.clone(), state.outcome())
            };
            let now = match by {
                // What was read is what is recorded: a source that was written since wins at the next start.
                PublishedBy::Manifest | PublishedBy::Start => known,
                PublishedBy::File => {
                    let now = SourceIdentity::of_now(&source);
                    if now.digest() == Some(&digest.to_string()) { now } else { known }
                }
                PublishedBy::Swap | PublishedBy::Rollback | PublishedBy::AutomaticRollback => {
                    SourceIdentity::of_now(&source)
                }
            };
            let mut history = slot.history();
            if let Some(code) = code {
                history.keep(&code)?;
            }
            history.commit(publication(digest, size, by), ended, now.clone())?;
            if let Err(error) = history.prune() {
                tracing::warn!(component = slot.name, "old revisions could not be deleted: {error}");
            }
            drop(history);
            slot.state().identity = now;
            Ok(())
        }
    });
    match recorded.await {
        // What fails is not to go on being served because the disk is full.
        Err(error) if by == PublishedBy::AutomaticRollback => {
            tracing::error!(component = slot.name, "the rollback could not be recorded: {error}");
            Ok(())
        }
        recorded => recorded,
    }
}

/// Writes down that what was active still is.
pub(super) async fn unrecord(slot: &Arc<Slot>) {
    let (digest, size) = {
        let state = slot.state();
        (state.active.revision.digest(), state.size_of(&state.active.revision))
    };
    let slot = slot.clone();
    let undone = blocking({
        let slot = slot.clone();
        move || {
            let (identity, by) = {
                let state = slot.state();
                (state.identity.clone(), state.by())
            };
            let ended = Some("it could not be published".to_owned());
            slot.history().commit(publication(digest, size, by), ended, identity)
        }
    });
    if let Err(error) = undone.await {
        tracing::error!(component = slot.name, "the record on disk names a revision that isn't served: {error}");
    }
}

pub(super) fn publication(digest: Digest, size: u64, by: PublishedBy) -> Publication {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let at_ms = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
    Publication { digest: digest.to_string(), by, at_ms, size, outcome: None }
}
