//! Ends pods before the node runs out of what all of them share, and pods that use more of the disk than they may.
//!
//! - `threshold` (pure): what is to be left of what; `pressure` (pure): what is short, and since when
//! - `observe`: what is left; `rank` (pure): who ends first, and in what words
//! - `limit` (pure): what of a pod's limits on local storage is exceeded
//!
//! It is looked every ten seconds; what is decided goes to the pod's worker by way of the dispatcher. **Guarantee**: neither counting what
//! pods use of the disk nor removing images, both of which may take long, keeps anybody from looking.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::runtime::events::EventType;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::config::Config;
use crate::image_gc::{ImageFolder, ImageGc};
use crate::metrics::Metrics;
use crate::node::NodeRecorder;
use crate::pod::PodModel;
use crate::pods::Pods;
use crate::runtime_client::RuntimeClient;
use crate::usage::Meter;
use crate::usage::group::Detail;

mod limit;
mod observe;
mod pressure;
mod rank;
mod threshold;

pub(crate) use pressure::Shortage;
pub(crate) use threshold::{Fault, Signal, thresholds};
use threshold::{Observations, Resource, Threshold};

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(10);
/// What containers have to end in when the node cannot wait.
const AT_ONCE: Duration = Duration::from_secs(1);
/// How long a pod's end is waited for before the next look.
const CLEANUP: Duration = Duration::from_secs(30);
/// Orders that wait for the dispatcher.
const QUEUE: usize = 64;

/// That a pod has to end for the node's sake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Eviction {
    /// The reason of status and event.
    pub(crate) reason: &'static str,
    /// Their message.
    pub(crate) message: String,
    /// What its containers have to end in.
    pub(crate) grace: Duration,
    /// Annotations of the event.
    pub(crate) annotations: BTreeMap<String, String>,
    /// The message of the condition `DisruptionTarget`, if it is not the pod's own fault.
    pub(crate) disruption: Option<String>,
}

/// An eviction, with the UID of its pod.
pub(crate) type Order = (String, Eviction);

/// Where evictions are ordered, and where they arrive.
pub(crate) fn orders() -> (mpsc::Sender<Order>, mpsc::Receiver<Order>) {
    mpsc::channel(QUEUE)
}

/// What an evictor works with.
pub(crate) struct Tools {
    /// What the kubelet is told.
    pub(crate) config: Arc<Config>,
    /// The node's pods.
    pub(crate) pods: Arc<Pods>,
    /// The runtime.
    pub(crate) runtime: RuntimeClient,
    /// What pods use.
    pub(crate) meter: Arc<Meter>,
    /// Who removes its images.
    pub(crate) images: Arc<Mutex<ImageGc>>,
    /// Where they are.
    pub(crate) folder: Arc<ImageFolder>,
    /// Where evictions are counted.
    pub(crate) metrics: Arc<Metrics>,
    /// Events about the node.
    pub(crate) recorder: NodeRecorder,
    /// Where evictions are ordered.
    pub(crate) orders: mpsc::Sender<Order>,
    /// Where shortages are told.
    pub(crate) shortage: watch::Sender<Shortage>,
    /// The memory that all pods together may have, in bytes; 0 for any.
    pub(crate) pods_memory: u64,
}

/// Looks again and again, and orders evictions.
pub(crate) struct Evictor {
    tools: Tools,
    thresholds: Vec<Threshold>,
    pressure: pressure::Pressure,
    /// What is being given back before pods have to end, or was since the disk became short.
    reclaiming: Option<AbortOnDropHandle<()>>,
}

/// Waits for what is being given back; for ever, when nothing is.
async fn reclaimed(reclaiming: Option<&mut AbortOnDropHandle<()>>) {
    match reclaiming.filter(|one| !one.is_finished()) {
        Some(under_way) => _ = under_way.await,
        None => std::future::pending().await,
    }
}

impl Evictor {
    /// Thresholds that cannot be read are none: settings are checked before.
    pub(crate) fn new(tools: Tools) -> Self {
        let thresholds = thresholds(&tools.config.settings).unwrap_or_default();
        Self { tools, thresholds, pressure: pressure::Pressure::default(), reclaiming: None }
    }

