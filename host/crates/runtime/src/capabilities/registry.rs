//! `hostler:assembly/registry`, implemented natively over the host's registry.
//!
//! Guests get the namespace's `.internal` authority instead of an instance's: the dispatcher picks, retries and
//! reports, so `retry` has nothing to add and `report` nothing to tell.

use std::time::Instant;

use wasmtime::component::{Accessor, HasSelf, Linker};

use super::bindings::hostler::assembly::registry::{
    self, Endpoint, Host, HostWithStore, Instance, LookupError, Outcome, State,
};
use crate::state::GuestState;

/// After how many seconds to try again when no instance is available.
const RETRY_AFTER: u32 = 1;
/// Instances listed at most in one answer.
const MAX_LISTED: usize = 10_000;

pub(super) fn link(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    registry::add_to_linker::<_, HasSelf<GuestState>>(linker, |state| state)
}

impl Host for GuestState {
    fn lookup(&mut self, namespace: String) -> wasmtime::Result<Result<Endpoint, LookupError>> {
        let snapshot = self.registry.snapshot();
        Ok(match snapshot.namespace(&namespace) {
            None => Err(LookupError::UnknownNamespace),
            Some(group) if group.available() == 0 => Err(LookupError::NoInstanceAvailable(RETRY_AFTER)),
            Some(_) => Ok(Endpoint { name: None, authority: namespace + ".internal" }),
        })
    }

    fn retry(&mut self, _namespace: String, _tried: Vec<String>) -> wasmtime::Result<Option<Endpoint>> {
        Ok(None)
    }

    fn report(&mut self, _namespace: String, _name: String, _outcome: Outcome) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl HostWithStore<GuestState> for HasSelf<GuestState> {
    async fn instances(
        accessor: &Accessor<GuestState, Self>,
        namespace: Option<String>,
    ) -> wasmtime::Result<Vec<Instance>> {
        let registry = accessor.with(|mut access| access.get().registry.clone());
        let mut instances = registry.instances(namespace.as_deref(), Instant::now());
        instances.truncate(MAX_LISTED);
        Ok(instances
            .into_iter()
            .map(|instance| Instance {
                namespace: instance.namespace.to_string(),
                name: instance.name.to_string(),
                state: if instance.available { State::Available } else { State::Unavailable },
                address: instance.location.to_string(),
                last_seen_ms: u64::try_from(instance.last_seen.as_millis()).unwrap_or(u64::MAX),
            })
            .collect())
    }
}
