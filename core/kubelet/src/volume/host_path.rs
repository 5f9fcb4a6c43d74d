//! hostPath: a path of the node, checked or made as its type says.

use std::fs::{self, DirBuilder, FileType, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Why a path is not what the volume says.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostPathError {
    /// There is nothing.
    #[error("hostPath {} doesn't exist", .0.display())]
    Absent(PathBuf),
    /// It is something else.
    #[error("hostPath type check failed: {} is not a {wanted}, it's a {found}", path.display())]
    Type {
        /// The path.
        path: PathBuf,
        /// What it should be.
        wanted: &'static str,
        /// The type that it is of, as volumes name it.
        found: &'static str,
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
    #[error("{action} {}: {}", path.display(), plain(reason))]
    Create {
        /// What was tried, as the kernel calls it.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
}

/// The kernel's words without its number.
fn plain(reason: &io::Error) -> String {
    match reason.raw_os_error().map(nix::errno::Errno::from_raw) {
        Some(number) => number.desc().to_lowercase(),
        None => reason.to_string(),
    }
}

/// What a volume of the type would be called.
fn name(found: FileType) -> &'static str {
    match found {
        it if it.is_dir() => "Directory",
        it if it.is_socket() => "Socket",
        it if it.is_char_device() => "CharDevice",
        it if it.is_block_device() => "BlockDevice",
        _ => "File",
    }
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
    let created = |action, made: io::Result<()>| {
        made.map_err(|reason| HostPathError::Create { action, path: path.to_owned(), reason })
    };
    let (fits, wanted): (fn(&FileType) -> bool, _) = match kind {
        "DirectoryOrCreate" if found.is_none() => {
            return created("mkdir", DirBuilder::new().recursive(true).mode(0o755).create(path));
        }
        "FileOrCreate" if found.is_none() => {
            let made = OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(path);
            return created("open", made.map(drop));
        }
        "Directory" | "DirectoryOrCreate" => (FileType::is_dir, "directory"),
        "File" | "FileOrCreate" => (FileType::is_file, "file"),
        "Socket" => (FileType::is_socket, "socket file"),
        "CharDevice" => (FileType::is_char_device, "character device"),
        "BlockDevice" => (FileType::is_block_device, "block device"),
        other => return Err(HostPathError::Unknown(other.to_owned())),
    };
    match found {
        None => Err(HostPathError::Absent(path.to_owned())),
        Some(found) if fits(&found) => Ok(()),
        Some(found) => Err(HostPathError::Type { path: path.to_owned(), wanted, found: name(found) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_what_its_type_says_or_is_refused_with_what_it_is() {
        let folder = std::env::temp_dir().join(format!("keelson-host-path-{}", uuid::Uuid::new_v4()));
        let (file, absent) = (folder.join("file"), folder.join("absent"));
        check(&folder.join("made"), "DirectoryOrCreate").unwrap();
        check(&file, "FileOrCreate").unwrap();
        for (path, kind) in
            [(&file, "File"), (&file, "FileOrCreate"), (&folder, "Directory"), (&absent, ""), (&file, "")]
        {
            check(path, kind).unwrap();
        }
        let refused = |path: &Path, kind: &str| check(path, kind).unwrap_err().to_string();
        let (file_is, folder_is) = (file.display(), folder.display());
        assert_eq!(
            refused(&file, "DirectoryOrCreate"),
            format!("hostPath type check failed: {file_is} is not a directory, it's a File")
        );
        assert_eq!(
            refused(&folder, "Socket"),
            format!("hostPath type check failed: {folder_is} is not a socket file, it's a Directory")
        );
        assert_eq!(
            refused(Path::new("/dev/null"), "BlockDevice"),
            "hostPath type check failed: /dev/null is not a block device, it's a CharDevice"
        );
        assert_eq!(refused(&absent, "File"), format!("hostPath {} doesn't exist", absent.display()));
        let deep = absent.join("file");
        assert_eq!(
            refused(&deep, "FileOrCreate"),
            format!("open {}: no such file or directory", deep.display())
        );
        assert_eq!(refused(&file, "Pipe"), "Pipe is an invalid volume type");
        fs::remove_dir_all(&folder).unwrap();
    }
}
