//! Watches the metadata of all kinds that can be watched and deleted, also of those that come later (client).
//!
//! A further watch begins when a definition of a custom kind, or a server of further groups, comes or changes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use keelson_operator_kit::discovery::{Served, discover};
use keelson_operator_kit::{Error, WorkQueue};
use kube::api::{DynamicObject, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::graph::{Graph, KindId, Node};
use crate::uid::Uid;

/// How long to wait for further changes before asking what is served.
const QUIET: Duration = Duration::from_millis(500);
/// When to ask again after some server did not answer.
const AGAIN: Duration = Duration::from_secs(30);
/// How long the first lists may take before work begins without those that are missing.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the tasks of this operator share.
#[derive(Clone)]
pub struct Shared {
    /// Who owns whom.
    pub graph: Arc<Mutex<Graph>>,
    /// What has to be looked at.
    pub queue: WorkQueue<Uid>,
    /// All kinds that are served.
    served: Arc<Mutex<Vec<Arc<Served>>>>,
    /// Objects whose owner is of a kind that was not served when they were looked at.
    undecided: Arc<Mutex<HashSet<Uid>>>,
    lists: watch::Sender<Lists>,
    changed: Arc<Notify>,
}

/// Which kinds have been listed.
#[derive(Clone, Debug, Default)]
struct Lists {
    discovered: bool,
    missing: HashSet<KindId>,
}

impl Lists {
    fn complete(&self) -> bool {
        self.discovered && self.missing.is_empty()
    }
}

impl Default for Shared {
    fn default() -> Self {
        Shared {
            graph: Arc::default(),
            queue: WorkQueue::default(),
            served: Arc::default(),
            undecided: Arc::default(),
            lists: watch::Sender::new(Lists::default()),
            changed: Arc::default(),
        }
    }
}

impl Shared {
    /// The resource of a kind, in whatever version it is served.
    pub fn resource(&self, api_version: &str, kind: &str) -> Option<Arc<Served>> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let served = self.served.lock();
        served.iter().find(|it| it.resource.group == group && it.resource.kind == kind).cloned()
    }

    /// Asks for another look at an object when other kinds are served.
    pub fn look_again_with_other_kinds(&self, uid: Uid) {
        self.undecided.lock().insert(uid);
    }

    /// Whether all objects of all kinds are known.
    pub fn complete(&self) -> bool {
        self.lists.borrow().complete()
    }

    /// Waits until all objects are known, or until that takes too long.
    pub async fn completed(&self) {
        let mut lists = self.lists.subscribe();
        // The sender lives as long as `self`.
        let _ = tokio::time::timeout(PATIENCE, lists.wait_for(Lists::complete)).await;
    }

    fn change(&self, change: impl FnOnce(&mut Graph) -> Vec<Uid>) {
        let wanted = change(&mut self.graph.lock());
        for uid in wanted {
            self.queue.add(uid);
        }
    }
}

/// Watches until shutdown.
pub async fn run(client: Client, shared: Shared, shutdown: CancellationToken) -> Result<(), Error> {
    let mut monitor = Monitor { client, shared, watches: HashMap::new(), tasks: JoinSet::new(), next: 0 };
    loop {
        let again = monitor.refresh().await;
        let changed = async {
            monitor.shared.changed.notified().await;
            // A definition changes several times until its kind is served.
            tokio::time::sleep(QUIET).await;
        };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = changed => {}
            () = tokio::time::sleep(AGAIN), if again => {}
        }
    }
}

struct Monitor {
    client: Client,
    shared: Shared,
    watches: HashMap<Arc<Served>, (KindId, CancellationToken)>,
    tasks: JoinSet<()>,
    next: u32,
}

