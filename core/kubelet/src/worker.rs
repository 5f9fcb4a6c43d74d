//! The worker of one pod: observes, plans, acts and tells the API, whenever something has happened.
//!
//! ```text
//! mail (pod, runtime events) --+
//! tasks that are done ---------+--> step: observe -> plan -> begin actions and probes -> status
//! the plan's time -------------+
//! ```
//!
//! All that takes time is a task of the worker ([`act`]); the step itself only asks the runtime what there is. A
//! worker ends when the API has no pod and the runtime nothing of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::allocation::{self, Allocation};
use crate::backoff::Backoff;
use crate::clock;
use crate::config::Config;
use crate::event::{EventType, Recorder};
use crate::eviction::{Eviction, Order, Shortage};
use crate::memory::{End, Memory, Step, Task, Why};
use crate::objects::Objects;
use crate::plan::{self, Plan, Stage, View};
use crate::pod::PodModel;
use crate::pods::Pods;
use crate::runtime_client::RuntimeClient;
use crate::runtime_view::{Observed, Observer};
use crate::volume::Volumes;

mod act;
mod admitting;
mod api;
mod done;
mod network;
mod probing;
mod resizing;
mod telling;

use act::Done;

/// When the runtime does not answer, it is asked again after this.
const RUNTIME_RETRY: SignedDuration = SignedDuration::from_secs(2);

/// What all workers of a node share.
pub(crate) struct Node {
    /// What the kubelet is told.
    pub(crate) config: Arc<Config>,
    /// The API, as this node.
    pub(crate) client: kube::Client,
    /// The runtime.
    pub(crate) runtime: RuntimeClient,
    /// Whether the runtime is looked at.
    pub(crate) health: Arc<crate::relist::Health>,
    /// ConfigMaps, Secrets and Services.
    pub(crate) objects: Arc<Objects>,
    /// Volumes.
    pub(crate) volumes: Volumes,
    /// Who pulled which image.
    pub(crate) images: crate::image::records::Records,
    /// Programs that provide credentials for images.
    pub(crate) credential_plugins: crate::credential_provider::Plugins,
    /// What is counted.
    pub(crate) metrics: Arc<crate::metrics::Metrics>,
    /// Events.
    pub(crate) recorder: Recorder,
    /// For those who look for pods.
    pub(crate) pods: Arc<Pods>,
    /// The pods that have their place on the node.
    pub(crate) ledger: Arc<crate::admission::Ledger>,
    /// Devices of claims.
    pub(crate) dra: Arc<crate::dra::Dra>,
    /// Who has processors, memory and devices alone.
    pub(crate) furnishing: Arc<crate::furnishing::Furnishing>,
    /// Where the end of others is ordered.
    pub(crate) orders: mpsc::Sender<Order>,
    /// What the node is short of.
    pub(crate) shortage: watch::Receiver<Shortage>,
    /// Whether the machine is about to shut down.
    pub(crate) leaving: crate::node_shutdown::Leaving,
    /// What limits of containers depend on.
    pub(crate) machine: crate::resources::Machine,
    /// The control groups of all pods.
    pub(crate) groups: Arc<crate::cgroup::groups::Groups>,
    /// Those of the classes of pods.
    pub(crate) tiers: crate::cgroup::tiers::Tiers,
}

/// Under what the API has a pod's status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    /// Under the pod itself.
    Pod,
    /// Under the mirror of a static pod, by its UID, while there is one.
    Mirror(Option<String>),
}

/// What a worker is told from outside.
#[derive(Debug, Clone)]
pub(crate) struct Mail {
    /// The pod, as the API has it or had it last.
    pub(crate) pod: Arc<Pod>,
    /// Where its status goes.
    pub(crate) record: Record,
    /// The API has it no more.
    pub(crate) gone: bool,
    /// Grows when the runtime has something to tell of the pod.
    pub(crate) runtime: u64,
    /// The node needs the pod's end.
    pub(crate) eviction: Option<Arc<Eviction>>,
}

