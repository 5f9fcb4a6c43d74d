//! What of a pod's volumes a container sees, and where.

use std::collections::HashMap;
use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use keelson_cri::v1;

use super::claim::ClaimError;
use super::error::VolumeError;
use super::{Place, plan, sub_path};
use crate::environment::expand_known;

/// Whether the container runtime makes mounts read-only with all that is mounted below them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recursion {
    /// It says so.
    Possible,
    /// It does not say so.
    Unknown,
}

impl Recursion {
    /// Whether it matters to a container.
    pub(crate) fn is_asked(container: &Container) -> bool {
        let mut mounts = container.volume_mounts.iter().flatten();
        mounts.any(|mount| mount.recursive_read_only.as_deref().is_some_and(|mode| mode != "Disabled"))
    }

    /// What a runtime says of a handler; the default one has no name.
    pub(crate) fn of(status: &v1::StatusResponse, handler: &str) -> Self {
        let found = status.runtime_handlers.iter().find(|one| one.name == handler);
        let features = found.and_then(|one| one.features.as_ref());
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
fn recursive(mount: &VolumeMount, runtime: Recursion) -> Result<bool, String> {
    let mode = mount.recursive_read_only.as_deref().unwrap_or("Disabled");
    if mode == "Disabled" {
        return Ok(false);
    }
    let asks = format!("volume {:?} requested recursive read-only mode, but it is not", mount.name);
    if mount.read_only != Some(true) {
        return Err(format!("{asks} read-only"));
    }
    if let Some(propagation) = mount.mount_propagation.as_deref().filter(|mode| *mode != "None") {
        return Err(format!("{asks} compatible with propagation {propagation:?}"));
    }
    match mode {
        "IfPossible" => Ok(runtime == Recursion::Possible),
        "Enabled" if runtime == Recursion::Unknown => Err(format!("{asks} supported by the runtime")),
        "Enabled" => Ok(true),
        other => Err(format!("unknown recursive read-only mode {other:?}")),
    }
}

/// The part of the volume that the mount wants; empty for all of it.
fn part(mount: &VolumeMount, env: &[(String, String)]) -> Result<String, String> {
    let expression = mount.sub_path_expr.as_deref().filter(|text| !text.is_empty());
    let path = match expression {
        None => mount.sub_path.clone().unwrap_or_default(),
        Some(expression) => {
            let (path, missing) = expand_known(expression, env);
            if !missing.is_empty() {
                let missing: Vec<_> = missing.into_iter().collect();
                return Err(format!("missing value for {}", missing.join(", ")));
            }
            path
        }
    };
    if path.starts_with('/') {
        return Err(format!("error SubPath `{path}` must not be an absolute path"));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(format!("unable to provision SubPath `{path}`: must not contain '..'"));
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
        let missing =
            || VolumeError::Missing { volume: mount.name.clone(), container: container.name.clone() };
        let volume = volumes.iter().find(|volume| volume.name == mount.name).ok_or_else(missing)?;
        let kind = plan::kind(volume).map_err(|reason| VolumeError::new(&volume.name, reason.into()))?;
        let path = match places.get(&volume.name) {
            None => plan::path(data_dir, uid, &kind, &volume.name),
            Some(Place::Folder(path)) => path.clone(),
            Some(Place::Image(id)) => {
                out.push(of_image(mount, id, part(mount, env).map_err(VolumeError::Mount)?));
                continue;
            }
            Some(Place::Device { .. }) => {
                return Err(VolumeError::new(&volume.name, ClaimError::IsBlock.into()));
            }
        };
        let part = part(mount, env).map_err(VolumeError::Mount)?;
        let host = if part.is_empty() {
            path
        } else {
            let place = data_dir.join("pods").join(uid).join("volume-subpaths");
            let place = place.join(&volume.name).join(&container.name).join(index.to_string());
            let is_new = !path.join(&part).exists();
            sub_path::prepare(&path, &part, &place).map_err(|error| {
                tracing::warn!(uid, volume = volume.name, %error, "a part of a volume cannot be used");
                let (volume, container) = (volume.name.clone(), container.name.clone());
                match is_new {
                    true => VolumeError::NewSubPath { volume, container },
                    false => VolumeError::SubPath { volume, container },
                }
            })?;
            place
        };
        let readonly = mount.read_only == Some(true) || kind.is_read_only();
        let propagation = propagation(mount).map_err(VolumeError::Mount)?;
        let recursive_read_only = recursive(mount, runtime).map_err(|reason| {
            VolumeError::Mount(format!("failed to resolve recursive read-only mode: {reason}"))
        })?;
        out.push(v1::Mount {
            // A path without a slash in front is taken from the root.
            container_path: Path::new("/").join(&mount.mount_path).to_string_lossy().into_owned(),
            host_path: host.to_string_lossy().into_owned(),
            readonly,
            recursive_read_only,
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
