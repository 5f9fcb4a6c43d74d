//! Ends pods before the node runs out of what all of them share, and pods that use more of the disk than they may.
//!
//! - `threshold` (pure): what is to be left of what; `pressure` (pure): what is short, and since when
//! - `observe`: what is left; `rank` (pure): who ends first, and in what words
//! - `limit` (pure): what of a pod's limits on local storage is exceeded
//!
//! One task looks every ten seconds; what it decides goes to the pod's worker by way of the dispatcher.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::runtime::events::EventType;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::image_gc::ImageGc;
use crate::node::NodeRecorder;
use crate::pod::PodModel;
use crate::pods::Pods;
use crate::runtime_client::RuntimeClient;

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
    /// Its images.
    pub(crate) images: ImageGc,
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
}

impl Evictor {
    /// Thresholds that cannot be read are none: settings are checked before.
    pub(crate) fn new(tools: Tools) -> Self {
        let thresholds = thresholds(&tools.config.settings).unwrap_or_default();
        Self { tools, thresholds, pressure: pressure::Pressure::default() }
    }

    /// Runs until the shutdown.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let work = async {
            loop {
                self.step().await;
                tokio::time::sleep(INTERVAL).await;
            }
        };
        let _: Option<()> = shutdown.run_until_cancelled(work).await;
    }

    async fn step(&mut self) {
        let all = self.tools.pods.all();
        self.tools.pods.disk.refresh(&self.tools.config, &self.tools.runtime, &all).await;
        self.tools.images.step().await;
        let models = all.into_iter().filter_map(|pod| PodModel::new(pod).ok());
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
        let Some(first) = found.due.first().copied() else { return };
        let resource = first.signal.resource();
        let note = format!("Attempting to reclaim {}", resource.as_str());
        tracing::warn!(signal = first.signal.name(), "the node is short of something");
        self.tools.recorder.tell(EventType::Warning, "EvictionThresholdMet", note).await;
        if matches!(resource, Resource::EphemeralStorage | Resource::Inodes)
            && self.reclaim(&thresholds).await
        {
            return;
        }
        self.evict(&active, first, &found.due, &observed, own_imagefs).await;
    }

    async fn own_imagefs(&mut self) -> bool {
        let folder = self.tools.images.folder().await;
        folder.is_some_and(|folder| observe::differ(folder, &self.tools.config.data_dir))
    }

    async fn observe(&mut self) -> Option<Observations> {
        let folder = self.tools.images.folder().await.map(std::path::Path::to_owned);
        match observe::observe(&self.tools.config, folder.as_deref(), self.tools.pods_memory) {
            Ok(observed) => Some(observed),
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, "what the node is short of is not known");
                None
            }
        }
    }

    /// Orders the end of pods that use more local storage than they may; says whether there were any.
    async fn enforce_limits(&self, active: &[PodModel]) -> bool {
        let mut any = false;
        for pod in active.iter().filter(|pod| !pod.is_critical()) {
            let usage = self.tools.pods.disk.of(&pod.uid);
            if let Some(message) = usage.and_then(|usage| limit::exceeded(pod, &usage)) {
                let (annotations, disruption) = (BTreeMap::new(), None);
                let eviction =
                    Eviction { reason: "Evicted", message, grace: AT_ONCE, annotations, disruption };
                self.order(pod, eviction).await;
                any = true;
            }
        }
        any
    }

    /// Gives back what no pod needs: dead containers of pods that are over, and unused images. Says whether that is enough.
    async fn reclaim(&mut self, thresholds: &[Threshold]) -> bool {
        for (id, log) in self.tools.pods.dead() {
            let request = keelson_cri::v1::RemoveContainerRequest { container_id: id.clone() };
            match self.tools.runtime.remove_container(request).await {
                Ok(_) => crate::log_rotation::remove_log(&log).await,
                Err(error) => tracing::warn!(%error, container = id, "a dead container is not removed"),
            }
        }
        if let Err(error) = self.tools.images.free(u64::MAX).await {
            tracing::warn!(%error, "unused images are not removed");
        }
        let Some(observed) = self.observe().await else { return false };
        thresholds.iter().all(|one| !one.is_met(&observed, true))
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
        let mut measures = match observe::measure(&self.tools.runtime).await {
            Ok(measures) => measures,
            Err(error) => {
                tracing::warn!(%error, "the runtime does not say what pods use");
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
