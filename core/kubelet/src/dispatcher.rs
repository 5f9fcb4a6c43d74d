//! Wakes one worker per pod: when the API has news of it, and when the runtime does. The runtime tells by events, and is
//! looked at besides (`relist`): seldom, or often where it tells none.
//!
//! Whatever the runtime holds of pods that the API does not know gets a worker too, which ends it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream, StreamExt as _};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keelson_cri::v1;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, ResourceExt as _};
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::eviction::{Eviction, Order};
use crate::labels;
use crate::pod::PodModel;
use crate::relist::{self, Look};
use crate::runtime_client::{RuntimeClient, RuntimeError};
use crate::static_pods::StaticPods;
use crate::static_pods::mirrors::{self, FullName, Mirrors};
use crate::worker::{Mail, Node, Record, Worker};

mod events;
mod leftovers;

use events::{Events, Heard};
use leftovers::Leftovers;

/// The pause before the worker of a pod begins anew that panicked.
const AFTER_PANIC: Duration = Duration::from_secs(10);
/// What pods have left and cannot be removed is looked for again after this.
const SWEEP_RETRY: Duration = Duration::from_secs(60);
/// The runtime is waited for with this pause.
const PATIENCE: Duration = Duration::from_millis(200);

/// Hands news to workers.
pub(crate) struct Dispatcher {
    node: Arc<Node>,
    shutdown: CancellationToken,
    /// Pods that have to end for the node's sake.
    orders: mpsc::Receiver<Order>,
    workers: HashMap<String, watch::Sender<Mail>>,
    tasks: JoinSet<()>,
    uids: HashMap<Id, String>,
    /// Pods of the list that is just coming.
    listed: HashSet<String>,
    /// The API's pods are known.
    complete: bool,
    /// What the runtime held at the last look.
    seen: Look,
    /// The runtime did not answer then.
    blind: bool,
    /// When it is looked for what pods have left that nobody knows.
    sweep_at: Option<tokio::time::Instant>,
    own: OwnPods,
    /// Static pods that have a worker, by UID.
    static_names: HashMap<String, FullName>,
}

/// The pods of the node itself.
pub(crate) struct OwnPods {
    /// Those that there are to be.
    pub(crate) pods: watch::Receiver<Arc<StaticPods>>,
    /// What the API shows of them.
    pub(crate) mirrors: Arc<Mirrors>,
}

/// A static pod with what the API knows of its status.
fn shown_by(own: &Pod, mirror: Option<&Pod>) -> Pod {
    let mut pod = own.clone();
    if let Some(mirror) = mirror {
        pod.status.clone_from(&mirror.status);
        pod.metadata.resource_version.clone_from(&mirror.metadata.resource_version);
        pod.metadata.generation = mirror.metadata.generation;
    }
    pod
}

/// A pod of the API is one, whatever it says of itself: only the node's own pods are those without which the node cannot do.
fn from_api(mut pod: Pod) -> Pod {
    let source = pod.metadata.annotations.as_mut().and_then(|all| all.get_mut(labels::CONFIG_SOURCE));
    if let Some(source) = source {
        "api".clone_into(source);
    }
    pod
}

/// The pods of a node, as the API has them.
fn source(
    client: kube::Client,
    node: &str,
) -> impl Stream<Item = watcher::Result<watcher::Event<Pod>>> + use<> {
    let selected = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    watcher(Api::<Pod>::all(client), selected).default_backoff()
}

