//! The registry itself: one lock around the records, and a snapshot published at every change.
//!
//! It lives as long as the process. The control plane (registrations, heartbeats, checks, expiry) takes the lock; the
//! data plane reads snapshots and takes it only when a request's failure makes an instance unavailable. Bounded by
//! [`Config::max_instances`]; a namespace vanishes with its last instance unless it was declared.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use thiserror::Error;

use crate::health::{Health, HealthPolicy};
use crate::instance::{Address, InstanceInfo, Location, Name, Namespace, Rotation};
use crate::lease::{Lapse, Lease};
use crate::retry::{RetryBudget, RetryPolicy};
use crate::snapshot::{Member, Snapshot};

/// How a registry behaves. Fixed for its lifetime.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// How often remote instances are asked to send a heartbeat. Only told to them, not enforced.
    pub heartbeat_interval: Duration,
    /// A remote instance without a heartbeat for this long becomes unavailable.
    pub ttl: Duration,
    /// After this many TTLs without a heartbeat it is removed.
    pub removal_ttls: u32,
    /// Failures in a row after which a remote instance is unavailable. Those in process have their own policy.
    pub unhealthy_after: u32,
    /// Passed checks in a row after which a remote instance is available again.
    pub healthy_after: u32,
    /// How many instances there can be at once, in process and remote.
    pub max_instances: usize,
    /// The process's retry budget.
    pub retry: RetryPolicy,
}

/// Heartbeats every 5 s, a TTL of 15 s, removal after ten, 20,000 instances.
impl Default for Config {
    fn default() -> Self {
        let HealthPolicy { unhealthy_after, healthy_after } = HealthPolicy::default();
        Self {
            heartbeat_interval: Duration::from_secs(5),
            ttl: Duration::from_secs(15),
            removal_ttls: 10,
            unhealthy_after,
            healthy_after,
            max_instances: 20_000,
            retry: RetryPolicy::default(),
        }
    }
}

/// A registration that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// Nobody had this name.
    New,
    /// It was registered already; its lease is renewed, and its address is now the one given.
    Known,
}

/// Why an instance could not be added.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RegisterError {
    /// There are as many instances as [`Config::max_instances`] allows.
    #[error("the registry is full: {limit} instances are registered; deregister some, or wait until dead ones expire")]
    Full {
        /// The most there can be.
        limit: usize,
    },
    /// The name belongs to an instance of the other kind.
    #[error(
        "an instance `{name}` in namespace `{namespace}` exists already and can't be replaced: choose another name"
    )]
    NameTaken {
        /// The namespace.
        namespace: Namespace,
        /// The name that is taken.
        name: Name,
    },
}

/// A heartbeat came from nobody who is registered.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("no instance `{name}` is registered in namespace `{namespace}`: register it (again)")]
pub struct UnknownInstance {
    /// The namespace.
    pub namespace: Namespace,
    /// The name nobody has.
    pub name: Name,
}

/// All instances, their states, and who is next. Clones are the same registry.
#[derive(Clone, Debug)]
pub struct Registry(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: Config,
    retry_budget: RetryBudget,
    records: Mutex<Records>,
    published: ArcSwap<Snapshot>,
}

/// What the lock protects.
#[derive(Debug, Default)]
struct Records {
    namespaces: BTreeMap<Namespace, Entry>,
    /// How many records there are in all namespaces.
    instances: usize,
    /// When each lease is next due, earliest first. Exactly one entry for each record whose `due` is set.
    due: BTreeSet<Due>,
    /// What `published` becomes once the change under way is complete.
    next: Snapshot,
}

type Due = (Instant, Namespace, Name);

#[derive(Debug, Default)]
struct Entry {
    declared: bool,
    records: BTreeMap<Name, Record>,
}

#[derive(Debug)]
struct Record {
    member: Arc<Member>,
    health: Health,
    /// None for an instance in process.
    lease: Option<Lease>,
    /// Its time in `Records::due`.
    due: Option<Instant>,
    last_seen: Instant,
}

impl Registry {
    /// An empty registry.
    pub fn new(config: Config) -> Self {
        Self(Arc::new(Shared {
            retry_budget: RetryBudget::new(config.retry),
            config,
            records: Mutex::default(),
            published: ArcSwap::default(),
        }))
    }

    /// What it was made with.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// The process's retry budget.
    pub fn retry_budget(&self) -> &RetryBudget {
        &self.0.retry_budget
    }

