//! What is mounted in a container, and which devices it has.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use keelson_cri::v1::{ContainerConfig, Mount, MountPropagation};
use serde_json::{Value, json};

use crate::cgroup::{CONTROLLERS, Hierarchy};
use crate::pod_process::protocol::{Seclusion, UserMap};

#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    #[error("mount path {0:?} is not absolute")]
    Relative(String),
    #[error("create the host path {path}")]
    HostPath {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("device {path}")]
    Device {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// What of the pod and of the container decides on the mounts.
pub(crate) struct Surroundings<'a> {
    /// The pod's folder, with `resolv.conf`, `hostname`, `hosts` and `shm`.
    pub(crate) pod: &'a Path,
    pub(crate) host_ipc: bool,
    pub(crate) privileged: bool,
    pub(crate) readonly_root: bool,
    pub(crate) hierarchy: &'a Hierarchy,
    pub(crate) cgroup: &'a str,
}

fn entry(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": kind, "source": source, "options": options })
}

fn bind(destination: &str, source: &Path, options: &[&str]) -> Value {
    let options: Vec<&str> = ["rbind", "rprivate"].iter().chain(options).copied().collect();
    json!({ "destination": destination, "type": "bind", "source": source, "options": options })
}

/// All mounts, in the order in which they are made.
pub(crate) fn all(config: &ContainerConfig, around: &Surroundings<'_>) -> Result<Vec<Value>, MountError> {
    let wanted: HashSet<&str> = config.mounts.iter().map(|mount| mount.container_path.as_str()).collect();
    let access = if around.privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        entry("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        entry("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        entry(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        entry("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        entry("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
    ];
    mounts.extend(cgroups(around, access));
    if !wanted.contains("/dev/shm") {
        let source = if around.host_ipc { PathBuf::from("/dev/shm") } else { around.pod.join("shm") };
        mounts.push(bind("/dev/shm", &source, &["rw", "nosuid", "nodev", "noexec"]));
    }
    for name in ["resolv.conf", "hostname", "hosts"] {
        let destination = format!("/etc/{name}");
        let source = around.pod.join(name);
        if !wanted.contains(destination.as_str()) && source.exists() {
            mounts.push(bind(&destination, &source, &[if around.readonly_root { "ro" } else { "rw" }]));
        }
    }
    let mut ordered: Vec<&Mount> = config.mounts.iter().collect();
    ordered.sort_by_key(|mount| Path::new(&mount.container_path).components().count());
    for mount in ordered {
        mounts.push(volume(mount)?);
    }
    Ok(mounts)
}

/// The container's own control group, read-only, so that nobody in it raises his own limits. Not by the `cgroup`
/// mount type, which for version 1 is neither reliable together with a joined pid namespace nor read-only.
fn cgroups(around: &Surroundings<'_>, access: &str) -> Vec<Value> {
    let options = ["nosuid", "noexec", "nodev", access];
    match around.hierarchy {
        Hierarchy::Unified { .. } => {
            let own = around.hierarchy.folder("", around.cgroup);
            vec![bind("/sys/fs/cgroup", &own, &options)]
        }
        Hierarchy::Split { mount } => {
            let mut out =
                vec![entry("/sys/fs/cgroup", "tmpfs", "tmpfs", &["nosuid", "noexec", "nodev", "mode=755"])];
            for controller in CONTROLLERS {
                if mount.join(controller).join("cgroup.procs").exists() {
                    let own = around.hierarchy.folder(controller, around.cgroup);
                    out.push(bind(&format!("/sys/fs/cgroup/{controller}"), &own, &options));
                }
            }
            out
        }
    }
}

fn volume(mount: &Mount) -> Result<Value, MountError> {
    if !Path::new(&mount.container_path).is_absolute() {
        return Err(MountError::Relative(mount.container_path.clone()));
    }
    let source = Path::new(&mount.host_path);
    if !source.exists() {
        fs::create_dir_all(source)
            .map_err(|error| MountError::HostPath { path: source.to_owned(), source: error })?;
    }
    let propagation = match mount.propagation() {
        MountPropagation::PropagationPrivate => "rprivate",
        MountPropagation::PropagationHostToContainer => "rslave",
        MountPropagation::PropagationBidirectional => "rshared",
    };
    let access = match (mount.readonly, mount.recursive_read_only) {
        (_, true) => "rro",
        (true, false) => "ro",
        (false, false) => "rw",
    };
    let options = ["rbind", propagation, access];
    Ok(json!({
        "destination": mount.container_path, "type": "bind", "source": source, "options": options
    }))
}

/// What every container has of the pod and of its control group, besides its volumes.
const OWN: [&str; 5] = ["/dev/shm", "/etc/resolv.conf", "/etc/hostname", "/etc/hosts", "/sys/fs/cgroup"];

/// Mounts that are not for both sides. One does not speak for what of another kind lies below it.
pub(crate) fn secluded(config: &ContainerConfig) -> Vec<Seclusion> {
    let is_open = |mount: &Mount| mount.propagation() == MountPropagation::PropagationBidirectional;
    let of = |mount: &Mount| {
        let is_other = |one: &&Mount| {
            one.container_path != mount.container_path
                && Path::new(&one.container_path).starts_with(&mount.container_path)
                && one.propagation != mount.propagation
        };
        Seclusion {
            path: PathBuf::from(&mount.container_path),
            from_source: mount.propagation() == MountPropagation::PropagationHostToContainer,
            besides: config
                .mounts
                .iter()
                .filter(is_other)
                .map(|one| PathBuf::from(&one.container_path))
                .collect(),
        }
    };
    let is_own =
        |path: &&str| !config.mounts.iter().any(|mount| Path::new(path).starts_with(&mount.container_path));
    let own = OWN.into_iter().filter(is_own);
    let own =
        own.map(|path| Seclusion { path: PathBuf::from(path), from_source: false, besides: Vec::new() });
    own.chain(config.mounts.iter().filter(|mount| !is_open(mount)).map(of)).collect()
}

/// `linux.rootfsPropagation`: what the container mounts is seen outside only if a mount asks for it.
pub(crate) fn root_propagation(config: &ContainerConfig) -> &'static str {
    let shared = |mount: &Mount| mount.propagation() == MountPropagation::PropagationBidirectional;
    if config.mounts.iter().any(shared) { "shared" } else { "slave" }
}

/// `linux.devices`, and the rules for them. Of devices that the pod is given, what is the node's root's is the pod's root's where the pod has
/// `users` of its own; the node's other devices, which a privileged container sees, stay nobody's there.
pub(crate) fn devices(
    config: &ContainerConfig,
    privileged: bool,
    users: Option<&UserMap>,
) -> Result<(Vec<Value>, Vec<Value>), MountError> {
    let mut nodes = Vec::new();
    let mut rules = vec![json!({ "allow": privileged, "access": "rwm" })];
    if privileged {
        for path in host_devices(Path::new("/dev")) {
            if let Ok(Some((node, _))) = device(&path, &path, "rwm") {
                nodes.push(node);
            }
        }
    }
    for wanted in &config.devices {
        let (host, inside) = (PathBuf::from(&wanted.host_path), PathBuf::from(&wanted.container_path));
        let paths = if host.is_dir() { host_devices(&host) } else { vec![host.clone()] };
        for path in paths {
            let target = path.strip_prefix(&host).map_or(inside.clone(), |rest| {
                if rest.as_os_str().is_empty() { inside.clone() } else { inside.join(rest) }
            });
            let found = device(&path, &target, &wanted.permissions)
                .map_err(|source| MountError::Device { path: path.clone(), source })?;
            let Some((mut node, rule)) = found else {
                let source = io::Error::new(io::ErrorKind::InvalidInput, "not a device node");
                return Err(MountError::Device { path, source });
            };
            if let Some(users) = users {
                give(&mut node, users);
            }
            nodes.push(node);
            rules.push(rule);
        }
    }
    Ok((nodes, rules))
}

/// Gives a device node to the pod's users: an owner that they do not have could not be told from others.
fn give(node: &mut Value, users: &UserMap) {
    let owner = |field: &str| node[field].as_u64().and_then(|id| u32::try_from(id).ok()).unwrap_or_default();
    let (uid, gid) = users.outside(owner("uid"), owner("gid"));
    (node["uid"], node["gid"]) = (json!(uid), json!(gid));
}

fn device(host: &Path, inside: &Path, access: &str) -> io::Result<Option<(Value, Value)>> {
    let metadata = fs::metadata(host)?;
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => "c",
        kind if kind.is_block_device() => "b",
        _ => return Ok(None),
    };
    let (major, minor) = (libc::major(metadata.rdev()), libc::minor(metadata.rdev()));
    let node = json!({
        "path": inside, "type": kind, "major": major, "minor": minor,
        "fileMode": metadata.mode() & 0o7777, "uid": metadata.uid(), "gid": metadata.gid()
    });
    let rule = json!({ "allow": true, "type": kind, "major": major, "minor": minor, "access": access });
    Ok(Some((node, rule)))
}

