//! Groups of the machine's own processes, which are held to what is kept for them: `systemReservedCgroup` and `kubeReservedCgroup`.
//!
//! They are somebody else's and have to be there: where one is missing the kubelet does not start, as upstream.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use keelson_api::quantity::Amount;
use keelson_cgroup::{CgroupName, Driver};
use keelson_cri::v1::LinuxContainerResources;

use super::groups::{GroupError, Groups};
use crate::configuration::KubeletConfiguration;
use crate::configuration::enforcement::Enforcement;
use crate::event::{EventType, Recorder};
use crate::resources;

/// Why a group is not held to what is kept for it; upstream's words, which the event has too.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ReservedError(String);

/// An event is waited for so long before the kubelet's start fails.
const TOLD: Duration = Duration::from_secs(20);

/// A group, and what it is held to.
#[derive(Debug, PartialEq)]
struct Reserved {
    /// In events.
    title: &'static str,
    whose: &'static str,
    /// As it is configured.
    group: String,
    /// `None` when nothing is kept for it.
    limits: Option<LinuxContainerResources>,
    /// 0 for any number.
    pids: u64,
}

/// (pure) What a group is held to.
fn limits(kept: &BTreeMap<String, String>, compressible: bool) -> (Option<LinuxContainerResources>, u64) {
    let amount = |name: &str| kept.get(name).and_then(|text| Amount::parse(text).ok());
    let whole = |name: &str| amount(name).map_or(0, |amount| amount.quantity().value());
    let cpu_shares = amount("cpu").map_or(0, |cpu| resources::shares(cpu.quantity().milli_value()));
    let mut limits = LinuxContainerResources { cpu_shares, ..LinuxContainerResources::default() };
    if kept.is_empty() {
        return (None, 0);
    }
    if compressible {
        return (Some(limits), 0);
    }
    limits.memory_limit_in_bytes = i64::try_from(whole("memory")).unwrap_or(i64::MAX);
    (Some(limits), u64::try_from(whole("pid")).unwrap_or(u64::MAX))
}

/// (pure) The groups that the settings name, in upstream's order.
fn all(settings: &KubeletConfiguration) -> Vec<Reserved> {
    let one = |enforcement: Enforcement| {
        let (title, whose, group, kept, compressible) = match enforcement {
            Enforcement::Pods | Enforcement::None => return None,
            Enforcement::System { compressible } => {
                let title = if compressible { "System Reserved Compressible" } else { "System Reserved" };
                (title, "system", &settings.system_reserved_cgroup, &settings.system_reserved, compressible)
            }
            Enforcement::Kube { compressible } => {
                let title = if compressible { "Kube Reserved Compressible" } else { "Kube Reserved" };
                (title, "kube", &settings.kube_reserved_cgroup, &settings.kube_reserved, compressible)
            }
        };
        let (limits, pids) = limits(kept, compressible);
        Some((compressible, Reserved { title, whose, group: group.clone(), limits, pids }))
    };
    let mut all: Vec<_> = settings.enforcements().filter_map(one).collect();
    all.sort_by_key(|(compressible, reserved)| (*compressible, reserved.whose != "system"));
    all.into_iter().map(|(_, reserved)| reserved).collect()
}

/// (pure) The group's name: a path, or the name of a slice that a path ends in.
fn name(group: &str, driver: Driver) -> CgroupName {
    match driver {
        Driver::Cgroupfs => CgroupName::of_path(group),
        Driver::Systemd => CgroupName::of_slice(group),
    }
}

/// (pure) Controllers without which the limits cannot be.
fn needed(limits: &LinuxContainerResources, pids: u64) -> Vec<&'static str> {
    let all =
        [("cpu", limits.cpu_shares > 0), ("memory", limits.memory_limit_in_bytes > 0), ("pids", pids > 0)];
    all.into_iter().filter(|(_, needed)| *needed).map(|(controller, _)| controller).collect()
}

