//! Who has been taken by the node, so that no two pods are given the same room.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node;
use parking_lot::{Mutex, RwLock};

use super::fit::{self, Misfit, Place};
use crate::config::Config;
use crate::memory::Why;
use crate::pod::PodModel;

/// The Node is not read again for so long.
const FRESH: Duration = Duration::from_secs(10);

/// The pods that the node has taken, with what they were given.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    taken: Mutex<HashMap<String, PodModel>>,
    /// Whether all pods that ran before are in it.
    complete: AtomicBool,
    /// The Node, as it was read last.
    node: RwLock<Option<(Node, Instant)>>,
}

impl Ledger {
    /// Pods that run from before are known.
    pub(crate) fn complete(&self) {
        self.complete.store(true, Ordering::Release);
    }

    /// Whether they are.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// The Node was read.
    pub(crate) fn learn(&self, node: Node) {
        *self.node.write() = Some((node, Instant::now()));
    }

    /// Whether the Node was not read lately.
    pub(crate) fn is_stale(&self) -> bool {
        self.node.read().as_ref().is_none_or(|(_, at)| at.elapsed() > FRESH)
    }

    /// A pod has its place already, or another one in it.
    pub(crate) fn put(&self, pod: PodModel) {
        self.taken.lock().insert(pod.uid.clone(), pod);
    }

    /// Gives a pod that has its place another amount of CPU and memory, or says why that cannot be: never on this node, or
    /// not now.
    pub(crate) fn resize(&self, pod: &PodModel, config: &Config) -> Result<(), Why> {
        let place = self.place(config);
        let mut taken = self.taken.lock();
        let others: Vec<PodModel> = taken.values().filter(|one| one.uid != pod.uid).cloned().collect();
        fit::resized(pod, &place, &others)?;
        taken.insert(pod.uid.clone(), pod.clone());
        Ok(())
    }

    /// The pods that have their place, with what they have been given.
    pub(crate) fn taken(&self) -> Vec<PodModel> {
        self.taken.lock().values().cloned().collect()
    }

    /// A pod has given its place back.
    pub(crate) fn remove(&self, uid: &str) {
        self.taken.lock().remove(uid);
    }

    /// What the node has, as far as that can be read now.
    fn place(&self, config: &Config) -> Place {
        let allocatable = crate::node::allocatable::allocatable(config).unwrap_or_else(|error| {
            tracing::error!(%error, "what pods may have of the machine is not known");
            Default::default()
        });
        let node = self.node.read();
        let known = node.as_ref().map(|(node, _)| {
            let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
            (node.metadata.labels.clone().unwrap_or_default(), taints)
        });
        Place { name: config.node_name.clone(), allocatable, known }
    }

    /// Takes a pod, unless something stands against it; answers that, with the pods that are there.
    pub(crate) fn take(&self, pod: &PodModel, config: &Config) -> Result<(), (Vec<Misfit>, Vec<PodModel>)> {
        let place = self.place(config);
        let mut taken = self.taken.lock();
        let others: Vec<PodModel> = taken.values().filter(|one| one.uid != pod.uid).cloned().collect();
        let misfits = fit::misfits(pod, &place, &others);
        if misfits.is_empty() {
            taken.insert(pod.uid.clone(), pod.clone());
            return Ok(());
        }
        Err((misfits, others))
    }
}
