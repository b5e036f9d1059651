//! Swaps: one revision of a component takes the place of another, while requests flow.
//!
//! The [`Swapper`] brings bytes through the steps that `ARCHITECTURE.md` names, each of which can fail and leave the active
//! revision as it is: they are compiled, linked and tried by the runtime, kept and recorded on disk ([`history`]),
//! published, and the revision before drains. A new one is on [`probation`] first, with the one before ready to take its
//! place again. What is known of a component is in its [`slot`]; what is asked and answered, in [`types`].
//!
//! One for the process, on the control plane. Swaps of one component take turns; publications are one at a time.

mod counts;
mod history;
mod probation;
mod slot;
mod types;

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use runtime::{Change, Code, ComponentSpec, Digest, Revision, Runtime};
use tokio::sync::Mutex as Turn;
use tokio::time::{MissedTickBehavior, interval, sleep};

use self::counts::Ending;
use self::history::{History, HistoryError, Publication, SourceIdentity, Start};
use self::probation::{Probation, Verdict, failure_rate};
use self::slot::{Past, Slot, State, WAITING, past_of};
use crate::cli::{Exit, exit};
use crate::manifest::{Component, Manifest, Source, SwapPolicy};

pub(crate) use types::{ComponentInfo, PublishedBy, RevisionInfo, RevisionState, SwapError, SwapOptions, Swapped};

/// How often a revision on probation is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// How often the active revisions' outcomes are sampled, to know later how they were before a swap.
const SAMPLE: Duration = Duration::from_secs(1);

/// Most revisions of one component that are retired at a time. The next publication waits for one to be gone.
const MOST_DRAINING: usize = 16;

/// How often that is looked at.
const PAUSE: Duration = Duration::from_millis(50);

/// Fewest digits by which a revision can be named.
const FEWEST_DIGITS: usize = 8;

/// Swaps components. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Swapper(Arc<Inner>);

struct Inner {
    runtime: Arc<Runtime>,
    /// `revisions` in the data directory: a folder for each component.
    folder: PathBuf,
    slots: Mutex<BTreeMap<String, Arc<Slot>>>,
    /// Held from the record on disk until what it says is served.
    publishing: Turn<()>,
    stopping: AtomicBool,
}

/// One revision of a change.
struct Item {
    slot: Arc<Slot>,
    revision: Arc<Revision>,
    size: u64,
    /// Its bytes, if they may have to be kept yet.
    code: Option<Code>,
}

impl Swapper {
    /// Loads the components of a manifest, each in the revision that the latest event says, and serves them. Blocks until
    /// they are compiled.
    ///
    /// # Errors
    /// A component that can't be loaded, [`exit::USAGE`].
    pub(crate) fn start(runtime: Arc<Runtime>, folder: PathBuf, components: Vec<Component>) -> anyhow::Result<Self> {
        let mut beginnings = Vec::new();
        for component in components {
            beginnings.push(Beginning::decide(component, &folder)?);
        }
        let specs = beginnings.iter().map(|beginning| (beginning.component.spec.clone(), beginning.code.clone()));
        let loaded = runtime.load(specs.collect());
        let mut slots = BTreeMap::new();
        let mut revisions = Vec::new();
        for (beginning, revision) in beginnings.into_iter().zip(loaded) {
            let slot = beginning.finish(&runtime, revision)?;
            revisions.push(slot.state().active.revision.clone());
            slots.insert(slot.name.clone(), slot);
        }
        runtime.publish_first(revisions).map_err(|error| Exit::new(exit::USAGE, error))?;
        let (publishing, stopping) = Default::default();
        Ok(Self(Arc::new(Inner { runtime, folder, slots: Mutex::new(slots), publishing, stopping })))
    }

