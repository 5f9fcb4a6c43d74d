//! hostPath: a path of the node, checked or made as its type says.

use std::fs::{self, DirBuilder, FileType, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Why a path is not what the volume says.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostPathError {
    /// It is something else, or nothing.
    #[error("hostPath type check failed: {} is not a {wanted}", path.display())]
    Type {
        /// The path.
        path: PathBuf,
        /// What it should be.
        wanted: &'static str,
    },
    /// The type is unknown.
    #[error("{0} is an invalid volume type")]
    Unknown(String),
    /// It cannot be looked at.
    #[error("hostPath type check failed: {}: {reason}", path.display())]
    Stat {
        /// The path.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// It cannot be made.
    #[error("create {}: {reason}", path.display())]
    Create {
        /// The path.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
}

fn file_type(path: &Path) -> Result<Option<FileType>, HostPathError> {
    match fs::metadata(path) {
        Ok(found) => Ok(Some(found.file_type())),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(reason) => Err(HostPathError::Stat { path: path.to_owned(), reason }),
    }
}

/// Checks the path against the type; the two types that end in `OrCreate` make it when nothing is there.
pub(super) fn check(path: &Path, kind: &str) -> Result<(), HostPathError> {
    if kind.is_empty() {
        return Ok(());
    }
    let found = file_type(path)?;
    let created =
        |made: io::Result<()>| made.map_err(|reason| HostPathError::Create { path: path.to_owned(), reason });
    let (fits, wanted) = match kind {
        "DirectoryOrCreate" => {
            if found.is_none() {
                return created(DirBuilder::new().recursive(true).mode(0o755).create(path));
            }
            (found.is_some_and(|it| it.is_dir()), "directory")
        }
        "FileOrCreate" => {
            if found.is_none() {
                let made = OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(path);
                return created(made.map(drop));
            }
            (found.is_some_and(|it| it.is_file()), "file")
        }
        "Directory" => (found.is_some_and(|it| it.is_dir()), "directory"),
        "File" => (found.is_some_and(|it| it.is_file()), "file"),
        "Socket" => (found.is_some_and(|it| it.is_socket()), "socket file"),
        "CharDevice" => (found.is_some_and(|it| it.is_char_device()), "character device"),
        "BlockDevice" => (found.is_some_and(|it| it.is_block_device()), "block device"),
        other => return Err(HostPathError::Unknown(other.to_owned())),
    };
    if fits { Ok(()) } else { Err(HostPathError::Type { path: path.to_owned(), wanted }) }
}
