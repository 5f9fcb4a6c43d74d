//! A cluster of one machine, whose pods are in one container runtime or the other.

use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::Value;

use crate::cluster::{PATIENCE, ROOM};
use crate::{Cluster, Containerd, image};

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
    /// Starts it; `settings` are lines of a `KubeletConfiguration`, beside [`ROOM`].
    pub fn up(engine: Engine, settings: &str) -> anyhow::Result<Self> {
        let node = Self::on(Cluster::namespaces()?, engine)?;
        node.configure(settings)?;
        node.continue_with(&[])?;
        Ok(node)
    }

    /// What runs its pods alone, on a machine whose cluster is still to be started.
    pub fn on(cluster: Cluster, engine: Engine) -> anyhow::Result<Self> {
        let containerd = match engine {
            Engine::Containerd => Some(Containerd::run(&cluster, "")?),
            Engine::Embedded => None,
        };
        Ok(Node { cluster, containerd })
    }

    /// Says what its kubelet is told when it starts the next time: lines of a `KubeletConfiguration`, beside those of the runtime
    /// and [`ROOM`].
    pub fn configure(&self, settings: &str) -> anyhow::Result<()> {
        self.configure_alone(&format!("{ROOM}{settings}"))
    }

    fn configure_alone(&self, settings: &str) -> anyhow::Result<()> {
        let endpoint = self.containerd.as_ref().map(Containerd::setting).unwrap_or_default();
        self.cluster.configure(&format!("{endpoint}{settings}"))
    }

    /// Kills it, and goes on with a kubelet that is told something else, without [`ROOM`].
    pub fn again(&self, settings: &str) -> anyhow::Result<()> {
        self.kill()?;
        self.configure_alone(settings)?;
        self.continue_with(&[]).map(drop)
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

    /// The images that its runtime has, as the runtime lists them.
    pub fn images(&self) -> anyhow::Result<String> {
        match &self.containerd {
            Some(containerd) => containerd.ctr(&["images", "list"]),
            None => self.cluster.keelson_prints(&["image", "list"]),
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