/// Whether a group is there with what is needed of it.
fn validate(mount: &Path, path: &str, shown: &str, needed: &[&'static str]) -> Result<(), String> {
    let path = path.trim_matches('/');
    if mount.join("cgroup.controllers").exists() {
        let file = mount.join(path).join("cgroup.controllers");
        let found = std::fs::read_to_string(&file).map_err(|error| {
            format!("could not read controllers for cgroup {shown}: open {}: {error}", file.display())
        })?;
        let found: Vec<&str> = found.split_whitespace().collect();
        let missing: Vec<&str> = needed.iter().copied().filter(|one| !found.contains(one)).collect();
        return if missing.is_empty() {
            Ok(())
        } else {
            Err(format!("cgroup {shown} has some missing controllers: {}", missing.join(", ")))
        };
    }
    let missing = needed.iter().map(|controller| mount.join(controller).join(path));
    let missing: Vec<String> =
        missing.filter(|path| !path.exists()).map(|path| path.display().to_string()).collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(format!("cgroup {shown} has some missing paths: {}", missing.join(", ")))
    }
}

/// The group that pods are to be below has to be there.
pub(crate) async fn check_root(
    settings: &KubeletConfiguration,
    groups: &Groups,
) -> Result<(), ReservedError> {
    let name = CgroupName::of_path(&settings.cgroup_root);
    if name == CgroupName::of_path("/") {
        return Ok(());
    }
    let (path, shown) = (groups.names().path(&name), name.quoted());
    let look = move || validate(Path::new(super::MOUNT), &path, &shown, &["cpu", "memory", "pids"]);
    let found = tokio::task::spawn_blocking(look).await;
    let found = found.map_err(|error| ReservedError(GroupError::from(error).to_string()))?;
    found.map_err(|error| ReservedError(format!("invalid configuration: {error}")))
}

async fn enforce(groups: &Groups, reserved: &Reserved) -> Result<(), String> {
    let name = name(&reserved.group, groups.names().driver);
    let shown = name.quoted();
    let Some(limits) = &reserved.limits else {
        return Err(format!("{shown} cgroup is not configured properly"));
    };
    let (path, needed) = (groups.names().path(&name), needed(limits, reserved.pids));
    let found =
        tokio::task::spawn_blocking(move || validate(Path::new(super::MOUNT), &path, &shown, &needed));
    found.await.map_err(|error| GroupError::from(error).to_string())??;
    groups.limit_existing(&name, limits, reserved.pids).await.map_err(|error| error.to_string())
}

