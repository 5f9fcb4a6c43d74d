//! (pure) What a container may do: from the security contexts of the pod and of the container to the runtime's.

use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{
    AppArmorProfile, PodSecurityContext, SELinuxOptions, SeccompProfile, SecurityContext,
};
use keelson_cri::v1::{
    Capability, Int64Value, LinuxContainerSecurityContext, LinuxSandboxSecurityContext, NamespaceMode,
    NamespaceOption, SeLinuxOption, SecurityProfile, SupplementalGroupsPolicy, UserNamespace,
    security_profile::ProfileType,
};

use crate::pod::{Member, PodModel};

/// Paths below /proc and /sys that tell too much of the machine.
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The user that an image names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ImageUser {
    /// As a number.
    pub(crate) uid: Option<i64>,
    /// As a name.
    pub(crate) username: String,
}

/// Why a container must not run as the user that it would have. The texts are those of `CreateContainerConfigError`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NonRootError {
    /// The pod asks for root and forbids it.
    #[error("container's runAsUser breaks non-root policy (pod: {pod:?}, container: {container})")]
    Asked {
        /// `NAME_NAMESPACE(UID)`
        pod: String,
        /// The container's name.
        container: String,
    },
    /// The image has root.
    #[error("container has runAsNonRoot and image will run as root (pod: {pod:?}, container: {container})")]
    Image {
        /// `NAME_NAMESPACE(UID)`
        pod: String,
        /// The container's name.
        container: String,
    },
    /// The image has a name, of which nobody knows whom it means.
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({username}), cannot verify user is non-root (pod: {pod:?}, container: {container})"
    )]
    Name {
        /// The image's user.
        username: String,
        /// `NAME_NAMESPACE(UID)`
        pod: String,
        /// The container's name.
        container: String,
    },
}

/// What both contexts say, the container's before the pod's.
fn own<'a, T>(
    pod: &'a PodModel,
    member: &'a Member,
    of_container: impl Fn(&'a SecurityContext) -> Option<T>,
    of_pod: impl Fn(&'a PodSecurityContext) -> Option<T>,
) -> Option<T> {
    let container = member.container.security_context.as_ref().and_then(of_container);
    container.or_else(|| pod.spec().security_context.as_ref().and_then(of_pod))
}

/// Holds `runAsNonRoot` against the user that the container will have.
pub(crate) fn check_non_root(pod: &PodModel, member: &Member, image: &ImageUser) -> Result<(), NonRootError> {
    let required = own(pod, member, |one| one.run_as_non_root, |one| one.run_as_non_root);
    if required != Some(true) {
        return Ok(());
    }
    let container = member.name().to_owned();
    let name = format!("{}_{}({})", pod.name, pod.namespace, pod.uid);
    match own(pod, member, |one| one.run_as_user, |one| one.run_as_user) {
        Some(0) => return Err(NonRootError::Asked { pod: name, container }),
        Some(_) => return Ok(()),
        None => {}
    }
    match image.uid {
        Some(0) => Err(NonRootError::Image { pod: name, container }),
        Some(_) => Ok(()),
        None if image.username.is_empty() => Err(NonRootError::Image { pod: name, container }),
        None => Err(NonRootError::Name { username: image.username.clone(), pod: name, container }),
    }
}

fn number(value: Option<i64>) -> Option<Int64Value> {
    value.map(|value| Int64Value { value })
}

/// How system calls are filtered on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filters {
    /// The folder of the node's own profiles.
    pub(crate) profiles: PathBuf,
    /// Who says nothing has the runtime's filter.
    pub(crate) by_default: bool,
}

fn seccomp(profile: Option<&SeccompProfile>, filters: &Filters) -> SecurityProfile {
    let of =
        |kind: ProfileType, file: String| SecurityProfile { profile_type: kind as i32, localhost_ref: file };
    match profile.map(|profile| (profile.type_.as_str(), profile.localhost_profile.as_deref())) {
        Some(("RuntimeDefault", _)) => of(ProfileType::RuntimeDefault, String::new()),
        None if filters.by_default => of(ProfileType::RuntimeDefault, String::new()),
        Some(("Localhost", file)) => {
            // What leads out of the folder is asked for as a name that nothing has.
            let file = Path::new(file.unwrap_or_default());
            let inside =
                file.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
            let path =
                if inside { filters.profiles.join(file) } else { filters.profiles.join("no such profile") };
            of(ProfileType::Localhost, path.display().to_string())
        }
        Some(_) | None => of(ProfileType::Unconfined, String::new()),
    }
}

