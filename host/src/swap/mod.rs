//! Swaps: one revision of a component takes the place of another, while requests flow.
//!
//! The [`Swapper`] brings bytes through the steps that `ARCHITECTURE.md` names, each of which can fail and leave the active
//! revision as it is: they are compiled, linked and tried by the runtime, kept and recorded on disk ([`history`]), and
//! published ([`publish`]); the revision before drains. A new one is on [`probation`] first, with the one before ready to
//! take its place again. [`start`] and [`apply`] do the same for all components of a manifest. What is known of a component
//! is in its [`slot`]; what is asked and answered, in [`types`]; what traces tell of a swap, in [`step`].
//!
//! One for the process, on the control plane. Swaps of one component take turns; publications are one at a time.

mod apply;
mod counts;
mod history;
mod probation;
mod publish;
mod slot;
mod start;
mod step;
mod types;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use runtime::{Code, ComponentSpec, Digest, Promote, RehearsalOptions, RehearsalReport, Revision, Runtime};
use tokio::sync::Mutex as Turn;
use tokio::task::JoinError;
use tokio::time::{MissedTickBehavior, interval};

use self::counts::{Counts, Ending};
use self::history::HistoryError;
use self::slot::{Slot, WAITING};
use self::step::Step;
use crate::facts::Failures;
use crate::manifest::Manifest;
use crate::value::milliseconds;

pub(crate) use history::SourceIdentity;
pub(crate) use types::{ComponentInfo, PublishedBy, RevisionInfo, RevisionState, SwapError, SwapOptions, Swapped};

