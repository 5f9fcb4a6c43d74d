//! Devices of this node that plugins offer, and which container has which.
//!
//! - `inventory` (pure): what there is, who has it, and which of it a container is given
//! - `checkpoint` (disk): the same over restarts, in the file `kubelet_internal_checkpoint`
//! - `registration`: plugins make themselves known at `DATA/device-plugins/kubelet.sock`, or in the folder of all plugins (`csi`)
//! - `plugin`: one of them, and what it is asked; `allocation`: giving devices to a pod; `injection` (pure): what its containers get with them
//!
//! **Invariant: a pod is taken when its devices are written down.** One that was given some has them until it is gone, whatever becomes of
//! the plugin, the device or this process.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ResourceStatus;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::config::Config;
use crate::pod::{Member, PodModel};
use crate::topology::Hint;

mod allocation;
mod checkpoint;
mod injection;
mod inventory;
mod plugin;
mod registration;

pub(crate) use allocation::DeviceError;
pub(crate) use checkpoint::CheckpointError;
pub(crate) use injection::Injection;
pub(crate) use inventory::{Counts, Nodes};
pub(crate) use registration::DevicePlugins;

use checkpoint::Checkpoint;
use inventory::Inventory;
use plugin::Plugin;

/// A state that could not be written is written again after this.
const RETRY: Duration = Duration::from_secs(5);

/// The devices of this node.
pub(crate) struct Devices {
    data_dir: PathBuf,
    inventory: Mutex<Inventory>,
    /// By resource.
    plugins: Mutex<HashMap<String, Arc<Plugin>>>,
    checkpoint: Checkpoint,
    /// Devices are chosen for one container at a time.
    choosing: tokio::sync::Mutex<()>,
    /// One writes at a time, and what it writes is the newest.
    writing: tokio::sync::Mutex<()>,
    /// The state has to be written.
    dirty: Notify,
    /// Counts what was told of devices.
    news: watch::Sender<u64>,
    metrics: Arc<crate::metrics::Metrics>,
    shutdown: CancellationToken,
}

impl std::fmt::Debug for Devices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Devices").field("inventory", &self.inventory).finish_non_exhaustive()
    }
}

impl Devices {
    /// Reads what an earlier run has given to whom.
    pub(crate) fn open(
        config: &Config,
        metrics: Arc<crate::metrics::Metrics>,
        shutdown: CancellationToken,
    ) -> Result<Self, CheckpointError> {
        let checkpoint = Checkpoint::new(&folder(&config.data_dir));
        let inventory = checkpoint.read(clock::now())?;
        Ok(Devices {
            data_dir: config.data_dir.clone(),
            inventory: Mutex::new(inventory),
            plugins: Mutex::default(),
            checkpoint,
            choosing: tokio::sync::Mutex::default(),
            writing: tokio::sync::Mutex::default(),
            dirty: Notify::new(),
            news: watch::channel(0).0,
            metrics,
            shutdown,
        })
    }

    /// Is told when what is known of devices changes.
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// How many there are of each resource, and how many of them can be given.
    pub(crate) fn counts(&self) -> BTreeMap<String, Counts> {
        self.inventory.lock().counts(clock::now())
    }

    /// The devices of a container, with where they are, by resource.
    pub(crate) fn given(&self, uid: &str, container: &str) -> BTreeMap<String, BTreeMap<String, Nodes>> {
        let inventory = self.inventory.lock();
        let grants = inventory.grants(uid, container).into_iter().flatten();
        grants.map(|(resource, grant)| (resource.clone(), grant.devices.clone())).collect()
    }

    /// All devices that can be given, with where they are, by resource.
    pub(crate) fn allocatable(&self) -> BTreeMap<String, BTreeMap<String, Nodes>> {
        self.inventory.lock().healthy()
    }

    /// How the devices of a pod fare, by container.
    pub(crate) fn health(&self, uid: &str) -> BTreeMap<String, Vec<ResourceStatus>> {
        self.inventory.lock().health(uid)
    }

    /// Where the devices of a container can be had, among memory nodes.
    pub(crate) fn hints(&self, pod: &PodModel, member: &Member, nodes: &[u32]) -> Vec<Vec<Hint>> {
        self.inventory.lock().hints(pod, member, nodes)
    }

    /// Where those of a whole pod can be had.
    pub(crate) fn hints_of_pod(&self, pod: &PodModel, nodes: &[u32]) -> Vec<Vec<Hint>> {
        self.inventory.lock().hints_of_pod(pod, nodes)
    }

    /// Takes back what a pod had that has ended.
    pub(crate) fn release(&self, uid: &str) {
        if self.inventory.lock().release(uid) {
            self.dirty.notify_one();
        }
    }

    /// Keeps what those pods have that are still there.
    pub(crate) fn retain(&self, is_there: impl Fn(&str) -> bool) {
        let mut inventory = self.inventory.lock();
        let gone: Vec<String> = inventory.pods().filter(|uid| !is_there(uid)).map(str::to_owned).collect();
        for uid in gone {
            inventory.release(&uid);
            self.dirty.notify_one();
        }
    }

    fn changed(&self) {
        self.dirty.notify_one();
        self.news.send_modify(|count| *count += 1);
    }

    /// Writes the state as it is now.
    async fn save(&self) -> Result<(), CheckpointError> {
        let _turn = self.writing.lock().await;
        let text = self.checkpoint.text(&self.inventory.lock())?;
        let checkpoint = self.checkpoint.clone();
        let written = tokio::task::spawn_blocking(move || checkpoint.write(&text)).await;
        written.unwrap_or_else(|error| Err(CheckpointError::broken(error)))
    }

    /// Serves registration, and writes changes down that nobody waits for, until the shutdown.
    pub(crate) async fn keep(self: Arc<Self>) {
        let shutdown = self.shutdown.clone();
        let writing = async {
            loop {
                self.dirty.notified().await;
                if let Err(error) = self.save().await {
                    tracing::warn!(%error, "who has which devices is not written down");
                    tokio::time::sleep(RETRY).await;
                    self.dirty.notify_one();
                }
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = writing => {}
            () = registration::serve(Arc::clone(&self)) => {}
        }
    }
}

/// The folder of device plugins' sockets.
pub(crate) fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("device-plugins")
}
