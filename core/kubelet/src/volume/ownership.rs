//! fsGroup: files of a volume belong to a group of the pod, and new ones too.

use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod};
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{Gid, Uid, fchownat};

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

    /// Its number.
    pub(super) fn number(self) -> u32 {
        self.0
    }

    /// Whether files that containers made are given again with each pod, although the folder already is as the group needs it.
    pub(super) fn is_always(pod: &Pod) -> bool {
        let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
        context.and_then(|it| it.fs_group_change_policy.as_deref()) != Some("OnRootMismatch")
    }

    /// Whether the folder itself already is as the group needs it; then all that is in it is taken to be.
    pub(super) fn is_set(self, folder: &Path) -> Result<bool, SetUpError> {
        let found = fs::symlink_metadata(folder).map_err(io_error("look at", folder))?;
        Ok(found.gid() == self.0 && found.mode() & Access::Write.folder() == Access::Write.folder())
    }

    /// Gives the folder and everything in it to the group. Links are given, not followed.
    ///
    /// Containers may exchange what is in the folder meanwhile: each part is opened from the folder above it, and what
    /// was opened is what is given.
    pub(super) fn apply(self, path: &Path, access: Access) -> Result<(), SetUpError> {
        let found = open(path, PART, Mode::empty()).map_err(io_error("open", path))?;
        self.apply_to(&found, path, access, DEPTH)
    }

    /// Gives one file or folder to the group.
    pub(super) fn give(self, path: &Path, access: Access) -> Result<(), SetUpError> {
        let found = open(path, PART, Mode::empty()).map_err(io_error("open", path))?;
        self.give_open(&found, path, access).map(drop)
    }

    fn apply_to(self, part: &OwnedFd, path: &Path, access: Access, depth: usize) -> Result<(), SetUpError> {
        if !self.give_open(part, path, access)? {
            return Ok(());
        }
        let Some(deeper) = depth.checked_sub(1) else {
            return Err(io_error("give to a group all below", path)(std::io::Error::other(
                "it is nested too deep",
            )));
        };
        // The list of the very folder that was opened.
        for entry in fs::read_dir(behind(part)).map_err(io_error("list", path))? {
            let name = entry.map_err(io_error("list", path))?.file_name();
            let inner = path.join(&name);
            match openat(part, name.as_os_str(), PART, Mode::empty()) {
                Ok(found) => self.apply_to(&found, &inner, access, deeper)?,
                // Gone since it was listed.
                Err(nix::Error::ENOENT) => {}
                Err(error) => return Err(io_error("open", &inner)(error)),
            }
        }
        Ok(())
    }

    /// Says whether it is a folder.
    fn give_open(self, part: &OwnedFd, path: &Path, access: Access) -> Result<bool, SetUpError> {
        let found = fstat(part).map_err(io_error("look at", path))?;
        fchownat(part, "", None, Some(Gid::from_raw(self.0)), AtFlags::AT_EMPTY_PATH)
            .map_err(io_error("give to a group", path))?;
        let kind = SFlag::from_bits_truncate(found.st_mode).intersection(SFlag::S_IFMT);
        if kind == SFlag::S_IFLNK {
            return Ok(false);
        }
        let is_folder = kind == SFlag::S_IFDIR;
        let bits = if is_folder { access.folder() } else { access.file() };
        let mode = fs::Permissions::from_mode((found.st_mode | bits) & 0o7777);
        fs::set_permissions(behind(part), mode).map_err(io_error("set the mode of", path))?;
        Ok(is_folder)
    }
}

/// Opens without following a link, and without doing anything to what is opened.
const PART: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
/// How deep folders are given. Each level holds a file open.
const DEPTH: usize = 128;

/// A path to what is open, wherever it is now.
fn behind(part: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", part.as_raw_fd()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_link_leads_to_is_not_given() {
        let all = std::env::temp_dir().join(format!("keelson-ownership-{}", std::process::id()));
        let (volume, outside) = (all.join("volume"), all.join("outside"));
        fs::create_dir_all(&volume).unwrap();
        fs::create_dir_all(&outside).unwrap();
        let secret = outside.join("secret");
        fs::write(&secret, "x").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        fs::create_dir(volume.join("a")).unwrap();
        fs::write(volume.join("a/file"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, volume.join("a/door")).unwrap();
        std::os::unix::fs::symlink(&secret, volume.join("a/link")).unwrap();
        let own = nix::unistd::getgid().as_raw();
        FsGroup(own).apply(&volume, Access::Write).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(mode(&volume.join("a/file")) & 0o660, 0o660);
        assert_eq!(mode(&volume.join("a")) & 0o2770, 0o2770);
        assert_eq!(mode(&secret), 0o600);
        fs::remove_dir_all(all).unwrap();
    }
}
