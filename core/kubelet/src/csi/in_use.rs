//! The volumes that this node uses or is about to, in `status.volumesInUse` of its Node: these are not detached.
//!
//! ```text
//! node:     says that it uses the volume, then looks whether it is attached, then mounts it
//! attacher: says that the volume is not attached, then looks whether the node uses it, then detaches it
//! ```
//!
//! **Invariants: a volume is reported before it is looked for among the attached ones, and until it is unstaged.** What an earlier run
//! has left mounted is known from its records before anything is reported, and a Node that is made anew says so from the start.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Mutex as Turn, MutexGuard, Notify, OnceCell};

use super::driver::CsiError;
use super::mount::on_disk;
use super::record;
use crate::config::Config;

/// How often it is looked whether the Node still says so, while something is in use.
const LOOK: Duration = Duration::from_secs(60);
/// How soon a report is tried again that failed.
const RETRY: Duration = Duration::from_secs(5);

/// The volumes by their names, each with the UIDs of the pods that hold it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Holders(BTreeMap<String, BTreeSet<String>>);

impl Holders {
    fn hold(&mut self, volume: &str, uid: &str) {
        self.0.entry(volume.to_owned()).or_default().insert(uid.to_owned());
    }

    /// A pod needs none of them any more, or not this one.
    fn release(&mut self, uid: &str, is_it: impl Fn(&str) -> bool) {
        self.0.retain(|volume, pods| {
            if is_it(volume) {
                pods.remove(uid);
            }
            !pods.is_empty()
        });
    }

    fn names(&self) -> BTreeSet<String> {
        self.0.keys().cloned().collect()
    }
}

/// The volumes of this node that are not to be detached.
pub(super) struct InUse {
    nodes: Api<Node>,
    node: String,
    data_dir: PathBuf,
    holders: Mutex<Holders>,
    /// The records of earlier runs were read.
    loaded: OnceCell<()>,
    /// Reports are made one after the other.
    turn: Turn<()>,
    changed: Notify,
}

fn names_of(node: &Node) -> BTreeSet<String> {
    let status = node.status.as_ref();
    status.and_then(|status| status.volumes_in_use.clone()).into_iter().flatten().collect()
}

/// The volumes that earlier runs have left attached for pods of this node.
pub(crate) async fn left_in_use(config: &Config) -> Result<BTreeSet<String>, CsiError> {
    let data_dir = config.data_dir.clone();
    let attached = on_disk(move || record::attached(&data_dir)).await?;
    Ok(attached.into_iter().map(|(_, volume)| volume).collect())
}

/// What is in use, as long as nobody else reports it.
pub(crate) struct Report<'a> {
    names: BTreeSet<String>,
    _turn: MutexGuard<'a, ()>,
}

impl Report<'_> {
    /// `status.volumesInUse` for a patch; null if there are none.
    pub(crate) fn names(&self) -> Value {
        if self.names.is_empty() { Value::Null } else { json!(self.names) }
    }
}

impl InUse {
    pub(super) fn new(client: kube::Client, config: &Config) -> Self {
        InUse {
            nodes: Api::all(client),
            node: config.node_name.clone(),
            data_dir: config.data_dir.clone(),
            holders: Mutex::default(),
            loaded: OnceCell::new(),
            turn: Turn::new(()),
            changed: Notify::new(),
        }
    }

    async fn load(&self) -> Result<(), CsiError> {
        let data_dir = self.data_dir.clone();
        let load = async || {
            for (uid, volume) in on_disk(move || record::attached(&data_dir)).await? {
                self.holders.lock().hold(&volume, &uid);
            }
            Ok(())
        };
        self.loaded.get_or_try_init(load).await.map(drop)
    }

    /// What is in use, for who writes it into the Node with other things. Nobody else writes it until the report is dropped.
    pub(super) async fn report_with(&self) -> Result<Report<'_>, CsiError> {
        self.load().await?;
        let turn = self.turn.lock().await;
        Ok(Report { names: self.holders.lock().names(), _turn: turn })
    }

    /// Has the Node say what is in use, and answers it as it is after that.
    async fn report(&self) -> Result<Node, CsiError> {
        let failed = || CsiError::api("report volumes in use of node", &self.node);
        self.load().await?;
        let _turn = self.turn.lock().await;
        let node = self.nodes.get(&self.node).await.map_err(failed())?;
        let wanted = self.holders.lock().names();
        if names_of(&node) == wanted {
            return Ok(node);
        }
        let patch = Patch::Merge(json!({"status": {"volumesInUse": wanted}}));
        self.nodes.patch_status(&self.node, &PatchParams::default(), &patch).await.map_err(failed())
    }

    /// A pod is about to use a volume. Answers the Node, which says so.
    pub(super) async fn hold(&self, volume: &str, uid: &str) -> Result<Node, CsiError> {
        self.load().await?;
        self.holders.lock().hold(volume, uid);
        self.report().await
    }

    /// A volume of a pod was taken back.
    pub(super) fn release(&self, volume: &str, uid: &str) {
        self.holders.lock().release(uid, |name| name == volume);
        self.changed.notify_one();
    }

    /// All volumes of a pod were taken back.
    pub(super) fn release_all(&self, uid: &str) {
        let mut holders = self.holders.lock();
        if holders.0.values().any(|pods| pods.contains(uid)) {
            holders.release(uid, |_| true);
            self.changed.notify_one();
        }
    }

    /// Reports what is no longer in use, and what somebody else has made of the report.
    pub(super) async fn keep(&self) {
        loop {
            let pause = match self.report().await {
                Ok(_) if self.holders.lock().0.is_empty() => None,
                Ok(_) => Some(LOOK),
                Err(error) => {
                    tracing::debug!(node = self.node, %error, "volumes in use are not reported yet");
                    Some(RETRY)
                }
            };
            tokio::select! {
                () = self.changed.notified() => {}
                () = async { tokio::time::sleep(pause.unwrap_or_default()).await }, if pause.is_some() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_in_use_until_its_last_pod_has_given_it_back() {
        let mut holders = Holders::default();
        holders.hold("a", "1");
        holders.hold("a", "2");
        holders.hold("b", "1");
        holders.release("1", |volume| volume == "a");
        assert_eq!(holders.names(), BTreeSet::from(["a".to_owned(), "b".to_owned()]));
        holders.release("2", |_| true);
        assert_eq!(holders.names(), BTreeSet::from(["b".to_owned()]));
        holders.release("1", |_| true);
        assert_eq!(holders, Holders::default());
    }
}
