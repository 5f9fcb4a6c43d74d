//! From the CRI's container configuration to the OCI runtime configuration (`config.json`) and the [`Launch`].
//!
//! User, capabilities and filter are not in the OCI configuration: the pod process applies them itself from the
//! launch's identity, right before the program runs.

use std::path::{Path, PathBuf};

use keelson_cri::v1::security_profile::ProfileType;
use keelson_cri::v1::{
    ContainerConfig, LinuxContainerSecurityContext, NamespaceMode, PodSandboxConfig, SecurityProfile,
    SupplementalGroupsPolicy,
};
use serde_json::{Value, json};

use crate::cgroup::Hierarchy;
use crate::image::config::Defaults;
use crate::pod_process::protocol::{Identity, Launch};

pub(crate) mod capabilities;
pub(crate) mod mounts;
pub(crate) mod resources;
pub(crate) mod user;

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Debug, thiserror::Error)]
pub(crate) enum SpecError {
    #[error("no command specified")]
    NoCommand,
    #[error(transparent)]
    User(#[from] user::UserError),
    #[error(transparent)]
    Capability(#[from] capabilities::UnknownCapability),
    #[error(transparent)]
    Mount(#[from] mounts::MountError),
    #[error(transparent)]
    Resource(#[from] resources::ResourceError),
    #[error("seccomp profile Localhost ({0:?}) is not supported by this runtime")]
    Localhost(String),
    #[error("AppArmor is not available on this machine")]
    AppArmor,
    #[error("user namespaces are not supported by this runtime")]
    UserNamespace,
    #[error("CDI devices are not supported by this runtime")]
    Cdi,
}

/// All that a container is made from.
pub(crate) struct Inputs<'a> {
    pub(crate) id: &'a str,
    pub(crate) config: &'a ContainerConfig,
    pub(crate) sandbox: &'a PodSandboxConfig,
    pub(crate) image: &'a Defaults,
    pub(crate) pod_folder: &'a Path,
    pub(crate) bundle: &'a Path,
    pub(crate) rootfs: &'a Path,
    /// The pause process, whose namespaces are joined.
    pub(crate) pause: i32,
    /// Process of the container whose pid namespace is joined, in mode TARGET.
    pub(crate) target: Option<i32>,
    pub(crate) netns: Option<PathBuf>,
    pub(crate) cgroup: String,
    pub(crate) hierarchy: &'a Hierarchy,
}

/// What a container becomes.
pub(crate) struct Specification {
    pub(crate) oci: Value,
    pub(crate) launch: Launch,
}

pub(crate) fn build(inputs: &Inputs<'_>) -> Result<Specification, SpecError> {
    let config = inputs.config;
    let linux = config.linux.clone().unwrap_or_default();
    let security = linux.security_context.clone().unwrap_or_default();
    refuse_unsupported(config, &security)?;
    let args = command(config, inputs.image)?;
    let groups = &security.supplemental_groups;
    let wanted = user::Wanted {
        uid: security.run_as_user.map(|value| value.value),
        gid: security.run_as_group.map(|value| value.value),
        name: &security.run_as_username,
        image: inputs.image.user.as_deref().unwrap_or(""),
        groups,
        strict: security.supplemental_groups_policy() == SupplementalGroupsPolicy::Strict,
    };
    let user = user::Accounts::read(inputs.rootfs)?.resolve(&wanted)?;
    let resources = linux.resources.clone().unwrap_or_default();
    let mut identity = identity(&security, &user, resources.oom_score_adj)?;
    identity.working_directory = working_directory(config, inputs.image).into();
    let around = mounts::Surroundings {
        pod: inputs.pod_folder,
        host_ipc: namespace_modes(&security).ipc == NamespaceMode::Node,
        privileged: security.privileged,
        readonly_root: security.readonly_rootfs,
        hierarchy: inputs.hierarchy,
        cgroup: &inputs.cgroup,
    };
    let mut limits = resources::oci(&resources, inputs.hierarchy)?;
    let (devices, rules) = mounts::devices(config, security.privileged)?;
    limits.insert("devices".into(), Value::Array(rules));
    let oci = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": config.tty,
            "user": { "uid": 0, "gid": 0 },
            "args": args,
            "env": environment(inputs, &user),
            // The last steps go to the working directory, which may have to be made.
            "cwd": "/",
            "noNewPrivileges": identity.no_new_privileges,
        },
        "root": { "path": "rootfs", "readonly": security.readonly_rootfs },
        "mounts": mounts::all(config, &around)?,
        "linux": {
            "namespaces": namespaces(inputs, &security),
            "resources": limits,
            "cgroupsPath": inputs.cgroup,
            "maskedPaths": security.masked_paths,
            "readonlyPaths": security.readonly_paths,
            "devices": devices,
            "rootfsPropagation": mounts::root_propagation(config),
        },
    });
    let has_log = !config.log_path.is_empty() && !inputs.sandbox.log_directory.is_empty();
    let log_path = has_log.then(|| Path::new(&inputs.sandbox.log_directory).join(&config.log_path));
    let launch = Launch {
        id: inputs.id.to_owned(),
        bundle: inputs.bundle.to_owned(),
        log_path,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        tty: config.tty,
        cgroup: inputs.cgroup.clone(),
        identity,
    };
    Ok(Specification { oci, launch })
}

