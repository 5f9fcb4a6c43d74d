//! Who waits for events, by what they select: an event wakes those whom it may concern.
//!
//! A follower that is not woken falls behind in the ring. So that the ring never passes it, all are woken once in a
//! while, whatever the events were.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Cached, WatchEvent};

/// After so many events of a resource, everybody is woken. A fraction of the ring.
const EVERYBODY: usize = super::RING / 4;

/// What a follower waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Any event.
    All,
    /// Events of objects in a namespace.
    Namespace(String),
    /// Events of one object, by its key: `NAMESPACE/NAME`, or the name.
    Object(String),
    /// Events of pods that are or were bound to a node.
    Node(String),
}

#[derive(Default)]
struct Channels {
    senders: HashMap<Box<str>, watch::Sender<u64>>,
    /// When it has grown to this size, channels that nobody listens to are dropped.
    limit: usize,
}

impl Channels {
    fn follow(&mut self, name: &str, newest: u64) -> watch::Receiver<u64> {
        if self.senders.len() >= self.limit {
            self.senders.retain(|_, sender| sender.receiver_count() > 0);
            self.limit = 2 * self.senders.len() + 16;
        }
        self.senders.entry(name.into()).or_insert_with(|| watch::Sender::new(newest)).subscribe()
    }

    fn wake(&self, name: &str, revision: u64) {
        if let Some(sender) = self.senders.get(name) {
            sender.send_replace(revision);
        }
    }

    fn wake_all(&self, revision: u64) {
        for sender in self.senders.values() {
            sender.send_replace(revision);
        }
    }
}

#[derive(Default)]
struct State {
    namespaces: Channels,
    objects: Channels,
    nodes: Channels,
    /// Events since everybody was woken.
    unseen: usize,
}

/// The followers of a resource.
pub(super) struct Followers {
    all: watch::Sender<u64>,
    state: Mutex<State>,
}

impl Followers {
    pub(super) fn new(newest: u64) -> Self {
        Followers { all: watch::Sender::new(newest), state: Mutex::default() }
    }

    pub(super) fn follow(&self, scope: &Scope) -> watch::Receiver<u64> {
        let newest = *self.all.borrow();
        let mut state = self.state.lock();
        match scope {
            Scope::All => self.all.subscribe(),
            Scope::Namespace(name) => state.namespaces.follow(name, newest),
            Scope::Object(key) => state.objects.follow(key, newest),
            Scope::Node(name) => state.nodes.follow(name, newest),
        }
    }

    /// How many follow everything, and a namespace.
    pub(super) fn count(&self, namespace: Option<&str>) -> usize {
        let state = self.state.lock();
        let of = |name| state.namespaces.senders.get(name).map_or(0, watch::Sender::receiver_count);
        self.all.receiver_count() + namespace.map_or(0, of)
    }

    /// Tells all who may be concerned by some events.
    pub(super) fn wake(&self, events: &[(&str, &WatchEvent)]) {
        let Some((_, last)) = events.last() else { return };
        let mut state = self.state.lock();
        state.unseen += events.len();
        if state.unseen >= EVERYBODY {
            state.unseen = 0;
            for channels in [&state.namespaces, &state.objects, &state.nodes] {
                channels.wake_all(last.revision);
            }
        } else {
            for (key, event) in events {
                state.objects.wake(key, event.revision);
                if let Some(namespace) = &event.object.namespace {
                    state.namespaces.wake(namespace, event.revision);
                }
                let (now, before) = (Some(&event.object), event.previous.as_ref());
                let mut nodes =
                    [now, before].into_iter().flatten().filter_map(|it: &std::sync::Arc<Cached>| it.node());
                let first = nodes.next();
                first.into_iter().for_each(|node| state.nodes.wake(node, event.revision));
                nodes
                    .filter(|node| Some(*node) != first)
                    .for_each(|node| state.nodes.wake(node, event.revision));
            }
        }
        drop(state);
        self.all.send_replace(last.revision);
    }

    /// Tells everybody: the state is another one.
    pub(super) fn wake_everybody(&self, revision: u64) {
        let state = self.state.lock();
        for channels in [&state.namespaces, &state.objects, &state.nodes] {
            channels.wake_all(revision);
        }
        self.all.send_replace(revision);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use keelson_store::EventKind;

    use super::*;

    fn pod(node: &str, revision: u64) -> Arc<Cached> {
        let text = format!(r#"{{"spec":{{"nodeName":"{node}"}},"status":{{"phase":"Running"}}}}"#);
        Arc::new(Cached::read(text.into(), revision, "shop/a", true))
    }

    #[test]
    fn an_event_wakes_those_whom_it_may_concern() {
        let followers = Followers::new(1);
        let scopes = [
            Scope::All,
            Scope::Namespace("shop".into()),
            Scope::Namespace("other".into()),
            Scope::Object("shop/a".into()),
            Scope::Object("shop/b".into()),
            Scope::Node("new".into()),
            Scope::Node("old".into()),
            Scope::Node("third".into()),
        ];
        let receivers: Vec<_> = scopes.iter().map(|scope| followers.follow(scope)).collect();
        let event = WatchEvent::new(2, EventKind::Updated, pod("new", 2), Some(pod("old", 1)));
        followers.wake(&[("shop/a", &event)]);
        let woken: Vec<bool> = receivers.iter().map(|it| it.has_changed().unwrap()).collect();
        assert_eq!(woken, [true, true, false, true, false, true, true, false]);
    }

    #[test]
    fn nobody_is_left_behind_the_ring() {
        let followers = Followers::new(0);
        let other = followers.follow(&Scope::Namespace("other".into()));
        for revision in 1..=EVERYBODY as u64 {
            assert!(!other.has_changed().unwrap());
            let event = WatchEvent::new(revision, EventKind::Updated, pod("n", revision), None);
            followers.wake(&[("shop/a", &event)]);
        }
        assert!(other.has_changed().unwrap());
    }

    #[test]
    fn what_a_pod_is_most_often_selected_by_is_known_without_reading_it_again() {
        let pod = pod("n", 1);
        assert_eq!((&*pod.field("spec.nodeName"), &*pod.field("status.phase")), ("n", "Running"));
        assert!(matches!(pod.field("status.phase"), std::borrow::Cow::Borrowed(_)));
        let unbound = Cached::read(r#"{"metadata":{"labels":{"a":"b"}}}"#.into(), 1, "shop/b", true);
        assert_eq!((unbound.node(), unbound.labels.as_ref().map(|it| it.iter().count())), (None, Some(1)));
    }
}
