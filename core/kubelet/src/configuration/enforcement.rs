//! (pure) `enforceNodeAllocatable`: which groups are held to what is left of the machine, or to what is kept of it.

use super::KubeletConfiguration;
use crate::eviction::Fault;

/// A group that is held to something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Enforcement {
    /// `pods`: all pods together to what is left.
    Pods,
    /// `system-reserved`, and `-compressible` where only its share of the processors is: `systemReservedCgroup` to `systemReserved`.
    System { compressible: bool },
    /// `kube-reserved`, the same with `kubeReservedCgroup` and `kubeReserved`.
    Kube { compressible: bool },
    /// `none`
    None,
}

/// What one of a name is.
pub(crate) fn enforcement(name: &str) -> Option<Enforcement> {
    match name {
        "pods" => Some(Enforcement::Pods),
        "system-reserved" => Some(Enforcement::System { compressible: false }),
        "system-reserved-compressible" => Some(Enforcement::System { compressible: true }),
        "kube-reserved" => Some(Enforcement::Kube { compressible: false }),
        "kube-reserved-compressible" => Some(Enforcement::Kube { compressible: true }),
        "none" => Some(Enforcement::None),
        _ => None,
    }
}

const FIELD: &str = "enforceNodeAllocatable";

/// Whether they can be followed, each for itself and all together.
pub(super) fn check(settings: &KubeletConfiguration) -> Result<(), Fault> {
    let all = &settings.enforce_node_allocatable;
    let fault = |name: &str, reason| Err((FIELD, name.to_owned(), reason));
    let has = |name: &str| all.iter().any(|one| one == name);
    if has("system-reserved") && has("system-reserved-compressible") {
        let reason =
            "both \"system-reserved\" and \"system-reserved-compressible\" cannot be specified together";
        return fault(&all.join(","), reason);
    }
    if has("kube-reserved") && has("kube-reserved-compressible") {
        let reason = "both \"kube-reserved\" and \"kube-reserved-compressible\" cannot be specified together";
        return fault(&all.join(","), reason);
    }
    for (place, name) in all.iter().enumerate() {
        if all[..place].contains(name) {
            return fault(name, "duplicated enforcements");
        }
        match enforcement(name) {
            Some(Enforcement::System { .. }) if settings.system_reserved_cgroup.is_empty() => {
                let reason = "must be specified when \"system-reserved\" or \"system-reserved-compressible\" included in enforceNodeAllocatable";
                return Err(("systemReservedCgroup", String::new(), reason));
            }
            Some(Enforcement::Kube { .. }) if settings.kube_reserved_cgroup.is_empty() => {
                let reason = "must be specified when \"kube-reserved\" or \"kube-reserved-compressible\" included in enforceNodeAllocatable";
                return Err(("kubeReservedCgroup", String::new(), reason));
            }
            Some(Enforcement::None) if all.len() > 1 => {
                return fault(name, "may not contain additional enforcements when \"none\" is specified");
            }
            Some(_) => {}
            None => {
                let reason = "valid options are \"pods\", \"system-reserved\", \"system-reserved-compressible\", \"kube-reserved\", \"kube-reserved-compressible\" or \"none\"";
                return fault(name, reason);
            }
        }
    }
    if !settings.cgroups_per_qos {
        // Without them nothing could be enforced, nor told of a pod.
        let all = all.iter().filter(|name| *name != "none").count();
        let reason = if all > 0 {
            "must be set to true when enforceNodeAllocatable contains anything but \"none\""
        } else {
            "this kubelet keeps a control group for each pod and class of pods"
        };
        return Err(("cgroupsPerQOS", "false".to_owned(), reason));
    }
    let is_plain = |group: &str| group.split('/').all(|part| part != "." && part != "..");
    let root = settings.cgroup_root.as_str();
    let is_path = root.starts_with('/') && is_plain(root);
    if !root.is_empty() && !is_path {
        return Err(("cgroupRoot", root.to_owned(), "must be the path of a control group, as /pods"));
    }
    let groups = [
        ("systemReservedCgroup", &settings.system_reserved_cgroup),
        ("kubeReservedCgroup", &settings.kube_reserved_cgroup),
    ];
    for (field, group) in groups.into_iter().filter(|(_, group)| !group.is_empty()) {
        if !settings.reserved_system_cpus.is_empty() {
            return Err((field, group.clone(), "can't be used with reservedSystemCPUs"));
        }
        if !is_plain(group) || group.trim_matches('/').is_empty() {
            return Err((field, group.clone(), "must be the path of a control group, as /system.slice"));
        }
    }
    Ok(())
}