    /// Runs until the shutdown.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let (config, runtime) = (Arc::clone(&self.tools.config), self.tools.runtime.clone());
        let (pods, images) = (Arc::clone(&self.tools.pods), Arc::clone(&self.tools.images));
        let counting = async {
            loop {
                pods.disk.refresh(&config, &runtime, &pods.all()).await;
                tokio::time::sleep(INTERVAL).await;
            }
        };
        let collecting = async {
            loop {
                images.lock().await.step().await;
                tokio::time::sleep(INTERVAL).await;
            }
        };
        let looking = async {
            loop {
                self.step().await;
                tokio::select! {
                    () = tokio::time::sleep(INTERVAL) => {}
                    () = reclaimed(self.reclaiming.as_mut()) => {}
                }
            }
        };
        let work = async { tokio::join!(counting, collecting, looking) };
        let _: Option<((), (), ())> = shutdown.run_until_cancelled(work).await;
    }

    async fn step(&mut self) {
        let models = self.tools.pods.active().into_iter().filter_map(|pod| PodModel::new(pod).ok());
        let active: Vec<PodModel> = models.filter(|pod| !pod.is_over()).collect();
        let own_imagefs = self.own_imagefs().await;
        let Some(observed) = self.observe().await else { return };
        let thresholds = threshold::with_containerfs(&self.thresholds, own_imagefs);
        let transition = self.tools.config.settings.eviction_pressure_transition_period.0;
        let found = self.pressure.step(&thresholds, &observed, transition, Instant::now());
        self.tools.shortage.send_if_modified(|told| {
            let changed = *told != found.shortage;
            *told = found.shortage;
            changed
        });
        if self.enforce_limits(&active).await {
            return;
        }
        let is_of_disk =
            |one: &Threshold| matches!(one.signal.resource(), Resource::EphemeralStorage | Resource::Inodes);
        if !found.due.iter().any(is_of_disk) && self.reclaiming.as_ref().is_some_and(|one| one.is_finished())
        {
            self.reclaiming = None;
        }
        let Some(first) = found.due.first().copied() else { return };
        let resource = first.signal.resource();
        let note = format!("Attempting to reclaim {}", resource.as_str());
        tracing::warn!(signal = first.signal.name(), "the node is short of something");
        self.tools.recorder.tell(EventType::Warning, "EvictionThresholdMet", note).await;
        if is_of_disk(&first) && !self.has_reclaimed() {
            return;
        }
        self.evict(&active, first, &found.due, &observed, own_imagefs).await;
    }

    /// Has given back what no pod needs: says whether it is done, and begins it otherwise.
    fn has_reclaimed(&mut self) -> bool {
        match &self.reclaiming {
            Some(done) if done.is_finished() => {
                self.reclaiming = None;
                true
            }
            Some(_) => false,
            None => {
                let (pods, runtime) = (Arc::clone(&self.tools.pods), self.tools.runtime.clone());
                let work = reclaim(pods, runtime, Arc::clone(&self.tools.images));
                self.reclaiming = Some(AbortOnDropHandle::new(tokio::spawn(work)));
                false
            }
        }
    }

    async fn own_imagefs(&self) -> bool {
        let folder = self.tools.folder.get().await;
        folder.is_some_and(|folder| observe::differ(folder, &self.tools.config.data_dir))
    }

    async fn observe(&self) -> Option<Observations> {
        let folder = self.tools.folder.get().await;
        match observe::observe(&self.tools.config, folder, self.tools.pods_memory) {
            Ok(observed) => Some(observed),
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, "what the node is short of is not known");
                None
            }
        }
    }

    /// Orders the end of pods that use more local storage than they may; says whether there were any but those that are ending. Those
    /// are hastened.
    async fn enforce_limits(&self, active: &[PodModel]) -> bool {
        let mut any = false;
        for pod in active.iter().filter(|pod| !pod.is_critical()) {
            let usage = self.tools.pods.disk.of(&pod.uid);
            if let Some((signal, message)) = usage.and_then(|usage| limit::exceeded(pod, &usage)) {
                let (annotations, disruption) = (BTreeMap::new(), None);
                let eviction =
                    Eviction { reason: "Evicted", message, grace: AT_ONCE, annotations, disruption };
                if !self.tools.pods.is_ending(&pod.uid) {
                    self.tools.metrics.lifecycle.evicted(signal);
                    any = true;
                }
                self.order(pod, eviction).await;
            }
        }
        any
    }

    /// Orders the end of one pod, and waits until it has ended.
    async fn evict(
        &self,
        active: &[PodModel],
        first: Threshold,
        due: &[Threshold],
        observed: &Observations,
        own_imagefs: bool,
    ) {
        let mut measures = match self.tools.meter.look(Detail::Full).await {
            Ok(snapshot) => observe::measures(&snapshot),
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "what pods use is not known");
                return;
            }
        };
        let candidate = |pod| {
            let measure = measures.remove(&PodModel::clone(pod).uid).map(|measure| rank::Measure {
                disk: self.tools.pods.disk.of(&pod.uid).unwrap_or_default(),
                ..measure
            });
            rank::Candidate { pod, measure }
        };
        let mut candidates: Vec<_> = active.iter().filter(|pod| !pod.is_critical()).map(candidate).collect();
        rank::rank(&mut candidates, first.signal, own_imagefs);
        let Some(chosen) = candidates.first() else {
            tracing::error!("the node is short of something, and there is no pod to evict");
            return;
        };
        let (message, annotations) = rank::message(chosen, due, observed, first.signal.resource());
        let most = Duration::from_secs(self.tools.config.settings.eviction_max_pod_grace_period.into());
        let grace = if first.is_hard() { AT_ONCE } else { most.min(chosen.pod.grace()) };
        let disruption = Some(message.clone());
        let pod = chosen.pod;
        if !self.tools.pods.is_ending(&pod.uid) {
            self.tools.metrics.lifecycle.evicted(first.signal.name());
        }
        self.order(pod, Eviction { reason: "Evicted", message, grace, annotations, disruption }).await;
        let deadline = Instant::now() + grace + CLEANUP;
        while self.tools.pods.is_active(&pod.uid) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn order(&self, pod: &PodModel, eviction: Eviction) {
        tracing::debug!(object = pod.object(), message = eviction.message, "a pod is to be evicted");
        // The dispatcher ends with the shutdown alone.
        let _ = self.tools.orders.send((pod.uid.clone(), eviction)).await;
    }
}

/// Gives back what no pod needs: dead containers of pods that are over, and unused images.
async fn reclaim(pods: Arc<Pods>, runtime: RuntimeClient, images: Arc<Mutex<ImageGc>>) {
    for (id, log) in pods.dead() {
        let request = keelson_cri::v1::RemoveContainerRequest { container_id: id.clone() };
        match runtime.remove_container(request).await {
            Ok(_) => crate::log_rotation::remove_log(&log).await,
            Err(error) => tracing::warn!(%error, container = id, "a dead container is not removed"),
        }
    }
    if let Err(error) = images.lock().await.free(u64::MAX).await {
        tracing::warn!(%error, "unused images are not removed");
    }
}
