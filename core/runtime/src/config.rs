//! What the runtime is told.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use crate::image::{Registries, SelfImage};
use crate::network::PodNetwork;

/// How the pod process is run: this program with these arguments and then the pod's folder must call
/// [`crate::pod_process::main`] with what follows `arguments`.
#[derive(Debug, Clone)]
pub struct PodProcess {
    /// Usually the running binary (`/proc/self/exe` resolved).
    pub program: PathBuf,
    /// For example `["pod-process"]`.
    pub arguments: Vec<OsString>,
}

/// The runtime's configuration.
#[derive(Clone)]
pub struct Config {
    /// Everything the runtime keeps: images, pods, names of network namespaces.
    pub root: PathBuf,
    /// The unix socket on which the CRI is served, mode 0600.
    pub socket: PathBuf,
    /// Eight lower-case hex digits that tell clusters on one machine apart.
    pub cluster_id: String,
    /// The control group below which pods without a parent of their own are put, for example `/keelson-0badcafe`.
    pub cgroup_root: String,
    /// Who makes the control groups.
    pub cgroup_driver: keelson_cgroup::Driver,
    /// How the pod process is run.
    pub pod_process: PodProcess,
    /// Gives pods their network.
    pub network: Arc<dyn PodNetwork>,
    /// Where images are pulled from.
    pub registries: Registries,
    /// The image that the binary carries, if any.
    pub self_image: Option<SelfImage>,
}
