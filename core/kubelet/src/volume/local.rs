//! Folders of persistent volumes on this node: made when they are first mounted, removed when their volume is deleted.
//!
//! The node says in an annotation of its Node where they are. A volume of it carries the node's name as a label and a finalizer, which
//! goes when the folder has gone. **Invariant: nothing but `DATA/volumes/NAME` of the volume NAME is ever removed**, whatever a volume says.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, ResourceExt as _};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::Volumes;
use super::error::{SetUpError, io_error};
use crate::config::Config;

/// Who makes volumes of folders.
pub(super) const NAME: &str = "local.keelson.io";
/// The annotation of a volume that says who made it.
pub(super) const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// The annotation of a Node with the folder of its volumes, and the finalizer of a volume whose folder may be there.
pub(crate) const FOLDER: &str = "local.keelson.io/folder";
/// The label of a volume with the name of its node.
const NODE: &str = "local.keelson.io/node";
/// Between two tries to remove folders.
const RETRY: Duration = Duration::from_secs(10);

/// The folder of this node's volumes.
pub(crate) fn folder(config: &Config) -> PathBuf {
    config.data_dir.join("volumes")
}

/// Where the folder of a volume is; `None` if the name cannot be a part of a path.
fn place(volumes: &Path, name: &str) -> Option<PathBuf> {
    let is_plain = !name.is_empty() && !name.starts_with('.') && !name.contains('/');
    is_plain.then(|| volumes.join(name))
}

/// Makes the folder of a volume. Any user of a container may write into it; others of the machine do not come as far.
pub(super) fn make(volumes: &Path, name: &str, path: &Path) -> Result<(), SetUpError> {
    if place(volumes, name).as_deref() != Some(path) {
        return Err(super::claim::ClaimError::Outside { path: path.to_owned() }.into());
    }
    DirBuilder::new().recursive(true).mode(0o755).create(volumes).map_err(io_error("create", volumes))?;
    if path.exists() {
        return Ok(());
    }
    // It has its name when it has its mode: nobody would set that later. No volume's name begins with a dot.
    let staged = volumes.join(format!(".{name}"));
    match fs::create_dir(&staged) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(io_error("create", &staged)(error));
        }
        Ok(()) | Err(_) => {}
    }
    fs::set_permissions(&staged, Permissions::from_mode(0o777))
        .map_err(io_error("set the mode of", &staged))?;
    publish(&staged, path).map_err(io_error("create", path))
}

/// Gives a folder its name, unless another pod of the volume was faster: that one may have mounted it already, also if it is still
/// empty.
fn publish(staged: &Path, path: &Path) -> io::Result<()> {
    match renameat2(AT_FDCWD, staged, AT_FDCWD, path, RenameFlags::RENAME_NOREPLACE) {
        Err(nix::Error::EEXIST) => fs::remove_dir(staged),
        renamed => renamed.map_err(io::Error::from),
    }
}

/// What a volume of this node needs now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Nothing.
    Nothing,
    /// The folder goes, then the finalizer.
    Removal,
    /// The finalizer goes; what is in the folder stays.
    Farewell,
}

/// Decides for a volume (pure).
fn need(volume: &PersistentVolume, node: &str) -> Need {
    let is_ours = volume.labels().get(NODE).is_some_and(|it| it == node)
        && volume.annotations().get(PROVISIONED_BY).is_some_and(|it| it == NAME)
        && volume.finalizers().iter().any(|it| it == FOLDER);
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    // A claim still has it: its protection goes first.
    if !is_ours || volume.metadata.deletion_timestamp.is_none() || phase == Some("Bound") {
        return Need::Nothing;
    }
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    if policy == Some("Delete") { Need::Removal } else { Need::Farewell }
}

/// Removes the folders of this node's volumes that are deleted, until `shutdown`.
pub(crate) async fn keep(
    config: Arc<Config>,
    client: kube::Client,
    volumes: impl Fn(&Path) -> bool,
    shutdown: CancellationToken,
) {
    let api: Api<PersistentVolume> = Api::all(client);
    let own = watcher::Config::default().labels(&format!("{NODE}={}", config.node_name));
    let changes = watcher(api.clone(), own).default_backoff().applied_objects();
    let mut changes = std::pin::pin!(changes);
    // What could not be done yet.
    let mut waiting: Vec<PersistentVolume> = Vec::new();
    loop {
        let mut todo = tokio::select! {
            () = shutdown.cancelled() => return,
            next = changes.try_next() => match next {
                Ok(Some(volume)) => vec![volume],
                Ok(None) => return,
                // It is tried again by itself.
                Err(error) => {
                    tracing::debug!(%error, "the volumes of this node cannot be watched");
                    continue;
                }
            },
            () = tokio::time::sleep(RETRY), if !waiting.is_empty() => std::mem::take(&mut waiting),
        };
        todo.retain(|volume| need(volume, &config.node_name) != Need::Nothing);
        for volume in todo {
            let name = volume.name_any();
            waiting.retain(|other| other.name_any() != name);
            if let Err(error) = let_go(&config, &api, &volume, &volumes).await {
                tracing::warn!(volume = name, %error, "the folder of a volume is not removed yet");
                waiting.push(volume);
            }
        }
    }
}

