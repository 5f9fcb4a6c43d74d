//! The runtime's view of pods and containers: records on disk, state in memory, and the events of their changes.
//!
//! ```text
//! pods/ID/sandbox.json           the sandbox as it was asked for, its addresses, whether it was stopped
//! pods/ID/pod.json, pod.sock     the pod process's configuration and socket; pause.json its pause process
//! pods/ID/containers/ID/         a container: record.json, config.json, rootfs, started.json, exit.json
//! netns/ID                       names of network namespaces
//! ```

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keelson_cgroup::name::expand_slice;
use keelson_cri::v1;
use parking_lot::{Mutex, RwLock};
use prost::Message;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::{broadcast, watch};

use crate::cgroup::Hierarchy;
use crate::config::Config;
use crate::error::CallError;
use crate::image::ImageStore;
use crate::pod_process::protocol::{Exit, IdRange, Launch, Started, UserMap};
use crate::streaming::Streaming;
use crate::systemd_unit::scope;

/// A message of the CRI, kept in a JSON record as base64 of its encoding.
#[derive(Debug, Clone, Default)]
pub(crate) struct Encoded<T>(pub(crate) T);

impl<T: Message> Serialize for Encoded<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.0.encode_to_vec()))
    }
}

impl<'de, T: Message + Default> Deserialize<'de> for Encoded<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(serde::de::Error::custom)?;
        T::decode(bytes.as_slice()).map(Self).map_err(serde::de::Error::custom)
    }
}

/// `sandbox.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub(crate) id: String,
    pub(crate) created_at: i64,
    pub(crate) runtime_handler: String,
    pub(crate) config: Encoded<v1::PodSandboxConfig>,
    pub(crate) addresses: Vec<IpAddr>,
    /// Set up completely; a sandbox found without is the remains of a crash.
    pub(crate) complete: bool,
    /// Stopped by the kubelet; network and namespaces are gone.
    pub(crate) stopped: bool,
}

/// A pod sandbox.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) folder: PathBuf,
    pub(crate) config: v1::PodSandboxConfig,
    pub(crate) record: Mutex<SandboxRecord>,
    /// The pod process's answer to "are you there": false once it or the pause process has died.
    pub(crate) alive: watch::Sender<bool>,
    pub(crate) pause: Mutex<i32>,
    /// One change at a time.
    pub(crate) changing: tokio::sync::Mutex<()>,
}

impl Sandbox {
    pub(crate) fn is_ready(&self) -> bool {
        *self.alive.borrow() && !self.record.lock().stopped
    }

    pub(crate) fn save(&self) -> std::io::Result<()> {
        crate::pod_process::note(&self.folder.join("sandbox.json"), &*self.record.lock())
    }

    fn namespace_options(&self) -> v1::NamespaceOption {
        let linux = self.config.linux.as_ref();
        let security = linux.and_then(|linux| linux.security_context.as_ref());
        security.and_then(|security| security.namespace_options.clone()).unwrap_or_default()
    }

    pub(crate) fn options(&self) -> v1::NamespaceOption {
        self.namespace_options()
    }

    /// The ids of the pod's user namespace; `None` on the node's own.
    pub(crate) fn users(&self) -> Result<Option<UserMap>, CallError> {
        let options = self.namespace_options();
        let Some(users) = options.userns_options.filter(|users| users.mode() == v1::NamespaceMode::Pod)
        else {
            return Ok(None);
        };
        let range = |list: &[v1::IdMapping]| match list {
            [one] if one.container_id == 0 && one.length > 0 && one.host_id > 0 => {
                Ok(IdRange { outside: one.host_id, length: one.length })
            }
            _ => Err(CallError::Refused(
                "a pod's user namespace has one range of users and one of groups, which begin with 0"
                    .to_owned(),
            )),
        };
        Ok(Some(UserMap { uids: range(&users.uids)?, gids: range(&users.gids)? }))
    }

    pub(crate) fn host_network(&self) -> bool {
        self.namespace_options().network() == v1::NamespaceMode::Node
    }

    pub(crate) fn host_ipc(&self) -> bool {
        self.namespace_options().ipc() == v1::NamespaceMode::Node
    }

