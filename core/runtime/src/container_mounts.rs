//! What is mounted for one container on the node, and goes with it: images that are its volumes, and volumes that it sees with
//! owners of its user namespace.
//!
//! `CONTAINER/volumes/INDEX/rootfs` is the image, `CONTAINER/mapped/INDEX` the mapped volume, where INDEX is the mount's place
//! among the container's; `CONTAINER/layers/INDEX` are its own layers while the root is made.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{OpenOptionsExt as _, chown};
use std::path::{Path, PathBuf};

use keelson_cri::v1;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use crate::error::{CallError, file};
use crate::image::ImageStore;
use crate::mapped_mount::{self, Depth};
use crate::pod_process::protocol::UserMap;
use crate::snapshot::{self, SnapshotError};

/// A container's user namespace: its ids on the node, and itself.
pub(crate) struct Users {
    pub(crate) map: UserMap,
    pub(crate) namespace: File,
}

/// The container's root, of `layers` (bottom first).
pub(crate) fn root(
    container: &Path,
    layers: &[PathBuf],
    users: Option<&Users>,
) -> Result<PathBuf, CallError> {
    let Some(users) = users else { return Ok(snapshot::mount_root(container, layers)?) };
    let folder = container.join("layers");
    let mut mapped = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        let target = folder.join(index.to_string());
        fs::create_dir_all(&target).map_err(file("create", &target))?;
        map(layer, &target, users, Depth::One)?;
        mapped.push(target);
    }
    let upper = snapshot::upper(container);
    fs::create_dir_all(&upper).map_err(file("create", &upper))?;
    chown(&upper, Some(users.map.uids.outside), Some(users.map.gids.outside)).map_err(file("own", &upper))?;
    let mounted = snapshot::mount_root(container, &mapped);
    // The overlay has mounts of its own of them.
    unmount_below(&folder)?;
    Ok(mounted?)
}

fn map(source: &Path, target: &Path, users: &Users, depth: Depth) -> Result<(), CallError> {
    mapped_mount::mount(source, target, &users.namespace, depth).map_err(|error| {
        CallError::Refused(format!(
            "failed to mount {} with the owners of the pod's user namespace: {error} (maybe the file system does not \
             support idmap mounts on this kernel)",
            source.display()
        ))
    })
}

/// Mounts the images that the container has as volumes, and maps volumes if it has a user namespace. Answers the
/// configuration with paths in their place, and adds the layers.
pub(crate) fn volumes(
    images: &ImageStore,
    container: &Path,
    config: &v1::ContainerConfig,
    users: Option<&Users>,
    layers: &mut Vec<String>,
) -> Result<v1::ContainerConfig, CallError> {
    let mut config = config.clone();
    for (index, mount) in config.mounts.iter_mut().enumerate() {
        // What the sandbox says holds for all.
        mount.uid_mappings = Vec::new();
        mount.gid_mappings = Vec::new();
        if let Some(wanted) = mount.image.take().filter(|image| !image.image.is_empty()) {
            let not_found = || CallError::NotFound { kind: "image", id: wanted.image.clone() };
            let image = images.find(&wanted.image)?.ok_or_else(not_found)?;
            let chains: Vec<String> = image.layers.iter().map(|layer| layer.chain_id.clone()).collect();
            let paths: Vec<PathBuf> = chains.iter().map(|chain| images.layer_path(chain)).collect();
            let own = container.join("volumes").join(index.to_string());
            let root = snapshot::mount_root(&own, &paths)?;
            mount.host_path = part(&root, &mount.image_sub_path)?.to_string_lossy().into_owned();
            mount.readonly = true;
            layers.extend(chains);
        }
        let Some(users) = users else { continue };
        let source = PathBuf::from(&mount.host_path);
        let target = container.join("mapped").join(index.to_string());
        let metadata = match fs::metadata(&source) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&source).map_err(file("create", &source))?;
                fs::metadata(&source).map_err(file("look at", &source))?
            }
            Err(error) => return Err(file("look at", &source)(error)),
        };
        place(&target, metadata.is_dir())?;
        map(&source, &target, users, Depth::All)?;
        mount.host_path = target.to_string_lossy().into_owned();
    }
    Ok(config)
}

/// Something to mount on.
fn place(target: &Path, is_folder: bool) -> Result<(), CallError> {
    if is_folder {
        return fs::create_dir_all(target).map_err(file("create", target));
    }
    let parent = target.parent().unwrap_or(target);
    fs::create_dir_all(parent).map_err(file("create", parent))?;
    let made = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(target);
    made.map(drop).map_err(file("create", target))
}

/// A part of an image, whose links lead nowhere else.
fn part(root: &Path, part: &str) -> Result<PathBuf, CallError> {
    if part.is_empty() {
        return Ok(root.to_owned());
    }
    let refuse = |error: io::Error| CallError::Refused(format!("image volume subpath {part:?}: {error}"));
    let folder = File::open(root).map_err(refuse)?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let found = openat2(&folder, part, how).map_err(|error| refuse(error.into()))?;
    // Nobody writes there: what is found keeps its place.
    fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).map_err(refuse)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, SnapshotError> {
    let listed = match fs::read_dir(folder) {
        Ok(listed) => listed.collect::<io::Result<Vec<_>>>(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    let listed = listed.map_err(|source| SnapshotError::Folder { path: folder.to_owned(), source })?;
    Ok(listed.into_iter().map(|entry| entry.path()).collect())
}

fn unmount_below(folder: &Path) -> Result<(), SnapshotError> {
    entries(folder)?.iter().try_for_each(|path| snapshot::unmount(path))
}

/// Takes all mounts of a container's folder away.
pub(crate) fn unmount_all(container: &Path) -> Result<(), SnapshotError> {
    unmount_below(&container.join("mapped"))?;
    unmount_below(&container.join("layers"))?;
    for volume in entries(&container.join("volumes"))? {
        snapshot::unmount(&volume.join("rootfs"))?;
    }
    snapshot::unmount(&container.join("rootfs"))
}
