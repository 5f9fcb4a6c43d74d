//! What is there of a device node.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use crate::{CdiError, DeviceNode};

/// A device node of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostNode {
    /// `c`, `b`, or `p` of a pipe.
    pub kind: &'static str,
    /// Its major number.
    pub major: i64,
    /// Its minor number.
    pub minor: i64,
    /// Who may do what with it; the kind is in it too.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

impl HostNode {
    /// Looks at a node, or at what links lead to.
    pub fn look(path: &Path) -> Result<Self, CdiError> {
        let failed = |source| CdiError::Node { path: path.to_owned(), source };
        let metadata = fs::metadata(path).map_err(failed)?;
        let kind = match metadata.file_type() {
            kind if kind.is_char_device() => "c",
            kind if kind.is_block_device() => "b",
            kind if kind.is_fifo() => "p",
            _ => return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "not a device node"))),
        };
        Ok(HostNode {
            kind,
            major: i64::from(libc::major(metadata.rdev())),
            minor: i64::from(libc::minor(metadata.rdev())),
            mode: metadata.mode(),
            uid: metadata.uid(),
            gid: metadata.gid(),
        })
    }
}

impl DeviceNode {
    /// Where this machine has it.
    pub fn on_host(&self) -> &Path {
        Path::new(if self.host_path.is_empty() { &self.path } else { &self.host_path })
    }

    /// Whether the kind is what the file says, if it does say so.
    pub fn check_kind(&self, found: &HostNode) -> Result<(), CdiError> {
        let wanted = if self.kind == "u" { "c" } else { self.kind.as_str() };
        if wanted.is_empty() || wanted == found.kind {
            return Ok(());
        }
        let (wanted, found) = (self.kind.clone(), found.kind.to_owned());
        Err(CdiError::Kind { path: self.on_host().to_owned(), wanted, found })
    }

    /// What a container may do with it.
    pub fn access(&self) -> &str {
        if self.permissions.is_empty() { "rwm" } else { &self.permissions }
    }
}