    pub(crate) fn host_pid(&self) -> bool {
        self.namespace_options().pid() == v1::NamespaceMode::Node
    }

    pub(crate) fn shared_pid(&self) -> bool {
        self.namespace_options().pid() == v1::NamespaceMode::Pod
    }
}

/// `record.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) id: String,
    pub(crate) sandbox: String,
    pub(crate) created_at: i64,
    pub(crate) image_id: String,
    pub(crate) image_ref: String,
    /// Chain ids, bottom first.
    pub(crate) layers: Vec<String>,
    pub(crate) config: Encoded<v1::ContainerConfig>,
    pub(crate) resources: Encoded<v1::LinuxContainerResources>,
    pub(crate) launch: Launch,
    pub(crate) stop_signal: String,
    /// Why it could not be started, if so.
    #[serde(default)]
    pub(crate) start_error: Option<String>,
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    Created,
    Running { started_at: i64, pid: i32 },
    Exited { started_at: i64, exit: Exit, why: Why },
}

/// What `reason` says of an ended container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Why {
    Ended,
    StartError(String),
    /// The pod process died with it.
    Unknown,
}

#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) sandbox: String,
    pub(crate) folder: PathBuf,
    pub(crate) record: Mutex<ContainerRecord>,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// What its writable layer holds, as counted last.
    pub(crate) layer: Mutex<Option<crate::stats::Counted>>,
}

