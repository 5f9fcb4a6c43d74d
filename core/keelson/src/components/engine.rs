//! A container runtime that is not ours, as containerd: it calls our pod network as a CNI plugin.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
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
        Ok(Record::read(folder)?.map(|record| record.engine))
    }

    /// The one that may still run pods of this folder.
    pub(crate) fn with_pods(folder: &Folder) -> anyhow::Result<Option<Self>> {
        let record = Record::read(folder)?.filter(|record| !record.ended);
        Ok(record.map(|record| record.engine))
    }

    /// Its pods have all ended.
    pub(crate) fn ended(self, folder: &Folder) -> anyhow::Result<()> {
        Record { engine: self, ended: true }.write(folder)
    }
}

/// `engine.json`: it leads `keelson down` to the pods.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    #[serde(flatten)]
    engine: Engine,
    /// It runs none of our pods.
    #[serde(default)]
    ended: bool,
}

impl Record {
    fn read(folder: &Folder) -> anyhow::Result<Option<Self>> {
        let path = folder.engine();
        match fs::read(&path) {
            Ok(text) => {
                let record = serde_json::from_slice(&text);
                record.map(Some).with_context(|| format!("understand {}", path.display()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    /// Either the old or the new one is there at any time.
    fn write(&self, folder: &Folder) -> anyhow::Result<()> {
        let (path, new) = (folder.engine(), folder.engine().with_extension("json.new"));
        let write = || -> io::Result<()> {
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(folder.path())?.sync_all()
        };
        write().with_context(|| format!("write {}", path.display()))
    }
}

/// Whose pods stand in the way of the runtime that is wanted.
#[derive(Debug, PartialEq, Eq)]
enum Remains<'a> {
    /// Pods of a runtime that is not ours.
    Elsewhere(&'a Path),
    /// Pods of ours.
    Embedded,
}

/// Whether the pods may be run by `wanted`, ours if it is none: never beside pods of another runtime (pure).
fn remains<'a>(
    last: Option<&'a Record>,
    wanted: Option<&Engine>,
    has_embedded_pods: bool,
) -> Option<Remains<'a>> {
    match last.filter(|last| !last.ended && Some(&last.engine) != wanted) {
        Some(last) => Some(Remains::Elsewhere(&last.engine.socket)),
        None => (wanted.is_some() && has_embedded_pods).then_some(Remains::Embedded),
    }
}

/// Makes `wanted` the folder's container runtime, ours if it is none; refuses as long as another one has pods.
pub(super) fn choose(folder: &Folder, wanted: Option<&Engine>) -> anyhow::Result<()> {
    let last = Record::read(folder)?;
    let pods = folder.join("runtime/pods");
    let has_pods = match fs::read_dir(&pods) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error).with_context(|| format!("list {}", pods.display())),
    };
    let whose = match remains(last.as_ref(), wanted, has_pods) {
        Some(Remains::Elsewhere(socket)) => format!("the container runtime at {}", socket.display()),
        Some(Remains::Embedded) => "the embedded container runtime".to_owned(),
        None => {
            return match (wanted, last) {
                (Some(engine), _) => Record { engine: engine.clone(), ended: false }.write(folder),
                (None, Some(_)) => {
                    let path = folder.engine();
                    fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
                }
                (None, None) => Ok(()),
            };
        }
    };
    bail!(
        "pods of this node are run by {whose}, and would run on beside the new ones: end them with `keelson down --data-dir \
         {}`, and start again",
        folder.path().display()
    )
}

impl Components {
    /// Starts what somebody else's runtime needs of us.
    pub(super) fn start_engine(&self, node: &Node<'_>) -> anyhow::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn engine(socket: &str) -> Engine {
        Engine { socket: socket.into() }
    }

    #[test]
    fn no_runtime_runs_pods_beside_those_of_another_one() {
        let record = |ended| Record { engine: engine("/run/a.sock"), ended };
        let (a, b) = (engine("/run/a.sock"), engine("/run/b.sock"));
        let elsewhere = Some(Remains::Elsewhere(Path::new("/run/a.sock")));
        assert_eq!(remains(Some(&record(false)), None, false), elsewhere);
        assert_eq!(remains(Some(&record(false)), Some(&b), false), elsewhere);
        assert_eq!(remains(Some(&record(false)), Some(&a), false), None);
        assert_eq!(remains(Some(&record(true)), None, false), None);
        assert_eq!(remains(Some(&record(true)), Some(&b), true), Some(Remains::Embedded));
        assert_eq!(remains(None, Some(&a), true), Some(Remains::Embedded));
        assert_eq!(remains(None, None, true), None);
    }

    #[test]
    fn the_choice_is_kept_until_its_pods_have_ended() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path()).unwrap();
        let a = engine("/run/a.sock");
        choose(&folder, Some(&a)).unwrap();
        choose(&folder, Some(&a)).unwrap();
        assert_eq!(Engine::with_pods(&folder).unwrap(), Some(a.clone()));
        let refused = choose(&folder, None).unwrap_err().to_string();
        assert!(refused.contains("/run/a.sock") && refused.contains("keelson down --data-dir"), "{refused}");
        a.clone().ended(&folder).unwrap();
        assert_eq!(
            (Engine::with_pods(&folder).unwrap(), Engine::remembered(&folder).unwrap()),
            (None, Some(a))
        );
        choose(&folder, None).unwrap();
        assert!(!folder.engine().exists());
        // One of a version before.
        fs::write(folder.engine(), r#"{"socket": "/run/b.sock"}"#).unwrap();
        assert_eq!(Engine::with_pods(&folder).unwrap(), Some(engine("/run/b.sock")));
    }
}
