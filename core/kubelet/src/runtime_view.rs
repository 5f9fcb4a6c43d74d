//! What the container runtime holds of one pod: the observation that plans and statuses are made from.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use keelson_cri::v1;

use crate::clock;
use crate::labels;
use crate::runtime_client::{RuntimeClient, RuntimeError};
use crate::stop_signal;

/// A sandbox of the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sandbox {
    /// The runtime's identifier.
    pub(crate) id: String,
    /// How many the pod had before.
    pub(crate) attempt: u32,
    /// Whether its namespaces are alive.
    pub(crate) ready: bool,
    /// The pod's addresses, the primary one first; none on the host's network.
    pub(crate) ips: Vec<String>,
    /// Nanoseconds since 1970.
    pub(crate) created_at: i64,
}

/// What became of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ContainerState {
    /// Made, not started.
    Created,
    /// Its process runs.
    Running {
        /// Since when.
        started_at: Timestamp,
    },
    /// Its process has ended, or was never started.
    Exited {
        /// When it started; the epoch if never.
        started_at: Timestamp,
        /// When it ended.
        finished_at: Timestamp,
        /// 128 + N for signal N.
        exit_code: i32,
        /// The runtime's word for why.
        reason: String,
        /// More of it.
        message: String,
    },
    /// The runtime does not know.
    Unknown,
}

/// One instance of a container of the pod.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Instance {
    /// The runtime's identifier.
    pub(crate) id: String,
    /// The sandbox that it belongs to.
    pub(crate) sandbox: String,
    /// The container's name in the pod.
    pub(crate) name: String,
    /// How many instances came before.
    pub(crate) restart_count: u32,
    /// [`labels::hash`] of the container that it was made from.
    pub(crate) hash: String,
    /// Nanoseconds since 1970.
    pub(crate) created_at: i64,
    /// What became of it.
    pub(crate) state: ContainerState,
    /// Since when it runs, or when it ended, by the node's own time.
    pub(crate) since: Timestamp,
    /// The image as the pod names it.
    pub(crate) image: String,
    /// The image's digest or identifier.
    pub(crate) image_ref: String,
    /// The log file.
    pub(crate) log_path: String,
    /// The file on the node in which it leaves its last words, and how they are taken.
    pub(crate) termination_log: Option<String>,
    /// Limits in force.
    pub(crate) resources: Option<v1::LinuxContainerResources>,
    /// The user that it runs as.
    pub(crate) user: Option<v1::LinuxContainerUser>,
    /// The signal by which it is asked to end, if the runtime says.
    pub(crate) stop_signal: Option<String>,
    /// Where in it mounts are read-only with all that is mounted below them.
    pub(crate) recursive: Vec<String>,
}

impl Instance {
    /// Whether its process runs.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.state, ContainerState::Running { .. })
    }

    /// The exit code of an instance that has ended.
    pub(crate) fn exit_code(&self) -> Option<i32> {
        match self.state {
            ContainerState::Exited { exit_code, .. } => Some(exit_code),
            ContainerState::Created | ContainerState::Running { .. } | ContainerState::Unknown => None,
        }
    }
}

/// All of one pod in the runtime, each list newest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Observed {
    /// What the runtime calls itself: the first part of containers' identifiers in the API.
    pub(crate) runtime: Arc<str>,
    /// The pod's sandboxes.
    pub(crate) sandboxes: Vec<Sandbox>,
    /// The instances of the pod's containers.
    pub(crate) containers: Vec<Arc<Instance>>,
}

impl Observed {
    /// An instance's identifier as the API has it.
    pub(crate) fn container_id(&self, instance: &Instance) -> String {
        format!("{}://{}", self.runtime, instance.id)
    }