fn selinux(label: Option<&SELinuxOptions>) -> Option<SeLinuxOption> {
    let label = label?;
    Some(SeLinuxOption {
        user: label.user.clone().unwrap_or_default(),
        role: label.role.clone().unwrap_or_default(),
        r#type: label.type_.clone().unwrap_or_default(),
        level: label.level.clone().unwrap_or_default(),
    })
}

fn apparmor(profile: &AppArmorProfile) -> SecurityProfile {
    let kind = match profile.type_.as_str() {
        "Localhost" => ProfileType::Localhost,
        "Unconfined" => ProfileType::Unconfined,
        _ => ProfileType::RuntimeDefault,
    };
    let localhost_ref = profile.localhost_profile.clone().unwrap_or_default();
    SecurityProfile { profile_type: kind as i32, localhost_ref }
}

/// Whose namespaces the pod's containers are in. `target` is the instance whose processes are shared.
fn namespaces(pod: &PodModel, target: Option<&str>) -> NamespaceOption {
    let spec = pod.spec();
    let node = |wanted: Option<bool>, other: NamespaceMode| match wanted {
        Some(true) => NamespaceMode::Node as i32,
        Some(false) | None => other as i32,
    };
    let shared = spec.share_process_namespace == Some(true);
    let pid = if shared { NamespaceMode::Pod } else { NamespaceMode::Container };
    let pid = if target.is_some() && !shared { NamespaceMode::Target } else { pid };
    NamespaceOption {
        network: node(spec.host_network, NamespaceMode::Pod),
        ipc: node(spec.host_ipc, NamespaceMode::Pod),
        pid: node(spec.host_pid, pid),
        target_id: target.unwrap_or_default().to_owned(),
        // Asked for, so that a runtime without them refuses rather than ignores it.
        userns_options: (spec.host_users == Some(false))
            .then(|| UserNamespace { mode: NamespaceMode::Pod as i32, ..UserNamespace::default() }),
    }
}

fn groups(pod: &PodModel) -> (Vec<i64>, i32) {
    let context = pod.spec().security_context.clone().unwrap_or_default();
    let mut groups = context.supplemental_groups.unwrap_or_default();
    groups.extend(context.fs_group);
    let policy = match context.supplemental_groups_policy.as_deref() {
        Some("Strict") => SupplementalGroupsPolicy::Strict,
        Some(_) | None => SupplementalGroupsPolicy::Merge,
    };
    (groups, policy as i32)
}

/// What the sandbox may do.
pub(crate) fn of_sandbox(pod: &PodModel) -> LinuxSandboxSecurityContext {
    let context = pod.spec().security_context.clone().unwrap_or_default();
    let privileged = |member: &Member| {
        let context = member.container.security_context.as_ref();
        context.is_some_and(|context| context.privileged == Some(true))
    };
    let (supplemental_groups, supplemental_groups_policy) = groups(pod);
    LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod, None)),
        run_as_user: number(context.run_as_user),
        run_as_group: number(context.run_as_group),
        supplemental_groups,
        supplemental_groups_policy,
        privileged: pod.members.iter().any(privileged),
        // As upstream's pause container: the sandbox has no program of the pod.
        seccomp: Some(SecurityProfile {
            profile_type: ProfileType::RuntimeDefault as i32,
            ..SecurityProfile::default()
        }),
        ..LinuxSandboxSecurityContext::default()
    }
}

