//! Kernel settings of the calling thread's network namespace.

use std::{fs, io};

/// A setting could not be changed.
#[derive(Debug, thiserror::Error)]
#[error("set net.{name} to {value}")]
pub struct SysctlError {
    /// Below `net`, with dots or slashes.
    pub name: String,
    /// What it should be.
    pub value: &'static str,
    /// Why not.
    #[source]
    pub source: io::Error,
}

/// Sets `/proc/sys/net/NAME`, unless it is so already: what cannot be written may still be right.
pub(crate) fn set(name: &str, value: &'static str) -> Result<(), SysctlError> {
    let path = format!("/proc/sys/net/{name}");
    let failed = |source| SysctlError { name: name.to_owned(), value, source };
    if fs::read_to_string(&path).map_err(failed)?.trim() == value {
        return Ok(());
    }
    fs::write(&path, value).map_err(failed)
}
