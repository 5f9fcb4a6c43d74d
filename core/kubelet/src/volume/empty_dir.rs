//! emptyDir: a folder that lives as long as the pod, on disk or in memory.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use keelson_api::quantity::Quantity as Amount;

use super::error::{SetUpError, io_error};
use super::mount_point;
use super::ownership::{Access, FsGroup};
use super::plan::Refused;

/// What is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Medium {
    Disk,
    /// A tmpfs of so many bytes at most.
    Memory {
        bytes: u64,
    },
}

fn bytes(quantity: &Quantity) -> Option<u64> {
    u64::try_from(Amount::parse(&quantity.0).ok()?.value()).ok().filter(|bytes| *bytes > 0)
}

/// The pod's memory limit, if each of its containers has one.
fn memory_limit(pod: &Pod) -> Option<u64> {
    let spec = pod.spec.as_ref()?;
    let limit = |resources: &k8s_openapi::api::core::v1::ResourceRequirements| {
        bytes(resources.limits.as_ref()?.get("memory")?)
    };
    if let Some(limit) = spec.resources.as_ref().and_then(limit) {
        return Some(limit);
    }
    let of_container =
        |container: &k8s_openapi::api::core::v1::Container| limit(container.resources.as_ref()?);
    let together: u64 = spec.containers.iter().map(of_container).sum::<Option<u64>>()?;
    let init = spec.init_containers.iter().flatten().filter_map(of_container).max().unwrap_or(0);
    Some(together.max(init))
}

/// Disk, or memory up to the volume's limit, the pod's limit and what the node can give (pure).
pub(super) fn plan(source: &EmptyDirVolumeSource, pod: &Pod, allocatable: u64) -> Result<Medium, Refused> {
    match source.medium.as_deref().unwrap_or_default() {
        "" => Ok(Medium::Disk),
        "Memory" => {
            let own = source.size_limit.as_ref().and_then(bytes);
            let limits = [own, memory_limit(pod)];
            Ok(Medium::Memory {
                bytes: limits.into_iter().flatten().min().unwrap_or(allocatable).min(allocatable),
            })
        }
        other => Err(Refused::Medium(other.to_owned())),
    }
}

/// Makes the folder. What is in it stays.
pub(super) fn make(folder: &Path, medium: &Medium, group: Option<FsGroup>) -> Result<(), SetUpError> {
    mount_point::folder(folder)?;
    if let Medium::Memory { bytes } = medium {
        mount_point::tmpfs(folder, Some(*bytes), 0o777)?;
    }
    let mode = fs::Permissions::from_mode(0o777);
    match group {
        Some(group) => {
            if !group.is_set(folder)? {
                fs::set_permissions(folder, mode).map_err(io_error("set the mode of", folder))?;
                group.apply(folder, Access::Write)?;
            }
        }
        None => fs::set_permissions(folder, mode).map_err(io_error("set the mode of", folder))?,
    }
    Ok(())
}