impl Container {
    pub(crate) fn new(folder: PathBuf, record: ContainerRecord, phase: Phase) -> Self {
        Self {
            id: record.id.clone(),
            sandbox: record.sandbox.clone(),
            folder,
            record: Mutex::new(record),
            phase: watch::Sender::new(phase),
            changing: tokio::sync::Mutex::new(()),
            layer: Mutex::default(),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    pub(crate) fn save(&self) -> std::io::Result<()> {
        crate::pod_process::note(&self.folder.join("record.json"), &*self.record.lock())
    }

    /// Enters the last phase, unless it is there already. True when this was the change.
    pub(crate) fn exited(&self, exit: Exit, why: Why) -> bool {
        self.phase.send_if_modified(|phase| {
            let started_at = match phase {
                // Its end may be told before the answer to the request that started it.
                Phase::Created => started_at(&self.folder),
                Phase::Running { started_at, .. } => *started_at,
                Phase::Exited { .. } => return false,
            };
            *phase = Phase::Exited { started_at, exit, why };
            true
        })
    }
}

/// All of the runtime.
pub(crate) struct Runtime {
    pub(crate) config: Config,
    pub(crate) images: Arc<ImageStore>,
    /// Pulls under way.
    pub(crate) pulls: crate::image::pull::Pulls,
    pub(crate) hierarchy: Hierarchy,
    pub(crate) systemd: keelson_cgroup::Systemd,
    pub(crate) sandboxes: RwLock<HashMap<String, Arc<Sandbox>>>,
    pub(crate) containers: RwLock<HashMap<String, Arc<Container>>>,
    pub(crate) events: broadcast::Sender<v1::ContainerEventResponse>,
    pub(crate) streaming: Streaming,
    pub(crate) network_configured: Mutex<Option<String>>,
    /// What the images take on disk, as of this state of their index.
    pub(crate) image_usage: Mutex<Option<(std::time::SystemTime, v1::FilesystemUsage)>>,
    pub(crate) shutdown: tokio_util::sync::CancellationToken,
}

/// An id of the length that container ids have.
pub(crate) fn new_id() -> String {
    let one = || uuid::Uuid::new_v4().simple().to_string();
    one() + &one()
}

pub(crate) fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

impl Runtime {
    pub(crate) fn pods_folder(&self) -> PathBuf {
        self.config.root.join("pods")
    }

    pub(crate) fn netns_path(&self, sandbox: &str) -> PathBuf {
        self.config.root.join("netns").join(sandbox)
    }

    /// By id or an unambiguous beginning of it.
    pub(crate) fn sandbox(&self, id: &str) -> Option<Arc<Sandbox>> {
        find(&self.sandboxes.read(), id)
    }

    pub(crate) fn container(&self, id: &str) -> Option<Arc<Container>> {
        find(&self.containers.read(), id)
    }

    pub(crate) fn containers_of(&self, sandbox: &str) -> Vec<Arc<Container>> {
        self.containers.read().values().filter(|one| one.sandbox == sandbox).cloned().collect()
    }

    /// Chain ids that containers stand on.
    pub(crate) fn layers_in_use(&self) -> std::collections::HashSet<String> {
        self.containers.read().values().flat_map(|one| one.record.lock().layers.clone()).collect()
    }

    /// Tells subscribers; nobody listening is no error.
    pub(crate) fn emit(&self, id: &str, sandbox: &str, kind: v1::ContainerEventType) {
        if self.events.receiver_count() == 0 {
            return;
        }
        let status = self.sandbox(sandbox).map(|sandbox| crate::status::sandbox(&sandbox));
        let containers = self.containers_of(sandbox);
        let _ = self.events.send(v1::ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind as i32,
            created_at: now(),
            pod_sandbox_status: status,
            containers_statuses: containers.iter().map(|one| crate::status::container(one)).collect(),
        });
    }

    /// The control group that the pod's groups are below.
    pub(crate) fn cgroup_parent(&self, sandbox: &Sandbox) -> String {
        let asked = sandbox.config.linux.as_ref().map_or("", |linux| linux.cgroup_parent.as_str());
        match self.slice_of(sandbox).and_then(|slice| expand_slice(&slice)) {
            Some(path) => path,
            None if asked.is_empty() => self.config.cgroup_root.clone(),
            None => asked.to_owned(),
        }
    }

    pub(crate) fn cgroup_of(&self, sandbox: &Sandbox, id: &str) -> String {
        let name = if self.slice_of(sandbox).is_some() { scope(id) } else { id.to_owned() };
        format!("/{}/{name}", self.cgroup_parent(sandbox).trim_matches('/'))
    }
}

fn find<T>(map: &HashMap<String, Arc<T>>, id: &str) -> Option<Arc<T>> {
    if let Some(found) = map.get(id) {
        return Some(Arc::clone(found));
    }
    if id.len() < 8 {
        return None;
    }
    let mut fitting = map.iter().filter(|(key, _)| key.starts_with(id));
    match (fitting.next(), fitting.next()) {
        (Some((_, found)), None) => Some(Arc::clone(found)),
        (_, _) => None,
    }
}

/// Reads a record that may not be there. What is left of one that a crash of the machine overtook is empty.
pub(crate) fn read_record<T: for<'de> Deserialize<'de>>(path: &Path) -> std::io::Result<Option<T>> {
    match std::fs::read(path) {
        Ok(text) if text.is_empty() => Ok(None),
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The moment of a container's start as its folder tells it, 0 if it never started.
fn started_at(folder: &Path) -> i64 {
    match read_record::<Started>(&folder.join("started.json")) {
        Ok(started) => started.map_or(0, |started| started.at),
        Err(error) => {
            tracing::warn!(%error, folder = %folder.display(), "the start of a container cannot be read");
            0
        }
    }
}

/// The phase that a container's folder tells of.
pub(crate) fn phase_on_disk(folder: &Path, record: &ContainerRecord) -> std::io::Result<Phase> {
    let started: Option<Started> = read_record(&folder.join("started.json"))?;
    let exit: Option<Exit> = read_record(&folder.join("exit.json"))?;
    Ok(match (started, exit, &record.start_error) {
        (started, Some(exit), None) => {
            Phase::Exited { started_at: started.map_or(0, |started| started.at), exit, why: Why::Ended }
        }
        (started, exit, Some(message)) => Phase::Exited {
            started_at: started.map_or(0, |started| started.at),
            exit: exit.unwrap_or(Exit { code: 128, oom_killed: false, at: record.created_at }),
            why: Why::StartError(message.clone()),
        },
        (Some(started), None, None) => Phase::Running { started_at: started.at, pid: started.pid },
        (None, None, None) => Phase::Created,
    })
}
