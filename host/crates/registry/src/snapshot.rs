//! What the data plane reads: who is available right now. Immutable, reached without a lock.
//!
//! A snapshot lives until the last reader lets go of it; every change of the registry publishes a new one, which shares
//! almost everything with the old one. Two things are shared by all snapshots, so that they hold across changes: a
//! namespace's turn and the tally of retries, and a member's own state. Bounded by the registry's `max_instances`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::balance::RoundRobin;
use crate::instance::{Location, Name, Namespace, Rotation};
use crate::sorted::{Named, Sorted};
use crate::tally::{Count, Retries, Tally};

/// All namespaces at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    groups: Sorted<Arc<Group>>,
    tally: Arc<Tally>,
}

/// One namespace at one moment.
#[derive(Clone, Debug)]
pub struct Group {
    namespace: Namespace,
    all: Sorted<Arc<Member>>,
    /// Those of `all` that were available when the snapshot was published.
    available: Sorted<Arc<Member>>,
    turns: Arc<RoundRobin>,
    /// Requests that were tried again.
    retries: Count,
}

/// An instance. When it re-registers at another address, another member takes its place.
#[derive(Debug)]
pub struct Member {
    namespace: Namespace,
    name: Name,
    location: Location,
    /// Requests failed in a row that make it unavailable; at least 1.
    unhealthy_after: u32,
    /// Written under the registry's lock only.
    available: AtomicBool,
    /// Whether it is out of rotation. Written under the registry's lock only.
    out: AtomicBool,
    /// Requests that failed in a row. Written by the data plane, without the lock.
    failures: AtomicU32,
    /// Everything that was held against it, for people.
    failed: AtomicU64,
}

impl Snapshot {
    /// The namespace of that name, if it was declared or has instances (available or not).
    pub fn namespace(&self, name: &str) -> Option<&Arc<Group>> {
        self.groups.find(name)
    }

    /// All namespaces, in order of name.
    pub fn namespaces(&self) -> impl Iterator<Item = &Arc<Group>> {
        self.groups.iter()
    }

    /// How many requests were tried again.
    pub fn retries(&self) -> Retries {
        self.tally.retries()
    }

    pub(crate) fn add(&mut self, namespace: &Namespace) {
        if self.groups.find(namespace.as_str()).is_none() {
            self.groups.insert(Arc::new(Group {
                namespace: namespace.clone(),
                all: Sorted::default(),
                available: Sorted::default(),
                turns: Arc::default(),
                retries: self.tally.of(namespace, false),
            }));
        }
    }

    pub(crate) fn remove(&mut self, namespace: &Namespace) {
        self.groups.remove(namespace.as_str());
    }

    /// Puts a member where its state says, in the place of the one that has its name.
    pub(crate) fn place(&mut self, member: &Arc<Member>) {
        self.add(&member.namespace);
        let group = self.groups.find_mut(member.namespace.as_str()).expect("was just added");
        let group = Arc::make_mut(group);
        if !group.retries.is_own {
            // There may be room by now, or this is the first of this host's own.
            group.retries = self.tally.of(&member.namespace, member.location == Location::InProcess);
        }
        group.all.insert(member.clone());
        if member.is_available() {
            group.available.insert(member.clone());
        } else {
            group.available.remove(member.name.as_str());
        }
    }

    pub(crate) fn take_out(&mut self, member: &Member) {
        if let Some(group) = self.groups.find_mut(member.namespace.as_str()) {
            let group = Arc::make_mut(group);
            group.all.remove(member.name.as_str());
            group.available.remove(member.name.as_str());
        }
    }
}

impl Group {
    /// The namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The next available member, exactly round robin over all threads and snapshots. None if none is available.
    pub fn pick(&self) -> Option<&Arc<Member>> {
        self.available.get(self.turns.pick(self.available.len())?)
    }

    /// For a retry: the next available member whose name is none of `tried`. None if there is none left.
    pub fn pick_untried(&self, tried: &[Name]) -> Option<&Arc<Member>> {
        let is_tried = |index| self.available.get(index).is_some_and(|member| tried.contains(&member.name));
        self.available.get(self.turns.pick_untried(self.available.len(), is_tried)?)
    }

    /// The member of that name, available or not.
    pub fn find(&self, name: &str) -> Option<&Arc<Member>> {
        self.all.find(name)
    }

    /// All members, available or not, in order of name.
    pub fn members(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.all.iter()
    }

    /// Counts a request of the namespace that is tried again.
    pub fn count_retry(&self) {
        self.retries.add();
    }

    /// Whether it has a name of its own where namespaces are counted; if not, it is part of the rest.
    pub fn is_named(&self) -> bool {
        self.retries.is_own
    }

    /// How many members are available.
    pub fn available(&self) -> usize {
        self.available.len()
    }

    /// How many members there are.
    pub fn total(&self) -> usize {
        self.all.len()
    }
}

impl Member {
    pub(crate) fn new(
        namespace: Namespace,
        name: Name,
        location: Location,
        unhealthy_after: u32,
        rotation: Rotation,
    ) -> Self {
        Self {
            namespace,
            name,
            location,
            unhealthy_after: unhealthy_after.max(1),
            available: AtomicBool::new(rotation == Rotation::In),
            out: AtomicBool::new(rotation == Rotation::Out),
            failures: AtomicU32::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// The namespace it serves.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its name, unique within the namespace.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Where it is.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// Whether it is available now (a snapshot may be a moment older). False for ever once it was removed or replaced.
    pub fn is_available(&self) -> bool {
        self.available.load(Ordering::Relaxed)
    }

    pub(crate) fn set_available(&self, available: bool) {
        self.available.store(available, Ordering::Relaxed);
    }

    /// Whether it takes its turn when it is healthy.
    pub fn rotation(&self) -> Rotation {
        if self.out.load(Ordering::Relaxed) { Rotation::Out } else { Rotation::In }
    }

    pub(crate) fn set_rotation(&self, rotation: Rotation) {
        self.out.store(rotation == Rotation::Out, Ordering::Relaxed);
    }

    /// How often something was held against it.
    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// A check failed, or a lease was missed.
    pub(crate) fn hold_against(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// A request reached it: the row of failures ends.
    pub(crate) fn clear_failures(&self) {
        // Healthy instances only ever read here: all workers share the cache line.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// A request failed. True if the row is now long enough for the member to become unavailable.
    pub(crate) fn count_failure(&self) -> bool {
        self.hold_against();
        // At most one failure for each request in flight comes after the member became unavailable: no overflow.
        self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= self.unhealthy_after
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failures.load(Ordering::Relaxed) >= self.unhealthy_after
    }
}

impl Named for Arc<Group> {
    fn name(&self) -> &str {
        self.namespace.as_str()
    }
}

impl Named for Arc<Member> {
    fn name(&self) -> &str {
        self.name.as_str()
    }
}