/// What a container may do. `target` is the instance whose processes an ephemeral container sees.
pub(crate) fn of_container(
    pod: &PodModel,
    member: &Member,
    target: Option<&str>,
    filters: &Filters,
) -> LinuxContainerSecurityContext {
    let context = member.container.security_context.clone().unwrap_or_default();
    let privileged = context.privileged == Some(true);
    let unmasked = privileged || context.proc_mount.as_deref() == Some("Unmasked");
    let paths = |all: &[&str]| -> Vec<String> {
        if unmasked { Vec::new() } else { all.iter().map(|path| (*path).to_owned()).collect() }
    };
    let capabilities = context.capabilities.map(|own| Capability {
        add_capabilities: own.add.unwrap_or_default(),
        drop_capabilities: own.drop.unwrap_or_default(),
        add_ambient_capabilities: Vec::new(),
    });
    let profile = own(pod, member, |one| one.seccomp_profile.as_ref(), |one| one.seccomp_profile.as_ref());
    let armor = own(pod, member, |one| one.app_armor_profile.as_ref(), |one| one.app_armor_profile.as_ref());
    let (supplemental_groups, supplemental_groups_policy) = groups(pod);
    LinuxContainerSecurityContext {
        capabilities,
        privileged,
        namespace_options: Some(namespaces(pod, target)),
        run_as_user: number(own(pod, member, |one| one.run_as_user, |one| one.run_as_user)),
        run_as_group: number(own(pod, member, |one| one.run_as_group, |one| one.run_as_group)),
        readonly_rootfs: context.read_only_root_filesystem == Some(true),
        supplemental_groups,
        supplemental_groups_policy,
        no_new_privs: context.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
        seccomp: Some(seccomp(profile, filters)),
        selinux_options: selinux(own(
            pod,
            member,
            |one| one.se_linux_options.as_ref(),
            |one| one.se_linux_options.as_ref(),
        )),
        apparmor: armor.map(apparmor),
        ..LinuxContainerSecurityContext::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    fn pod(spec: serde_json::Value) -> PodModel {
        let pod = json!({ "metadata": { "name": "p", "namespace": "n", "uid": "u" }, "spec": spec });
        PodModel::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
    }

    #[test]
    fn root_is_refused_where_the_pod_forbids_it() {
        let check = |context: serde_json::Value, own: serde_json::Value, image: &ImageUser| {
            let pod = pod(
                json!({ "securityContext": context, "containers": [{ "name": "a", "securityContext": own }] }),
            );
            check_non_root(&pod, &pod.members[0], image).map_err(|error| error.to_string())
        };
        let root = ImageUser { uid: Some(0), username: String::new() };
        let name = ImageUser { uid: None, username: "web".to_owned() };
        let forbids = json!({ "runAsNonRoot": true });
        assert_eq!(check(json!({}), json!({}), &root), Ok(()));
        assert_eq!(check(forbids.clone(), json!({ "runAsUser": 7 }), &root), Ok(()));
        assert_eq!(check(forbids.clone(), json!({ "runAsNonRoot": false }), &root), Ok(()));
        let refused = check(forbids.clone(), json!({}), &root).unwrap_err();
        assert_eq!(
            refused,
            "container has runAsNonRoot and image will run as root (pod: \"p_n(u)\", container: a)"
        );
        assert!(
            check(forbids.clone(), json!({ "runAsUser": 0 }), &name).unwrap_err().contains("breaks non-root")
        );
        assert!(check(forbids, json!({}), &name).unwrap_err().contains("non-numeric user (web)"));
    }

    #[test]
    fn a_privileged_container_sees_everything_and_others_do_not() {
        let pod = pod(json!({ "hostPID": true, "containers": [
            { "name": "a", "securityContext": { "privileged": true } },
            { "name": "b", "securityContext": { "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true } }] }));
        let privileged = of_container(&pod, &pod.members[0], None, &Filters::default());
        assert!(privileged.privileged && privileged.masked_paths.is_empty() && !privileged.no_new_privs);
        let plain = of_container(&pod, &pod.members[1], None, &Filters::default());
        assert!(plain.masked_paths.len() == 12 && plain.no_new_privs && plain.readonly_rootfs);
        let namespaces = plain.namespace_options.unwrap();
        assert_eq!((namespaces.pid(), namespaces.network()), (NamespaceMode::Node, NamespaceMode::Pod));
    }

    #[test]
    fn profiles_of_the_node_lie_in_its_folder_and_nowhere_else() {
        let filters = Filters { profiles: "/k/seccomp".into(), by_default: true };
        let ask = |kind: &str, file: &str| {
            let profile = SeccompProfile { type_: kind.to_owned(), localhost_profile: Some(file.to_owned()) };
            let found = seccomp(Some(&profile), &filters);
            (found.profile_type(), found.localhost_ref)
        };
        let local = |path: &str| (ProfileType::Localhost, path.to_owned());
        assert_eq!(ask("Localhost", "team/a.json"), local("/k/seccomp/team/a.json"));
        for outside in ["../secrets", "/etc/passwd", "a/../../b"] {
            assert_eq!(ask("Localhost", outside), local("/k/seccomp/no such profile"));
        }
        assert_eq!(ask("Unconfined", "").0, ProfileType::Unconfined);
        assert_eq!(seccomp(None, &filters).profile_type(), ProfileType::RuntimeDefault);
        assert_eq!(seccomp(None, &Filters::default()).profile_type(), ProfileType::Unconfined);
    }
}