/// The worker of one pod.
pub(crate) struct Worker {
    node: Arc<Node>,
    mail: watch::Receiver<Mail>,
    pod: Arc<PodModel>,
    record: Record,
    gone: bool,
    observer: Observer,
    observed: Arc<Observed>,
    memory: Memory,
    tasks: JoinSet<Done>,
    task_names: HashMap<tokio::task::Id, Task>,
    /// The runtime may hold something else than what was observed.
    stale: bool,
    /// The order to end for the node's sake that was taken last.
    eviction: Option<Arc<Eviction>>,
    /// Runtime events that are known.
    runtime: u64,
    /// Why containers waited at the last step.
    waiting: std::collections::BTreeMap<String, Why>,
    /// The change of the status that was written last, and the API's version of the pod after it.
    last_patch: Option<Value>,
    /// After a failure the API is asked again at this time.
    api_retry: Option<Timestamp>,
    /// It was over before this worker: its status is not written any more.
    settled: bool,
    /// When the pod was first seen.
    born: std::time::Instant,
    /// The pod's end has begun: pulls are given up.
    ends: CancellationToken,
    /// Its deletion was confirmed.
    deleted: bool,
    /// The node has taken the pod.
    admitted: bool,
    /// What its containers have been given.
    allocation: Allocation,
    /// What probes and statuses before this worker said was taken over.
    seeded: bool,
}

impl Worker {
    /// The worker of the pod in the mail; `None` when that is no complete pod.
    pub(crate) fn new(node: Arc<Node>, mut mail: watch::Receiver<Mail>) -> Option<Self> {
        let Mail { pod, record, gone, runtime, .. } = mail.borrow_and_update().clone();
        let allocation = allocation::known(&pod);
        let restarts = Backoff::up_to(node.config.settings.crash_loop_back_off.longest());
        let resizing = pod.status.as_ref().and_then(resizing::under_way);
        let pod = match PodModel::given(pod, &allocation) {
            Ok(pod) => Arc::new(pod),
            Err(error) => {
                tracing::error!(%error, "a pod cannot be worked on");
                return None;
            }
        };
        Some(Self {
            settled: pod.is_settled(),
            node,
            mail,
            pod,
            record,
            gone,
            observer: Observer::default(),
            observed: Arc::default(),
            memory: Memory { restarts, resizing, ..Memory::default() },
            tasks: JoinSet::new(),
            task_names: HashMap::new(),
            stale: true,
            eviction: None,
            runtime,
            waiting: std::collections::BTreeMap::new(),
            last_patch: None,
            api_retry: None,
            born: std::time::Instant::now(),
            ends: CancellationToken::new(),
            deleted: false,
            admitted: false,
            allocation,
            seeded: false,
        })
    }

