//! The pods of this node, for whoever has to find one: the kubelet's server and the node's status.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::RwLock;

use crate::disk_usage::DiskUsage;
use crate::plan::Stage;
use crate::runtime_view::{ContainerState, Instance, Observed};

/// Why a container is not found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LookupError {
    /// No such pod on this node.
    #[error("pod {pod:?} not found")]
    Pod {
        /// `NAME_NAMESPACE`.
        pod: String,
    },
    /// The pod has no container of this name.
    #[error("container {container:?} not found in pod {pod:?}")]
    Container {
        /// `NAME_NAMESPACE`.
        pod: String,
        /// Name of the container.
        container: String,
    },
    /// The container was never made, or its pod's network is not up.
    #[error("container {container:?} in pod {pod:?} is waiting to start")]
    Waiting {
        /// `NAME_NAMESPACE`.
        pod: String,
        /// Name of the container.
        container: String,
    },
}

/// One instance of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContainerRef {
    /// The runtime's identifier.
    pub(crate) id: String,
    /// The pod's unique identifier.
    pub(crate) uid: String,
    /// Its log file.
    pub(crate) log_path: PathBuf,
    /// Whether it runs now.
    pub(crate) running: bool,
    /// The instance before this one, if it is still kept.
    pub(crate) previous: Option<Box<ContainerRef>>,
}

#[derive(Debug, Clone)]
struct Entry {
    pod: Arc<Pod>,
    observed: Arc<Observed>,
    /// How far its worker is, which the API may not know yet.
    stage: Stage,
}

impl Entry {
    fn is_active(&self) -> bool {
        !is_over(&self.pod) && !matches!(self.stage, Stage::Stopped | Stage::Ended)
    }
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// All pods that have a worker, as the API and as the runtime know them.
#[derive(Debug, Default)]
pub(crate) struct Pods {
    by_uid: RwLock<HashMap<String, Entry>>,
    /// What they use of the disk.
    pub(crate) disk: DiskUsage,
}

impl Pods {
    /// All pods, in no order.
    pub(crate) fn all(&self) -> Vec<Arc<Pod>> {
        self.by_uid.read().values().map(|entry| Arc::clone(&entry.pod)).collect()
    }

    /// Those that still run or may run, in no order.
    pub(crate) fn active(&self) -> Vec<Arc<Pod>> {
        let all = self.by_uid.read();
        all.values().filter(|entry| entry.is_active()).map(|entry| Arc::clone(&entry.pod)).collect()
    }

    /// Whether the end of a pod is under way.
    pub(crate) fn is_ending(&self, uid: &str) -> bool {
        self.by_uid.read().get(uid).is_some_and(|entry| entry.stage == Stage::Ending)
    }

    /// All pods with what the runtime holds of them, in no order.
    pub(crate) fn observed(&self) -> Vec<(Arc<Pod>, Arc<Observed>)> {
        let all = self.by_uid.read();
        all.values().map(|entry| (Arc::clone(&entry.pod), Arc::clone(&entry.observed))).collect()
    }

    /// Identifiers and log files of all instances that run.
    pub(crate) fn running_logs(&self) -> Vec<(String, PathBuf)> {
        let all = self.by_uid.read();
        let instances = all.values().flat_map(|entry| &entry.observed.containers);
        let running = instances.filter(|one| one.is_running() && !one.log_path.is_empty());
        running.map(|one| (one.id.clone(), PathBuf::from(&one.log_path))).collect()
    }

    /// All instances that run, with their pods.
    pub(crate) fn running(&self) -> Vec<(Arc<Pod>, Arc<Instance>)> {
        let all = self.by_uid.read();
        let of = |entry: &Entry| {
            let running = entry.observed.containers.iter().filter(|one| one.is_running()).cloned();
            let pod = Arc::clone(&entry.pod);
            running.map(move |one| (Arc::clone(&pod), one)).collect::<Vec<_>>()
        };
        all.values().flat_map(of).collect()
    }

    /// Whether a pod still runs or may run.
    pub(crate) fn is_active(&self, uid: &str) -> bool {
        self.by_uid.read().get(uid).is_some_and(Entry::is_active)
    }

    /// Identifiers and log files of instances that have ended, of pods that are over.
    pub(crate) fn dead(&self) -> Vec<(String, PathBuf)> {
        let all = self.by_uid.read();
        let over = all.values().filter(|entry| is_over(&entry.pod));
        let ended = over.flat_map(|entry| &entry.observed.containers).filter(|one| one.exit_code().is_some());
        ended.map(|one| (one.id.clone(), PathBuf::from(&one.log_path))).collect()
    }

