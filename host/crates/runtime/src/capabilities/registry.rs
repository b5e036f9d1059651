//! `hostler:assembly/registry`, implemented natively over the host's registry.
//!
//! Guests get the namespace's `.internal` authority instead of an instance's: the dispatcher picks, retries and
//! reports, so `retry` has nothing to add and `report` nothing to tell.

use std::time::Instant;

use ::registry::Registry;
use wasmtime::component::{Accessor, HasSelf, Linker};

use super::bindings::hostler::assembly::registry::{
    self, Endpoint, Host, HostWithStore, Instance, LookupError, Outcome, State,
};
use crate::state::GuestState;

/// After how many seconds to try again when no instance is available.
const RETRY_AFTER: u32 = 1;

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
        Ok(listed(&registry, namespace.as_deref()))
    }
}

/// All of them, for a guest counts what it gets. The registry bounds how many there are.
fn listed(registry: &Registry, namespace: Option<&str>) -> Vec<Instance> {
    let instances = registry.instances(namespace, Instant::now());
    let shown = instances.into_iter().map(|instance| Instance {
        namespace: instance.namespace.to_string(),
        name: instance.name.to_string(),
        state: if instance.available { State::Available } else { State::Unavailable },
        address: instance.location.to_string(),
        last_seen_ms: u64::try_from(instance.last_seen.as_millis()).unwrap_or(u64::MAX),
    });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use ::registry::{Config, HealthPolicy};

    use super::*;

    #[test]
    fn as_many_are_listed_as_there_can_be() {
        let config = Config::default();
        let most = config.max_instances;
        let registry = Registry::new(config);
        let policy = HealthPolicy { unhealthy_after: 1, healthy_after: 1 };
        let namespace = "storage".parse().expect("a namespace");
        registry.declare(&namespace);
        let name = |number: usize| format!("storage-{number}").parse().expect("a name");
        let all: Vec<_> = (0..most).map(|number| (namespace.clone(), name(number), policy)).collect();
        registry.replace_in_process(&[], &all, Instant::now(), || {}).expect("there is room");
        assert_eq!(listed(&registry, Some("storage")).len(), most);
        assert_eq!(listed(&registry, None).len(), most);
    }
}
