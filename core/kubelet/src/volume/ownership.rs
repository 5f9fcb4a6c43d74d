//! fsGroup: files of a volume belong to a group of the pod, and new ones too.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod};
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::FchmodatFlags;
use nix::unistd::{Gid, Uid};

use super::error::{SetUpError, io_error};

/// What the group may do with a volume's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Content that the kubelet makes.
    Read,
    /// Content that containers make.
    Write,
}

impl Access {
    fn file(self) -> u32 {
        match self {
            Access::Read => 0o440,
            Access::Write => 0o660,
        }
    }

    /// The group may enter folders, and new files in them belong to it.
    fn folder(self) -> u32 {
        self.file() | 0o2110
    }
}

/// The group that a pod's volumes belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FsGroup(u32);

impl FsGroup {
    pub(super) fn of(pod: &Pod) -> Option<Self> {
        let context = pod.spec.as_ref()?.security_context.as_ref()?;
        u32::try_from(context.fs_group?).ok().map(FsGroup)
    }

    /// Whether the folder itself already is as the group needs it; then all that is in it is taken to be.
    pub(super) fn is_set(self, folder: &Path) -> Result<bool, SetUpError> {
        let found = fs::symlink_metadata(folder).map_err(io_error("look at", folder))?;
        Ok(found.gid() == self.0 && found.mode() & Access::Write.folder() == Access::Write.folder())
    }

    /// Gives the folder and everything in it to the group. Links are given, not followed.
    pub(super) fn apply(self, path: &Path, access: Access) -> Result<(), SetUpError> {
        if self.give(path, access)? {
            for entry in fs::read_dir(path).map_err(io_error("list", path))? {
                self.apply(&entry.map_err(io_error("list", path))?.path(), access)?;
            }
        }
        Ok(())
    }

    /// Gives one file or folder to the group. Says whether it is a folder.
    pub(super) fn give(self, path: &Path, access: Access) -> Result<bool, SetUpError> {
        let found = fs::symlink_metadata(path).map_err(io_error("look at", path))?;
        std::os::unix::fs::lchown(path, None, Some(self.0)).map_err(io_error("give to a group", path))?;
        if found.is_symlink() {
            return Ok(false);
        }
        let bits = if found.is_dir() { access.folder() } else { access.file() };
        // A regular file or folder: what a container could exchange for a link meanwhile is opened by no one here.
        let mode = nix::sys::stat::Mode::from_bits_truncate(found.mode() | bits);
        let result = nix::sys::stat::fchmodat(AT_FDCWD, path, mode, FchmodatFlags::NoFollowSymlink);
        match result {
            // Kernels before 6.6 cannot set a mode without following.
            Err(nix::Error::EOPNOTSUPP | nix::Error::ENOSYS | nix::Error::EINVAL) => {
                fs::set_permissions(path, fs::Permissions::from_mode((found.mode() | bits) & 0o7777))
                    .map_err(io_error("set the mode of", path))?;
            }
            other => other.map_err(io_error("set the mode of", path))?,
        }
        Ok(found.is_dir())
    }
}

/// The user all containers run as, if it is one: tokens belong to it.
pub(super) fn user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let of_pod = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    let of = |container: &Container| {
        container.security_context.as_ref().and_then(|context| context.run_as_user).or(of_pod)
    };
    let mut users = spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(of);
    let first = users.next()??;
    let is_same = users.all(|user| user == Some(first));
    is_same.then(|| u32::try_from(first).ok()).flatten()
}

/// Gives a file to a user.
pub(super) fn give(path: &Path, user: u32) -> Result<(), SetUpError> {
    let done = nix::unistd::chown(path, Some(Uid::from_raw(user)), None::<Gid>);
    done.map_err(io_error("give to a user", path))
}
