//! Groups that a kubelet has had made for its pods elsewhere than below the cluster's own, by its `cgroupRoot`: nobody else takes them away
//! when the cluster is at rest. The group that is configured stays: it is the machine's.

use std::fs;

use keelson_cgroup::CgroupName;

use crate::state::Runtime;

/// The group of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parent {
    path: String,
    by_systemd: bool,
}

/// (pure) The last part of a group's name: of a slice what is behind the last dash.
fn last(group: &str) -> &str {
    let name = group.rsplit('/').next().unwrap_or_default();
    name.strip_suffix(".slice").map_or(name, |slice| slice.rsplit('-').next().unwrap_or_default())
}

/// (pure) The groups of classes that a pod's group is in, the lowest first: `kubepods`, and one in it. What is above may have
/// such a name too, and is the machine's.
fn classes(path: &str) -> Vec<&str> {
    let above = |group: &str| group.rfind('/').filter(|end| *end > 0);
    let mut found = Vec::new();
    let Some(mut group) = above(path).map(|end| &path[..end]) else { return found };
    if matches!(last(group), "burstable" | "besteffort") {
        found.push(group);
        let Some(end) = above(group) else { return Vec::new() };
        group = &group[..end];
    }
    if last(group) != "kubepods" {
        return Vec::new();
    }
    found.push(group);
    found
}

fn slice(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

impl Runtime {
    /// The groups of pods that are not below the cluster's own.
    pub(crate) fn parents_elsewhere(&self) -> Vec<Parent> {
        let root = CgroupName::of_path(&self.config.cgroup_root);
        let own = [format!("{}/", root.path(keelson_cgroup::Driver::Cgroupfs)), format!("/{}", root.slice())];
        let sandboxes: Vec<_> = self.sandboxes.read().values().cloned().collect();
        let parent = |sandbox: &std::sync::Arc<crate::state::Sandbox>| Parent {
            path: format!("/{}", self.cgroup_parent(sandbox).trim_matches('/')),
            by_systemd: self.slice_of(sandbox).is_some(),
        };
        let is_elsewhere = |parent: &Parent| {
            let within = |own: &String| parent.path.starts_with(own.as_str());
            !own.iter().any(within)
                && parent.path != self.config.cgroup_root
                && !classes(&parent.path).is_empty()
        };
        sandboxes.iter().map(parent).filter(is_elsewhere).collect()
    }

    /// Removes the group of a pod that has ended, and those of classes that have no other any more.
    pub(crate) async fn remove_parent(&self, parent: &Parent) {
        let Parent { path, by_systemd } = parent;
        if *by_systemd && let Err(error) = self.systemd.stop(slice(path)).await {
            tracing::warn!(%error, path, "the slice of a pod stays");
        }
        if let Err(error) = self.remove_cgroup(path) {
            tracing::warn!(error = %crate::error::chain(&error), path, "the control group of a pod stays");
        }
        for class in classes(path) {
            let folders = self.hierarchy.folders(class);
            let has_pods = folders.iter().any(|folder| {
                let mut below = fs::read_dir(folder).into_iter().flatten().flatten();
                below.any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            });
            if has_pods {
                return;
            }
            if *by_systemd && let Err(error) = self.systemd.stop(slice(class)).await {
                tracing::warn!(%error, class, "the slice of a class of pods stays");
            }
            for folder in folders {
                // With processes, or gone already.
                let _ = fs::remove_dir(folder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_pods_are_known_by_their_names() {
        assert_eq!(classes("/a/kubepods/burstable/podu"), ["/a/kubepods/burstable", "/a/kubepods"]);
        assert_eq!(classes("/kubepods/podu"), ["/kubepods"]);
        assert_eq!(classes("/a/podu"), [""; 0]);
        assert_eq!(classes("/podu"), [""; 0]);
        assert_eq!(classes("/kubepods/kubepods/podu"), ["/kubepods/kubepods"]);
        assert_eq!(classes("/team-kubepods/podu"), [""; 0]);
        assert_eq!(classes("/team-kubepods/kubepods/podu"), ["/team-kubepods/kubepods"]);
        let of = "/a.slice/a-kubepods.slice/a-kubepods-besteffort.slice";
        assert_eq!(
            classes(&format!("{of}/a-kubepods-besteffort-podu.slice")),
            [of, "/a.slice/a-kubepods.slice"]
        );
    }
}
