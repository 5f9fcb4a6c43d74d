//! A cluster of one machine, whose pods are in one container runtime or the other.

use std::fs;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::Value;

use crate::cluster::PATIENCE;
use crate::{Cluster, Containerd, image};

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

/// What is to be seen of one matter.
pub type Topic = fn(&Node);

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

    /// Gives its runtime an image with busybox that says something else of its containers and has files of its own, as
    /// [`image::busybox_with`] has it.
    pub fn import(&self, name: &str, says: &Value, files: &[(&str, &str)]) -> anyhow::Result<()> {
        let archive = self.cluster.folder().join("own-image.tar");
        image::busybox_with(&archive, name, says, files)?;
        let archive = archive.to_string_lossy();
        match &self.containerd {
            Some(containerd) => containerd.ctr(&["images", "import", &archive]).map(drop),
            None => self.cluster.keelson_prints(&["image", "import", &archive]).map(drop),
        }
    }

    /// Looks at topics one after another, each without pods of the one before. What is wrong with one hides no other: all
    /// that failed are named at the end.
    pub fn shows(&self, topics: &[(&str, Topic)]) {
        let mut wrong = Vec::new();
        for (name, topic) in topics {
            if catch_unwind(AssertUnwindSafe(|| topic(self))).is_err() {
                let pods = self.cluster.kubectl(&["get", "pods", "-o", "wide"]);
                let events =
                    self.cluster.kubectl(&["get", "events", "--sort-by=.metadata.creationTimestamp"]);
                eprintln!("--- {name} ---\n{}\n{}", pods.unwrap_or_default(), events.unwrap_or_default());
                wrong.push(*name);
            }
            if let Err(error) = self.cluster.kubectl(&["delete", "pods", "--all", PATIENCE]) {
                eprintln!("--- {name}: its pods do not go ---\n{error:#}");
                wrong.push(*name);
            }
            let _ = self.cluster.kubectl(&["delete", "events", "--all"]);
        }
        assert!(wrong.is_empty(), "wrong with {wrong:?}");
    }

    /// Who runs its containers.
    pub fn engine(&self) -> Engine {
        if self.containerd.is_some() { Engine::Containerd } else { Engine::Embedded }
    }
}

impl Deref for Node {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}
