//! What is mounted for one container on the node, and goes with it: images that are its volumes, and volumes that it sees with
//! owners of its user namespace.
//!
//! `CONTAINER/volumes/INDEX/rootfs` is the image, `CONTAINER/mapped/INDEX` the mapped volume, where INDEX is the mount's place
//! among the container's; `layers/INDEX` of the container and of its images are the mapped layers while their overlay is made.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt as _, chown};
use std::path::{Path, PathBuf};

use keelson_cri::v1;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, mkdirat};

use crate::error::{CallError, file};
use crate::image::ImageStore;
use crate::mapped_mount::{self, Depth, Propagation};
use crate::pod_process::protocol::UserMap;
use crate::snapshot::{self, SnapshotError};

/// A container's user namespace: its ids on the node, and itself.
pub(crate) struct Users {
    pub(crate) map: UserMap,
    pub(crate) namespace: File,
}

/// The root below `place`, a container's folder or that of an image that is its volume, of `layers` (bottom first). An overlay
/// cannot be mapped; its layers can.
pub(crate) fn root(place: &Path, layers: &[PathBuf], users: Option<&Users>) -> Result<PathBuf, CallError> {
    let Some(users) = users else { return Ok(snapshot::mount_root(place, layers)?) };
    let folder = place.join("layers");
    let mut mapped = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        let target = folder.join(index.to_string());
        fs::create_dir_all(&target).map_err(file("create", &target))?;
        map(layer, &target, users, Depth::One, Propagation::Private)?;
        mapped.push(target);
    }
    let upper = snapshot::upper(place);
    fs::create_dir_all(&upper).map_err(file("create", &upper))?;
    chown(&upper, Some(users.map.uids.outside), Some(users.map.gids.outside)).map_err(file("own", &upper))?;
    let mounted = snapshot::mount_root(place, &mapped);
    // The overlay has mounts of its own of them.
    unmount_below(&folder)?;
    Ok(mounted?)
}

fn map(
    source: &Path,
    target: &Path,
    users: &Users,
    depth: Depth,
    propagation: Propagation,
) -> Result<(), CallError> {
    mapped_mount::mount(source, target, &users.namespace, depth, propagation).map_err(|error| {
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
    let mut to_map = Vec::new();
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
            let root = root(&own, &paths, users)?;
            mount.host_path = part(&root, &mount.image_sub_path)?.to_string_lossy().into_owned();
            mount.readonly = true;
            layers.extend(chains);
        } else if users.is_some() {
            to_map.push((index, propagation(mount)?));
        }
    }
    let Some(users) = users else { return Ok(config) };
    let kinds = config.mounts.iter().map(|mount| is_folder(Path::new(&mount.host_path)));
    let kinds = kinds.collect::<Result<Vec<_>, _>>()?;
    let mapped: Vec<usize> = to_map.iter().map(|(index, _)| *index).collect();
    for (outer, inner, relative) in nested(&config.mounts, &mapped) {
        mount_point(Path::new(&config.mounts[outer].host_path), &relative, kinds[inner])?;
    }
    for (index, propagation) in to_map {
        let mount = &mut config.mounts[index];
        let target = container.join("mapped").join(index.to_string());
        place(&target, kinds[index])?;
        map(Path::new(&mount.host_path), &target, users, Depth::All, propagation)?;
        mount.host_path = target.to_string_lossy().into_owned();
    }
    Ok(config)
}

/// What a mapped volume hears of its source.
fn propagation(mount: &v1::Mount) -> Result<Propagation, CallError> {
    match mount.propagation() {
        v1::MountPropagation::PropagationPrivate => Ok(Propagation::Private),
        v1::MountPropagation::PropagationHostToContainer => Ok(Propagation::FromSource),
        // What the container mounts would be the node's, with ids of the pod.
        v1::MountPropagation::PropagationBidirectional => Err(CallError::Refused(format!(
            "mount {}: bidirectional mount propagation is not supported for a pod with a user namespace",
            mount.container_path
        ))),
    }
}

/// Whether it is a folder, which it becomes if nothing is there.
fn is_folder(source: &Path) -> Result<bool, CallError> {
    match fs::metadata(source) {
        Ok(metadata) => Ok(metadata.is_dir()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(source).map_err(file("create", source))?;
            Ok(true)
        }
        Err(error) => Err(file("look at", source)(error)),
    }
}