fn refuse_unsupported(
    config: &ContainerConfig,
    security: &LinuxContainerSecurityContext,
) -> Result<(), SpecError> {
    if !config.cdi_devices.is_empty() {
        return Err(SpecError::Cdi);
    }
    if let Some(profile) = &security.apparmor
        && profile.profile_type() == ProfileType::Localhost
    {
        return Err(SpecError::AppArmor);
    }
    let options = security.namespace_options.as_ref();
    if let Some(users) = options.and_then(|options| options.userns_options.as_ref())
        && users.mode() == NamespaceMode::Pod
    {
        return Err(SpecError::UserNamespace);
    }
    Ok(())
}

fn identity(
    security: &LinuxContainerSecurityContext,
    user: &user::User,
    oom_score_adj: i64,
) -> Result<Identity, SpecError> {
    let capability = security.capabilities.clone().unwrap_or_default();
    let available = capabilities::available();
    let set = capabilities::resolve(
        security.privileged,
        &capability.add_capabilities,
        &capability.drop_capabilities,
        &available,
    )?;
    Ok(Identity {
        uid: user.uid,
        gid: user.gid,
        groups: user.groups.clone(),
        capabilities: set,
        ambient: capabilities::numbers(&capability.add_ambient_capabilities)?,
        no_new_privileges: security.no_new_privs,
        seccomp: !security.privileged && wants_filter(security.seccomp.as_ref())?,
        oom_score_adj: i32::try_from(oom_score_adj).ok().filter(|value| *value != 0),
        working_directory: PathBuf::from("/"),
    })
}

fn wants_filter(profile: Option<&SecurityProfile>) -> Result<bool, SpecError> {
    let Some(profile) = profile else { return Ok(false) };
    match profile.profile_type() {
        ProfileType::RuntimeDefault => Ok(true),
        ProfileType::Unconfined => Ok(false),
        ProfileType::Localhost => Err(SpecError::Localhost(profile.localhost_ref.clone())),
    }
}

/// Which namespaces are whose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Modes {
    pub(crate) network: NamespaceMode,
    pub(crate) pid: NamespaceMode,
    pub(crate) ipc: NamespaceMode,
}

fn namespace_modes(security: &LinuxContainerSecurityContext) -> Modes {
    let options = security.namespace_options.clone().unwrap_or_default();
    Modes { network: options.network(), pid: options.pid(), ipc: options.ipc() }
}