    /// The current state, for the data plane: one atomic load. Don't hold it while waiting for something.
    pub fn snapshot(&self) -> Guard<Arc<Snapshot>> {
        self.0.published.load()
    }

    /// Makes a namespace known even while it has no instances.
    pub fn declare(&self, namespace: &Namespace) {
        let mut records = self.lock();
        records.namespaces.entry(namespace.clone()).or_default().declared = true;
        records.next.add(namespace);
        self.publish(&records);
    }

    /// Replaces instances that this process serves, in one step: those of `new` are available at once, whatever was known
    /// of instances of their names; those of `gone` that are not in `new` are removed. Runs `prepare` when nothing can
    /// fail any more and nobody has seen the change.
    ///
    /// # Errors
    /// [`RegisterError::Full`], or [`RegisterError::NameTaken`] by a remote instance. Then nothing has changed.
    pub fn replace_in_process(
        &self,
        gone: &[(Namespace, Name)],
        new: &[(Namespace, Name, HealthPolicy)],
        now: Instant,
        prepare: impl FnOnce(),
    ) -> Result<(), RegisterError> {
        let mut records = self.lock();
        let mut added = 0;
        for (namespace, name, _) in new {
            match records.get_mut(namespace, name) {
                Some(Record { lease: Some(_), .. }) => {
                    return Err(RegisterError::NameTaken { namespace: namespace.clone(), name: name.clone() });
                }
                Some(_) => {}
                None => added += 1,
            }
        }
        let limit = self.0.config.max_instances;
        if added > 0 && records.instances + added > limit {
            return Err(RegisterError::Full { limit });
        }
        prepare();
        let stays: BTreeSet<_> = new.iter().map(|(namespace, name, _)| (namespace, name)).collect();
        for (namespace, name) in gone.iter().filter(|(namespace, name)| !stays.contains(&(namespace, name))) {
            if matches!(records.get_mut(namespace, name), Some(Record { lease: None, .. })) {
                records.remove(namespace, name);
            }
        }
        for (namespace, name, policy) in new {
            records.add(namespace, name, Location::InProcess, *policy, None, now);
        }
        for (namespace, _) in gone {
            records.drop_if_empty(namespace);
        }
        self.publish(&records);
        Ok(())
    }

    /// Adds a remote instance, or renews it: available at once in either case. A known name with another address moves
    /// there: a service that was restarted comes back on another port.
    ///
    /// # Errors
    /// [`RegisterError::Full`], or [`RegisterError::NameTaken`] by an instance in process.
    pub fn register(
        &self,
        namespace: &Namespace,
        name: &Name,
        address: Address,
        now: Instant,
    ) -> Result<Registration, RegisterError> {
        let location = Location::Remote(address);
        let mut records = self.lock();
        let registration = match records.get_mut(namespace, name) {
            Some(Record { lease: None, .. }) => {
                return Err(RegisterError::NameTaken { namespace: namespace.clone(), name: name.clone() });
            }
            Some(record) if *record.member.location() == location => {
                records.renew(namespace, name, now);
                Registration::Known
            }
            Some(_) => {
                records.add(namespace, name, location, self.remote_policy(), Some(self.lease(now)), now);
                Registration::Known
            }
            None => {
                self.check_room(&records)?;
                records.add(namespace, name, location, self.remote_policy(), Some(self.lease(now)), now);
                Registration::New
            }
        };
        self.publish(&records);
        Ok(registration)
    }

    /// A remote instance is alive: renews its lease, forgets its failures, and makes it available.
    ///
    /// # Errors
    /// [`UnknownInstance`] if no remote instance has that name; it has to register (again).
    pub fn heartbeat(&self, namespace: &Namespace, name: &Name, now: Instant) -> Result<(), UnknownInstance> {
        let mut records = self.lock();
        match records.renew(namespace, name, now) {
            Some(changed) => {
                if changed {
                    self.publish(&records);
                }
                Ok(())
            }
            None => Err(UnknownInstance { namespace: namespace.clone(), name: name.clone() }),
        }
    }

    /// Removes a remote instance. False if no remote instance has that name.
    pub fn deregister(&self, namespace: &Namespace, name: &Name) -> bool {
        let mut records = self.lock();
        if !matches!(records.get_mut(namespace, name), Some(Record { lease: Some(_), .. })) {
            return false;
        }
        records.remove(namespace, name);
        records.drop_if_empty(namespace);
        self.publish(&records);
        true
    }