/// The mounts whose place lies in a mapped one that can be written to, as (outer, inner, path in the outer) (pure).
fn nested(mounts: &[v1::Mount], mapped: &[usize]) -> Vec<(usize, usize, PathBuf)> {
    let path = |index: usize| Path::new(&mounts[index].container_path);
    let below = |inner: usize, outer: usize| {
        let rest = path(inner).strip_prefix(path(outer)).ok()?;
        (!rest.as_os_str().is_empty()).then(|| rest.to_owned())
    };
    let mut found = Vec::new();
    for inner in 0..mounts.len() {
        let outer = (0..mounts.len()).filter(|outer| below(inner, *outer).is_some());
        // The one that is on top there.
        let Some(outer) = outer.max_by_key(|outer| path(*outer).components().count()) else { continue };
        if mapped.contains(&outer)
            && !mounts[outer].readonly
            && let Some(rest) = below(inner, outer)
        {
            found.push((outer, inner, rest));
        }
    }
    found
}

/// Makes the place of a mount in a volume, where nothing is yet: on the mapped volume the node's root could make nothing, having no
/// id there. Links lead nowhere but into the volume.
fn mount_point(volume: &Path, relative: &Path, is_folder: bool) -> Result<(), CallError> {
    let failed = |error: nix::Error| file("create", volume.join(relative))(error.into());
    // A pod may have put something else there, which to open would wait.
    let only = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open(volume, only, Mode::empty());
    let root: OwnedFd = root.map_err(|error| file("open", volume)(error.into()))?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let mut parent = root.try_clone().map_err(file("open", volume))?;
    let mut names = relative.components().peekable();
    let mut reached = PathBuf::new();
    while let Some(name) = names.next() {
        reached.push(name);
        let name = Path::new(name.as_os_str());
        match openat2(&root, &reached, how) {
            Ok(found) => parent = found,
            Err(nix::Error::ENOENT) if is_folder || names.peek().is_some() => {
                match mkdirat(&parent, name, Mode::from_bits_truncate(0o755)) {
                    // Another container of the pod may do the same.
                    Ok(()) | Err(nix::Error::EEXIST) => {}
                    Err(error) => return Err(failed(error)),
                }
                parent = openat2(&root, &reached, how).map_err(failed)?;
            }
            Err(nix::Error::ENOENT) => {
                let flags = OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                openat(&parent, name, flags, Mode::from_bits_truncate(0o644)).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
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
        unmount_below(&volume.join("layers"))?;
        snapshot::unmount(&volume.join("rootfs"))?;
    }
    snapshot::unmount(&container.join("rootfs"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn at(path: &str) -> v1::Mount {
        v1::Mount { container_path: path.to_owned(), ..v1::Mount::default() }
    }

    #[test]
    fn a_mount_has_its_place_in_the_innermost_volume_around_it() {
        let read_only = v1::Mount { readonly: true, ..at("/settings") };
        let mounts =
            [at("/data/a/b"), at("/data"), at("/data/a"), at("/database"), read_only, at("/settings/x")];
        let found = nested(&mounts, &[0, 1, 2, 3, 4, 5]);
        assert_eq!(found, [(2, 0, "b".into()), (1, 2, "a".into())]);
        // An image is no place to make something in.
        assert_eq!(nested(&mounts, &[0, 1]), [(1, 2, "a".into())]);
    }

    #[test]
    fn the_place_of_a_mount_is_made_in_the_volume_and_nowhere_else() {
        let (volume, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let make = |path: &str, is_folder| mount_point(volume.path(), Path::new(path), is_folder);
        make("a/b", true).unwrap();
        make("a/file", false).unwrap();
        make("a/b", true).unwrap();
        assert!(volume.path().join("a/b").is_dir() && volume.path().join("a/file").is_file());
        symlink(outside.path(), volume.path().join("door")).unwrap();
        assert!(make("door/x", true).is_err());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_container_mounts_is_not_shown_to_the_node_with_the_ids_of_its_pod() {
        let with = |way: v1::MountPropagation| {
            propagation(&v1::Mount { propagation: way as i32, ..at("/data") })
                .map_err(|error| error.to_string())
        };
        assert_eq!(with(v1::MountPropagation::PropagationPrivate), Ok(Propagation::Private));
        assert_eq!(with(v1::MountPropagation::PropagationHostToContainer), Ok(Propagation::FromSource));
        assert!(with(v1::MountPropagation::PropagationBidirectional).unwrap_err().contains("/data"));
    }
}