/// Waits until the runtime answers; false when the shutdown came first.
pub(crate) async fn wait_for_runtime(runtime: &RuntimeClient, shutdown: &CancellationToken) -> bool {
    let mut told = false;
    loop {
        match runtime.version(v1::VersionRequest::default()).await {
            Ok(_) => return true,
            Err(error) => {
                if !told {
                    tracing::info!(%error, "waiting for the container runtime");
                    told = true;
                }
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return false,
            () = tokio::time::sleep(PATIENCE) => {}
        }
    }
}

/// What a look that is under way finds; never, while there is none.
async fn result_of<T>(under_way: &mut Option<BoxFuture<'static, T>>) -> T {
    match under_way {
        Some(under_way) => under_way.await,
        None => std::future::pending().await,
    }
}

/// Waits for a time; for ever, while there is none.
async fn reached(time: Option<tokio::time::Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// The pod that an event is about.
fn subject(event: &v1::ContainerEventResponse) -> Option<&str> {
    let sandbox = event.pod_sandbox_status.as_ref().and_then(|status| status.metadata.as_ref());
    let label = || event.containers_statuses.iter().find_map(|one| one.labels.get(labels::POD_UID));
    sandbox.map(|metadata| metadata.uid.as_str()).or_else(|| label().map(String::as_str))
}

impl Dispatcher {
    pub(crate) fn new(
        node: Arc<Node>,
        orders: mpsc::Receiver<Order>,
        own: OwnPods,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            node,
            orders,
            shutdown,
            workers: HashMap::new(),
            tasks: JoinSet::new(),
            uids: HashMap::new(),
            listed: HashSet::new(),
            complete: false,
            seen: Look::default(),
            blind: false,
            sweep_at: None,
            own,
            static_names: HashMap::new(),
        }
    }

    /// Runs until the shutdown, and then until all workers have let go of their pods.
    pub(crate) async fn run(mut self) {
        let mut pods = std::pin::pin!(source(self.node.client.clone(), &self.node.config.node_name));
        let mut events = Events::new(self.node.runtime.clone());
        let mut look_at = tokio::time::Instant::now();
        let mut looking: Option<BoxFuture<'static, Result<Look, RuntimeError>>> = None;
        let mut began = std::time::Instant::now();
        let mut sweeping: Option<BoxFuture<'static, bool>> = None;
        self.arrange_static_pods();
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => break,
                Some(event) = pods.next() => self.hear(event).await,
                Ok(()) = self.own.pods.changed() => self.arrange_static_pods(),
                () = tokio::time::sleep_until(look_at), if looking.is_none() => {
                    let runtime = self.node.runtime.clone();
                    began = std::time::Instant::now();
                    looking = Some(async move { Look::take(&runtime).await }.boxed());
                }
                looked = result_of(&mut looking) => {
                    looking = None;
                    if looked.is_ok() {
                        self.node.metrics.lifecycle.relisted(began);
                    }
                    self.looked(looked);
                    if self.blind {
                        // The one that is started again may be another version.
                        events.ask_anew();
                    }
                    let pause = if events.are_heard() { relist::HEARING } else { relist::DEAF };
                    look_at = tokio::time::Instant::now() + pause;
                }
                heard = events.next() => match heard {
                    Heard::Begin | Heard::Silence => {
                        // What happened meanwhile is not told.
                        self.wake_all();
                        self.adopt_orphans().await;
                    }
                    Heard::Event(event) => {
                        if let Some(uid) = subject(&event) {
                            self.wake(uid);
                        }
                    }
                    Heard::End => look_at = tokio::time::Instant::now(),
                },
                () = reached(self.sweep_at), if sweeping.is_none() => {
                    self.sweep_at = None;
                    sweeping = self.sweep().await;
                }
                is_done = result_of(&mut sweeping) => {
                    sweeping = None;
                    if !is_done && self.sweep_at.is_none() {
                        self.sweep_at = Some(tokio::time::Instant::now() + SWEEP_RETRY);
                    }
                }
                Some((uid, eviction)) = self.orders.recv() => {
                    if let Some(worker) = self.workers.get(&uid) {
                        worker.send_modify(|mail| {
                            // Of two that the worker has not seen the one counts that leaves less time.
                            let known = mail.eviction.as_ref().map_or(eviction.grace, |known| known.grace);
                            let grace = eviction.grace.min(known);
                            mail.eviction = Some(Arc::new(Eviction { grace, ..eviction }));
                        });
                    }
                }
                Some(ended) = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => self.ended(ended),
            }
        }
        while self.tasks.join_next().await.is_some() {}
    }

    fn wake(&self, uid: &str) {
        if let Some(worker) = self.workers.get(uid) {
            worker.send_modify(|mail| mail.runtime += 1);
        }
    }

    fn wake_all(&self) {
        self.workers.values().for_each(|worker| worker.send_modify(|mail| mail.runtime += 1));
    }

    /// Wakes the workers of pods of which the runtime holds something else than at the last look.
    fn looked(&mut self, looked: Result<Look, RuntimeError>) {
        match looked {
            Ok(now) => {
                self.node.health.seen();
                for uid in now.changes(&self.seen) {
                    self.wake(uid);
                }
                self.seen = now;
                self.blind = false;
            }
            Err(error) => {
                if !self.blind {
                    tracing::warn!(%error, "the runtime does not say what it holds");
                }
                self.blind = true;
            }
        }
    }

    async fn hear(&mut self, event: watcher::Result<watcher::Event<Pod>>) {
        match event {
            Ok(watcher::Event::Init) => {
                self.listed.clear();
                self.own.mirrors.begin_list();
            }
            Ok(watcher::Event::InitApply(pod) | watcher::Event::Apply(pod)) if mirrors::is_mirror(&pod) => {
                self.own.mirrors.see(pod);
                self.arrange_static_pods();
            }
            Ok(watcher::Event::Delete(pod)) if mirrors::is_mirror(&pod) => {
                self.own.mirrors.forget(&pod);
                self.arrange_static_pods();
            }
            Ok(watcher::Event::InitApply(pod)) => {
                self.listed.extend(pod.metadata.uid.clone());
                self.deliver(pod, false);
            }
            Ok(watcher::Event::InitDone) => {
                for (uid, worker) in &self.workers {
                    if !self.listed.contains(uid) && !self.static_names.contains_key(uid) {
                        worker.send_modify(|mail| mail.gone = true);
                    }
                }
                self.listed = HashSet::new();
                self.own.mirrors.end_list();
                self.complete = true;
                // What pods run of which the API does not know keeps what it has until it has ended.
                if self.adopt_orphans().await {
                    self.take_back();
                }
                self.node.ledger.complete();
                self.wake_all();
                self.sweep_at = Some(tokio::time::Instant::now());
            }
            Ok(watcher::Event::Apply(pod)) => self.deliver(pod, false),
            Ok(watcher::Event::Delete(pod)) => self.deliver(pod, true),
            Err(error) => tracing::warn!(%error, "pods cannot be watched"),
        }
    }

    /// Hands a pod to its worker, which is made if there is none.
    fn deliver(&mut self, mut pod: Pod, gone: bool) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        pod.managed_fields_mut().clear();
        let pod = Arc::new(from_api(pod));
        if let Some(worker) = self.workers.get(&uid) {
            worker.send_modify(|mail| {
                mail.pod = pod;
                mail.gone |= gone;
            });
        } else if !gone {
            let status = pod.status.as_ref();
            let runs = status.is_some_and(|status| status.start_time.is_some());
            if let Some(model) = PodModel::new(Arc::clone(&pod)).ok().filter(|pod| runs && !pod.is_over()) {
                // It has its place from before, whoever comes first now.
                self.node.ledger.put(model);
            }
            let mail = Mail { pod, record: Record::Pod, gone, runtime: 0, eviction: None };
            self.employ(uid, mail, Duration::ZERO);
        }
    }

    /// Gives static pods their workers, and ends those that are no more. Of one name there is one at a time.
    fn arrange_static_pods(&mut self) {
        let wanted = Arc::clone(&self.own.pods.borrow_and_update());
        for uid in self.static_names.keys().filter(|uid| !wanted.contains_key(*uid)) {
            if let Some(worker) = self.workers.get(uid) {
                worker.send_modify(|mail| mail.gone = true);
            }
        }
        for (uid, own) in wanted.iter() {
            let mirror = self.own.mirrors.of(own);
            let record = Record::Mirror(mirror.as_ref().and_then(|mirror| mirror.metadata.uid.clone()));
            let pod = Arc::new(shown_by(own, mirror.as_deref()));
            if let Some(worker) = self.workers.get(uid) {
                worker.send_if_modified(|mail| {
                    let is_other = mail.record != record || mail.pod.status != pod.status;
                    if is_other {
                        (mail.pod, mail.record) = (pod, record);
                    }
                    is_other
                });
                continue;
            }
            let name = mirrors::full_name(own);
            if !self.static_names.values().any(|known| *known == name) {
                self.static_names.insert(uid.clone(), name);
                let mail = Mail { pod, record, gone: false, runtime: 0, eviction: None };
                self.employ(uid.clone(), mail, Duration::ZERO);
            }
        }
        self.own.mirrors.want(wanted, self.static_names.values().cloned().collect());
    }

    /// Makes a worker, which begins after a pause.
    fn employ(&mut self, uid: String, mail: Mail, pause: Duration) {
        let (sender, receiver) = watch::channel(mail);
        let Some(worker) = Worker::new(Arc::clone(&self.node), receiver) else { return };
        let shutdown = self.shutdown.clone();
        let task = self.tasks.spawn(async move {
            if !pause.is_zero() && shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
            worker.run(shutdown).await;
        });
        self.uids.insert(task.id(), uid.clone());
        self.workers.insert(uid, sender);
    }

    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let (id, failure) = match ended {
            Ok((id, ())) => (id, None),
            Err(error) => (error.id(), Some(error)),
        };
        let Some(uid) = self.uids.remove(&id) else { return };
        let sender = self.workers.remove(&uid);
        if let (Some(error), Some(sender)) = (failure, sender) {
            tracing::error!(%error, uid, "a pod's worker broke off and is started again");
            let mail = sender.borrow().clone();
            self.employ(uid, mail, AFTER_PANIC);
        } else if self.static_names.remove(&uid).is_some() || self.own.pods.borrow().contains_key(&uid) {
            // What was left of a static pod has the UID of the one that comes now.
            self.arrange_static_pods();
        }
    }

    /// Finds what pods that nobody knows have left, and says how it is removed: whether all of it was.
    async fn sweep(&mut self) -> Option<BoxFuture<'static, bool>> {
        // What still runs has a worker first.
        let found = if self.adopt_orphans().await {
            self.take_back();
            let (volumes, log_dir) = (&self.node.volumes, &self.node.config.log_dir);
            Leftovers::find(volumes, log_dir, |uid| self.workers.contains_key(uid)).await
        } else {
            None
        };
        let Some(found) = found else {
            self.sweep_at = Some(tokio::time::Instant::now() + SWEEP_RETRY);
            return None;
        };
        let node = Arc::clone(&self.node);
        Some(async move { found.remove(&node.volumes, &node.config.log_dir).await }.boxed())
    }

    /// Takes back what pods had of which nothing is left.
    fn take_back(&self) {
        self.node.furnishing.retain(|uid| self.workers.contains_key(uid));
        self.node.dra.retain(|uid| self.workers.contains_key(uid));
    }

    /// Gives a worker to each pod of the runtime that the API does not know; says whether all of them have one.
    async fn adopt_orphans(&mut self) -> bool {
        if !self.complete {
            return false;
        }
        let request = v1::ListPodSandboxRequest { filter: None };
        let sandboxes = match self.node.runtime.list_pod_sandbox(request).await {
            Ok(answer) => answer.items,
            // It is asked again with its events.
            Err(error) => {
                tracing::warn!(%error, "the runtime does not say which pods it holds");
                return false;
            }
        };
        for sandbox in sandboxes {
            // Somebody else's runtime may run pods of others too.
            let whose = sandbox.annotations.get(labels::CGROUP_ROOT);
            let elsewhere = self.node.config.settings.runtime_socket().is_some();
            if whose.map_or(elsewhere, |root| *root != self.node.config.cgroup_root) {
                continue;
            }
            let Some(metadata) = sandbox.metadata else { continue };
            if metadata.uid.is_empty() || self.workers.contains_key(&metadata.uid) {
                continue;
            }
            tracing::info!(
                object = format!("{}/{}", metadata.namespace, metadata.name),
                uid = metadata.uid,
                "the runtime holds a pod that the API does not know: it is ended"
            );
            self.end_orphan(metadata.namespace, metadata.name, metadata.uid);
        }
        // A group that is the machine's may hold pods of another kubelet.
        let is_own = self.node.config.settings.cgroup_root.is_empty();
        let known: Vec<String> = self.workers.keys().cloned().collect();
        let strangers = if is_own { self.node.groups.strangers(&known).await } else { Vec::new() };
        for uid in strangers {
            // Its worker takes the time that systemd takes, and tries again.
            tracing::info!(uid, "a pod that nobody knows has left its control group: it is removed");
            self.end_orphan(String::new(), uid.clone(), uid);
        }
        true
    }

    /// Employs a worker to end what is left of a pod that the API does not know.
    fn end_orphan(&mut self, namespace: String, name: String, uid: String) {
        let pod = Pod {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(namespace),
                uid: Some(uid.clone()),
                ..ObjectMeta::default()
            },
            // Nobody waits for it any more.
            spec: Some(PodSpec { termination_grace_period_seconds: Some(1), ..PodSpec::default() }),
            status: None,
        };
        let mail = Mail { pod: Arc::new(pod), record: Record::Pod, gone: true, runtime: 0, eviction: None };
        self.employ(uid, mail, Duration::ZERO);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_of_the_api_is_no_pod_of_the_node_whatever_it_says() {
        let pod = json!({ "metadata": { "name": "p", "namespace": "n", "uid": "u",
            "annotations": { "kubernetes.io/config.source": "file" } }, "spec": { "containers": [] } });
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let critical = |pod: Pod| PodModel::new(Arc::new(pod)).unwrap().is_critical();
        assert!(critical(pod.clone()) && !critical(from_api(pod)));
    }
}