    /// Takes samples of the active revisions for as long as it is polled.
    pub(crate) async fn keep_sampling(&self) {
        let mut interval = interval(SAMPLE);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            for slot in self.slots().values() {
                let mut state = slot.state();
                let outcomes = state.active.revision.outcomes();
                state.active.recent.sample(Instant::now(), outcomes);
            }
        }
    }

    /// Takes no more swaps.
    pub(crate) fn stop(&self) {
        self.0.stopping.store(true, Relaxed);
    }

    /// The components, in order of name.
    pub(crate) fn components(&self) -> Vec<ComponentInfo> {
        self.slots().values().map(|slot| slot.state().component()).collect()
    }

    /// How many swaps of each component have ended how, for metrics.
    pub(crate) fn counts(&self) -> Vec<(String, &'static str, u64)> {
        let slots = self.slots();
        let counts = slots.values().flat_map(|slot| slot.counts.all().map(|(name, count)| (&slot.name, name, count)));
        counts.map(|(component, ending, count)| (component.clone(), ending, count)).collect()
    }

    /// The revisions of a component that can be gone back to, newest publication first, and those that still have
    /// requests.
    ///
    /// # Errors
    /// There is no such component.
    pub(crate) fn revisions(&self, name: &str) -> Result<Vec<RevisionInfo>, SwapError> {
        Ok(self.slot(name)?.state().revisions())
    }

    /// Replaces a component by these bytes. Goes on if the caller doesn't wait for it.
    ///
    /// # Errors
    /// See [`SwapError`]: the active revision is the same as before.
    pub(crate) async fn swap(&self, name: &str, code: Code, options: SwapOptions) -> Result<Swapped, SwapError> {
        let slot = self.slot(name)?;
        self.in_turn(slot, move |this, slot| async move { this.swap_now(&slot, code, options).await }).await
    }

    /// Goes back to the revision before the active one, or to the one whose digest begins with `to`.
    ///
    /// # Errors
    /// See [`SwapError`]: the active revision is the same as before.
    pub(crate) async fn rollback(&self, name: &str, to: Option<&str>) -> Result<Swapped, SwapError> {
        let slot = self.slot(name)?;
        let to = to.map(str::to_owned);
        self.in_turn(slot, move |this, slot| async move { this.roll_back_now(&slot, to.as_deref()).await }).await
    }

    /// Serves what a changed manifest says: all of it, or, if anything in it can't be served, nothing.
    ///
    /// # Errors
    /// See [`SwapError`]: nothing has changed.
    pub(crate) async fn apply(&self, manifest: Manifest) -> Result<Vec<Swapped>, SwapError> {
        let this = self.clone();
        let applied = tokio::spawn(async move { this.apply_now(manifest.components).await });
        applied.await.expect("a swap doesn't panic")
    }

    /// Waits for the slot's turn. What has begun goes on when the caller is gone.
    async fn in_turn<F>(
        &self,
        slot: Arc<Slot>,
        swap: impl FnOnce(Self, Arc<Slot>) -> F + Send + 'static,
    ) -> Result<Swapped, SwapError>
    where
        F: Future<Output = Result<Swapped, SwapError>> + Send,
    {
        let this = self.clone();
        let swapped = tokio::spawn(async move {
            let busy = |_| SwapError::Busy { name: slot.name.clone(), waiting: WAITING };
            let _place = slot.places.try_acquire().map_err(busy)?;
            let _turn = slot.turn.lock().await;
            this.check_running()?;
            swap(this.clone(), slot.clone()).await
        });
        swapped.await.expect("a swap doesn't panic")
    }

    async fn swap_now(&self, slot: &Arc<Slot>, code: Code, options: SwapOptions) -> Result<Swapped, SwapError> {
        let begun = Instant::now();
        let (spec, active) = {
            let state = slot.state();
            (state.active.revision.spec().clone(), state.active.revision.digest())
        };
        let size = code.bytes().len() as u64;
        if code.digest() == active {
            self.record_again(slot, options.by).await?;
            return Ok(swapped(slot, active, Some(active), begun));
        }
        tracing::info!(component = slot.name, digest = %code.digest(), by = %options.by, "a swap begins");
        let revision = self.prepare(spec, code.clone()).await.map_err(|reason| rejected(slot, options.by, reason))?;
        let item = Item { slot: slot.clone(), revision, size, code: Some(code) };
        let digest = item.revision.digest();
        self.publish(vec![item], &[], options.by).await?;
        Ok(swapped(slot, digest, Some(active), begun))
    }

    async fn roll_back_now(&self, slot: &Arc<Slot>, to: Option<&str>) -> Result<Swapped, SwapError> {
        let begun = Instant::now();
        let (target, warm, active) = {
            let state = slot.state();
            let target = match to {
                None => state.previous().ok_or_else(|| SwapError::NoPreviousRevision { name: slot.name.clone() })?,
                Some(digest) => state.find(digest).filter(|_| digest.len() >= FEWEST_DIGITS).ok_or_else(|| {
                    let (name, digest) = (slot.name.clone(), digest.to_owned());
                    SwapError::UnknownRevision { name, digest, kept: state.kept() }
                })?,
            };
            let warm = state.warm.clone().filter(|warm| target.is_revision(warm));
            if target.is_revision(&state.active.revision) {
                return Ok(swapped(slot, target.digest, Some(target.digest), begun));
            }
            (target.clone(), warm, state.active.revision.digest())
        };
        let Past { digest, spec, size, .. } = target;
        let by = PublishedBy::Rollback;
        let revision = match warm {
            Some(warm) => warm,
            None => {
                let code = self.kept_code(slot, digest).await?;
                self.prepare(spec, code).await.map_err(|reason| rejected(slot, by, reason))?
            }
        };
        self.publish(vec![Item { slot: slot.clone(), revision, size, code: None }], &[], by).await?;
        Ok(swapped(slot, digest, Some(active), begun))
    }

    async fn apply_now(&self, components: Vec<Component>) -> Result<Vec<Swapped>, SwapError> {
        let begun = Instant::now();
        let by = PublishedBy::Manifest;
        let slots: Vec<Arc<Slot>> = self.slots().values().cloned().collect();
        let mut turns = Vec::new();
        for slot in &slots {
            turns.push(slot.turn.lock().await);
        }
        self.check_running()?;
        let removed: Vec<_> = slots
            .iter()
            .filter(|slot| !components.iter().any(|component| component.spec.name == slot.name))
            .cloned()
            .collect();
        let mut items: Vec<Item> = Vec::new();
        let mut settled = Vec::new();
        let mut done = Vec::new();
        for component in components {
            let slot = slots.iter().find(|slot| slot.name == component.spec.name);
            let prepared = match slot {
                Some(slot) => self.change(slot, &component).await,
                None => self.add(&component).await.map(Some),
            };
            match prepared {
                Ok(Some(item)) => {
                    let before = slot.map(|slot| slot.state().active.revision.digest());
                    done.push(swapped(&item.slot, item.revision.digest(), before, begun));
                    settled.push((item.slot.clone(), component));
                    items.push(item);
                }
                Ok(None) => settled.extend(slot.map(|slot| (slot.clone(), component))),
                Err(error) => {
                    for item in items {
                        item.revision.retire(Duration::ZERO).await;
                    }
                    return Err(error);
                }
            }
        }
        let before: Vec<_> = settled.iter().map(|(slot, component)| settle(slot, component)).collect();
        let slots = settled.iter().map(|(slot, _)| slot);
        if !items.is_empty() || !removed.is_empty() {
            if let Err(error) = self.publish(items, &removed, by).await {
                for (slot, (policy, source, identity)) in slots.zip(before) {
                    let mut state = slot.state();
                    (state.policy, state.source, state.identity) = (policy, source, identity);
                }
                return Err(error);
            }
        }
        Ok(done)
    }

    /// What a changed manifest makes of a component; none if it stays as it is.
    async fn change(&self, slot: &Arc<Slot>, component: &Component) -> Result<Option<Item>, SwapError> {
        let identity = SourceIdentity::of_read(&component.source, &component.code.digest().to_string());
        let (unchanged, active) = {
            let state = slot.state();
            (state.identity == identity, state.active.revision.clone())
        };
        // Bytes that were swapped stay until the file is newer.
        let digest = if unchanged { active.digest() } else { component.code.digest() };
        if digest == active.digest() && component.spec == *active.spec() {
            return Ok(None);
        }
        let code = if digest == component.code.digest() {
            component.code.clone()
        } else {
            self.kept_code(slot, digest).await?
        };
        let (size, spec) = (code.bytes().len() as u64, component.spec.clone());
        let prepared = self.prepare(spec, code.clone()).await;
        let revision =
            prepared.map_err(|reason| of_component(&slot.name, rejected(slot, PublishedBy::Manifest, reason)))?;
        Ok(Some(Item { slot: slot.clone(), revision, size, code: Some(code) }))
    }

    /// A component that a changed manifest adds.
    async fn add(&self, component: &Component) -> Result<Item, SwapError> {
        let name = &component.spec.name;
        let history = open(&self.0.folder, name)?;
        let identity = SourceIdentity::of_read(&component.source, &component.code.digest().to_string());
        let prepared = self.prepare(component.spec.clone(), component.code.clone()).await;
        let rejected = |reason| SwapError::Rejected { reason };
        let revision = prepared.map_err(|reason| of_component(name, rejected(reason)))?;
        let (policy, source) = (component.swap.clone(), component.source.clone());
        let slot = Slot::new(revision.clone(), VecDeque::new(), policy, source, identity, history);
        Ok(Item { slot, revision, size: component.code.bytes().len() as u64, code: Some(component.code.clone()) })
    }

    async fn prepare(&self, spec: ComponentSpec, code: Code) -> Result<Arc<Revision>, String> {
        self.0.runtime.prepare(spec, code).await.map_err(|error| error.to_string())
    }

    /// Records and serves revisions, in one step, and lets go of those before.
    async fn publish(&self, items: Vec<Item>, removed: &[Arc<Slot>], by: PublishedBy) -> Result<(), SwapError> {
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
    fn retire(&self, slot: &Slot, state: &mut State, revision: Arc<Revision>) {
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

    /// The bytes of a revision that is kept.
    async fn kept_code(&self, slot: &Arc<Slot>, digest: Digest) -> Result<Code, SwapError> {
        let slot = slot.clone();
        blocking(move || slot.history().read(&digest.to_string())).await
    }

    /// Records that the active revision was asked for once more: it wins over a file that was written before.
    async fn record_again(&self, slot: &Arc<Slot>, by: PublishedBy) -> Result<(), SwapError> {
        let _publishing = self.0.publishing.lock().await;
        let (digest, size) = {
            let state = slot.state();
            (state.active.revision.digest(), state.size_of(&state.active.revision))
        };
        record(slot, digest, size, None, by).await
    }

    fn slot(&self, name: &str) -> Result<Arc<Slot>, SwapError> {
        let slots = self.slots();
        let known = || slots.keys().cloned().collect();
        slots.get(name).cloned().ok_or_else(|| SwapError::UnknownComponent { name: name.to_owned(), known: known() })
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Slot>>> {
        self.0.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_running(&self) -> Result<(), SwapError> {
        if self.0.stopping.load(Relaxed) { Err(SwapError::Draining) } else { Ok(()) }
    }
}

/// A component at the start, before it is loaded.
struct Beginning {
    component: Component,
    history: History,
    identity: SourceIdentity,
    /// What is to be loaded.
    code: Code,
    /// Whether that is what was active when the process ended.
    recorded: bool,
}

impl Beginning {
    fn decide(component: Component, folder: &Path) -> anyhow::Result<Self> {
        let name = &component.spec.name;
        let history = open(folder, name).map_err(|error| Exit::new(exit::STORE, error))?;
        let identity = SourceIdentity::of_read(&component.source, &component.code.digest().to_string());
        let own = component.code.clone();
        let (code, recorded) = match history.decide(&identity) {
            Start::Source => (own, false),
            Start::Recorded(active) if active.digest == own.digest().to_string() => (own, true),
            Start::Recorded(active) => match history.read(&active.digest) {
                Ok(code) => (code, true),
                Err(error) => {
                    tracing::error!(component = name, "what was swapped can't be served again: {error}");
                    (own, false)
                }
            },
        };
        Ok(Self { component, history, identity, code, recorded })
    }

    fn finish(
        mut self,
        runtime: &Runtime,
        loaded: Result<Arc<Revision>, runtime::LoadError>,
    ) -> anyhow::Result<Arc<Slot>> {
        let Component { spec, source, code, place, swap } = self.component;
        let revision = match loaded {
            Err(error) if self.code != code => {
                tracing::error!(component = spec.name, "what was swapped can't be served again: {error}");
                (self.code, self.recorded) = (code.clone(), false);
                runtime.load(vec![(spec.clone(), code)]).pop().expect("one was asked for")
            }
            loaded => loaded,
        };
        let revision = revision.map_err(|error| {
            let message = format!("component \"{}\" can't be loaded: {error}", spec.name);
            Exit::new(exit::USAGE, place.error(message))
        })?;
        let size = self.code.bytes().len() as u64;
        let mut past = VecDeque::new();
        if !self.recorded {
            let publication = publication(revision.digest(), size, PublishedBy::Start);
            let kept = self.history.keep(&self.code);
            if let Err(error) = kept.and_then(|_| self.history.commit(publication, None, self.identity.clone())) {
                tracing::warn!(component = spec.name, "what is served can't be gone back to later: {error}");
                past.push_back(past_of(&revision, size, PublishedBy::Start));
            }
        }
        past.extend(self.history.publications().iter().filter_map(|publication| {
            let Publication { digest, by, at_ms, size, outcome } = publication.clone();
            let at = UNIX_EPOCH + Duration::from_millis(at_ms);
            Some(Past { digest: digest.parse().ok()?, spec: spec.clone(), size, by, at, outcome })
        }));
        Ok(Slot::new(revision, past, swap, source, self.identity, self.history))
    }
}

/// Opens what is kept of a component.
fn open(folder: &Path, name: &str) -> Result<History, SwapError> {
    History::open(&folder.join(name)).map_err(SwapError::from)
}

/// Writes down that a revision is active from now on, after its bytes.
async fn record(
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
async fn unrecord(slot: &Arc<Slot>) {
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

fn publication(digest: Digest, size: u64, by: PublishedBy) -> Publication {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let at_ms = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
    Publication { digest: digest.to_string(), by, at_ms, size, outcome: None }
}

/// Takes over what the manifest says of a component, apart from what is published. Returns what it said before.
fn settle(slot: &Slot, component: &Component) -> (SwapPolicy, Source, SourceIdentity) {
    let identity = SourceIdentity::of_read(&component.source, &component.code.digest().to_string());
    let mut state = slot.state();
    (
        std::mem::replace(&mut state.policy, component.swap.clone()),
        std::mem::replace(&mut state.source, component.source.clone()),
        std::mem::replace(&mut state.identity, identity),
    )
}

async fn blocking<T: Send + 'static>(
    task: impl FnOnce() -> Result<T, HistoryError> + Send + 'static,
) -> Result<T, SwapError> {
    let done = tokio::task::spawn_blocking(task).await;
    done.expect("what is kept on disk is handled without a panic").map_err(SwapError::from)
}

impl From<HistoryError> for SwapError {
    fn from(error: HistoryError) -> Self {
        let reason = error.to_string();
        if matches!(error, HistoryError::Full { .. }) { Self::Full { reason } } else { Self::NotRecorded { reason } }
    }
}

fn rejected(slot: &Slot, by: PublishedBy, reason: String) -> SwapError {
    tracing::warn!(component = slot.name, %by, "a revision was rejected: {reason}");
    slot.counts.add(Ending::Rejected);
    SwapError::Rejected { reason }
}

/// The same error, saying which component it is about.
fn of_component(name: &str, error: SwapError) -> SwapError {
    match error {
        SwapError::Rejected { reason } => SwapError::Rejected { reason: format!("component \"{name}\": {reason}") },
        error => error,
    }
}

fn swapped(slot: &Slot, digest: Digest, previous: Option<Digest>, begun: Instant) -> Swapped {
    Swapped {
        name: slot.name.clone(),
        digest: digest.to_string(),
        previous: previous.map(|digest| digest.to_string()),
        changed: previous != Some(digest),
        took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        rehearsal: None,
    }
}

/// Swappers for tests, in folders of their own. They share one runtime: each reserves a large part of the address space.
#[cfg(test)]
pub(crate) mod testing {
    use std::sync::OnceLock;

    use registry::Registry;
    use tempfile::TempDir;

    use super::*;

    /// The runtime.
    pub(crate) fn runtime() -> Arc<Runtime> {
        static RUNTIME: OnceLock<Arc<Runtime>> = OnceLock::new();
        let runtime = RUNTIME.get_or_init(|| {
            let config = runtime::Config { workers: 1, cache: None };
            let store = Arc::new(store::MemoryStore::new(store::Limits::default()));
            let registry = Registry::new(registry::Config::default());
            Arc::new(Runtime::start(&config, registry, store).expect("this machine runs the engine"))
        });
        runtime.clone()
    }

    /// One that serves these components.
    pub(crate) fn swapper(components: Vec<Component>) -> (Swapper, TempDir) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let swapper = Swapper::start(runtime(), folder.path().to_owned(), components);
        (swapper.expect("the components can be run"), folder)
    }
}