/// Device nodes below `folder`, without those that a container has of its own.
fn host_devices(folder: &Path) -> Vec<PathBuf> {
    const OWN: [&str; 6] = ["pts", "shm", "fd", "mqueue", "console", "ptmx"];
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut out = Vec::new();
    for found in entries.flatten() {
        let Ok(kind) = found.file_type() else { continue };
        if OWN.iter().any(|own| found.file_name() == *own) {
            continue;
        }
        if kind.is_dir() {
            out.extend(host_devices(&found.path()));
        } else if kind.is_char_device() || kind.is_block_device() {
            out.push(found.path());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod_process::protocol::IdRange;

    #[test]
    fn what_is_the_roots_of_the_node_is_the_roots_of_a_pod_with_users_of_its_own() {
        let range = |outside| IdRange { outside, length: 65536 };
        let users = UserMap { uids: range(100_000), gids: range(200_000) };
        let mut node = json!({"path": "/dev/raw", "type": "b", "uid": 0, "gid": 6});
        give(&mut node, &users);
        assert_eq!(node, json!({"path": "/dev/raw", "type": "b", "uid": 100_000, "gid": 200_006}));
    }

    #[test]
    fn a_mount_speaks_for_what_is_below_it_unless_that_is_of_another_kind() {
        let mount = |path: &str, propagation: MountPropagation| Mount {
            container_path: path.to_owned(),
            propagation: propagation.into(),
            ..Mount::default()
        };
        let mounts = vec![
            mount("/a", MountPropagation::PropagationPrivate),
            mount("/a/b", MountPropagation::PropagationBidirectional),
            mount("/ab", MountPropagation::PropagationPrivate),
            mount("/ab/c", MountPropagation::PropagationPrivate),
            mount("/d", MountPropagation::PropagationHostToContainer),
            mount("/etc/hosts", MountPropagation::PropagationHostToContainer),
        ];
        let found = secluded(&ContainerConfig { mounts, ..ContainerConfig::default() });
        let found: Vec<_> = found
            .iter()
            .map(|one| (one.path.to_str().unwrap(), one.from_source, one.besides.len()))
            .collect();
        let expected = [
            ("/a", false, 1),
            ("/ab", false, 0),
            ("/ab/c", false, 0),
            ("/d", true, 0),
            ("/etc/hosts", true, 0),
        ];
        assert_eq!(found[4..], expected);
        // What of the container's own no volume is in the place of.
        let own = ["/dev/shm", "/etc/resolv.conf", "/etc/hostname", "/sys/fs/cgroup"];
        assert_eq!(found[..4].iter().map(|one| one.0).collect::<Vec<_>>(), own);
    }
}
