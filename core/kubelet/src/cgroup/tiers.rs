//! The groups of the classes of pods: what all burstable pods together weigh, and all that ask for nothing.
//!
//! Guaranteed pods are directly below the root, beside the two groups: each weighs what it asks for. Without shares of
//! their own the two would weigh as much as one processor each.

use keelson_cri::v1::LinuxContainerResources;
use tokio::sync::Mutex;

use crate::node::allocatable::Shared;
use crate::pod::{PodModel, QosClass};
use crate::resources;

/// The two groups below a root, as `/keelson-0badcafe`.
#[derive(Debug)]
pub(crate) struct Tiers {
    root: String,
    /// What all pods together are held to.
    shared: Shared,
    /// The shares of burstable pods that are written.
    written: Mutex<Option<i64>>,
}

/// Shares of all burstable pods together: of those that have not ended.
fn burstable(pods: &[PodModel]) -> i64 {
    let burstable = pods.iter().filter(|pod| pod.qos_class() == QosClass::Burstable && !pod.is_over());
    resources::shares(burstable.map(|pod| resources::request(pod, "cpu")).sum())
}

impl Tiers {
    /// The groups below `root`, which together are held to `shared`.
    pub(crate) fn new(root: &str, shared: Shared) -> Self {
        Self { root: root.trim_end_matches('/').to_owned(), shared, written: Mutex::new(None) }
    }

    /// Gives the groups their shares by the pods that there are.
    pub(crate) async fn share_out(&self, pods: &[PodModel]) {
        let mut written = self.written.lock().await;
        let shares = burstable(pods);
        if *written == Some(shares) {
            return;
        }
        let group = |name: &str| format!("{}/{name}", self.root);
        let (all, burstable, best_effort) = (self.root.clone(), group("burstable"), group("besteffort"));
        let Shared { memory, cpu, processes } = self.shared;
        let work = move || {
            let of = |cpu_shares: i64| LinuxContainerResources { cpu_shares, ..Default::default() };
            super::limit(&burstable, &of(shares), 0)?;
            super::limit(&best_effort, &of(2), 0)?;
            super::cap(&all, processes)?;
            if cpu > 0 {
                super::hold(&all, memory, resources::shares(cpu))?;
            }
            // A group that comes later still has to be told.
            Ok::<bool, super::CgroupError>(super::exists(&burstable) && super::exists(&best_effort))
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(complete)) => *written = complete.then_some(shares),
            Ok(Err(error)) => tracing::warn!(%error, "classes of pods have no shares of their own"),
            Err(error) => tracing::error!(%error, "classes of pods have no shares of their own"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn burstable_pods_weigh_together_what_they_ask_for() {
        let pod = |uid: &str, cpu: &str, limit: Option<&str>, phase: &str| {
            let mut resources = json!({ "requests": { "cpu": cpu, "memory": "1Mi" } });
            if let Some(limit) = limit {
                resources["limits"] = json!({ "cpu": limit, "memory": "1Mi" });
            }
            let pod = json!({ "metadata": { "name": uid, "namespace": "n", "uid": uid },
                "spec": { "containers": [{ "name": "a", "resources": resources }] }, "status": { "phase": phase } });
            PodModel::new(std::sync::Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
        };
        let pods = [
            pod("a", "250m", None, "Running"),
            pod("b", "250m", None, "Pending"),
            pod("over", "1", None, "Succeeded"),
            pod("guaranteed", "1", Some("1"), "Running"),
        ];
        assert_eq!((burstable(&pods), burstable(&pods[3..])), (512, 2));
    }
}