async fn let_go(
    config: &Config,
    api: &Api<PersistentVolume>,
    volume: &PersistentVolume,
    in_use: &impl Fn(&Path) -> bool,
) -> Result<(), String> {
    let name = volume.name_any();
    if need(volume, &config.node_name) == Need::Removal {
        let path = place(&folder(config), &name).ok_or("its name cannot be a part of a path")?;
        if in_use(&path) {
            return Err("a pod of this node still has it".to_owned());
        }
        let gone =
            tokio::task::spawn_blocking(move || remove(&path)).await.map_err(|error| error.to_string())?;
        gone.map_err(|error| error.to_string())?;
        tracing::info!(volume = name, "the folder of a volume was removed");
    }
    let mut rest = volume.finalizers().to_vec();
    rest.retain(|it| it != FOLDER);
    let body = json!({"metadata": {"resourceVersion": volume.resource_version(), "finalizers": rest}});
    match api.patch(&name, &PatchParams::default(), &Patch::Merge(body)).await {
        Ok(_) => Ok(()),
        // Gone, or changed: then its change is on the way.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(kube::Error::Api(status)) => Err(status.message.clone()),
        Err(error) => Err(error.to_string()),
    }
}

/// Removes a folder and all in it; links are removed, not followed.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl Volumes {
    /// Whether a pod has a volume at this path.
    pub(crate) fn uses(&self, path: &Path) -> bool {
        self.inner.places.lock().values().any(|place| place.path() == Some(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value};

    fn volume(node: &str, policy: &str, phase: &str, deleted: bool) -> PersistentVolume {
        let mut volume = json!({
            "metadata": {"name": "v", "labels": {NODE: node}, "annotations": {PROVISIONED_BY: NAME}, "finalizers": [FOLDER]},
            "spec": {"persistentVolumeReclaimPolicy": policy},
            "status": {"phase": phase},
        });
        if deleted {
            volume["metadata"]["deletionTimestamp"] = Value::from("2026-01-01T00:00:00Z");
        }
        from_value(volume).unwrap()
    }

    #[test]
    fn a_folder_goes_with_a_deleted_volume_of_this_node_unless_it_is_retained() {
        assert_eq!(need(&volume("a", "Delete", "Released", true), "a"), Need::Removal);
        assert_eq!(need(&volume("a", "Retain", "Released", true), "a"), Need::Farewell);
        assert_eq!(need(&volume("a", "Delete", "Released", false), "a"), Need::Nothing);
        assert_eq!(need(&volume("a", "Delete", "Bound", true), "a"), Need::Nothing);
        assert_eq!(need(&volume("b", "Delete", "Released", true), "a"), Need::Nothing);
        let mut other = volume("a", "Delete", "Released", true);
        other.annotations_mut().clear();
        assert_eq!(need(&other, "a"), Need::Nothing);
    }

    #[test]
    fn a_folder_that_another_pod_has_made_stays_also_if_it_is_empty() {
        let all = std::env::temp_dir().join(format!("keelson-publish-{}", std::process::id()));
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
        fs::create_dir_all(all.join("v")).unwrap();
        fs::create_dir(all.join(".v")).unwrap();
        let before = inode(&all.join("v"));
        publish(&all.join(".v"), &all.join("v")).unwrap();
        assert_eq!(inode(&all.join("v")), before);
        assert!(!all.join(".v").exists());
        fs::remove_dir_all(all).unwrap();
    }

    #[test]
    fn only_the_volumes_own_folder_is_made() {
        let all = std::env::temp_dir().join(format!("keelson-local-{}", std::process::id()));
        make(&all, "v", &all.join("v")).unwrap();
        assert_eq!(fs::metadata(all.join("v")).unwrap().permissions().mode() & 0o777, 0o777);
        fs::write(all.join("v/kept"), "x").unwrap();
        make(&all, "v", &all.join("v")).unwrap();
        assert!(all.join("v/kept").exists());
        assert!(make(&all, "v", &all.join("w")).is_err());
        assert!(make(&all, "..", &all.join("..")).is_err());
        remove(&all.join("v")).unwrap();
        remove(&all.join("v")).unwrap();
        fs::remove_dir_all(all).unwrap();
    }
}
