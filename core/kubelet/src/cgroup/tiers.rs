//! The groups of the classes of pods: what all burstable pods together weigh, and all that ask for nothing.
//!
//! Guaranteed pods are directly below the root, beside the two groups: each weighs what it asks for. Without shares of
//! their own the two would weigh as much as one processor each.

use std::sync::Arc;

use keelson_cri::v1::LinuxContainerResources;
use tokio::sync::Mutex;

use super::groups::{GroupError, Groups};
use crate::node::allocatable::Shared;
use crate::pod::{PodModel, QosClass};
use crate::resources;

/// The two groups below that of all pods, as `/keelson-0badcafe`.
#[derive(Debug)]
pub(crate) struct Tiers {
    groups: Arc<Groups>,
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
    /// The groups, which together are held to `shared`.
    pub(crate) fn new(groups: Arc<Groups>, shared: Shared) -> Self {
        Self { groups, shared, written: Mutex::new(None) }
    }

    /// Gives the groups their shares by the pods that there are.
    pub(crate) async fn share_out(&self, pods: &[PodModel]) {
        let mut written = self.written.lock().await;
        let shares = burstable(pods);
        if *written == Some(shares) {
            return;
        }
        match self.write(shares).await {
            Ok(complete) => *written = complete.then_some(shares),
            Err(error) => tracing::warn!(%error, "classes of pods have no shares of their own"),
        }
    }

    /// Says whether all of them were there.
    async fn write(&self, shares: i64) -> Result<bool, GroupError> {
        let of = |cpu_shares: i64| LinuxContainerResources { cpu_shares, ..Default::default() };
        let Shared { memory, cpu, processes } = self.shared;
        let names = self.groups.names();
        let root = &names.root;
        let (burstable, best_effort) = (root.child("burstable"), root.child("besteffort"));
        let whole = super::whole(memory, if cpu > 0 { resources::shares(cpu) } else { 0 });
        self.groups.make(root, &whole, processes).await?;
        self.groups.make(&burstable, &of(shares), 0).await?;
        self.groups.make(&best_effort, &of(2), 0).await?;
        let path = |name| names.path(name);
        let (all, burstable, best_effort) = (path(root), path(&burstable), path(&best_effort));
        let work = move || {
            super::limit(&burstable, &of(shares), 0)?;
            super::limit(&best_effort, &of(2), 0)?;
            super::cap(&all, processes)?;
            if cpu > 0 {
                super::limit(&all, &whole, 0)?;
            }
            // A group that comes later still has to be told.
            Ok::<bool, super::CgroupError>(super::exists(&burstable) && super::exists(&best_effort))
        };
        Ok(tokio::task::spawn_blocking(work).await??)
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
