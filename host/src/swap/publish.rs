//! Publications: what is served from now on is recorded on disk first, and the revision before is let go of when the new
//! one has proved itself.
//!
//! One publication at a time in the process. Each starts a task that watches it until its probation or itself is over, and
//! one for each revision that drains, which ends at the drain timeout.

use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime::{Change, Revision};
use tokio::sync::MutexGuard;
use tokio::time::sleep;

use super::counts::Ending;
use super::history::{Before, HistoryError, Publication, SourceIdentity};
use super::probation::{Probation, Verdict, failure_rate};
use super::slot::{Past, Slot, State};
use super::{Item, PublishedBy, SwapError, Swapper, blocking};

/// How often a revision on probation is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Most revisions of one component that are retired at a time. The next publication waits for one to be gone.
const MOST_DRAINING: usize = 16;

/// How often that is looked at.
const PAUSE: Duration = Duration::from_millis(50);

/// After how long a rollback is tried again that was not possible.
const AGAIN: Duration = Duration::from_secs(1);

impl Swapper {
    /// Records and serves revisions, in one step, and lets go of those before. If that can't be, ends the new ones.
    pub(super) async fn publish(
        &self,
        items: Vec<Item>,
        removed: &[Arc<Slot>],
        by: PublishedBy,
    ) -> Result<(), SwapError> {
        for item in &items {
            // Before others have to wait too.
            while item.slot.state().draining() >= MOST_DRAINING {
                sleep(PAUSE).await;
            }
        }
        let publishing = self.0.publishing.lock().await;
        let published = self.publish_locked(&publishing, &items, removed, by).await;
        if published.is_err() {
            for item in &items {
                self.retire(&item.slot, &mut item.slot.state(), item.revision.clone());
            }
        }
        published
    }

    /// The same, for whoever holds the lock already. If it can't be, the new ones are left as they are.
    pub(super) async fn publish_locked(
        &self,
        _publishing: &MutexGuard<'_, ()>,
        items: &[Item],
        removed: &[Arc<Slot>],
        by: PublishedBy,
    ) -> Result<(), SwapError> {
        let published = self.record_and_serve(items, removed, by).await;
        if let Err(error) = &published {
            for item in items {
                item.slot.counts.add(Ending::Failed);
                // That is tried again and again, and told once by who does.
                if by != PublishedBy::AutomaticRollback {
                    self.0.failures.record_swap(&item.slot.name, &format!("not published: {error}"));
                }
            }
        }
        published
    }