    /// Takes an instance out of rotation, or back into it. It is as available as its health says when it is back.
    ///
    /// # Errors
    /// [`UnknownInstance`] if no instance has that name.
    pub fn set_rotation(
        &self,
        namespace: &Namespace,
        name: &Name,
        rotation: Rotation,
        now: Instant,
    ) -> Result<InstanceInfo, UnknownInstance> {
        let mut records = self.lock();
        let Some(record) = records.get_mut(namespace, name) else {
            return Err(UnknownInstance { namespace: namespace.clone(), name: name.clone() });
        };
        record.member.set_rotation(rotation);
        records.settle(namespace, name);
        // Also if nobody's availability changes, as when one is put back that is unhealthy: who follows the snapshots is
        // to notice.
        self.publish(&records);
        Ok(records.get_mut(namespace, name).expect("it was just there").info(now))
    }

    /// A health check of an instance passed or failed. One of an instance that is gone is ignored.
    pub fn record_check(&self, namespace: &Namespace, name: &Name, passed: bool, now: Instant) {
        let mut records = self.lock();
        let Some(record) = records.get_mut(namespace, name) else {
            return;
        };
        if passed {
            record.last_seen = record.last_seen.max(now);
        } else {
            record.member.hold_against();
        }
        record.health.check(passed);
        if records.settle(namespace, name) {
            self.publish(&records);
        }
    }

    /// What became of a request: `reached` means that an answer came, whatever its status; not reached, that the
    /// connection could not be made or broke before the answer's head was complete.
    ///
    /// On the hot path: one relaxed load for an instance without failures. Enough failures in a row make the instance
    /// unavailable, until its next heartbeat or enough passed checks.
    pub fn report(&self, member: &Member, reached: bool) {
        if reached {
            member.clear_failures();
        } else if member.count_failure() && member.is_available() {
            let mut records = self.lock();
            let Some(record) = records.get_mut(member.namespace(), member.name()) else {
                return;
            };
            // It may have been replaced or have come back meanwhile.
            if std::ptr::eq(&*record.member, member) && member.has_failed() {
                record.health.fail();
                if records.settle(member.namespace(), member.name()) {
                    self.publish(&records);
                }
            }
        }
    }

    /// Lets time pass until `now`: remote instances that missed their TTL become unavailable, those that missed
    /// [`Config::removal_ttls`] are removed, and a namespace whose last instance that was vanishes unless it was declared.
    ///
    /// Returns when something can next happen: call it again then. Costs nothing but the lock when nothing is due.
    pub fn expire(&self, now: Instant) -> Option<Instant> {
        let mut records = self.lock();
        let mut changed = false;
        while let Some((_, namespace, name)) = records.due.first().filter(|(due, ..)| *due <= now).cloned() {
            changed |= records.lapse(&namespace, &name, now);
        }
        if changed {
            self.publish(&records);
        }
        records.due.first().map(|(due, ..)| *due)
    }

    /// The instances of a namespace, or of all, in order of namespace and name. Nobody, if the namespace is unknown.
    pub fn instances(&self, namespace: Option<&str>, now: Instant) -> Vec<InstanceInfo> {
        let records = self.lock();
        let entries: Vec<&Entry> = match namespace {
            Some(namespace) => records.namespaces.get(namespace).into_iter().collect(),
            None => records.namespaces.values().collect(),
        };
        entries.into_iter().flat_map(|entry| entry.records.values()).map(|record| record.info(now)).collect()
    }

    fn remote_policy(&self) -> HealthPolicy {
        HealthPolicy { unhealthy_after: self.0.config.unhealthy_after, healthy_after: self.0.config.healthy_after }
    }

    fn lease(&self, now: Instant) -> Lease {
        let ttl = self.0.config.ttl;
        Lease::new(ttl, ttl.saturating_mul(self.0.config.removal_ttls), now)
    }

    fn check_room(&self, records: &Records) -> Result<(), RegisterError> {
        let limit = self.0.config.max_instances;
        if records.instances < limit { Ok(()) } else { Err(RegisterError::Full { limit }) }
    }

    /// Makes the change under way visible, before the lock is released: snapshots are published in order.
    fn publish(&self, records: &Records) {
        self.0.published.store(Arc::new(records.next.clone()));
    }

    fn lock(&self) -> MutexGuard<'_, Records> {
        self.0.records.lock().expect("nothing panics under the lock")
    }
}