    /// The pod's newest state.
    pub(crate) fn put(&self, uid: &str, pod: Arc<Pod>, observed: Arc<Observed>, stage: Stage) {
        self.by_uid.write().insert(uid.to_owned(), Entry { pod, observed, stage });
    }

    /// The pod's worker has ended.
    pub(crate) fn remove(&self, uid: &str) {
        self.by_uid.write().remove(uid);
    }

    fn entry(&self, namespace: &str, name: &str, uid: Option<&str>) -> Result<Entry, LookupError> {
        let all = self.by_uid.read();
        let fits = |entry: &&Entry| {
            let metadata = &entry.pod.metadata;
            metadata.name.as_deref() == Some(name)
                && metadata.namespace.as_deref() == Some(namespace)
                && uid.is_none_or(|uid| metadata.uid.as_deref() == Some(uid))
        };
        // Of two pods of the same name the one that is not being deleted is meant.
        let mut found: Vec<&Entry> = all.values().filter(fits).collect();
        found.sort_by_key(|entry| entry.pod.metadata.deletion_timestamp.is_some());
        let missing = || LookupError::Pod { pod: format!("{name}_{namespace}") };
        found.first().map(|entry| (*entry).clone()).ok_or_else(missing)
    }

    /// The pod's object.
    pub(crate) fn pod(
        &self,
        namespace: &str,
        name: &str,
        uid: Option<&str>,
    ) -> Result<Arc<Pod>, LookupError> {
        Ok(self.entry(namespace, name, uid)?.pod)
    }

    /// The newest instance of a container, with the one before it.
    pub(crate) fn container(
        &self,
        namespace: &str,
        pod: &str,
        uid: Option<&str>,
        container: &str,
    ) -> Result<ContainerRef, LookupError> {
        let entry = self.entry(namespace, pod, uid)?;
        let label = || format!("{pod}_{namespace}");
        let spec = entry.pod.spec.as_ref();
        let mut names = spec.into_iter().flat_map(|spec| {
            let plain = spec.containers.iter().chain(spec.init_containers.iter().flatten());
            let ephemeral = spec.ephemeral_containers.iter().flatten().map(|one| one.name.as_str());
            plain.map(|one| one.name.as_str()).chain(ephemeral)
        });
        if !names.any(|name| name == container) {
            return Err(LookupError::Container { pod: label(), container: container.to_owned() });
        }
        let uid = entry.pod.metadata.uid.clone().unwrap_or_default();
        let mut previous = None;
        for instance in entry.observed.instances(container).rev() {
            previous = Some(Box::new(ContainerRef {
                id: instance.id.clone(),
                uid: uid.clone(),
                log_path: PathBuf::from(&instance.log_path),
                running: matches!(instance.state, ContainerState::Running { .. }),
                previous: previous.take(),
            }));
        }
        let newest =
            previous.ok_or_else(|| LookupError::Waiting { pod: label(), container: container.to_owned() });
        Ok(*newest?)
    }

    /// The sandbox that runs the pod now.
    pub(crate) fn sandbox(
        &self,
        namespace: &str,
        pod: &str,
        uid: Option<&str>,
    ) -> Result<String, LookupError> {
        let entry = self.entry(namespace, pod, uid)?;
        let missing =
            || LookupError::Waiting { pod: format!("{pod}_{namespace}"), container: "POD".to_owned() };
        entry.observed.ready_sandbox().map(|sandbox| sandbox.id.clone()).ok_or_else(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_of_which_nothing_runs_is_not_active_while_the_api_does_not_know_it() {
        let pods = Pods::default();
        let pod = |phase: &str| {
            Arc::new(serde_json::from_value(serde_json::json!({ "status": { "phase": phase } })).unwrap())
        };
        let put = |uid: &str, phase: &str, stage| pods.put(uid, pod(phase), Arc::default(), stage);
        put("runs", "Running", Stage::Running);
        put("ends", "Running", Stage::Ending);
        put("stopped", "Running", Stage::Stopped);
        put("ended", "Running", Stage::Ended);
        put("told", "Failed", Stage::Ended);
        let is_active = |uid: &&str| pods.is_active(uid);
        let all = ["runs", "ends", "stopped", "ended", "told", "unknown"];
        assert_eq!(all.into_iter().filter(is_active).collect::<Vec<_>>(), ["runs", "ends"]);
        assert_eq!(pods.active().len(), 2);
        assert_eq!((pods.is_ending("runs"), pods.is_ending("ends")), (false, true));
    }
}