impl KubeletConfiguration {
    /// What is held to something, in upstream's order.
    pub(crate) fn enforcements(&self) -> impl Iterator<Item = Enforcement> {
        self.enforce_node_allocatable.iter().filter_map(|name| enforcement(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Option<String> {
        let settings: KubeletConfiguration = serde_json::from_str(text).unwrap();
        settings.validate().err().map(|error| error.to_string())
    }

    #[test]
    fn each_enforcement_needs_what_it_is_about() {
        let groups = r#""systemReservedCgroup": "/system.slice", "kubeReservedCgroup": "/keelson""#;
        for fine in [
            r#"["pods"]"#,
            "[]",
            r#"["none"]"#,
            r#"["pods", "system-reserved", "kube-reserved-compressible"]"#,
            r#"["kube-reserved", "system-reserved-compressible"]"#,
        ] {
            assert_eq!(told(&format!(r#"{{"enforceNodeAllocatable": {fine}, {groups}}}"#)), None, "{fine}");
        }
        for (wrong, reason) in [
            (r#"["system-reserved", "system-reserved-compressible"]"#, "cannot be specified together"),
            (r#"["kube-reserved", "kube-reserved-compressible"]"#, "cannot be specified together"),
            (r#"["pods", "pods"]"#, "enforceNodeAllocatable: Invalid value: pods: duplicated enforcements"),
            (r#"["none", "pods"]"#, "may not contain additional enforcements when \"none\" is specified"),
            (r#"["all"]"#, "enforceNodeAllocatable: Invalid value: all: valid options are \"pods\", "),
        ] {
            let told = told(&format!(r#"{{"enforceNodeAllocatable": {wrong}, {groups}}}"#)).unwrap();
            assert!(told.contains(reason), "{told}");
        }
        let without = |name: &str| told(&format!(r#"{{"enforceNodeAllocatable": ["{name}"]}}"#)).unwrap();
        for name in ["system-reserved", "system-reserved-compressible"] {
            assert!(
                without(name).starts_with("systemReservedCgroup: Invalid value: : must be specified when")
            );
        }
        assert!(
            without("kube-reserved").starts_with("kubeReservedCgroup: Invalid value: : must be specified")
        );
    }

    #[test]
    fn pods_have_groups_below_one_that_is_named_by_its_path() {
        for fine in ["/", "/pods", "/a/b"] {
            assert_eq!(told(&format!(r#"{{"cgroupRoot": "{fine}", "cgroupsPerQOS": true}}"#)), None);
        }
        for wrong in ["pods", "/a/../b"] {
            let told = told(&format!(r#"{{"cgroupRoot": "{wrong}"}}"#)).unwrap();
            assert!(told.starts_with("cgroupRoot: Invalid value: "), "{told}");
        }
        let needed = told(r#"{"cgroupsPerQOS": false}"#).unwrap();
        assert!(
            needed.starts_with("cgroupsPerQOS: Invalid value: false: must be set to true when"),
            "{needed}"
        );
        let refused = told(r#"{"cgroupsPerQOS": false, "enforceNodeAllocatable": ["none"]}"#).unwrap();
        assert!(refused.contains("this kubelet keeps a control group for each pod"), "{refused}");
    }

    #[test]
    fn a_group_of_the_machine_is_a_path_and_has_no_processors_by_number() {
        let with =
            |group: &str, further: &str| told(&format!(r#"{{"systemReservedCgroup": "{group}"{further}}}"#));
        assert_eq!(with("system.slice", ""), None);
        for wrong in ["/", "/a/../b"] {
            assert!(
                with(wrong, "").unwrap().ends_with("must be the path of a control group, as /system.slice")
            );
        }
        let told = with("/system.slice", r#", "reservedSystemCPUs": "0""#).unwrap();
        assert!(told.ends_with("can't be used with reservedSystemCPUs"), "{told}");
    }
}
