//! What of a pod's volumes a container sees, and where.

use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use keelson_cri::v1;

use super::error::VolumeError;
use super::{plan, sub_path};
use crate::environment::expand;

fn propagation(mount: &VolumeMount) -> Result<v1::MountPropagation, String> {
    match mount.mount_propagation.as_deref().unwrap_or("None") {
        "None" | "" => Ok(v1::MountPropagation::PropagationPrivate),
        "HostToContainer" => Ok(v1::MountPropagation::PropagationHostToContainer),
        "Bidirectional" => Ok(v1::MountPropagation::PropagationBidirectional),
        other => Err(format!("invalid MountPropagation mode: {other:?}")),
    }
}

/// Whether mounts below the mount are read-only too. `IfPossible` leaves that to what the mount itself can do.
fn recursive(mount: &VolumeMount, readonly: bool, private: bool) -> Result<bool, String> {
    match mount.recursive_read_only.as_deref().unwrap_or("Disabled") {
        "Disabled" | "" | "IfPossible" => Ok(false),
        "Enabled" if !readonly => Err("recursiveReadOnly needs readOnly".to_owned()),
        "Enabled" if !private => Err("recursiveReadOnly needs mountPropagation None".to_owned()),
        "Enabled" => Ok(true),
        other => Err(format!("unknown recursiveReadOnly mode {other:?}")),
    }
}

/// The part of the volume that the mount wants; empty for all of it.
fn part(mount: &VolumeMount, env: &[(String, String)]) -> Result<String, String> {
    let expression = mount.sub_path_expr.as_deref().filter(|text| !text.is_empty());
    let Some(expression) = expression else {
        return Ok(mount.sub_path.clone().unwrap_or_default());
    };
    let path = expand(expression, env);
    if path.is_empty() {
        return Err(format!("subPathExpr {expression:?} expands to nothing"));
    }
    // A reference that nothing is known of stays as it was.
    if path.contains("$(") && !expression.contains("$$(") {
        return Err(format!("missing value for subPathExpr {expression:?}"));
    }
    Ok(path)
}

/// The mounts of a container. Parts of volumes are bound to `DATA/pods/UID/volume-subpaths/VOLUME/CONTAINER/INDEX`.
pub(super) fn of(
    data_dir: &Path,
    uid: &str,
    pod: &Pod,
    container: &Container,
    env: &[(String, String)],
) -> Result<Vec<v1::Mount>, VolumeError> {
    if container.volume_devices.as_ref().is_some_and(|devices| !devices.is_empty()) {
        return Err(VolumeError::Devices { container: container.name.clone() });
    }
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let mut out = Vec::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let refused = |reason: String| VolumeError::Mount {
            container: container.name.clone(),
            mount_path: mount.mount_path.clone(),
            reason,
        };
        let missing =
            || VolumeError::Missing { volume: mount.name.clone(), container: container.name.clone() };
        let volume = volumes.iter().find(|volume| volume.name == mount.name).ok_or_else(missing)?;
        let kind = plan::kind(volume).map_err(|reason| VolumeError::new(&volume.name, reason.into()))?;
        let path = plan::path(data_dir, uid, &kind, &volume.name);
        let part = part(mount, env).map_err(refused)?;
        let host = if part.is_empty() {
            path
        } else {
            let place = data_dir.join("pods").join(uid).join("volume-subpaths");
            let place = place.join(&volume.name).join(&container.name).join(index.to_string());
            sub_path::prepare(&path, &part, &place).map_err(|reason| VolumeError::SubPath {
                volume: volume.name.clone(),
                container: container.name.clone(),
                reason: reason.to_string(),
            })?;
            place
        };
        let readonly = mount.read_only == Some(true) || kind.is_read_only();
        let propagation = propagation(mount).map_err(refused)?;
        let private = propagation == v1::MountPropagation::PropagationPrivate;
        out.push(v1::Mount {
            // A path without a slash in front is taken from the root.
            container_path: Path::new("/").join(&mount.mount_path).to_string_lossy().into_owned(),
            host_path: host.to_string_lossy().into_owned(),
            readonly,
            recursive_read_only: recursive(mount, readonly, private).map_err(refused)?,
            propagation: propagation.into(),
            ..v1::Mount::default()
        });
    }
    Ok(out)
}
