//! The start: which revision of each component the latest event names, a swap or a newer file.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use runtime::{Code, Revision, Runtime};

use super::history::{History, SourceIdentity, Start};
use super::slot::{Past, Slot};
use super::{Inner, PublishedBy, Swapper};
use crate::cli::{Exit, exit};
use crate::facts::Failures;
use crate::manifest::Component;

impl Swapper {
    /// Loads the components of a manifest, each in the revision that the latest event says, and serves them. Blocks until
    /// they are compiled.
    ///
    /// # Errors
    /// A component that can't be loaded, [`exit::USAGE`].
    pub(crate) fn start(
        runtime: Arc<Runtime>,
        folder: PathBuf,
        components: Vec<Component>,
        failures: Failures,
    ) -> anyhow::Result<Self> {
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
        let counts = slots.iter().map(|(name, slot)| (name.clone(), slot.counts.clone())).collect();
        runtime.publish_first(revisions).map_err(|error| Exit::new(exit::USAGE, error))?;
        let (publishing, stopping) = Default::default();
        let (slots, counts) = (Mutex::new(slots), Mutex::new(counts));
        Ok(Self(Arc::new(Inner { runtime, folder, slots, counts, publishing, stopping, failures })))
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
        let history = History::open(&folder.join(name)).map_err(|error| Exit::new(exit::STORE, error))?;
        let identity = SourceIdentity::of(&component);
        let own = component.code.clone();
        let (code, recorded) = match history.decide(&identity) {
            Start::Source => (own, false),
            Start::Recorded(active) if active.digest == own.digest() => (own, true),
            Start::Recorded(active) => match history.read(active.digest) {
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
            let published = Past::now(&revision, size, PublishedBy::Start);
            let kept = self.history.keep(&self.code);
            let recorded =
                kept.and_then(|()| self.history.commit(published.publication.clone(), None, self.identity.clone()));
            if let Err(error) = recorded {
                tracing::warn!(component = spec.name, "what is served can't be gone back to later: {error}");
                past.push_back(published);
            }
        }
        past.extend(Past::recorded(&self.history, &spec));
        Ok(Slot::new(revision, past, swap, source, self.identity, self.history, Arc::default()))
    }
}
