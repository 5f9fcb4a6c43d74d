//! The watch cache: what the store holds, by resource, ready to be listed and watched.
//!
//! # Guarantees
//! - A list is the state at exactly the revision that it carries; a watch from that revision misses nothing and
//!   repeats nothing.
//! - Watchers share one ring of events per resource and each keeps its own place in it, so that a slow watcher
//!   costs nothing; one that the ring has passed is told (410) and relists.
//! - An event's frame is built once, whoever watches.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use imbl::OrdMap;
use keelson_api::{GroupResource, Object};
use keelson_store::{Event, EventKind};
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::encryption::Encryption;

pub use cached::{Cached, WatchEvent, frame, message_frame, word};
pub use followers::Scope;

pub(crate) use ring::RING;
use ring::{Budget, Ring};

mod cached;
mod followers;
mod intake;
mod ring;

/// States that are kept for lists which are read page by page.
const PINS: usize = 64;

/// Objects in the order of their keys: `NAMESPACE/NAME`, or the name.
pub type Objects = OrdMap<Arc<str>, Arc<Cached>>;

/// A consistent list.
#[derive(Clone)]
pub struct Listing {
    /// The objects.
    pub objects: Objects,
    /// The revision at which they stood so.
    pub revision: u64,
}

impl Listing {
    /// The objects of a namespace, in the order of their names; costs nothing for those of others.
    pub fn in_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<Cached>> {
        // No name of a namespace has a sign before `/` but `-` and `.`: all keys of it lie together behind this one.
        let start = format!("{namespace}/");
        let from = (std::ops::Bound::Included(start.as_str()), std::ops::Bound::Unbounded);
        self.objects
            .range::<_, str>(from)
            .map(|(_, object)| object)
            .take_while(move |object| object.namespace.as_deref() == Some(namespace))
    }
}

/// The revision that a watcher or a page asks for is no longer kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version: {asked} ({oldest})")]
pub struct Expired {
    /// What was asked for.
    pub asked: u64,
    /// The oldest that is kept.
    pub oldest: u64,
}

/// All resources.
#[derive(Default)]
pub struct WatchCache {
    resources: RwLock<HashMap<GroupResource, Arc<ResourceCache>>>,
    /// Every event up to here has been taken up.
    revision: Arc<AtomicU64>,
    /// The oldest revision whose state is given.
    oldest: Arc<AtomicU64>,
    /// How much room events have.
    budget: Arc<Budget>,
    /// How stored values are opened.
    encryption: Arc<Encryption>,
}

/// One resource.
pub struct ResourceCache {
    state: RwLock<State>,
    /// Those who wait for events.
    followers: followers::Followers,
    /// Whether it is the resource whose objects are bound to nodes.
    are_pods: bool,
    /// The cluster-wide revision.
    global: Arc<AtomicU64>,
    /// The oldest revision whose state is given.
    oldest: Arc<AtomicU64>,
    /// What lists have read of it.
    pub lists: ListCounts,
}

/// What lists have read.
#[derive(Debug, Default)]
pub struct ListCounts {
    /// How many there were.
    pub lists: AtomicU64,
    /// Objects that were looked at.
    pub fetched: AtomicU64,
    /// Objects that were selected.
    pub returned: AtomicU64,
}

impl ListCounts {
    /// Counts a list.
    pub fn add(&self, fetched: usize, returned: usize) {
        self.lists.fetch_add(1, Ordering::Relaxed);
        self.fetched.fetch_add(fetched as u64, Ordering::Relaxed);
        self.returned.fetch_add(returned as u64, Ordering::Relaxed);
    }
}

struct State {
    objects: Objects,
    ring: Ring,
    newest: u64,
    /// Events since the beginning.
    received: u64,
    pins: VecDeque<Listing>,
}

impl State {
    /// The objects as they were after a revision that the ring reaches back to.
    fn before(&self, revision: u64) -> Objects {
        let mut objects = self.objects.clone();
        for event in self.ring.events().iter().rev().take_while(|event| event.revision > revision) {
            let object = &event.object;
            let key: Arc<str> = match &object.namespace {
                Some(namespace) => format!("{namespace}/{}", object.name).into(),
                None => (*object.name).into(),
            };
            match &event.previous {
                Some(previous) => objects.insert(key, Arc::clone(previous)),
                None => objects.remove(&key),
            };
        }
        objects
    }

    /// Takes up a change.
    fn push(&mut self, revision: u64, kind: EventKind, object: Arc<Cached>, key: &str) -> Arc<WatchEvent> {
        let previous = match kind {
            EventKind::Created | EventKind::Updated => self.objects.insert(key.into(), Arc::clone(&object)),
            EventKind::Deleted => self.objects.remove(key),
        };
        self.newest = revision;
        self.received += 1;
        let event = Arc::new(WatchEvent::new(revision, kind, object, previous));
        self.ring.push(Arc::clone(&event));
        event
    }
}

