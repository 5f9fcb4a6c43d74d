//! Which object the Node is: somebody may delete it and make it anew while the kubelet runs. What belongs to the old one goes with it,
//! and what was written into it is to be written again.

use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use tokio::sync::watch;

/// Tells the UID of the Node as others make it, for ever.
pub(super) async fn follow(nodes: Api<Node>, name: &str, uid: &watch::Sender<String>) {
    let own = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut changes = std::pin::pin!(watcher(nodes, own).default_backoff().applied_objects());
    loop {
        match changes.try_next().await {
            Ok(Some(node)) => learn(uid, node),
            Ok(None) => return,
            // It is tried again by itself.
            Err(error) => tracing::debug!(%error, "the node cannot be watched"),
        }
    }
}

fn learn(uid: &watch::Sender<String>, node: Node) {
    let Some(new) = node.metadata.uid.filter(|new| !new.is_empty()) else { return };
    let is_new = uid.send_if_modified(|known| {
        let is_new = *known != new;
        *known = new;
        is_new
    });
    if is_new {
        tracing::info!(node = node.metadata.name, "the node was made anew");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    #[test]
    fn a_node_is_new_when_its_uid_is() {
        let (sender, mut receiver) = watch::channel("1".to_owned());
        let mut is_new = |meta: serde_json::Value| {
            learn(&sender, from_value(json!({"metadata": meta})).unwrap());
            receiver.has_changed().unwrap().then(|| receiver.borrow_and_update().clone())
        };
        assert_eq!(is_new(json!({"uid": "1", "labels": {"a": "b"}})), None);
        assert_eq!(is_new(json!({"uid": "2"})).as_deref(), Some("2"));
        assert_eq!(is_new(json!({})), None);
    }
}
