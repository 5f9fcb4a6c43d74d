//! Makes a store of an archive: a new cluster with one member.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::{ArchiveError, Summary, read};
use crate::disk::RealDisk;
use crate::engine::Config;
use crate::raft::member::{Identity, Member};
use crate::raft::runtime::random;
use crate::raft::snapshot_file::{self, SnapshotError};
use crate::raft::{LeaderId, LogId, SnapshotMeta, StoredMembership};
use crate::{Engine, MemberId, Revision};

/// How an archive is restored.
#[derive(Clone, Copy, Debug)]
pub struct RestoreOptions {
    /// By how much the revision goes on beyond the archive's. Whoever followed the old cluster may have seen revisions
    /// that came after the archive was taken; with this they lie before everything that the new cluster says, whose
    /// history begins behind it, so that they are told to read anew and mistake nothing of the new one for what they
    /// know.
    pub bump_revision: u64,
}

impl Default for RestoreOptions {
    /// A thousand million: more than a month of 300 changes a second.
    fn default() -> Self {
        RestoreOptions { bump_revision: 1_000_000_000 }
    }
}

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// What the archive held.
    pub archive: Summary,
    /// The number of the new cluster.
    pub cluster: MemberId,
    /// The number of its one member.
    pub member: MemberId,
    /// The revision from which it goes on.
    pub revision: Revision,
}

/// Why nothing was restored. The folder is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The archive is not right.
    #[error("check the snapshot")]
    Archive(#[from] ArchiveError),
    /// There is a store.
    #[error("{} is not empty: a snapshot is restored where no store is; move the old one away first", .0.display())]
    NotEmpty(PathBuf),
    /// A store is open there.
    #[error("{} is in use: stop the server first", .0.display())]
    InUse(PathBuf),
    /// Somebody else restores to the same place.
    #[error("{} is locked: another process restores a snapshot there", .0.display())]
    Busy(PathBuf),
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
    /// The state could not be written.
    #[error("write the state")]
    State(#[from] SnapshotError),
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
    move |source| RestoreError::Io { action, path: path.to_owned(), source }
}

/// Makes a store in the folder `dir`, which must be empty or not be there, of an archive. All of the archive is read
/// and checked before anything is written, and the folder gets its name when all of it is on the disk.
pub fn restore(archive: &Path, dir: &Path, options: RestoreOptions) -> Result<Restored, RestoreError> {
    vacant(dir)?;
    let mut entries = Vec::new();
    let summary = read(archive, |key, entry| entries.push((key, entry)))?;
    let revision = Revision::new(summary.head.revision.get().saturating_add(options.bump_revision));
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(io_error("create the folder", parent))?;
    let aside = dir.with_extension("restoring");
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&aside)
        .map_err(io_error("create the folder", &aside))?;
    let lock = aside.join("lock");
    let file = File::create(&lock).map_err(io_error("create", &lock))?;
    let _lock =
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| RestoreError::Busy(aside.clone()))?;
    sweep(&aside, &lock)?;
    let identity = Identity { member: random(), cluster: Some(random()), joins: false };
    identity.write(&aside).map_err(io_error("write who the member is to", &aside))?;
    let state = Engine::restore(Config { history: 0, history_bytes: 0 }, revision, entries).snapshot();
    snapshot_file::save(RealDisk::shared(), &aside, &beginning(identity.member)?, &state)?;
    vacant(dir)?;
    // An empty folder is replaced, and one that has been filled meanwhile is not.
    fs::rename(&aside, dir).map_err(io_error("give its name to", dir))?;
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(io_error("flush the folder", parent))?;
    Ok(Restored {
        archive: summary,
        cluster: MemberId(identity.cluster.unwrap_or_default()),
        member: MemberId(identity.member),
        revision,
    })
}

fn vacant(dir: &Path) -> Result<(), RestoreError> {
    match fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            Some(_) if is_open(dir) => Err(RestoreError::InUse(dir.to_owned())),
            Some(_) => Err(RestoreError::NotEmpty(dir.to_owned())),
            None => Ok(()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_error("list the folder", dir)(error)),
    }
}

fn is_open(dir: &Path) -> bool {
    let lock = File::open(dir.join("lock")).map(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock));
    matches!(lock, Ok(Err((_, nix::errno::Errno::EWOULDBLOCK))))
}

/// Removes what an earlier attempt left.
fn sweep(dir: &Path, but: &Path) -> Result<(), RestoreError> {
    for entry in fs::read_dir(dir).map_err(io_error("list the folder", dir))? {
        let path = entry.map_err(io_error("list the folder", dir))?.path();
        if path != but {
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
    }
    Ok(())
}

/// The place in the log of a cluster that has been made of one member, and has done nothing since.
fn beginning(member: u64) -> Result<SnapshotMeta, RestoreError> {
    let first = LogId { leader_id: LeaderId { term: 0, node_id: member }, index: 0 };
    let members = BTreeMap::from([(member, Member::default())]);
    let membership = openraft::Membership::new(vec![BTreeSet::from([member])], members)
        .map_err(|error| io_error("describe the member of", Path::new("."))(io::Error::other(error)))?;
    Ok(SnapshotMeta {
        last_log_id: Some(first),
        last_membership: StoredMembership::new(Some(first), membership),
    })
}