fn namespaces(inputs: &Inputs<'_>, security: &LinuxContainerSecurityContext) -> Vec<Value> {
    let modes = namespace_modes(security);
    let of = |pid: i32, name: &str| format!("/proc/{pid}/ns/{name}");
    let mut out = vec![json!({ "type": "mount" }), json!({ "type": "uts", "path": of(inputs.pause, "uts") })];
    match modes.pid {
        NamespaceMode::Pod => out.push(json!({ "type": "pid", "path": of(inputs.pause, "pid") })),
        NamespaceMode::Container => out.push(json!({ "type": "pid" })),
        NamespaceMode::Target => {
            let target = inputs.target.unwrap_or(inputs.pause);
            out.push(json!({ "type": "pid", "path": of(target, "pid") }));
        }
        NamespaceMode::Node => {}
    }
    if modes.ipc != NamespaceMode::Node {
        out.push(json!({ "type": "ipc", "path": of(inputs.pause, "ipc") }));
    }
    if let Some(netns) = &inputs.netns {
        out.push(json!({ "type": "network", "path": netns }));
    }
    if !security.privileged {
        out.push(json!({ "type": "cgroup" }));
    }
    out
}

/// The pod's command replaces the image's entry point, and with it the image's arguments.
fn command(config: &ContainerConfig, image: &Defaults) -> Result<Vec<String>, SpecError> {
    let mut args = config.args.clone();
    let mut out = config.command.clone();
    if out.is_empty() {
        if args.is_empty() {
            args = image.cmd.clone().unwrap_or_default();
        }
        out = image.entrypoint.clone().unwrap_or_default();
    }
    out.extend(args);
    if out.first().is_none_or(String::is_empty) { Err(SpecError::NoCommand) } else { Ok(out) }
}

fn environment(inputs: &Inputs<'_>, user: &user::User) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut set = |name: &str, value: String| {
        let prefix = format!("{name}=");
        out.retain(|variable| !variable.starts_with(&prefix));
        out.push(value);
    };
    set("PATH", DEFAULT_PATH.to_owned());
    set("HOME", format!("HOME={}", user.home));
    if !inputs.sandbox.hostname.is_empty() {
        set("HOSTNAME", format!("HOSTNAME={}", inputs.sandbox.hostname));
    }
    if inputs.config.tty {
        set("TERM", "TERM=xterm".to_owned());
    }
    for variable in inputs.image.env.iter().flatten() {
        set(variable.split('=').next().unwrap_or(variable), variable.clone());
    }
    for variable in &inputs.config.envs {
        set(&variable.key, format!("{}={}", variable.key, variable.value));
    }
    out
}

fn working_directory<'a>(config: &'a ContainerConfig, image: &'a Defaults) -> &'a str {
    let image = image.working_dir.as_deref().unwrap_or("");
    let chosen = if config.working_dir.is_empty() { image } else { &config.working_dir };
    if chosen.is_empty() { "/" } else { chosen }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &[&str]) -> Vec<String> {
        text.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_command_of_the_pod_drops_the_arguments_of_the_image() {
        let image = Defaults {
            entrypoint: Some(words(&["/entry"])),
            cmd: Some(words(&["serve"])),
            ..Defaults::default()
        };
        let run = |command: &[&str], args: &[&str]| {
            let config =
                ContainerConfig { command: words(command), args: words(args), ..ContainerConfig::default() };
            super::command(&config, &image)
        };
        assert_eq!(run(&[], &[]).unwrap(), ["/entry", "serve"]);
        assert_eq!(run(&[], &["x"]).unwrap(), ["/entry", "x"]);
        assert_eq!(run(&["sh"], &[]).unwrap(), ["sh"]);
        let nothing = super::command(&ContainerConfig::default(), &Defaults::default());
        assert!(matches!(nothing, Err(SpecError::NoCommand)));
    }

    #[test]
    fn a_localhost_profile_is_refused_and_runtime_default_is_a_filter() {
        let profile = |kind: ProfileType| SecurityProfile {
            profile_type: kind as i32,
            localhost_ref: "p.json".to_owned(),
        };
        assert!(wants_filter(Some(&profile(ProfileType::RuntimeDefault))).unwrap());
        assert!(!wants_filter(Some(&profile(ProfileType::Unconfined))).unwrap());
        assert!(matches!(wants_filter(Some(&profile(ProfileType::Localhost))), Err(SpecError::Localhost(_))));
    }
}