    async fn record_and_serve(&self, items: &[Item], removed: &[Arc<Slot>], by: PublishedBy) -> Result<(), SwapError> {
        self.check_addresses(items, removed)?;
        // What fails is not to go on being served while a disk is slow, or full.
        let urgent = by == PublishedBy::AutomaticRollback;
        let mut records = Vec::new();
        if !urgent {
            for item in items {
                match record(item, by, None).await {
                    Ok(before) => records.push((item, before)),
                    Err(error) => {
                        undo(records).await;
                        return Err(error);
                    }
                }
            }
        }
        let change = Change {
            revisions: items.iter().map(|item| item.revision.clone()).collect(),
            removed: removed.iter().map(|slot| slot.name.clone()).collect(),
        };
        if let Err(error) = self.0.runtime.publish(change).await {
            undo(records).await;
            return Err(SwapError::Rejected { reason: error.to_string() });
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
        for (item, _) in records {
            prune(&item.slot).await;
        }
        Ok(())
    }

    /// Whether what is about to be published has routes and instances that no other component has. The manifest sees to
    /// that for what it says; but what is gone back to may have been configured by an older one.
    fn check_addresses(&self, items: &[Item], removed: &[Arc<Slot>]) -> Result<(), SwapError> {
        let new: Vec<&Revision> = items.iter().map(|item| &*item.revision).collect();
        let stays = |revision: &Arc<Revision>| {
            let name = &revision.spec().name;
            !new.iter().any(|new| new.spec().name == *name) && !removed.iter().any(|slot| slot.name == *name)
        };
        let served: Vec<_> = self.0.runtime.revisions().into_iter().filter(stays).collect();
        for (index, revision) in new.iter().enumerate() {
            let spec = revision.spec();
            for other in served.iter().map(|other| other.spec()).chain(new[..index].iter().map(|other| other.spec())) {
                let instance = spec
                    .instances
                    .iter()
                    .find(|name| other.namespace == spec.namespace && other.instances.contains(name));
                let shared = match (&spec.route, instance) {
                    (Some(route), _) if other.route.as_ref() == Some(route) => format!("the route \"{route}\""),
                    (_, Some(name)) => format!("the instance \"{name}\""),
                    _ => continue,
                };
                let reason =
                    format!("{shared} belongs to \"{}\" by now; change that in the manifest first", other.name);
                return Err(SwapError::Rejected { reason });
            }
        }
        Ok(())
    }

    /// Brings a slot up to date with what is served now, and lets go of what was.
    fn published(&self, item: &Item, by: PublishedBy) {
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
        let past = Past::now(revision, *size, by);
        let Some(before) = state.publish(revision.clone(), past) else { return };
        // The one before the one before has been waiting in vain.
        let older = state.warm.take();
        if let Some(older) = older.filter(|older| !Arc::ptr_eq(older, &state.active.revision)) {
            self.retire(slot, &mut state, older);
        }
        let proven = matches!(by, PublishedBy::Rollback | PublishedBy::AutomaticRollback);
        if proven || state.policy.watch_for.is_zero() {
            self.retire(slot, &mut state, before);
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
        let mut told = false;
        loop {
            sleep(LOOK).await;
            let verdict = {
                let state = slot.state();
                if state.active.number != number {
                    return;
                }
                let active = &state.active.revision;
                probation.observe(Instant::now(), active.outcomes(), |time| active.owes_since_before(time))
            };
            match verdict {
                Verdict::Open => {}
                Verdict::Passed => {
                    // Whoever goes back to the warm one holds this lock from when it is chosen until it is active.
                    let _publishing = self.0.publishing.lock().await;
                    let mut state = slot.state();
                    if state.active.number == number
                        && let Some(before) = state.warm.take()
                    {
                        self.retire(slot, &mut state, before);
                    }
                    return;
                }
                Verdict::Failed(reason) => match self.roll_back_automatically(slot, number, &reason).await {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::error!(component = slot.name, "a revision fails and can't be rolled back: {error}");
                        if !std::mem::replace(&mut told, true) {
                            self.0.failures.record_swap(&slot.name, &format!("can't be rolled back: {error}"));
                        }
                        sleep(AGAIN).await;
                    }
                },
            }
        }
    }

    async fn roll_back_automatically(&self, slot: &Arc<Slot>, number: u64, reason: &str) -> Result<(), SwapError> {
        let by = PublishedBy::AutomaticRollback;
        let mut publishing = self.0.publishing.lock().await;
        let item = {
            let state = slot.state();
            let Some(warm) = state.warm.clone().filter(|_| state.active.number == number) else { return Ok(()) };
            let size = state.size_of(&warm);
            Item { slot: slot.clone(), revision: warm, size, code: None }
        };
        let failed = slot.state().active.revision.clone();
        let mut step = self.step(&slot.name, by);
        step.revision(item.revision.digest());
        let published = self.publish_locked(&publishing, std::slice::from_ref(&item), &[], by).await;
        step.end(published.as_ref().err());
        published?;
        let (digest, to) = (failed.digest(), item.revision.digest());
        tracing::error!(component = slot.name, %digest, %to, "a revision was rolled back: {reason}");
        let outcome = format!("rolled back: {reason}");
        slot.state().set_outcome(&failed, &outcome);
        self.0.failures.record_swap(&slot.name, &outcome);
        let mut told = false;
        while let Err(error) = record(&item, by, Some(outcome.clone())).await {
            if !std::mem::replace(&mut told, true) {
                tracing::error!(
                    component = slot.name,
                    "the rollback could not be recorded, so a restart would serve {digest} again; trying on: {error}"
                );
            }
            drop(publishing);
            sleep(AGAIN).await;
            publishing = self.0.publishing.lock().await;
            if slot.state().active.number != number + 1 {
                return Ok(());
            }
        }
        prune(slot).await;
        Ok(())
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
        let item = {
            let state = slot.state();
            let revision = state.active.revision.clone();
            Item { slot: slot.clone(), size: state.size_of(&revision), revision, code: None }
        };
        record(&item, by, None).await.map(|_| ())
    }
}

/// What was written down before, for [`undo`].
struct Recorded {
    before: Before,
    identity: SourceIdentity,
}

/// Writes down that a revision is active from now on, after its bytes. `ended` is what there is to tell of the one before.
async fn record(item: &Item, by: PublishedBy, ended: Option<String>) -> Result<Recorded, SwapError> {
    let (slot, code) = (item.slot.clone(), item.code.clone());
    let publication = Publication::new(item.revision.digest(), item.size, by);
    blocking(move || {
        let (source, known) = {
            let state = slot.state();
            (state.source.clone(), state.identity.clone())
        };
        let now = match by {
            // What was read is what is recorded: a source that was written since wins at the next start.
            PublishedBy::Manifest | PublishedBy::Start => known,
            PublishedBy::File => {
                let now = SourceIdentity::of_now(&source);
                if now.digest() == Some(publication.digest) { now } else { known }
            }
            PublishedBy::Swap | PublishedBy::Rollback | PublishedBy::AutomaticRollback => {
                SourceIdentity::of_now(&source)
            }
        };
        let mut history = slot.history();
        if let Some(code) = code {
            history.keep(&code)?;
        }
        let committed = history.commit(publication, ended, now.clone());
        if let Err(HistoryError::Full { .. }) = committed {
            // The room is needed. What is on disk is what it was.
            let _ = history.prune();
        }
        let before = committed?;
        drop(history);
        let identity = std::mem::replace(&mut slot.state().identity, now);
        Ok(Recorded { before, identity })
    })
    .await
}

/// Deletes bytes that can't be gone back to any more. Not before what replaces them is served: until then it may be undone.
async fn prune(slot: &Arc<Slot>) {
    let pruned = slot.clone();
    if let Err(error) = blocking(move || pruned.history().prune()).await {
        tracing::warn!(component = slot.name, "old revisions could not be deleted: {error}");
    }
}

/// Writes down that what was active before still is.
async fn undo(records: Vec<(&Item, Recorded)>) {
    for (item, Recorded { before, identity }) in records {
        let slot = item.slot.clone();
        slot.state().identity = identity;
        if let Err(error) = blocking(move || slot.history().undo(before)).await {
            let component = item.slot.name.as_str();
            tracing::error!(component, "the record on disk names a revision that isn't served: {error}");
        }
    }
}
