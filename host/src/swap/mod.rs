//! Swaps: one revision of a component after another.
//!
//! This is a stand-in that keeps everything in memory and takes any bytes but empty ones for a component.

mod history;
mod types;

use std::sync::{Arc, Mutex};

use bytes::Bytes;

pub(crate) use history::{History, HistoryError, SourceIdentity, Start, digest_of};
pub(crate) use types::{
    ComponentInfo, Promote, PublishedBy, RevisionInfo, RevisionState, SwapError, SwapOptions, Swapped,
};

/// Swaps components.
#[derive(Clone)]
pub(crate) struct Swapper {
    components: Arc<Mutex<Vec<(ComponentInfo, Vec<RevisionInfo>)>>>,
}

impl Swapper {
    pub(crate) fn stub(components: Vec<ComponentInfo>) -> Self {
        let with_revision = |component: ComponentInfo| {
            let revision = revision(&component.digest, 0, PublishedBy::Start);
            (component, vec![revision])
        };
        Self { components: Arc::new(Mutex::new(components.into_iter().map(with_revision).collect())) }
    }

    pub(crate) async fn swap(&self, name: &str, bytes: Bytes, options: SwapOptions) -> Result<Swapped, SwapError> {
        let mut components = self.components.lock().expect("nobody panics");
        let known = components.iter().map(|(component, _)| component.name.clone()).collect();
        let Some((component, revisions)) = components.iter_mut().find(|(component, _)| component.name == name) else {
            return Err(SwapError::UnknownComponent { name: name.to_owned(), known });
        };
        if bytes.is_empty() {
            return Err(SwapError::Rejected { reason: "there are no bytes".to_owned() });
        }
        if &bytes[..] == b"disk full" {
            return Err(SwapError::Full { reason: "free some space".to_owned() });
        }
        let digest = digest_of(&bytes);
        let previous = std::mem::replace(&mut component.digest, digest.clone());
        revisions[0].state = RevisionState::Kept;
        revisions.insert(0, revision(&digest, bytes.len() as u64, options.by));
        let changed = previous != digest;
        let rehearsal = options.rehearse.map(|count| serde_json::json!({"requests": count}));
        Ok(Swapped { name: name.to_owned(), digest, previous: Some(previous), changed, took_ms: 1, rehearsal })
    }

    pub(crate) async fn rollback(&self, name: &str, to: Option<&str>) -> Result<Swapped, SwapError> {
        let revisions = self.revisions(name)?;
        let kept = revisions.iter().map(|revision| revision.digest.clone()).collect::<Vec<_>>();
        let found = match to {
            Some(to) => revisions.iter().find(|revision| revision.digest.starts_with(to)),
            None => revisions.get(1),
        };
        match (found, to) {
            (Some(found), _) => Ok(Swapped {
                name: name.to_owned(),
                digest: found.digest.clone(),
                previous: Some(kept[0].clone()),
                changed: true,
                took_ms: 1,
                rehearsal: None,
            }),
            (None, Some(to)) => Err(SwapError::UnknownRevision { name: name.to_owned(), digest: to.to_owned(), kept }),
            (None, None) => Err(SwapError::NoPreviousRevision { name: name.to_owned() }),
        }
    }

    pub(crate) fn revisions(&self, name: &str) -> Result<Vec<RevisionInfo>, SwapError> {
        let components = self.components.lock().expect("nobody panics");
        let known = components.iter().map(|(component, _)| component.name.clone()).collect();
        let found = components.iter().find(|(component, _)| component.name == name);
        found
            .map(|(_, revisions)| revisions.clone())
            .ok_or(SwapError::UnknownComponent { name: name.to_owned(), known })
    }

    pub(crate) fn components(&self) -> Vec<ComponentInfo> {
        self.components.lock().expect("nobody panics").iter().map(|(component, _)| component.clone()).collect()
    }

    pub(crate) async fn apply(&self, _: crate::manifest::Manifest) -> Result<Vec<Swapped>, SwapError> {
        Ok(Vec::new())
    }
}

fn revision(digest: &str, size: u64, by: PublishedBy) -> RevisionInfo {
    RevisionInfo {
        digest: digest.to_owned(),
        configuration: String::new(),
        state: RevisionState::Active,
        size,
        published_by: by,
        published_ms_ago: 0,
        outcome: None,
    }
}
