//! What a cluster that is at rest has in a container runtime that is not ours: all of it is ended and removed.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use keelson_cgroup::{CgroupName, Driver, Names};
use keelson_cri::v1;
use tokio::time::Instant;

use crate::cgroup::groups::Groups;
use crate::labels;
use crate::runtime_client::{RuntimeClient, RuntimeError};

/// Pods that are ended at once.
const AT_ONCE: usize = 16;
/// A container that is just starting cannot be removed: for as long as this it is tried again, with a pause.
const PATIENCE: Duration = Duration::from_secs(10);
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
    let ours: Vec<v1::PodSandbox> = all.into_iter().filter(is_ours).collect();
    let (count, elsewhere) = (ours.len(), groups_elsewhere(&ours));
    let ended = futures::stream::iter(ours).map(|one| remove_again(&runtime, one.id, grace));
    ended.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    for (group, uids) in elsewhere {
        remove_groups(&group, &uids).await;
    }
    Ok(count)
}

/// (pure) UIDs of pods by the group that their own are in, where that is not below the cluster's root, which goes as a whole.
fn groups_elsewhere(sandboxes: &[v1::PodSandbox]) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for one in sandboxes {
        let group = one.annotations.get(labels::PODS_CGROUP);
        let group = group.filter(|group| group.split('/').all(|part| part != ".."));
        if let Some((group, metadata)) = group.zip(one.metadata.as_ref()) {
            found.entry(group.clone()).or_default().push(metadata.uid.clone());
        }
    }
    found
}

/// Takes away what is left of groups of pods that have ended. What is above them is the machine's, and what cannot go is told.
async fn remove_groups(group: &str, uids: &[String]) {
    let names = if group.ends_with(".slice") {
        Names { driver: Driver::Systemd, root: CgroupName::of_slice(group) }
    } else {
        Names { driver: Driver::Cgroupfs, root: CgroupName::of_path(group) }
    };
    let groups = Groups::new(names);
    for uid in uids {
        if let Err(error) = groups.remove_pod(uid).await {
            tracing::warn!(%error, group, uid, "the control group of a pod stays");
        }
    }
    groups.remove_classes().await;
}

async fn remove_again(runtime: &RuntimeClient, id: String, grace: Duration) -> Result<(), RuntimeError> {
    again(|| remove(runtime, id.clone(), grace)).await
}

/// Tries what failed once more, until [`PATIENCE`] is over since it failed first. A call that took all of its time is
/// not made again: what it waited for will not come.
async fn again<F>(mut attempt: impl FnMut() -> F) -> Result<(), RuntimeError>
where
    F: Future<Output = Result<(), RuntimeError>>,
{
    let mut until = None;
    loop {
        let Err(error) = attempt().await else { return Ok(()) };
        let now = Instant::now();
        if now >= *until.get_or_insert(now + PATIENCE) || error.is_timeout() {
            return Err(error);
        }
        tracing::debug!(%error, "a pod is not removed yet");
        tokio::time::sleep(PAUSE).await;
    }
}

async fn remove(runtime: &RuntimeClient, id: String, grace: Duration) -> Result<(), RuntimeError> {
    let filter = v1::ContainerFilter { pod_sandbox_id: id.clone(), ..v1::ContainerFilter::default() };
    let listed = runtime.list_containers(v1::ListContainersRequest { filter: Some(filter) }).await?;
    let running = listed.containers.iter().filter(|one| one.state() == v1::ContainerState::ContainerRunning);
    futures::future::try_join_all(running.map(|one| runtime.stop_container(&one.id, grace))).await?;
    runtime.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await?;
    runtime.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: id }).await.map(drop)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tonic::{Code, Status};

    use super::*;

    fn failed(code: Code) -> RuntimeError {
        RuntimeError { call: "RemovePodSandbox", status: Status::new(code, "not now") }
    }

    #[test]
    fn groups_of_pods_are_known_where_they_do_not_go_with_the_clusters_own() {
        let sandbox = |uid: &str, group: Option<&str>| v1::PodSandbox {
            metadata: Some(v1::PodSandboxMetadata { uid: uid.to_owned(), ..Default::default() }),
            annotations: group
                .map(|group| (labels::PODS_CGROUP.to_owned(), group.to_owned()))
                .into_iter()
                .collect(),
            ..Default::default()
        };
        let group = Some("/pods/kubepods");
        let all = [
            sandbox("a", group),
            sandbox("b", None),
            sandbox("c", group),
            sandbox("d", Some("/pods/../../elsewhere")),
        ];
        let found = groups_elsewhere(&all);
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            [("/pods/kubepods".to_owned(), vec!["a".to_owned(), "c".to_owned()])]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_is_just_starting_is_removed_a_little_later() {
        let tries = Cell::new(0);
        let removed = again(|| async {
            tries.set(tries.get() + 1);
            if tries.get() < 3 { Err(failed(Code::Unknown)) } else { Ok(()) }
        });
        assert!(removed.await.is_ok());
        assert_eq!(tries.get(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_does_not_go_is_given_up_in_time() {
        let began = Instant::now();
        assert!(again(|| async { Err(failed(Code::Unknown)) }).await.is_err());
        assert_eq!(began.elapsed(), PATIENCE);
        // However long a call takes, none begins later.
        let began = Instant::now();
        let slow = || async {
            tokio::time::sleep(Duration::from_secs(100)).await;
            Err(failed(Code::Unavailable))
        };
        assert!(again(slow).await.is_err());
        assert!(began.elapsed() < Duration::from_secs(201), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn what_took_too_long_once_is_not_tried_again() {
        for code in [Code::DeadlineExceeded, Code::Cancelled] {
            let began = Instant::now();
            assert!(again(|| async { Err(failed(code)) }).await.is_err());
            assert_eq!(began.elapsed(), Duration::ZERO);
        }
    }
}