/// The store's key of an object, below `/registry/`; the group `core` stands for the empty one.
pub fn key(resource: &GroupResource, namespace: Option<&str>, name: &str) -> String {
    let group = if resource.group.is_empty() { "core" } else { &resource.group };
    match namespace {
        Some(namespace) => format!("/registry/{group}/{}/{namespace}/{name}", resource.resource),
        None => format!("/registry/{group}/{}/{name}", resource.resource),
    }
}

pub(crate) fn split(key: &str) -> Option<(GroupResource, &str)> {
    let mut parts = key.strip_prefix("/registry/")?.splitn(3, '/');
    let group = parts.next().map(|group| if group == "core" { "" } else { group })?;
    Some((GroupResource::new(group, parts.next()?), parts.next()?))
}

impl WatchCache {
    /// A cache over a store whose values are sealed so.
    pub fn new(encryption: Arc<Encryption>) -> Self {
        WatchCache { encryption, ..WatchCache::default() }
    }

    /// How stored values are sealed.
    pub fn encryption(&self) -> &Arc<Encryption> {
        &self.encryption
    }

    /// A stored value as a document. One that cannot be opened is not served. While the store is read, states may come by
    /// that were sealed by keys which are gone since; that the last one can be opened is checked afterwards.
    fn open(&self, key: &str, stored: &Bytes, revision: u64) -> Option<Bytes> {
        match self.encryption.unseal(key, stored, revision) {
            Ok(opened) => Some(opened.bytes),
            Err(error) if self.encryption.is_checked() => {
                tracing::error!(%error, key, "a stored object cannot be decrypted");
                None
            }
            Err(_) => None,
        }
    }

    /// The cache of a resource; an empty one if nothing of it was ever stored.
    pub fn resource(&self, resource: &GroupResource) -> Arc<ResourceCache> {
        if let Some(found) = self.resources.read().get(resource) {
            return Arc::clone(found);
        }
        let mut resources = self.resources.write();
        let floor = self.revision.load(Ordering::Acquire);
        let are_pods = *resource == GroupResource::new("", "pods");
        let made = || Arc::new(ResourceCache::new(self, floor, are_pods));
        Arc::clone(resources.entry(resource.clone()).or_insert_with(made))
    }

    /// Drops the cache of a resource that has no objects, and with it the events that it keeps.
    pub(crate) fn forget(&self, resource: &GroupResource) {
        let mut resources = self.resources.write();
        if resources.get(resource).is_some_and(|cache| cache.state.read().objects.is_empty()) {
            resources.remove(resource);
        }
    }

    /// The cache of a resource of which something was ever asked or stored.
    pub fn known(&self, resource: &GroupResource) -> Option<Arc<ResourceCache>> {
        self.resources.read().get(resource).cloned()
    }

    /// The caches of all resources that were ever asked for or stored.
    pub fn all(&self) -> Vec<(GroupResource, Arc<ResourceCache>)> {
        let resources = self.resources.read();
        let mut all: Vec<_> =
            resources.iter().map(|(name, cache)| (name.clone(), Arc::clone(cache))).collect();
        all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        all
    }

    /// The revision up to which everything has been taken up.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Lets the events of all resources take about as many bytes.
    pub fn limit_history(&self, bytes: u64) {
        self.budget.set(bytes);
        self.trim();
    }

    /// The bytes that the events of all resources take, about.
    pub fn history_bytes(&self) -> u64 {
        self.budget.used()
    }

    /// From now on no state before a revision is given, and the events that lead there go. Who has seen all that has
    /// happened to a resource may go on to watch it.
    pub fn compact(&self, oldest: u64) {
        self.oldest.fetch_max(oldest, Ordering::AcqRel);
        for (_, cache) in self.all() {
            let mut state = cache.state.write();
            state.ring.compact(oldest);
            state.pins.retain(|pin| pin.revision >= oldest);
        }
    }

    /// Lets old events of the resource that has the most go where all take more than they may.
    fn trim(&self) {
        let Some(surplus) = self.budget.surplus() else { return };
        let mut all: Vec<_> = self.resources.read().values().cloned().collect();
        all.sort_by_key(|cache| std::cmp::Reverse(cache.state.read().ring.bytes()));
        let mut left = surplus;
        for cache in all {
            left = left.saturating_sub(cache.state.write().ring.shed(left));
            if left == 0 {
                return;
            }
        }
    }
}

