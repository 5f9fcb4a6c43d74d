//! (pure) A group's name: component by component for the kubelet, a path for the kernel, a unit for systemd.

use serde::{Deserialize, Serialize};

/// Who makes control groups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// Kubelet and runtime, as folders.
    #[default]
    Cgroupfs,
    /// systemd, as slices and scopes.
    Systemd,
}

/// A group, from the root down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupName(Vec<String>);

impl CgroupName {
    /// The one at a path, as `/keelson-0badcafe`.
    pub fn of_path(path: &str) -> Self {
        CgroupName(path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect())
    }

    /// The slice that a path ends in, or of that name: `/a.slice/a-b.slice` and `a-b` are the same.
    pub fn of_slice(path: &str) -> Self {
        let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let name = name.strip_suffix(".slice").unwrap_or(name);
        CgroupName(
            name.split('-').filter(|part| !part.is_empty()).map(|part| part.replace('_', "-")).collect(),
        )
    }

    /// As others write it: `["a" "b-c"]`.
    pub fn quoted(&self) -> String {
        let parts: Vec<String> = self.0.iter().map(|part| format!("{part:?}")).collect();
        format!("[{}]", parts.join(" "))
    }

    /// A group right below.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        CgroupName(self.0.iter().map(String::as_str).chain([name]).map(str::to_owned).collect())
    }

    /// Its slice, as `a-b.slice`: a `-` of a component is `_` there, for systemd's own ones part the components.
    pub fn slice(&self) -> String {
        let parts: Vec<String> = self.0.iter().map(|part| part.replace('-', "_")).collect();
        if parts.is_empty() { "-.slice".to_owned() } else { format!("{}.slice", parts.join("-")) }
    }

    /// Its path below each hierarchy's root.
    pub fn path(&self, driver: Driver) -> String {
        match driver {
            Driver::Cgroupfs => format!("/{}", self.0.join("/")),
            Driver::Systemd => expand_slice(&self.slice()).unwrap_or_else(|| "/".to_owned()),
        }
    }
}

/// The path of a slice: `a-b.slice` is `/a.slice/a-b.slice`. `None` for what is no slice's name.
pub fn expand_slice(slice: &str) -> Option<String> {
    let name = slice.strip_suffix(".slice").filter(|name| !name.contains('/'))?;
    if name == "-" {
        return Some("/".to_owned());
    }
    let (mut path, mut prefix) = (String::new(), String::new());
    for part in name.split('-') {
        if part.is_empty() {
            return None;
        }
        prefix.push_str(part);
        path.push_str(&format!("/{prefix}.slice"));
        prefix.push('-');
    }
    Some(path)
}

/// The groups of all pods of a kubelet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Who makes them.
    pub driver: Driver,
    /// The group that all are below.
    pub root: CgroupName,
}

impl Names {
    /// Those below a cluster's root, as `/keelson-0badcafe`. systemd's have another level, so that slices have the names by which
    /// others know those of pods: `keelson_0badcafe-kubepods-burstable-podUID.slice`, as of a kubelet with that `cgroupRoot`.
    pub fn new(driver: Driver, root: &str) -> Self {
        let root = CgroupName::of_path(root);
        let root = match driver {
            Driver::Cgroupfs => root,
            Driver::Systemd => root.child("kubepods"),
        };
        Names { driver, root }
    }

    /// Those below a group of the machine, the kubelet's `cgroupRoot`, as every kubelet names them: `/a/kubepods`, or
    /// `a-kubepods.slice`.
    pub fn below(driver: Driver, root: &str) -> Self {
        Names { driver, root: CgroupName::of_path(root).child("kubepods") }
    }

    /// A group's path below each hierarchy's root.
    pub fn path(&self, name: &CgroupName) -> String {
        name.path(self.driver)
    }

    /// What a container runtime is told as the parent of containers' groups.
    pub fn parent(&self, name: &CgroupName) -> String {
        match self.driver {
            Driver::Cgroupfs => self.path(name),
            Driver::Systemd => name.slice(),
        }
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn a_pods_group_is_a_folder_or_a_slice() {
        let name = |driver| {
            let names = Names::new(driver, "/keelson-0badcafe");
            let pod = names.root.child("burstable").child("pod0a1b-2c3d");
            (names.path(&pod), names.parent(&pod))
        };
        let folder = "/keelson-0badcafe/burstable/pod0a1b-2c3d".to_owned();
        assert_eq!(name(Driver::Cgroupfs), (folder.clone(), folder));
        let slice = "keelson_0badcafe-kubepods-burstable-pod0a1b_2c3d.slice";
        let path = format!(
            "/keelson_0badcafe.slice/keelson_0badcafe-kubepods.slice/keelson_0badcafe-kubepods-burstable.slice/{slice}"
        );
        assert_eq!(name(Driver::Systemd), (path, slice.to_owned()));
    }

    #[test]
    fn names_without_a_root_of_their_own_are_those_of_every_kubelet() {
        let names = Names::new(Driver::Systemd, "/");
        assert_eq!(names.root.slice(), "kubepods.slice");
        let pod = names.root.child("besteffort").child("pod7-8");
        assert_eq!(
            names.path(&pod),
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod7_8.slice"
        );
        assert_eq!(
            (CgroupName::of_path("/").slice(), CgroupName::of_path("").path(Driver::Systemd)),
            ("-.slice".into(), "/".into())
        );
    }

    #[test]
    fn groups_below_one_of_the_machine_are_named_as_by_every_kubelet() {
        let path = |driver, root: &str| {
            let names = Names::below(driver, root);
            names.path(&names.root.child("burstable"))
        };
        assert_eq!(path(Driver::Cgroupfs, "/"), "/kubepods/burstable");
        assert_eq!(path(Driver::Cgroupfs, "/a-b/c"), "/a-b/c/kubepods/burstable");
        assert_eq!(path(Driver::Systemd, "/"), "/kubepods.slice/kubepods-burstable.slice");
        assert_eq!(path(Driver::Systemd, "/a"), "/a.slice/a-kubepods.slice/a-kubepods-burstable.slice");
    }

    #[test]
    fn a_slice_is_known_by_its_path_or_its_name() {
        assert_eq!(CgroupName::of_slice("/a.slice/a-b_c.slice"), CgroupName::of_path("/a/b-c"));
        assert_eq!(CgroupName::of_slice("system.slice").slice(), "system.slice");
        assert_eq!(CgroupName::of_path("/a/b-c").quoted(), r#"["a" "b-c"]"#);
    }

    #[test]
    fn what_is_no_slice_has_no_path() {
        assert_eq!(expand_slice("test-a-b.slice").unwrap(), "/test.slice/test-a.slice/test-a-b.slice");
        assert_eq!(expand_slice("-.slice").unwrap(), "/");
        for name in ["test", "a/b.slice", "test--a.slice", "-test.slice", "test-.slice", ".slice", "/a"] {
            assert_eq!(expand_slice(name), None, "{name}");
        }
    }
}
