//! emptyDir: a folder that lives as long as the pod, on disk, in memory or in huge pages.

use std::collections::BTreeSet;
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
    /// Huge pages of so many bytes each, and of so many in all where that is limited.
    HugePages {
        page: u64,
        bytes: Option<u64>,
    },
}

/// The size of a page by the name of its resource or medium without what comes before it, as `2Mi`.
fn page_size(size: &str) -> Option<u64> {
    bytes(&Quantity(size.to_owned()))
}

/// The sizes of huge pages that a pod asks for.
fn huge_pages(pod: &Pod) -> BTreeSet<u64> {
    let Some(spec) = &pod.spec else { return BTreeSet::new() };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let resources = containers.filter_map(|container| container.resources.as_ref()).chain(&spec.resources);
    let maps = resources.flat_map(|all| [&all.requests, &all.limits]).flatten();
    let sizes = maps.flat_map(|map| map.keys()).filter_map(|name| name.strip_prefix("hugepages-"));
    sizes.filter_map(page_size).collect()
}

/// Pages of the size that the medium names, or of the only one that the pod asks for.
fn in_huge_pages(medium: &str, limit: Option<u64>, pod: &Pod) -> Result<Medium, Refused> {
    let refused = |reason| Err(Refused::HugePages { medium: medium.to_owned(), reason });
    let asked = huge_pages(pod);
    let Some(size) = medium.strip_prefix("HugePages-") else {
        return match asked.iter().collect::<Vec<_>>()[..] {
            [] => refused("hugePage storage requested, but there is no resource request for huge pages"),
            [page] => Ok(Medium::HugePages { page: *page, bytes: limit }),
            _ => refused("can't be used if container requests multiple huge page sizes"),
        };
    };
    match page_size(size) {
        None => refused("is no size of huge pages"),
        Some(page) if asked.contains(&page) => Ok(Medium::HugePages { page, bytes: limit }),
        Some(_) => refused(
            "hugePage storage requested, but there is no resource request for huge pages of that size",
        ),
    }
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
        medium if medium == "HugePages" || medium.starts_with("HugePages-") => {
            in_huge_pages(medium, source.size_limit.as_ref().and_then(bytes), pod)
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
    match medium {
        Medium::Disk => {}
        Medium::Memory { bytes } => mount_point::tmpfs(folder, Some(*bytes), 0o777)?,
        Medium::HugePages { page, bytes } => mount_point::huge_pages(folder, *page, *bytes, 0o777)?,
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
    fn huge_pages_are_of_the_size_that_the_pod_asks_for() {
        let planned = |medium: &str, limits: serde_json::Value| {
            let pod = serde_json::json!({ "spec": { "containers": [{ "name": "a", "resources": { "limits": limits } }] } });
            let source = EmptyDirVolumeSource { medium: Some(medium.to_owned()), size_limit: None };
            plan(&source, &serde_json::from_value(pod).unwrap(), 1).map_err(|refused| refused.to_string())
        };
        use serde_json::json;
        let (two, both) =
            (json!({ "hugepages-2Mi": "4Mi" }), json!({ "hugepages-2Mi": "4Mi", "hugepages-1Gi": "1Gi" }));
        let pages = |page| Ok(Medium::HugePages { page, bytes: None });
        assert_eq!(planned("HugePages", two.clone()), pages(2 << 20));
        assert_eq!(planned("HugePages-1Gi", both.clone()), pages(1 << 30));
        let told = planned("HugePages", both).unwrap_err();
        assert_eq!(
            told,
            "medium \"HugePages\": can't be used if container requests multiple huge page sizes"
        );
        for (medium, limits) in
            [("HugePages", json!({})), ("HugePages-1Gi", two.clone()), ("HugePages-x", two)]
        {
            assert!(planned(medium, limits).is_err(), "{medium}");
        }
    }

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
