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

/// Whether nobody has used the folder yet: it is not there, or is as it was made and never handed out.
fn is_fresh(folder: &Path) -> bool {
    let Ok(found) = fs::metadata(folder) else { return true };
    let untouched = matches!(found.permissions().mode() & 0o7777, 0o755 | 0o750 | 0o700);
    untouched && fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

/// Makes the folder. What is in it stays, and so does the mode that its user gave it.
pub(super) fn make(folder: &Path, medium: &Medium, group: Option<FsGroup>) -> Result<(), SetUpError> {
    let fresh = is_fresh(folder);
    mount_point::folder(folder)?;
    if let Medium::Memory { bytes } = medium {
        mount_point::tmpfs(folder, Some(*bytes), 0o777)?;
    }
    if !fresh {
        return Ok(());
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o777))
        .map_err(io_error("set the mode of", folder))?;
    if let Some(group) = group {
        group.apply(folder, Access::Write)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_that_its_user_gave_a_folder_stays() {
        let folder = std::env::temp_dir().join(format!("keelson-empty-dir-{}", uuid::Uuid::new_v4()));
        let mode = || fs::metadata(&folder).unwrap().permissions().mode() & 0o7777;
        make(&folder, &Medium::Disk, None).unwrap();
        assert_eq!(mode(), 0o777);
        fs::write(folder.join("PG_VERSION"), "17").unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        make(&folder, &Medium::Disk, None).unwrap();
        assert_eq!(mode(), 0o700);
        fs::remove_dir_all(&folder).unwrap();
    }
}
