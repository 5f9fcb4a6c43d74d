//! From the CRI's container configuration to the OCI runtime configuration (`config.json`) and the [`Launch`].
//!
//! User, capabilities and filter are not in the OCI configuration: the pod process applies them itself from the
//! launch's identity, right before the program runs.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use keelson_cri::v1::security_profile::ProfileType;
use keelson_cri::v1::{
    ContainerConfig, LinuxContainerSecurityContext, NamespaceMode, PodSandboxConfig, SeLinuxOption,
    SecurityProfile, SupplementalGroupsPolicy,
};
use serde_json::{Value, json};

use crate::app_armor::{self, AppArmorError};
use crate::cdi;
use crate::cgroup::Hierarchy;
use crate::image::config::Defaults;
use crate::pod_process::protocol::{Identity, Launch, UserMap};
use crate::seccomp::{Filter, ProfileError};

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
    #[error("failed to generate seccomp spec opts: cannot load seccomp profile {path:?}")]
    ProfileFile {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("failed to generate seccomp spec opts: decoding seccomp profile {path:?} failed")]
    Profile {
        path: PathBuf,
        #[source]
        source: ProfileError,
    },
    #[error(transparent)]
    AppArmor(#[from] AppArmorError),
    #[error("SELinux labels are not supported by this runtime")]
    SeLinux,
    #[error(transparent)]
    Cdi(#[from] keelson_cdi::CdiError),
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
    /// The pod's user namespace and its ids.
    pub(crate) users: Option<(PathBuf, UserMap)>,
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
    refuse_unsupported(&security)?;
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
    identity.users = inputs.users.clone();
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
    let (devices, rules) =
        mounts::devices(config, security.privileged, inputs.users.as_ref().map(|(_, users)| users))?;
    limits.insert("devices".into(), Value::Array(rules));
    let mut oci = json!({
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
    let names: Vec<String> = config.cdi_devices.iter().map(|device| device.name.clone()).collect();
    cdi::inject(&names, &mut oci, &mut identity)?;
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
        secluded: mounts::secluded(config),
    };
    Ok(Specification { oci, launch })
}

fn refuse_unsupported(security: &LinuxContainerSecurityContext) -> Result<(), SpecError> {
    // Without SELinux in the kernel a label says nothing, and nothing is left undone.
    if security.selinux_options.as_ref().is_some_and(|label| *label != SeLinuxOption::default())
        && Path::new("/sys/fs/selinux/enforce").exists()
    {
        return Err(SpecError::SeLinux);
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
    let filter = if security.privileged { Seccomp::None } else { seccomp(security.seccomp.as_ref())? };
    Ok(Identity {
        uid: user.uid,
        gid: user.gid,
        groups: user.groups.clone(),
        capabilities: set,
        ambient: capabilities::numbers(&capability.add_ambient_capabilities)?,
        no_new_privileges: security.no_new_privs,
        seccomp: filter == Seccomp::Default,
        seccomp_profile: match filter {
            Seccomp::Profile(text) => Some(text),
            Seccomp::None | Seccomp::Default => None,
        },
        app_armor: confined(security)?,
        users: None,
        oom_score_adj: i32::try_from(oom_score_adj).ok().filter(|value| *value != 0),
        working_directory: PathBuf::from("/"),
    })
}

/// The AppArmor profile under which the program runs; the kernel knows it if it is the runtime's own.
fn confined(security: &LinuxContainerSecurityContext) -> Result<Option<String>, SpecError> {
    let machine = app_armor::Machine::found();
    let profile = machine.profile(security)?;
    profile.iter().try_for_each(|name| machine.load(name))?;
    Ok(profile)
}

/// A profile is no longer than this.
const MAX_PROFILE: u64 = 256 << 10;

/// Which system call filter is installed.
#[derive(Debug, PartialEq, Eq)]
enum Seccomp {
    None,
    Default,
    /// As JSON.
    Profile(String),
}

fn seccomp(profile: Option<&SecurityProfile>) -> Result<Seccomp, SpecError> {
    let Some(profile) = profile else { return Ok(Seccomp::None) };
    match profile.profile_type() {
        ProfileType::RuntimeDefault => Ok(Seccomp::Default),
        ProfileType::Unconfined => Ok(Seccomp::None),
        ProfileType::Localhost => {
            let path = PathBuf::from(&profile.localhost_ref);
            let failed = |source| SpecError::ProfileFile { path: path.clone(), source };
            if !path.is_absolute() {
                return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "the path is not absolute")));
            }
            let mut text = String::new();
            let file = File::open(&path).map_err(failed)?;
            file.take(MAX_PROFILE + 1).read_to_string(&mut text).map_err(failed)?;
            if text.len() as u64 > MAX_PROFILE {
                return Err(failed(io::ErrorKind::FileTooLarge.into()));
            }
            Filter::of_profile(&text).map_err(|source| SpecError::Profile { path, source })?;
            Ok(Seccomp::Profile(text))
        }
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
    fn a_profile_of_the_node_is_read_when_the_container_is_made_and_refused_if_it_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let profile = |kind: ProfileType, path: &Path| SecurityProfile {
            profile_type: kind as i32,
            localhost_ref: path.display().to_string(),
        };
        let path = folder.path().join("p.json");
        let ask = |kind: ProfileType| seccomp(Some(&profile(kind, &path)));
        assert_eq!(ask(ProfileType::RuntimeDefault).unwrap(), Seccomp::Default);
        assert_eq!(ask(ProfileType::Unconfined).unwrap(), Seccomp::None);
        assert!(matches!(ask(ProfileType::Localhost), Err(SpecError::ProfileFile { .. })));
        std::fs::write(&path, "{}").unwrap();
        assert!(matches!(ask(ProfileType::Localhost), Err(SpecError::Profile { .. })));
        let text = r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#;
        std::fs::write(&path, text).unwrap();
        assert_eq!(ask(ProfileType::Localhost).unwrap(), Seccomp::Profile(text.to_owned()));
        std::fs::write(&path, " ".repeat(300 << 10)).unwrap();
        assert!(matches!(ask(ProfileType::Localhost), Err(SpecError::ProfileFile { .. })));
    }
}