    /// Instances of one container, newest first.
    pub(crate) fn instances<'a>(
        &'a self,
        name: &'a str,
    ) -> impl DoubleEndedIterator<Item = &'a Arc<Instance>> + 'a {
        self.containers.iter().filter(move |one| one.name == name)
    }

    /// The newest instance of one container.
    pub(crate) fn newest(&self, name: &str) -> Option<&Arc<Instance>> {
        self.containers.iter().find(|one| one.name == name)
    }

    /// The newest sandbox, if it lives.
    pub(crate) fn ready_sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first().filter(|sandbox| sandbox.ready)
    }
}

/// Looks at one pod; remembers what cannot change any more.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    exited: HashMap<String, Arc<Instance>>,
    /// Since when instances run.
    running: HashMap<String, Timestamp>,
    addresses: HashMap<String, Vec<String>>,
}

impl Observer {
    /// (client) All of the pod in the runtime now.
    pub(crate) async fn observe(
        &mut self,
        runtime: &RuntimeClient,
        uid: &str,
    ) -> Result<Observed, RuntimeError> {
        let name = runtime.name().await?;
        let selector = HashMap::from([(labels::POD_UID.to_owned(), uid.to_owned())]);
        let filter =
            v1::PodSandboxFilter { label_selector: selector.clone(), ..v1::PodSandboxFilter::default() };
        let request = v1::ListPodSandboxRequest { filter: Some(filter) };
        let mut sandboxes = Vec::new();
        for item in runtime.list_pod_sandbox(request).await?.items {
            sandboxes.push(self.sandbox(runtime, item).await?);
        }
        let filter = v1::ContainerFilter { label_selector: selector, ..v1::ContainerFilter::default() };
        let listed = runtime.list_containers(v1::ListContainersRequest { filter: Some(filter) }).await?;
        let mut containers = Vec::new();
        for item in listed.containers {
            if let Some(instance) = self.instance(runtime, item).await? {
                containers.push(instance);
            }
        }
        self.exited.retain(|id, _| containers.iter().any(|one| one.id == *id));
        self.running.retain(|id, _| containers.iter().any(|one| one.id == *id && one.is_running()));
        self.addresses.retain(|id, _| sandboxes.iter().any(|one: &Sandbox| one.id == *id));
        sandboxes.sort_by_key(|one| std::cmp::Reverse((one.attempt, one.created_at)));
        containers.sort_by_key(|one| std::cmp::Reverse((one.restart_count, one.created_at)));
        Ok(Observed { runtime: name, sandboxes, containers })
    }

    async fn sandbox(
        &mut self,
        runtime: &RuntimeClient,
        item: v1::PodSandbox,
    ) -> Result<Sandbox, RuntimeError> {
        let ready = item.state() == v1::PodSandboxState::SandboxReady;
        if ready && !self.addresses.contains_key(&item.id) {
            let request = v1::PodSandboxStatusRequest { pod_sandbox_id: item.id.clone(), verbose: false };
            let network = match runtime.pod_sandbox_status(request).await {
                Ok(answer) => answer.status.and_then(|status| status.network),
                Err(error) if error.is_not_found() => None,
                Err(error) => return Err(error),
            };
            let network = network.unwrap_or_default();
            let more = network.additional_ips.into_iter().map(|one| one.ip);
            let ips: Vec<String> =
                std::iter::once(network.ip).chain(more).filter(|ip| !ip.is_empty()).collect();
            // A sandbox that is still coming up has none yet.
            if !ips.is_empty() {
                self.addresses.insert(item.id.clone(), ips);
            }
        }
        Ok(Sandbox {
            attempt: item.metadata.map_or(0, |metadata| metadata.attempt),
            ready,
            ips: self.addresses.get(&item.id).cloned().unwrap_or_default(),
            created_at: item.created_at,
            id: item.id,
        })
    }