/// How often the active revisions' outcomes are sampled, to know later how they were before a swap.
const SAMPLE: Duration = Duration::from_secs(1);

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
    /// By the component's name; those that are not served any more are kept.
    counts: Mutex<BTreeMap<String, Arc<Counts>>>,
    /// Held while what is on disk and what is served differ.
    publishing: Turn<()>,
    stopping: AtomicBool,
    /// Where what goes wrong is remembered for people.
    failures: Failures,
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
    /// What serves the components.
    pub(crate) fn runtime(&self) -> &Arc<Runtime> {
        &self.0.runtime
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

    /// Waits until what is served is on disk: a rollback is served before it is recorded. Nothing is published for as long
    /// as the guard is held.
    pub(crate) async fn settle(&self) -> impl Drop {
        self.0.publishing.lock().await
    }

    /// The components, in order of name.
    pub(crate) fn components(&self) -> Vec<ComponentInfo> {
        self.slots().values().map(|slot| slot.state().component()).collect()
    }

    /// Where what was refused is remembered.
    pub(crate) fn failures(&self) -> &Failures {
        &self.0.failures
    }

    /// How many swaps of each component have ended how, for metrics.
    pub(crate) fn counts(&self) -> Vec<(String, &'static str, u64)> {
        let counts = self.all_counts();
        let counts =
            counts.iter().flat_map(|(name, counts)| counts.all().map(move |(ending, count)| (name, ending, count)));
        counts.map(|(component, ending, count)| (component.clone(), ending, count)).collect()
    }

    /// Whether there is such a component.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn check_name(&self, name: &str) -> Result<(), SwapError> {
        self.slot(name).map(|_| ())
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
        let swap = async move |this: Self, slot: Arc<Slot>| {
            let mut step = this.step(&slot.name, options.by);
            step.revision(code.digest());
            let swapped = this.swap_now(&slot, code, options).await;
            step.end_with(&swapped);
            swapped
        };
        self.in_turn(slot, swap).await
    }

    /// Goes back to the revision before the active one, or to the one whose digest begins with `to`.
    ///
    /// # Errors
    /// See [`SwapError`]: the active revision is the same as before.
    pub(crate) async fn rollback(&self, name: &str, to: Option<&str>) -> Result<Swapped, SwapError> {
        let slot = self.slot(name)?;
        let to = to.map(str::to_owned);
        let roll_back = async move |this: Self, slot: Arc<Slot>| {
            let mut step = this.step(&slot.name, PublishedBy::Rollback);
            let swapped = this.roll_back_now(&slot, to.as_deref(), &mut step).await;
            step.end_with(&swapped);
            swapped
        };
        self.in_turn(slot, roll_back).await
    }

    /// Serves what a changed manifest says: all of it, or, if anything in it can't be served, nothing.
    ///
    /// # Errors
    /// See [`SwapError`]: nothing has changed.
    pub(crate) async fn apply(&self, manifest: Manifest) -> Result<Vec<Swapped>, SwapError> {
        let this = self.clone();
        let applied = tokio::spawn(async move { this.apply_now(manifest.components).await });
        applied.await.unwrap_or_else(|error| Err(failed(&error)))
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
            // It may have been removed meanwhile.
            this.slot(&slot.name)?;
            swap(this.clone(), slot.clone()).await
        });
        swapped.await.unwrap_or_else(|error| Err(failed(&error)))
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
            return Ok(Swapped { changed: false, ..swapped(slot, active, Some(active), begun) });
        }
        tracing::info!(component = slot.name, digest = %code.digest(), by = %options.by, "a swap begins");
        let (revision, rehearsal) = match self.ready(slot, spec, code.clone(), options).await {
            Ok(ready) => ready,
            Err(error) => {
                if options.by == PublishedBy::File {
                    see_refused(slot, code.digest()).await;
                }
                return Err(error);
            }
        };
        let item = Item { slot: slot.clone(), revision, size, code: Some(code) };
        let digest = item.revision.digest();
        self.publish(vec![item], &[], options.by).await?;
        Ok(Swapped { rehearsal, ..swapped(slot, digest, Some(active), begun) })
    }

    async fn roll_back_now(&self, slot: &Arc<Slot>, to: Option<&str>, step: &mut Step) -> Result<Swapped, SwapError> {
        let begun = Instant::now();
        let (target, active_already, active) = {
            let state = slot.state();
            let target = match to {
                None => state.previous().ok_or_else(|| SwapError::NoPreviousRevision { name: slot.name.clone() })?,
                Some(digest) => state.find(digest).filter(|_| digest.len() >= FEWEST_DIGITS).ok_or_else(|| {
                    let (name, digest) = (slot.name.clone(), digest.to_owned());
                    SwapError::UnknownRevision { name, digest, kept: state.kept() }
                })?,
            };
            (target.clone(), target.is_revision(&state.active.revision), state.active.revision.digest())
        };
        step.revision(target.digest());
        let by = PublishedBy::Rollback;
        if active_already {
            self.record_again(slot, by).await?;
            return Ok(Swapped { changed: false, ..swapped(slot, target.digest(), Some(active), begun) });
        }
        let item = |revision| Item { slot: slot.clone(), revision, size: target.publication.size, code: None };
        {
            // From here until it is active, nobody may let go of the warm one.
            let publishing = self.0.publishing.lock().await;
            let warm = slot.state().warm.clone().filter(|warm| target.is_revision(warm));
            if let Some(warm) = warm {
                self.publish_locked(&publishing, &[item(warm)], &[], by).await?;
                return Ok(swapped(slot, target.digest(), Some(active), begun));
            }
        }
        let code = self.kept_code(slot, target.digest()).await?;
        let prepared = self.prepare(target.spec.clone(), code).await;
        let revision = prepared.map_err(|reason| self.rejected(slot, by, reason))?;
        self.publish(vec![item(revision)], &[], by).await?;
        Ok(swapped(slot, target.digest(), Some(active), begun))
    }

    /// A revision that can be published: prepared, and rehearsed if that is wanted.
    async fn ready(
        &self,
        slot: &Arc<Slot>,
        spec: ComponentSpec,
        code: Code,
        options: SwapOptions,
    ) -> Result<(Arc<Revision>, Option<RehearsalReport>), SwapError> {
        let revision = self.prepare(spec, code).await.map_err(|reason| self.rejected(slot, options.by, reason))?;
        let (rehearse, promote) = {
            let policy = &slot.state().policy;
            (options.rehearse.unwrap_or(policy.rehearse), options.promote.unwrap_or(policy.promote))
        };
        let rehearsal = self.rehearse(slot, &revision, rehearse, promote, options.by).await?;
        Ok((revision, rehearsal))
    }

    async fn prepare(&self, spec: ComponentSpec, code: Code) -> Result<Arc<Revision>, String> {
        self.0.runtime.prepare(spec, code).await.map_err(|error| error.to_string())
    }

    /// Lets a revision that is ready show what it makes of requests that the active one gets, and judges it by that. One
    /// that doesn't pass is retired.
    async fn rehearse(
        &self,
        slot: &Slot,
        revision: &Arc<Revision>,
        requests: u32,
        promote: Promote,
        by: PublishedBy,
    ) -> Result<Option<RehearsalReport>, SwapError> {
        if requests == 0 {
            return Ok(None);
        }
        let active = slot.state().active.revision.clone();
        let options = RehearsalOptions::new(requests as usize, slot.state().policy.drain_timeout);
        let rehearsed = self.0.runtime.rehearse(&active, revision, options).await;
        drop(active);
        let report = match rehearsed {
            Ok(report) => report,
            Err(error) => {
                revision.retire(Duration::ZERO).await;
                return Err(self.rejected(slot, by, error.to_string()));
            }
        };
        tracing::info!(component = slot.name, digest = %revision.digest(), "{}", report.summary());
        match report.verdict(promote) {
            Ok(()) => Ok(Some(report)),
            Err(verdict) => {
                revision.retire(Duration::ZERO).await;
                let reason = verdict.to_string();
                self.remember_rejected(slot, by, &reason);
                Err(SwapError::NotPromoted { reason, report: Box::new(report) })
            }
        }
    }

    /// The bytes of a revision that is kept.
    async fn kept_code(&self, slot: &Arc<Slot>, digest: Digest) -> Result<Code, SwapError> {
        let slot = slot.clone();
        blocking(move || slot.history().read(digest)).await
    }

    fn rejected(&self, slot: &Slot, by: PublishedBy, reason: String) -> SwapError {
        self.remember_rejected(slot, by, &reason);
        SwapError::Rejected { reason }
    }

    fn remember_rejected(&self, slot: &Slot, by: PublishedBy, reason: &str) {
        tracing::warn!(component = slot.name, %by, "a revision was rejected: {reason}");
        slot.counts.add(Ending::Rejected);
        self.0.failures.record_swap(&slot.name, &format!("refused: {reason}"));
    }

    fn slot(&self, name: &str) -> Result<Arc<Slot>, SwapError> {
        let slots = self.slots();
        let known = || slots.keys().cloned().collect();
        slots.get(name).cloned().ok_or_else(|| SwapError::UnknownComponent { name: name.to_owned(), known: known() })
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Slot>>> {
        self.0.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all_counts(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Counts>>> {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_running(&self) -> Result<(), SwapError> {
        if self.0.stopping.load(Relaxed) { Err(SwapError::Draining) } else { Ok(()) }
    }
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

/// Remembers that a file was read and refused, so that the next start doesn't serve it either.
async fn see_refused(slot: &Arc<Slot>, digest: Digest) {
    let component = slot.clone();
    let seen = blocking(move || {
        let source = component.state().source.clone();
        let now = SourceIdentity::of_now(&source);
        if now.digest() == Some(digest) {
            component.history().see(now.clone())?;
            component.state().identity = now;
        }
        Ok(())
    });
    if let Err(error) = seen.await {
        tracing::warn!(component = slot.name, "the next start will try the refused file again: {error}");
    }
}

/// A swap that ended in a panic, which the log has.
fn failed(error: &JoinError) -> SwapError {
    SwapError::Rejected { reason: format!("the host made a mistake, which is in its log: {error}") }
}

fn swapped(slot: &Slot, digest: Digest, previous: Option<Digest>, begun: Instant) -> Swapped {
    Swapped {
        name: slot.name.clone(),
        digest: digest.to_string(),
        previous: previous.map(|digest| digest.to_string()),
        changed: true,
        took_ms: milliseconds(begun.elapsed()),
        rehearsal: None,
    }
}

/// Swappers for tests, in folders of their own. They share one runtime: each reserves a large part of the address space.
#[cfg(test)]
pub(crate) mod testing {
    use std::sync::OnceLock;

    use registry::Registry;
    use runtime::Compiler;
    use tempfile::TempDir;

    use super::*;
    use crate::manifest::Component;

    /// The runtime.
    pub(crate) fn runtime() -> Arc<Runtime> {
        static RUNTIME: OnceLock<Arc<Runtime>> = OnceLock::new();
        let runtime = RUNTIME.get_or_init(|| {
            let config = runtime::Config { workers: 1, tracer: None };
            let compiler = Compiler::new(None, config.workers).expect("this machine runs the engine");
            let store = Arc::new(store::MemoryStore::new(store::Limits::default()));
            let registry = Registry::new(registry::Config::default());
            Arc::new(Runtime::start(compiler, &config, registry, store).expect("threads can be started"))
        });
        runtime.clone()
    }

    /// One that serves these components.
    pub(crate) fn swapper(components: Vec<Component>) -> (Swapper, TempDir) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let swapper = Swapper::start(runtime(), folder.path().to_owned(), components, Failures::default());
        (swapper.expect("the components can be run"), folder)
    }
}
