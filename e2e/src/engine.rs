//! A cluster of one machine, whose pods are in one container runtime or the other.

use std::fs;
use std::ops::Deref;

use crate::{Cluster, Containerd};

/// Machines that tests run on may have little room left: that is no matter for what they show.
const ROOM: &str = "evictionHard: {memory.available: 100Mi}\n";

/// Who runs a node's containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// The runtime that is part of Keelson.
    Embedded,
    /// Debian's containerd, with runc.
    Containerd,
}

/// A cluster and what runs its pods.
pub struct Node {
    // The first to go: it ends its pods in the other.
    /// The cluster.
    pub cluster: Cluster,
    /// Nothing with the embedded runtime.
    pub containerd: Option<Containerd>,
}

impl Node {
    /// Starts it; `settings` are lines of a `KubeletConfiguration`.
    pub fn up(engine: Engine, settings: &str) -> anyhow::Result<Self> {
        let cluster = Cluster::namespaces()?;
        let settings = format!("{ROOM}{settings}");
        let containerd = match engine {
            Engine::Containerd => Some(Containerd::start(&cluster, &settings)?),
            Engine::Embedded => {
                fs::create_dir_all(cluster.data_dir())?;
                let head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
                fs::write(cluster.data_dir().join("kubelet.yaml"), format!("{head}{settings}"))?;
                None
            }
        };
        cluster.continue_with(&[])?;
        Ok(Node { cluster, containerd })
    }
}

impl Deref for Node {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}