/// Holds each group to what is kept for it, and tells of it.
pub(crate) async fn enforce_all(
    settings: &KubeletConfiguration,
    groups: &Groups,
    client: &kube::Client,
    node: &str,
) -> Result<(), ReservedError> {
    let all = all(settings);
    if all.is_empty() {
        return Ok(());
    }
    let (recorder, written) = Recorder::with_task(client.clone(), node);
    for reserved in &all {
        let Reserved { title, whose, group, .. } = reserved;
        let (kind, reason, told) = match enforce(groups, reserved).await {
            Ok(()) => {
                let told = format!("Updated limits on {whose} reserved cgroup {group}");
                (EventType::Normal, "NodeAllocatableEnforced", told)
            }
            Err(error) => {
                let told = format!("Failed to enforce {title} Cgroup Limits on {group:?}: {error}");
                (EventType::Warning, "FailedNodeAllocatableEnforcement", told)
            }
        };
        recorder.tell_of_node(node, kind, reason, told.clone());
        if kind == EventType::Warning {
            drop(recorder);
            // Whoever runs the kubelet may end with its start.
            let _ = tokio::time::timeout(TOLD, written).await;
            return Err(ReservedError(told));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Title, group, shares and bytes, and how many processes.
    type Found = (String, String, Option<(i64, i64)>, u64);

    fn found(text: &str) -> Vec<Found> {
        let settings: KubeletConfiguration = serde_json::from_str(text).unwrap();
        let one = |one: Reserved| {
            let limits = one.limits.map(|limits| (limits.cpu_shares, limits.memory_limit_in_bytes));
            (one.title.to_owned(), one.group, limits, one.pids)
        };
        all(&settings).into_iter().map(one).collect()
    }

    #[test]
    fn a_group_is_held_to_what_is_kept_or_to_its_share_alone() {
        let text = r#"{"enforceNodeAllocatable": ["kube-reserved-compressible", "pods", "system-reserved"],
            "systemReservedCgroup": "/system.slice", "systemReserved": {"cpu": "500m", "memory": "64Mi", "pid": "100"},
            "kubeReservedCgroup": "/keelson", "kubeReserved": {"cpu": "1", "memory": "1Gi"}}"#;
        let expected = [
            ("System Reserved".to_owned(), "/system.slice".to_owned(), Some((512, 64 << 20)), 100),
            ("Kube Reserved Compressible".to_owned(), "/keelson".to_owned(), Some((1024, 0)), 0),
        ];
        assert_eq!(found(text), expected);
        let nothing = r#"{"enforceNodeAllocatable": ["kube-reserved"], "kubeReservedCgroup": "/keelson"}"#;
        assert_eq!(found(nothing), [("Kube Reserved".to_owned(), "/keelson".to_owned(), None, 0)]);
        assert_eq!(found(r#"{"systemReservedCgroup": "/system.slice"}"#), []);
    }

    #[test]
    fn what_is_said_alone_is_needed() {
        let told = |text: &str| {
            let (limits, pids) = limits(&serde_json::from_str(text).unwrap(), false);
            needed(&limits.unwrap(), pids)
        };
        assert_eq!(told(r#"{"cpu": "0"}"#), ["cpu"]);
        assert_eq!(told(r#"{"memory": "1Gi", "pid": "5", "ephemeral-storage": "1Gi"}"#), ["memory", "pids"]);
    }

    #[test]
    fn a_group_is_named_by_its_path_or_its_slice() {
        let path = |group: &str, driver| name(group, driver).path(driver);
        assert_eq!(path("a/b-c", Driver::Cgroupfs), "/a/b-c");
        assert_eq!(path("/system.slice", Driver::Systemd), "/system.slice");
        assert_eq!(path("/a.slice/a-b_c.slice", Driver::Systemd), "/a.slice/a-b_c.slice");
        assert_eq!(name("/a.slice/a-b_c.slice", Driver::Systemd).quoted(), r#"["a" "b-c"]"#);
    }

    #[test]
    fn a_group_that_is_not_there_is_told_with_what_is_missing() {
        let mount = std::env::temp_dir().join(format!("keelson-cgroup-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(mount.join("memory/g")).unwrap();
        std::fs::create_dir_all(mount.join("cpu")).unwrap();
        let told = |path: &str, needed: &[&'static str]| validate(&mount, path, "[\"g\"]", needed);
        assert_eq!(told("/g", &["memory"]), Ok(()));
        let missing = format!("cgroup [\"g\"] has some missing paths: {}", mount.join("cpu/g").display());
        assert_eq!(told("/g", &["cpu", "memory"]), Err(missing));
        std::fs::write(mount.join("cgroup.controllers"), "cpu memory pids").unwrap();
        assert!(
            told("/g", &["cpu"])
                .unwrap_err()
                .starts_with("could not read controllers for cgroup [\"g\"]: open ")
        );
        std::fs::create_dir_all(mount.join("g")).unwrap();
        std::fs::write(mount.join("g/cgroup.controllers"), "memory\n").unwrap();
        assert_eq!(told("/g", &["memory"]), Ok(()));
        let missing = "cgroup [\"g\"] has some missing controllers: cpu, pids".to_owned();
        assert_eq!(told("/g", &["cpu", "memory", "pids"]), Err(missing));
        std::fs::remove_dir_all(&mount).unwrap();
    }
}
