//! The addresses of the node's pods, where the cluster gives them.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::Node;
use keelson_cri::v1::{NetworkConfig, RuntimeConfig, UpdateRuntimeConfigRequest};
use kube::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::runtime_client::{RuntimeClient, RuntimeError};

/// Between two tries to hand a range to the runtime.
const RETRY: Duration = Duration::from_secs(5);

/// Hands the node's pod addresses to the runtime. One that takes its network from elsewhere need not know them.
pub(crate) async fn tell(runtime: &RuntimeClient, range: &str) -> Result<(), RuntimeError> {
    let network_config = Some(NetworkConfig { pod_cidr: range.to_owned() });
    let runtime_config = Some(RuntimeConfig { network_config });
    runtime.update_runtime_config(UpdateRuntimeConfigRequest { runtime_config }).await.map(drop)
}

fn range_of(node: &Node) -> Option<&str> {
    node.spec.as_ref()?.pod_cidr.as_deref().filter(|range| !range.is_empty())
}

/// Hands the runtime whatever range the Node has, until `shutdown`. A node with a range of its own does not look.
pub(crate) async fn follow(
    config: Arc<Config>,
    client: kube::Client,
    runtime: RuntimeClient,
    shutdown: CancellationToken,
) {
    if config.pod_cidr.is_some() {
        return;
    }
    let own = watcher::Config::default().fields(&format!("metadata.name={}", config.node_name));
    let changes = watcher(Api::<Node>::all(client), own).default_backoff().applied_objects();
    let mut changes = std::pin::pin!(changes);
    // What the Node says and the runtime has not taken yet.
    let mut waiting: Option<String> = None;
    let mut taken: Option<String> = None;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            next = changes.try_next() => match next {
                Ok(Some(node)) => waiting = range_of(&node).map(str::to_owned).filter(|it| taken.as_ref() != Some(it)),
                Ok(None) => return,
                // It is tried again by itself.
                Err(error) => tracing::debug!(%error, "the node cannot be watched"),
            },
            () = tokio::time::sleep(RETRY), if waiting.is_some() => {}
        }
        let Some(range) = &waiting else { continue };
        match tell(&runtime, range).await {
            Ok(()) => {
                tracing::info!(range, "the node has a range of pod addresses");
                taken = waiting.take();
            }
            Err(error) => tracing::warn!(range, %error, "the runtime does not take the pods' addresses yet"),
        }
    }
}
