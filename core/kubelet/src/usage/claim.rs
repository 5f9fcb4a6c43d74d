//! How full the file systems of claimed volumes are. A container says where on the node its volume lies.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, Shared};
use futures::{FutureExt as _, StreamExt as _, stream};
use k8s_openapi::api::core::v1::Volume;
use keelson_cri::v1;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::PodFigures;
use crate::node::machine::{self, FileSystem};
use crate::runtime_client::RuntimeClient;

/// A storage server that does not answer keeps nobody waiting for longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// So many pods are looked at together.
const AT_ONCE: usize = 16;

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

type Look = Shared<BoxFuture<'static, Option<FileSystem>>>;

/// Looks at file systems, of which some may hang. **Guarantee**: a path that hangs keeps one thread, however often it is asked for.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    /// Those that have not come back, with when they began.
    under_way: Arc<Mutex<HashMap<PathBuf, (Instant, Look)>>>,
}

impl Looks {
    /// What `look` finds at a path; nothing when it takes too long. Who asks meanwhile gets the same.
    async fn at(
        &self,
        path: PathBuf,
        look: impl FnOnce(&Path) -> Option<FileSystem> + Send + 'static,
    ) -> Option<FileSystem> {
        let (since, look) = {
            let mut all = self.under_way.lock();
            let begin = || {
                let (under_way, path) = (Arc::clone(&self.under_way), path.clone());
                let work = tokio::task::spawn_blocking(move || {
                    let found = look(&path);
                    under_way.lock().remove(&path);
                    found
                });
                (Instant::now(), async move { work.await.ok().flatten() }.boxed().shared())
            };
            all.entry(path.clone()).or_insert_with(begin).clone()
        };
        tokio::time::timeout_at(since + PATIENCE, look).await.ok().flatten()
    }

    /// (client) The claims of all pods, in the order of the pods.
    pub(crate) async fn of_pods(
        &self,
        runtime: &RuntimeClient,
        pods: &[PodFigures],
    ) -> Vec<Vec<ClaimFigures>> {
        let asked: Vec<_> = pods.iter().map(|pod| self.of_pod(runtime, pod).boxed()).collect();
        stream::iter(asked).buffered(AT_ONCE).collect().await
    }

    /// (client) Those of a pod that some container has mounted.
    async fn of_pod(&self, runtime: &RuntimeClient, pod: &PodFigures) -> Vec<ClaimFigures> {
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
                found.push((wanted.remove(at), path));
            }
        }
        let looks = found.into_iter().map(|((volume, claim), path)| async move {
            let file_system = self.at(path, |path| machine::file_system_at(path).ok()).await?;
            let (volume, namespace) = (volume.to_owned(), pod.model.namespace.clone());
            Some(ClaimFigures { volume, namespace, claim, file_system })
        });
        futures::future::join_all(looks).await.into_iter().flatten().collect()
    }
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

    #[tokio::test(start_paused = true)]
    async fn a_volume_that_hangs_takes_one_thread_and_nobodys_time_twice() {
        use std::sync::atomic::{AtomicUsize, Ordering};

        let (looks, threads) = (Looks::default(), Arc::new(AtomicUsize::new(0)));
        let (answer, hangs) = std::sync::mpsc::channel::<()>();
        let hangs = Arc::new(Mutex::new(hangs));
        let ask = async |path: &str| {
            let (threads, hangs, path) = (Arc::clone(&threads), Arc::clone(&hangs), PathBuf::from(path));
            let look = move |path: &Path| {
                threads.fetch_add(1, Ordering::SeqCst);
                if path == Path::new("/hangs") {
                    hangs.lock().recv().unwrap_err();
                }
                machine::file_system_at(Path::new("/")).ok()
            };
            looks.at(path, look).await
        };
        // The clock goes on when all that is left to do is to wait, and threads count as work.
        let advance = tokio::time::advance(PATIENCE + Duration::from_millis(1));
        let (first, ()) = tokio::join!(ask("/hangs"), advance);
        assert_eq!(first, None);
        let begun = Instant::now();
        assert_eq!(ask("/hangs").await, None);
        assert_eq!(Instant::now(), begun);
        assert!(ask("/other").await.is_some());
        assert_eq!(threads.load(Ordering::SeqCst), 2);
        drop(answer);
        let hung = looks.under_way.lock().get(Path::new("/hangs")).cloned();
        if let Some((_, look)) = hung {
            assert!(look.await.is_some());
        }
        assert!(looks.under_way.lock().is_empty());
    }
}
