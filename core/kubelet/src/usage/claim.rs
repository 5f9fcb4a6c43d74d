//! How full the file systems of claimed volumes are. A container says where on the node its volume lies.

use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Volume;
use keelson_cri::v1;

use super::PodFigures;
use crate::node::machine::{self, FileSystem};
use crate::runtime_client::RuntimeClient;

/// A storage server that does not answer keeps nobody waiting for longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The file system of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClaimFigures {
    /// Name of the volume in the pod.
    pub(crate) volume: String,
    pub(crate) namespace: String,
    pub(crate) claim: String,
    pub(crate) file_system: FileSystem,
}

/// (pure) The volumes of a pod that are claims, each with the claim's name.
fn claims<'a>(pod: &str, volumes: &'a [Volume]) -> Vec<(&'a str, String)> {
    let claim = |volume: &'a Volume| {
        let named = volume.persistent_volume_claim.as_ref().map(|source| source.claim_name.clone());
        let own = || volume.ephemeral.as_ref().map(|_| format!("{pod}-{}", volume.name));
        Some((volume.name.as_str(), named.or_else(own)?))
    };
    volumes.iter().filter_map(claim).collect()
}

/// (client) Those of a pod that some container has mounted.
pub(crate) async fn of_pod(runtime: &RuntimeClient, pod: &PodFigures) -> Vec<ClaimFigures> {
    let volumes = pod.model.spec().volumes.as_deref().unwrap_or_default();
    let mut wanted = claims(&pod.model.name, volumes);
    let mut found = Vec::new();
    for container in &pod.containers {
        let member = pod.model.member(&container.name);
        let mounts = member.and_then(|member| member.container.volume_mounts.as_ref());
        let mounts: Vec<_> = mounts
            .into_iter()
            .flatten()
            .filter(|mount| wanted.iter().any(|(volume, _)| *volume == mount.name))
            .collect();
        if mounts.is_empty() {
            continue;
        }
        let request = v1::ContainerStatusRequest { container_id: container.id.clone(), verbose: false };
        let Ok(answer) = runtime.container_status(request).await else { continue };
        let on_the_node = answer.status.map(|status| status.mounts).unwrap_or_default();
        for mount in mounts {
            let Some(at) = wanted.iter().position(|(volume, _)| *volume == mount.name) else { continue };
            let here = on_the_node.iter().find(|it| it.container_path == mount.mount_path);
            let Some(path) = here.map(|it| PathBuf::from(&it.host_path)) else { continue };
            let look = tokio::task::spawn_blocking(move || machine::file_system(&path));
            // A thread that hangs in the kernel is left there.
            let Ok(Ok(Ok(file_system))) = tokio::time::timeout(PATIENCE, look).await else { continue };
            let (volume, claim) = wanted.remove(at);
            let (volume, namespace) = (volume.to_owned(), pod.model.namespace.clone());
            found.push(ClaimFigures { volume, namespace, claim, file_system });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_of_the_pods_own_has_its_name_from_the_pod() {
        let volumes: Vec<Volume> = serde_json::from_value(json!([
            {"name": "a", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "b", "emptyDir": {}},
            {"name": "c", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
        ]))
        .unwrap();
        assert_eq!(claims("web", &volumes), [("a", "data".to_owned()), ("c", "web-c".to_owned())]);
    }
}