impl ResourceCache {
    fn new(of: &WatchCache, floor: u64, are_pods: bool) -> Self {
        let state = State {
            objects: Objects::new(),
            ring: Ring::new(floor, Arc::clone(&of.budget)),
            newest: floor,
            received: 0,
            pins: VecDeque::new(),
        };
        ResourceCache {
            state: RwLock::new(state),
            followers: followers::Followers::new(floor),
            are_pods,
            global: Arc::clone(&of.revision),
            oldest: Arc::clone(&of.oldest),
            lists: ListCounts::default(),
        }
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many objects there are, and how many bytes the first few have on average.
    pub fn size(&self, sample: usize) -> (u64, u64) {
        let state = self.state.read();
        let (mut bytes, mut seen) = (0, 0_u64);
        for object in state.objects.values().take(sample) {
            bytes += object.bytes.len() as u64;
            seen += 1;
        }
        (state.objects.len() as u64, bytes / seen.max(1))
    }

    /// How many wait for events of everything, and of a namespace.
    pub fn watchers(&self, namespace: Option<&str>) -> usize {
        self.followers.count(namespace)
    }

    /// The revision of the last change.
    pub fn newest(&self) -> u64 {
        self.state.read().newest
    }

    /// How many changes there were since the server has started.
    pub fn received(&self) -> u64 {
        self.state.read().received
    }

    /// One object.
    pub fn get(&self, key: &str) -> Option<Arc<Cached>> {
        self.state.read().objects.get(key).cloned()
    }

    /// All objects, now.
    pub fn list(&self) -> Listing {
        // Read first: whatever is in the map by then is at least as new.
        let global = self.global.load(Ordering::Acquire);
        let state = self.state.read();
        Listing { objects: state.objects.clone(), revision: global.max(state.newest) }
    }

    /// Keeps a listing, so that its next page reads the same state.
    pub fn pin(&self, listing: &Listing) {
        let mut state = self.state.write();
        if state.pins.iter().all(|pin| pin.revision != listing.revision) {
            state.pins.push_back(listing.clone());
            if state.pins.len() > PINS {
                state.pins.pop_front();
            }
        }
    }

    /// The state at a revision: one that was kept, or what the newest was before the events that came since.
    pub fn list_at(&self, revision: u64) -> Result<Listing, Expired> {
        let now = self.list();
        if now.revision == revision {
            return Ok(now);
        }
        let state = self.state.read();
        let kept = self.oldest.load(Ordering::Acquire);
        let oldest = kept.max(state.ring.floor());
        if let Some(pin) = state.pins.iter().find(|pin| pin.revision == revision) {
            if revision >= kept {
                return Ok(pin.clone());
            }
        } else if revision >= oldest && revision < now.revision {
            let objects = state.before(revision);
            return Ok(Listing { objects, revision });
        }
        Err(Expired { asked: revision, oldest })
    }

    /// The events after a revision, about `limit` of them at most: those of one revision come together.
    pub fn events_after(&self, revision: u64, limit: usize) -> Result<Vec<Arc<WatchEvent>>, Expired> {
        let state = self.state.read();
        if revision < state.ring.floor() {
            return Err(Expired { asked: revision, oldest: state.ring.floor() });
        }
        let events = state.ring.events();
        let start = events.partition_point(|event| event.revision <= revision);
        let mut end = events.len().min(start.saturating_add(limit));
        let at = |place: usize| events.get(place).map(|event| event.revision);
        while end > start && at(end).is_some() && at(end) == at(end - 1) {
            end += 1;
        }
        Ok(events.range(start..end).cloned().collect())
    }

    /// Tells when there are newer events.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.follow_scope(&Scope::All)
    }

    /// Tells when there are newer events in a scope, and now and then when there are others.
    pub fn follow_scope(&self, scope: &Scope) -> watch::Receiver<u64> {
        self.followers.follow(scope)
    }

    fn restore(&self, objects: Objects, revision: u64) {
        let mut state = self.state.write();
        state.ring.clear(revision);
        state.pins.clear();
        (state.objects, state.newest) = (objects, revision);
        drop(state);
        self.followers.wake_everybody(revision);
    }

    /// Passes over an event that cannot be sent: who watches from before it has to read anew.
    fn skip(&self, key: &str, revision: u64) {
        let mut state = self.state.write();
        state.objects.remove(key);
        state.ring.clear(revision);
        state.newest = revision;
    }

    fn apply(&self, event: &Event, bytes: Bytes, key: &str) -> Arc<WatchEvent> {
        let object = Arc::new(Cached::read(bytes, event.revision.get(), key, self.are_pods));
        self.state.write().push(event.revision.get(), event.kind, object, key)
    }

    /// Takes up changes of one revision, each with its key: who reads sees all of them or none.
    fn apply_together(&self, changes: &[(&Event, Bytes, &str)]) -> Vec<Arc<WatchEvent>> {
        let read = |(event, bytes, key): &(&Event, Bytes, &str)| {
            Arc::new(Cached::read(bytes.clone(), event.revision.get(), key, self.are_pods))
        };
        let objects: Vec<_> = changes.iter().map(read).collect();
        let mut state = self.state.write();
        let pairs = changes.iter().zip(objects);
        pairs
            .map(|((event, _, key), object)| state.push(event.revision.get(), event.kind, object, key))
            .collect()
    }
}

/// Reads a document that this server has written.
pub(crate) fn decode(bytes: &[u8]) -> Result<Object, keelson_api::Status> {
    Object::from_slice(bytes).map_err(keelson_api::Status::internal)
}