    /// Works until nothing is left of the pod, or until the shutdown, which leaves all that runs as it is.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.work() => {}
        }
    }

    async fn work(mut self) {
        let mut devices = self.node.furnishing.devices.news();
        let mut claimed = self.node.dra.news();
        let mut network = self.node.health.news_of_network();
        let metrics = Arc::clone(&self.node.metrics);
        metrics.lifecycle.worker_start.observe(self.born.elapsed().as_secs_f64());
        let mut operation = "create";
        loop {
            let began = std::time::Instant::now();
            let wake = self.step().await;
            metrics.lifecycle.worked(operation, began.elapsed());
            operation = if self.memory.termination.is_some() { "kill" } else { "sync" };
            if self.is_finished() {
                self.leave().await;
                return;
            }
            let timer = async {
                match wake {
                    Some(time) => {
                        let wait = Duration::try_from(time.duration_since(clock::now()));
                        tokio::time::sleep(wait.unwrap_or_default()).await;
                    }
                    None => std::future::pending().await,
                }
            };
            let has_devices = !self.memory.devices.is_empty();
            tokio::select! {
                Ok(()) = devices.changed(), if has_devices => {}
                Ok(()) = claimed.changed(), if has_devices => {}
                Ok(()) = network.changed(), if !self.pod.host_network() => {}
                changed = self.mail.changed() => match changed {
                    Ok(()) => self.read_mail(),
                    Err(_) => return,
                },
                Some(done) = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => self.take(done),
                () = timer => {}
            }
        }
    }

    fn read_mail(&mut self) {
        let Mail { pod, record, gone, runtime, eviction } = self.mail.borrow_and_update().clone();
        self.record = record;
        if runtime != self.runtime {
            self.runtime = runtime;
            self.stale = true;
        }
        self.gone |= gone;
        self.update(pod);
        // The mail holds the last order on.
        let known = self.eviction.as_ref();
        if let Some(eviction) = eviction.filter(|new| known.is_none_or(|known| !Arc::ptr_eq(known, new))) {
            self.evict(&eviction);
            self.eviction = Some(eviction);
        }
    }

    /// Begins the pod's end for the node's sake, or hastens one that is under way. It is told once.
    fn evict(&mut self, eviction: &Eviction) {
        if self.pod.is_over() {
            return;
        }
        let Eviction { reason, message, grace, annotations, disruption } = eviction;
        // One whose containers are done by themselves stays what it is.
        if !self.memory.is_evicted() && !self.memory.is_completed() {
            let (recorder, annotations) = (&self.node.recorder, annotations.clone());
            let message = message.clone();
            recorder.tell_annotated(&self.pod, None, EventType::Warning, *reason, message, annotations);
            self.memory.disruption.clone_from(disruption);
        }
        self.end(End::Evicted(Why::new(reason, message.clone())), *grace, clock::now());
    }

    /// Takes a state of the pod that is newer than the known one.
    fn update(&mut self, pod: Arc<Pod>) {
        let version =
            |pod: &Pod| pod.metadata.resource_version.as_ref().and_then(|it| it.parse::<u64>().ok());
        if version(&pod).zip(version(&self.pod.pod)).is_some_and(|(new, known)| new <= known) {
            return;
        }
        if !self.admitted {
            self.allocation = allocation::known(&pod);
        }
        let fresh = match PodModel::given(pod, &self.allocation) {
            Ok(fresh) if fresh.uid == self.pod.uid => fresh,
            Ok(_) | Err(_) => return,
        };
        self.count_start(&fresh.pod);
        for member in &fresh.members {
            let before = self.pod.member(member.name());
            if before.is_some_and(|before| before.hash != member.hash) {
                let memory = self.memory.container(member.name());
                memory.image = crate::memory::Image::Unknown;
                memory.pulls = crate::backoff::Backoff::default();
                // What failed before was something else.
                memory.restarts.reset();
                memory.failed = None;
            }
        }
        let (old, new) = (&self.pod.pod.metadata, &fresh.pod.metadata);
        if (old.labels != new.labels || old.annotations != new.annotations)
            && self.memory.volumes == Step::Done
        {
            // The downward API shows them.
            self.memory.volumes = Step::Open;
        }
        self.pod = Arc::new(fresh);
    }

    fn view(&self, now: Timestamp) -> View<'_> {
        let wall = Timestamp::now();
        View { pod: &self.pod, observed: &self.observed, memory: &self.memory, now, wall }
    }

    /// Observes, plans and begins what is to be done; says when to look again.
    async fn step(&mut self) -> Option<Timestamp> {
        let now = clock::now();
        if self.stale {
            match self.observer.observe(&self.node.runtime, &self.pod.uid).await {
                Ok(observed) => {
                    self.observed = Arc::new(observed);
                    self.stale = false;
                }
                Err(error) => {
                    tracing::warn!(object = self.pod.object(), %error, "the runtime does not say what there is");
                    return now.checked_add(RUNTIME_RETRY).ok();
                }
            }
            self.learn().await;
        }
        let now = clock::now();
        self.decide_end(now);
        if !self.admitted && self.memory.termination.is_none() {
            let again = self.admit(now).await;
            if !self.admitted {
                return again;
            }
        }
        self.memory.devices = self.node.furnishing.devices.health(&self.pod.uid);
        if self.pod.claims_devices() {
            for (container, all) in self.node.dra.health(&self.pod.pod) {
                self.memory.devices.entry(container).or_default().extend(all);
            }
        }
        self.look_at_network(now);
        let resize = self.allocate(now);
        self.end_resize(now);
        let mut plan = plan::plan(self.view(now));
        if plan.stage == Stage::Complete {
            self.end(End::Completed, self.pod.grace(), now);
            plan = plan::plan(self.view(now));
        }
        if self.memory.network_fault.is_some() {
            // What they waited for before they wait for now.
            plan.waiting.extend(self.waiting.clone());
        }
        self.tell_waits(&plan);
        self.give_back(plan.stage);
        for action in std::mem::take(&mut plan.actions) {
            self.begin(action, now);
        }
        let mut wakes = vec![resize, plan.wake, self.begin_probes(now), self.talk_to_api(&plan, now)];
        if self.memory.termination.is_none() {
            wakes.push(self.deadline());
        }
        let (pod, observed) = (Arc::clone(&self.pod.pod), Arc::clone(&self.observed));
        self.node.pods.put(&self.pod.uid, pod, observed, plan.stage);
        wakes.into_iter().flatten().min()
    }

    /// Begins the pod's end, or hastens it, when there is a reason.
    fn decide_end(&mut self, now: Timestamp) {
        if self.gone {
            self.end(End::Gone, self.pod.grace(), now);
        } else if self.pod.deletion().is_some() {
            self.end(End::Deleted, self.pod.grace(), now);
        } else if self.memory.termination.is_none() {
            if self.pod.is_over() {
                self.end(End::Completed, self.pod.grace(), now);
            } else if self.deadline().is_some_and(|deadline| deadline <= now) {
                let message = "Pod was active on the node longer than the specified deadline";
                self.node.recorder.tell(&self.pod, None, EventType::Normal, "DeadlineExceeded", message);
                self.end(End::Evicted(Why::new("DeadlineExceeded", message)), self.pod.grace(), now);
            } else if let Some((reason, why)) =
                crate::admission::refusal(&self.pod, Some(&self.node.config.settings.allowed_unsafe_sysctls))
            {
                self.memory.refused = true;
                self.node.metrics.lifecycle.refused(&why.reason);
                let told = why.message.trim_start_matches(crate::admission::REJECTED).to_owned();
                self.node.recorder.tell(&self.pod, None, EventType::Warning, reason, told);
                self.end(End::Evicted(why), self.pod.grace(), now);
            }
        }
    }

    /// When the pod will have run for too long, by `spec.activeDeadlineSeconds`.
    fn deadline(&mut self) -> Option<Timestamp> {
        let seconds = self.pod.spec().active_deadline_seconds?;
        let started = self.pod.status().start_time.as_ref()?.0;
        let since = *self.memory.started.get_or_insert_with(|| clock::of_past(started));
        since.checked_add(SignedDuration::from_secs(seconds)).ok()
    }

    fn end(&mut self, end: End, grace: Duration, now: Timestamp) {
        if self.memory.termination.is_none() {
            tracing::debug!(object = self.pod.object(), ?end, ?grace, "the pod's end begins");
        }
        self.memory.end(end, grace, now);
        self.ends.cancel();
    }

    fn is_finished(&self) -> bool {
        let gone = self.memory.termination.as_ref().is_some_and(|one| one.end == End::Gone);
        let nothing = self.observed.sandboxes.is_empty() && self.observed.containers.is_empty();
        gone && nothing && !self.stale && self.memory.cleaned && self.tasks.is_empty()
    }

    /// The last that is done for a pod: its logs go.
    async fn leave(self) {
        self.node.pods.remove(&self.pod.uid);
        self.node.metrics.probes.forget(&self.pod.uid);
        self.node.metrics.lifecycle.forget(&self.pod.uid);
        self.node.credential_plugins.forget(&self.pod.uid);
        self.node.ledger.remove(&self.pod.uid);
        self.node.furnishing.release(&self.pod.uid);
        let logs = crate::sandbox::log_directory(&self.pod, &self.node.config);
        match tokio::fs::remove_dir_all(&logs).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(object = self.pod.object(), %error, "logs of a pod are not removed");
            }
            Ok(()) | Err(_) => {}
        }
        crate::log_links::sweep(&self.node.config.log_dir).await;
        tracing::debug!(object = self.pod.object(), "nothing is left of the pod");
    }

    /// Takes over what is known of containers that were there before this worker, and what ended ones said.
    async fn learn(&mut self) {
        if !self.seeded {
            self.seeded = true;
            self.seed_probes();
        }
        let observed = Arc::clone(&self.observed);
        for one in observed.containers.iter().filter(|one| one.exit_code().is_some()) {
            if !self.memory.container(&one.name).last_words.contains_key(&one.id) {
                let words = crate::last_words::read(one, self.pod.member(&one.name)).await;
                self.memory.container(&one.name).last_words.insert(one.id.clone(), words);
            }
        }
        for (name, memory) in &mut self.memory.containers {
            memory.last_words.retain(|id, _| observed.instances(name).any(|one| one.id == *id));
        }
        let alive = |id: &String| observed.sandboxes.iter().any(|one| one.id == *id);
        self.memory.stopped_sandboxes.retain(alive);
        let runs = |id: &String| observed.containers.iter().any(|one| one.id == *id && one.is_running());
        self.memory.kill_deadlines.retain(|id, _| runs(id));
        self.memory.failed_kills.retain(|id, _| runs(id));
        self.memory.prepared.retain(runs);
        self.memory.renewed.retain(|name, last| {
            observed.newest(name).is_none_or(|newest| last.as_ref() == Some(&newest.id))
        });
    }

    /// The status that the API should have.
    fn status(&self, plan: &Plan, now: Timestamp) -> k8s_openapi::api::core::v1::PodStatus {
        crate::status::status(self.view(now), plan, self.node.config.node_ip)
    }
}
