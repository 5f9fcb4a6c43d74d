//! What a cluster that is at rest has in a container runtime that is not ours: all of it is ended and removed.

use std::path::Path;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use keelson_cri::v1;

use crate::labels;
use crate::runtime_client::{RuntimeClient, RuntimeError};

/// Pods that are ended at once.
const AT_ONCE: usize = 16;
/// A container that is just starting cannot be removed: it is tried as often as this, with a pause.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);

/// The runtime did not end or remove a pod.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct RemainsError(#[from] RuntimeError);

/// Ends and removes the pods of one cluster, known by the root of its control groups; answers how many there were. A
/// container has as long as `grace` to end after its stop signal.
pub async fn remove_pods(socket: &Path, cgroup_root: &str, grace: Duration) -> Result<usize, RemainsError> {
    let runtime = RuntimeClient::new(socket, None);
    let all = runtime.list_pod_sandbox(v1::ListPodSandboxRequest { filter: None }).await?.items;
    let is_ours = |one: &v1::PodSandbox| {
        one.annotations.get(labels::CGROUP_ROOT).is_some_and(|root| root.as_str() == cgroup_root)
    };
    let ours: Vec<String> = all.into_iter().filter(is_ours).map(|one| one.id).collect();
    let count = ours.len();
    let ended = futures::stream::iter(ours).map(|id| remove_again(&runtime, id, grace));
    ended.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    Ok(count)
}

async fn remove_again(runtime: &RuntimeClient, id: String, grace: Duration) -> Result<(), RuntimeError> {
    for _ in 1..TRIES {
        match remove(runtime, id.clone(), grace).await {
            Ok(()) => return Ok(()),
            Err(error) => tracing::debug!(sandbox = id, %error, "a pod is not removed yet"),
        }
        tokio::time::sleep(PAUSE).await;
    }
    remove(runtime, id, grace).await
}

async fn remove(runtime: &RuntimeClient, id: String, grace: Duration) -> Result<(), RuntimeError> {
    let filter = v1::ContainerFilter { pod_sandbox_id: id.clone(), ..v1::ContainerFilter::default() };
    let listed = runtime.list_containers(v1::ListContainersRequest { filter: Some(filter) }).await?;
    let running = listed.containers.iter().filter(|one| one.state() == v1::ContainerState::ContainerRunning);
    futures::future::try_join_all(running.map(|one| runtime.stop_container(&one.id, grace))).await?;
    runtime.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await?;
    runtime.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: id }).await.map(drop)
}
