//! Moves a damaged store aside, so that its member joins anew from the others.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg, RenameFlags};

use crate::checkpoint;
use crate::disk::RealDisk;
use crate::raft::member::Identity;
use crate::raft::runtime::random;
use crate::raft::{SnapshotMeta, snapshot_file};

/// What was moved, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aside {
    /// Where the damaged store is now.
    pub path: PathBuf,
    /// The names of the members that its newest state knew.
    pub members: Vec<String>,
}

/// Why nothing was moved.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// There is no store.
    #[error("there is no store in {}", .0.display())]
    Missing(PathBuf),
    /// It is open.
    #[error("{} is in use: stop the server first", .0.display())]
    InUse(PathBuf),
    /// Nobody else has what is in it.
    #[error("when the store was saved last, it had no other members to be made again from")]
    Alone,
    /// What is left does not tell whether there are others.
    #[error("what is left of the store does not tell whether it has other members")]
    Unknown,
    /// The operating system refused.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// The newest membership that can be read of a store.
fn membership(dir: &Path) -> Option<SnapshotMeta> {
    let snapshot = snapshot_file::meta(&RealDisk, dir).ok().flatten();
    let saved = checkpoint::meta(&dir.join(crate::raft::recovery::CHECKPOINT)).ok().flatten();
    snapshot.into_iter().chain(saved).max_by_key(|meta| meta.last_log_id)
}

/// Moves the store in `dir` aside and leaves a folder in its place whose member is another one that joins a cluster and
/// never makes one. `certain` says that there are others although the store does not tell.
pub fn set_aside(dir: &Path, certain: bool) -> Result<Aside, RebuildError> {
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| RebuildError::Io { action, path, source }
    };
    let lock = dir.join("lock");
    let lock = match File::open(&lock) {
        Ok(file) => Some(
            Flock::lock(file, FlockArg::LockExclusiveNonblock)
                .map_err(|_| RebuildError::InUse(dir.to_owned()))?,
        ),
        Err(_) if dir.is_dir() => None,
        Err(_) => return Err(RebuildError::Missing(dir.to_owned())),
    };
    let meta = membership(dir);
    let known = meta.as_ref().map(|meta| meta.last_membership.nodes().count());
    let identity = Identity::read(dir).ok().flatten();
    let joined = identity.as_ref().is_some_and(|identity| identity.joins);
    // One that joined may be the last that is left.
    let alone = meta.as_ref().zip(identity.as_ref()).is_some_and(|(meta, identity)| {
        known == Some(1) && meta.last_membership.nodes().all(|(id, _)| *id == identity.member)
    });
    match known {
        Some(2..) => {}
        Some(_) | None if certain => {}
        Some(_) | None if joined && !alone => {}
        Some(_) => return Err(RebuildError::Alone),
        None => return Err(RebuildError::Unknown),
    }
    let names = meta.iter().flat_map(|meta| meta.last_membership.nodes());
    let members = names.map(|(_, member)| member.name.clone()).collect();
    let path = (0..u32::MAX)
        .map(|number| dir.with_extension(format!("damaged-{number}")))
        .find(|path| !path.exists())
        .ok_or_else(|| RebuildError::Missing(dir.to_owned()))?;
    let fresh = dir.with_extension("fresh");
    let interrupted = fresh.join("log").exists() || fresh.join(crate::raft::recovery::CHECKPOINT).exists();
    if interrupted {
        // It was exchanged already: this is the damaged store, which still lacks its name.
        fs::rename(&fresh, &path).map_err(failed("give its name to", &path))?;
        return Ok(Aside { path, members });
    }
    DirBuilder::new().recursive(true).mode(0o700).create(&fresh).map_err(failed("create", &fresh))?;
    Identity { member: random(), cluster: None, joins: true }
        .write(&fresh)
        .map_err(failed("write who the member is to", &fresh))?;
    // At once: without a store in the folder, the next start would make a cluster of its own.
    nix::fcntl::renameat2(
        nix::fcntl::AT_FDCWD,
        &fresh,
        nix::fcntl::AT_FDCWD,
        dir,
        RenameFlags::RENAME_EXCHANGE,
    )
    .map_err(|errno| failed("exchange", dir)(errno.into()))?;
    fs::rename(&fresh, &path).map_err(failed("give its name to", &path))?;
    let parent = dir.parent().unwrap_or(dir);
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed("flush the folder", parent))?;
    drop(lock);
    Ok(Aside { path, members })
}
