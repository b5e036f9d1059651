//! A changed manifest: all that it changes is prepared, and published in one step, or nothing is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::history::{History, SourceIdentity};
use super::slot::{Past, Slot};
use super::{Item, PublishedBy, SwapError, Swapped, Swapper, blocking, swapped};
use crate::manifest::{Component, Source, SwapPolicy};

impl Swapper {
    pub(super) async fn apply_now(&self, components: Vec<Component>) -> Result<Vec<Swapped>, SwapError> {
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
        let mut steps = Vec::new();
        for component in components {
            let slot = slots.iter().find(|slot| slot.name == component.spec.name);
            let mut step = self.step(&component.spec.name, by);
            let prepared = match slot {
                Some(slot) => self.change(slot, &component).await,
                None => self.add(&component).await.map(Some),
            };
            match prepared {
                Ok(Some(item)) => {
                    let before = slot.map(|slot| slot.state().active.revision.digest());
                    step.revision(item.revision.digest());
                    steps.push(step);
                    done.push(swapped(&item.slot, item.revision.digest(), before, begun));
                    settled.push((item.slot.clone(), component));
                    items.push(item);
                }
                Ok(None) => settled.extend(slot.map(|slot| (slot.clone(), component))),
                Err(error) => {
                    step.end(Some(&error));
                    for item in items {
                        item.revision.retire(Duration::ZERO).await;
                    }
                    return Err(error);
                }
            }
        }
        let before: Vec<_> = settled.iter().map(|(slot, component)| settle(slot, component)).collect();
        let slots = settled.iter().map(|(slot, _)| slot);
        let something = !items.is_empty() || !removed.is_empty();
        let published = if something { self.publish(items, &removed, by).await } else { Ok(()) };
        for step in steps {
            step.end(published.as_ref().err());
        }
        if let Err(error) = published {
            for (slot, (policy, source, identity)) in slots.zip(before) {
                let mut state = slot.state();
                (state.policy, state.source, state.identity) = (policy, source, identity);
            }
            return Err(error);
        }
        for slot in slots.cloned() {
            // Those that stay as they are have sources that were written, too.
            let name = slot.name.clone();
            let seen = blocking(move || {
                let identity = slot.state().identity.clone();
                slot.history().see(identity)
            });
            if let Err(error) = seen.await {
                tracing::warn!(component = name, "the next start will take its source to be newer: {error}");
            }
        }
        Ok(done)
    }

    /// What a changed manifest makes of a component; none if it stays as it is.
    async fn change(&self, slot: &Arc<Slot>, component: &Component) -> Result<Option<Item>, SwapError> {
        let identity = SourceIdentity::of(component);
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
        let by = PublishedBy::Manifest;
        let revision = prepared.map_err(|reason| of_component(&slot.name, self.rejected(slot, by, reason)))?;
        let SwapPolicy { rehearse, promote, .. } = component.swap;
        let rehearsed = self.rehearse(slot, &revision, rehearse, promote, by).await;
        rehearsed.map_err(|error| of_component(&slot.name, error))?;
        Ok(Some(Item { slot: slot.clone(), revision, size, code: Some(code) }))
    }

    /// A component that a changed manifest adds.
    async fn add(&self, component: &Component) -> Result<Item, SwapError> {
        let name = &component.spec.name;
        let folder = self.0.folder.join(name);
        let history = blocking(move || History::open(&folder)).await?;
        let identity = SourceIdentity::of(component);
        let prepared = self.prepare(component.spec.clone(), component.code.clone()).await;
        let rejected = |reason| SwapError::Rejected { reason };
        let revision = prepared.map_err(|reason| of_component(name, rejected(reason)))?;
        let (policy, source) = (component.swap.clone(), component.source.clone());
        let counts = self.all_counts().entry(name.clone()).or_default().clone();
        let past = Past::recorded(&history, &component.spec).collect();
        let slot = Slot::new(revision.clone(), past, policy, source, identity, history, counts);
        Ok(Item { slot, revision, size: component.code.bytes().len() as u64, code: Some(component.code.clone()) })
    }
}

/// Takes over what the manifest says of a component, apart from what is published. Returns what it said before.
fn settle(slot: &Slot, component: &Component) -> (SwapPolicy, Source, SourceIdentity) {
    let identity = SourceIdentity::of(component);
    let mut state = slot.state();
    (
        std::mem::replace(&mut state.policy, component.swap.clone()),
        std::mem::replace(&mut state.source, component.source.clone()),
        std::mem::replace(&mut state.identity, identity),
    )
}

/// The same error, saying which component it is about.
fn of_component(name: &str, error: SwapError) -> SwapError {
    let named = |reason: String| format!("component \"{name}\": {reason}");
    match error {
        SwapError::Rejected { reason } => SwapError::Rejected { reason: named(reason) },
        SwapError::NotPromoted { reason, report } => SwapError::NotPromoted { reason: named(reason), report },
        error => error,
    }
}