    async fn instance(
        &mut self,
        runtime: &RuntimeClient,
        item: v1::Container,
    ) -> Result<Option<Arc<Instance>>, RuntimeError> {
        if let Some(known) = self.exited.get(&item.id) {
            return Ok(Some(Arc::clone(known)));
        }
        let request = v1::ContainerStatusRequest { container_id: item.id.clone(), verbose: false };
        let status = match runtime.container_status(request).await {
            Ok(answer) => answer.status,
            // Removed between the two calls.
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        let Some(status) = status else { return Ok(None) };
        let mut instance = convert(item.pod_sandbox_id, status);
        instance.since = match &instance.state {
            ContainerState::Running { started_at } => {
                *self.running.entry(item.id.clone()).or_insert_with(|| clock::of_past(*started_at))
            }
            ContainerState::Exited { finished_at, .. } => clock::of_past(*finished_at),
            ContainerState::Created | ContainerState::Unknown => instance.since,
        };
        let instance = Arc::new(instance);
        if matches!(instance.state, ContainerState::Exited { .. }) {
            self.exited.insert(item.id, Arc::clone(&instance));
        }
        Ok(Some(instance))
    }
}

fn timestamp(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// (pure) The CRI's words in ours.
fn convert(sandbox: String, status: v1::ContainerStatus) -> Instance {
    let state = match status.state() {
        v1::ContainerState::ContainerCreated => ContainerState::Created,
        v1::ContainerState::ContainerRunning => {
            ContainerState::Running { started_at: timestamp(status.started_at) }
        }
        v1::ContainerState::ContainerExited => ContainerState::Exited {
            started_at: timestamp(status.started_at),
            finished_at: timestamp(status.finished_at),
            exit_code: status.exit_code,
            reason: status.reason.clone(),
            message: status.message.clone(),
        },
        v1::ContainerState::ContainerUnknown => ContainerState::Unknown,
    };
    let stop_signal = stop_signal::name(status.stop_signal());
    let metadata = status.metadata.unwrap_or_default();
    let annotation = |key: &str| status.annotations.get(key).cloned();
    let name = status.labels.get(labels::CONTAINER_NAME).cloned().unwrap_or(metadata.name);
    let counted = annotation(labels::RESTART_COUNT).and_then(|count| count.parse().ok());
    let words = annotation(labels::TERMINATION_MESSAGE_PATH);
    let words = words.and_then(|path| {
        status.mounts.iter().find(|mount| mount.container_path == path).map(|mount| mount.host_path.clone())
    });
    let recursive = status.mounts.iter().filter(|mount| mount.recursive_read_only);
    let recursive = recursive.map(|mount| mount.container_path.clone()).collect();
    Instance {
        recursive,
        id: status.id,
        sandbox,
        name,
        restart_count: counted.unwrap_or(metadata.attempt),
        hash: annotation(labels::CONTAINER_HASH).unwrap_or_default(),
        created_at: status.created_at,
        state,
        since: Timestamp::UNIX_EPOCH,
        image: status.image.map(|image| image.user_specified_image.clone()).unwrap_or_default(),
        image_ref: if status.image_ref.is_empty() { status.image_id } else { status.image_ref },
        log_path: status.log_path,
        termination_log: words,
        resources: status.resources.and_then(|resources| resources.linux),
        user: status.user.and_then(|user| user.linux),
        stop_signal,
    }
}

/// An instance for tests.
#[cfg(test)]
pub(crate) fn fixture(id: &str, name: &str, restart_count: u32, state: ContainerState) -> Instance {
    Instance {
        recursive: Vec::new(),
        id: id.to_owned(),
        sandbox: "s0".to_owned(),
        name: name.to_owned(),
        restart_count,
        hash: String::new(),
        created_at: i64::from(restart_count),
        since: match &state {
            ContainerState::Running { started_at } => *started_at,
            ContainerState::Exited { finished_at, .. } => *finished_at,
            ContainerState::Created | ContainerState::Unknown => Timestamp::UNIX_EPOCH,
        },
        state,
        image: "img".to_owned(),
        image_ref: "sha256:1".to_owned(),
        log_path: String::new(),
        termination_log: None,
        resources: None,
        user: None,
        stop_signal: None,
    }
}
