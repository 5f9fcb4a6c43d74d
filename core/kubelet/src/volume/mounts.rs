//! What of a pod's volumes a container sees, and where.

use std::collections::HashMap;
use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use keelson_cri::v1;

use super::claim::ClaimError;
use super::error::VolumeError;
use super::{Place, plan, sub_path};
use crate::environment::expand;

/// Whether the container runtime makes mounts read-only with all that is mounted below them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recursion {
    /// It says so.
    Possible,
    /// It does not say so.
    Unknown,
}

impl Recursion {
    /// What a runtime says of its default handler.
    pub(crate) fn of(status: &v1::StatusResponse) -> Self {
        let default = status.runtime_handlers.iter().find(|handler| handler.name.is_empty());
        let features = default.and_then(|handler| handler.features.as_ref());
        if features.is_some_and(|features| features.recursive_read_only_mounts) {
            Recursion::Possible
        } else {
            Recursion::Unknown
        }
    }
}

fn propagation(mount: &VolumeMount) -> Result<v1::MountPropagation, String> {
    match mount.mount_propagation.as_deref().unwrap_or("None") {
        "None" | "" => Ok(v1::MountPropagation::PropagationPrivate),
        "HostToContainer" => Ok(v1::MountPropagation::PropagationHostToContainer),
        "Bidirectional" => Ok(v1::MountPropagation::PropagationBidirectional),
        other => Err(format!("invalid MountPropagation mode: {other:?}")),
    }
}

/// Whether mounts below the mount are read-only too, as far as the runtime can do that.
fn recursive(mount: &VolumeMount, readonly: bool, private: bool, runtime: Recursion) -> Result<bool, String> {
    match mount.recursive_read_only.as_deref().unwrap_or("Disabled") {
        "Disabled" | "" => Ok(false),
        "IfPossible" => Ok(readonly && private && runtime == Recursion::Possible),
        "Enabled" if !readonly => Err("recursiveReadOnly needs readOnly".to_owned()),
        "Enabled" if !private => Err("recursiveReadOnly needs mountPropagation None".to_owned()),
        "Enabled" if runtime == Recursion::Unknown => {
            Err("the container runtime does not support recursiveReadOnly".to_owned())
        }
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
    places: &HashMap<String, Place>,
    runtime: Recursion,
) -> Result<Vec<v1::Mount>, VolumeError> {
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
        let path = match places.get(&volume.name) {
            None => plan::path(data_dir, uid, &kind, &volume.name),
            Some(Place::Folder(path)) => path.clone(),
            Some(Place::Image(id)) => {
                out.push(of_image(mount, id, part(mount, env).map_err(refused)?));
                continue;
            }
            Some(Place::Device { .. }) => {
                return Err(VolumeError::new(&volume.name, ClaimError::IsBlock.into()));
            }
        };
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
            recursive_read_only: recursive(mount, readonly, private, runtime).map_err(refused)?,
            propagation: propagation.into(),
            ..v1::Mount::default()
        });
    }
    Ok(out)
}

/// An image, which the runtime mounts for reading alone.
fn of_image(mount: &VolumeMount, id: &str, part: String) -> v1::Mount {
    v1::Mount {
        container_path: Path::new("/").join(&mount.mount_path).to_string_lossy().into_owned(),
        readonly: true,
        image: Some(v1::ImageSpec { image: id.to_owned(), ..v1::ImageSpec::default() }),
        image_sub_path: part,
        ..v1::Mount::default()
    }
}

/// The block devices of a container.
pub(super) fn devices(
    container: &Container,
    places: &HashMap<String, Place>,
) -> Result<Vec<v1::Device>, VolumeError> {
    let mut out = Vec::new();
    for wanted in container.volume_devices.iter().flatten() {
        let Some(Place::Device { link, read_only }) = places.get(&wanted.name) else {
            return Err(VolumeError::Device {
                volume: wanted.name.clone(),
                container: container.name.clone(),
            });
        };
        out.push(v1::Device {
            container_path: wanted.device_path.clone(),
            host_path: link.to_string_lossy().into_owned(),
            permissions: if *read_only { "r" } else { "mrw" }.to_owned(),
        });
    }
    Ok(out)
}