impl Record {
    fn info(&self, now: Instant) -> InstanceInfo {
        InstanceInfo {
            namespace: self.member.namespace().clone(),
            name: self.member.name().clone(),
            available: self.member.is_available(),
            location: self.member.location().clone(),
            last_seen: now.saturating_duration_since(self.last_seen),
            rotation: self.member.rotation(),
            failures: self.member.failed(),
        }
    }
}

impl Records {
    fn get_mut(&mut self, namespace: &Namespace, name: &Name) -> Option<&mut Record> {
        self.namespaces.get_mut(namespace)?.records.get_mut(name)
    }

    /// Adds a record. One that has its name already makes way for it, and hands on its rotation.
    fn add(
        &mut self,
        namespace: &Namespace,
        name: &Name,
        location: Location,
        policy: HealthPolicy,
        lease: Option<Lease>,
        now: Instant,
    ) {
        let rotation = self.remove(namespace, name);
        let member = Member::new(namespace.clone(), name.clone(), location, policy.unhealthy_after, rotation);
        let member = Arc::new(member);
        self.next.place(&member);
        let record = Record { member, health: Health::new(policy), lease, due: None, last_seen: now };
        self.namespaces.entry(namespace.clone()).or_default().records.insert(name.clone(), record);
        self.instances += 1;
        self.schedule(namespace, name);
    }

    /// Removes a record, but not its namespace. Returns the rotation it was in, or, if there is none, the usual one.
    fn remove(&mut self, namespace: &Namespace, name: &Name) -> Rotation {
        let removed = self.namespaces.get_mut(namespace).and_then(|entry| entry.records.remove(name));
        let Some(record) = removed else {
            return Rotation::default();
        };
        self.instances -= 1;
        if let Some(due) = record.due {
            self.due.remove(&(due, namespace.clone(), name.clone()));
        }
        record.member.set_available(false);
        self.next.take_out(&record.member);
        record.member.rotation()
    }

    fn drop_if_empty(&mut self, namespace: &Namespace) {
        if self.namespaces.get(namespace).is_some_and(|entry| !entry.declared && entry.records.is_empty()) {
            self.namespaces.remove(namespace);
            self.next.remove(namespace);
        }
    }

    /// A remote instance gave a sign of life. Says whether that made it available; None if there is no such one.
    fn renew(&mut self, namespace: &Namespace, name: &Name, now: Instant) -> Option<bool> {
        let record = self.get_mut(namespace, name)?;
        record.lease.as_mut()?.renew(now);
        record.last_seen = record.last_seen.max(now);
        record.member.clear_failures();
        record.health.revive();
        self.schedule(namespace, name);
        Some(self.settle(namespace, name))
    }

    /// A lease is due. Says whether that changed anything.
    fn lapse(&mut self, namespace: &Namespace, name: &Name, now: Instant) -> bool {
        let Some(record) = self.get_mut(namespace, name) else {
            return false;
        };
        match record.lease.as_mut().and_then(|lease| lease.advance(now)) {
            Some(Lapse::Missed) => {
                record.member.hold_against();
                record.health.fail();
            }
            Some(Lapse::Over) => {
                self.remove(namespace, name);
                self.drop_if_empty(namespace);
                return true;
            }
            None => {}
        }
        self.schedule(namespace, name);
        self.settle(namespace, name)
    }

    /// Brings `due` up to date with a record's lease.
    fn schedule(&mut self, namespace: &Namespace, name: &Name) {
        let Some(record) = self.get_mut(namespace, name) else {
            return;
        };
        let due = record.lease.as_ref().and_then(Lease::due);
        let before = std::mem::replace(&mut record.due, due);
        if before != due {
            if let Some(before) = before {
                self.due.remove(&(before, namespace.clone(), name.clone()));
            }
            if let Some(due) = due {
                self.due.insert((due, namespace.clone(), name.clone()));
            }
        }
    }

    /// Brings a member up to date with its health and rotation. Says whether it changed.
    fn settle(&mut self, namespace: &Namespace, name: &Name) -> bool {
        let Some(record) = self.get_mut(namespace, name) else {
            return false;
        };
        let available = record.health.is_healthy() && record.member.rotation() == Rotation::In;
        if record.member.is_available() == available {
            return false;
        }
        if available {
            // Otherwise the first failure after its return would take it out again.
            record.member.clear_failures();
        }
        record.member.set_available(available);
        let member = record.member.clone();
        self.next.place(&member);
        true
    }
}

#[cfg(test)]
mod tests;