impl Monitor {
    /// Asks what is served, begins and ends watches; whether that has to be done again.
    async fn refresh(&mut self) -> bool {
        while self.tasks.try_join_next().is_some() {}
        let discovered = match discover(&self.client).await {
            Ok(discovered) => discovered,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "what is served could not be asked");
                return true;
            }
        };
        let served: Vec<Arc<Served>> = discovered.resources.into_iter().map(Arc::new).collect();
        *self.shared.served.lock() = served.clone();
        let wanted: HashSet<Arc<Served>> = served.into_iter().filter(|kind| is_monitored(kind)).collect();
        // What a group holds whose server does not answer is still there.
        let stale = |kind: &Served| discovered.stale.contains(&kind.resource.api_version);
        let gone: Vec<Arc<Served>> =
            self.watches.keys().filter(|kind| !wanted.contains(*kind) && !stale(kind)).cloned().collect();
        for kind in gone {
            if let Some((id, stop)) = self.watches.remove(&kind) {
                stop.cancel();
                self.shared.lists.send_modify(|lists| {
                    lists.missing.remove(&id);
                });
                self.shared.change(|graph| graph.remove_kind(id));
            }
        }
        let new: Vec<_> = wanted.into_iter().filter(|kind| !self.watches.contains_key(kind)).collect();
        for kind in new {
            self.begin(kind);
        }
        self.shared.lists.send_modify(|lists| lists.discovered = true);
        for uid in std::mem::take(&mut *self.shared.undecided.lock()) {
            self.shared.queue.add(uid);
        }
        !discovered.stale.is_empty()
    }

    fn begin(&mut self, kind: Arc<Served>) {
        let id = KindId(self.next);
        self.next += 1;
        self.shared.graph.lock().add_kind(id, Arc::clone(&kind));
        self.shared.lists.send_modify(|lists| {
            lists.missing.insert(id);
        });
        let stop = CancellationToken::new();
        let (client, shared, stopped) = (self.client.clone(), self.shared.clone(), stop.clone());
        self.watches.insert(Arc::clone(&kind), (id, stop));
        self.tasks.spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = follow(client, &shared, &kind, id, &stopped) => {}
            }
        });
    }
}

/// Events own nothing, belong to nobody, and are many.
fn is_monitored(kind: &Served) -> bool {
    let is_event = kind.resource.plural == "events"
        && (kind.resource.group.is_empty() || kind.resource.group == "events.k8s.io");
    !is_event && ["delete", "list", "watch"].iter().all(|verb| kind.supports(verb))
}

/// Whether a change of such an object may change what is served.
fn defines_kinds(kind: &Served) -> bool {
    matches!(
        (kind.resource.group.as_str(), kind.resource.plural.as_str()),
        ("apiextensions.k8s.io", "customresourcedefinitions") | ("apiregistration.k8s.io", "apiservices")
    )
}

async fn follow(client: Client, shared: &Shared, kind: &Served, id: KindId, stopped: &CancellationToken) {
    let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client, &kind.resource);
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
    let mut listed = HashSet::new();
    while let Some(event) = events.next().await {
        // A watch that is being stopped must not bring back what was taken out of the graph.
        if stopped.is_cancelled() {
            return;
        }
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => {
                listed.extend(uid(&object));
                apply(shared, id, &object);
            }
            Ok(Event::InitDone) => {
                let listed = std::mem::take(&mut listed);
                shared.change(|graph| graph.retain(id, &listed));
                shared.lists.send_modify(|lists| {
                    lists.missing.remove(&id);
                });
                continue;
            }
            Ok(Event::Apply(object)) => apply(shared, id, &object),
            Ok(Event::Delete(object)) => {
                if let Some(uid) = uid(&object) {
                    shared.change(|graph| graph.remove(uid));
                }
            }
            Err(error) => {
                tracing::debug!(kind = %kind, error = &error as &dyn std::error::Error, "a watch was interrupted");
                continue;
            }
        }
        if defines_kinds(kind) {
            shared.changed.notify_one();
        }
    }
}

fn uid(object: &PartialObjectMeta<DynamicObject>) -> Option<Uid> {
    object.metadata.uid.as_deref().map(Uid::new)
}

fn apply(shared: &Shared, kind: KindId, object: &PartialObjectMeta<DynamicObject>) {
    if let Some((uid, node)) = Node::read(kind, &object.metadata) {
        shared.change(|graph| graph.apply(uid, node));
    }
}
