//! A container runtime that is not ours, as containerd: it calls our pod network as a CNI plugin.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::Node as NodeObject;
use keelson_kubelet::KubeletConfiguration;
use keelson_runtime::network::PodNetwork as _;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{Components, Node};
use crate::cluster::Folder;
use crate::cni;
use crate::pod_network::NodeNetwork;

/// Somebody else's container runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Engine {
    /// Where it listens.
    pub(crate) socket: PathBuf,
}

impl Engine {
    /// The one that the settings name.
    pub(crate) fn of(settings: &KubeletConfiguration) -> Option<Self> {
        settings.runtime_socket().map(|socket| Engine { socket })
    }

    /// The one that this folder's pods were last run by, if it was not ours.
    pub(crate) fn remembered(folder: &Folder) -> anyhow::Result<Option<Self>> {
        let path = folder.engine();
        match fs::read(&path) {
            Ok(text) => {
                let engine = serde_json::from_slice(&text);
                engine.map(Some).with_context(|| format!("understand {}", path.display()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    /// So that `keelson down` finds the pods.
    fn remember(&self, folder: &Folder) -> anyhow::Result<()> {
        let path = folder.engine();
        let text = serde_json::to_vec(self)?;
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }
}

impl Components {
    /// Starts what somebody else's runtime needs of us.
    pub(super) fn start_engine(&self, node: &Node<'_>, engine: &Engine) -> anyhow::Result<()> {
        engine.remember(node.folder)?;
        let (places, network) = (Arc::new(cni::Places::new(node.folder)), Arc::clone(&node.network));
        // Before the kubelet asks for the first pod.
        places.prepare()?;
        self.start("CNI plugin", move |stop| cni::serve(Arc::clone(&places), Arc::clone(&network), stop));
        if node.cluster.agent.is_some() {
            let (client, name, network) =
                (node.kubelet.clone(), node.cluster.node_name.clone(), Arc::clone(&node.network));
            self.start("pod addresses", move |stop| {
                follow_range(client.clone(), name.clone(), Arc::clone(&network), stop)
            });
        }
        Ok(())
    }
}

/// Gives the pod network the range that the Node has: the runtime, which the kubelet tells it, does not hand it on.
async fn follow_range(
    client: Client,
    node_name: String,
    network: Arc<NodeNetwork>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let own = watcher::Config::default().fields(&format!("metadata.name={node_name}"));
    let changes = watcher(Api::<NodeObject>::all(client), own).default_backoff().applied_objects();
    let mut changes = std::pin::pin!(changes);
    loop {
        let next = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            next = changes.try_next() => next,
        };
        let node = match next {
            Ok(Some(node)) => node,
            Ok(None) => return Ok(()),
            // It is tried again by itself.
            Err(error) => {
                tracing::debug!(%error, "the node cannot be watched");
                continue;
            }
        };
        if let Some(range) = node.spec.and_then(|spec| spec.pod_cidr).filter(|range| !range.is_empty()) {
            network.configure(&range).await.context("take the node's range of pod addresses")?;
        }
    }
}
