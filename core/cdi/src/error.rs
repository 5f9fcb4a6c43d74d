//! Why a container cannot have its devices.

use std::io;
use std::path::PathBuf;

/// Why a container cannot have its devices.
#[derive(Debug, thiserror::Error)]
pub enum CdiError {
    /// No file, or more than one, says what they are.
    #[error("CDI device injection failed: unresolvable CDI devices {}", .0.join(", "))]
    Unresolvable(Vec<String>),
    /// A node of a device is not there.
    #[error("CDI device injection failed: failed to inject devices: failed to stat CDI host device {path:?}")]
    Node {
        /// The node.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is another thing than the file says.
    #[error(
        "CDI device injection failed: failed to inject devices: CDI device ({path:?}, {wanted:?}), host type mismatch ({found:?})"
    )]
    Kind {
        /// The node.
        path: PathBuf,
        /// What the file says.
        wanted: String,
        /// What it is.
        found: String,
    },
    /// What is to be mounted is not there.
    #[error("CDI device injection failed: failed to inject devices: failed to stat source of mount {path:?}")]
    Source {
        /// What is to be mounted.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something that who makes the container cannot do.
    #[error("CDI device injection failed: {what} of CDI device {device}: not supported by {by}")]
    Unsupported {
        /// The device.
        device: String,
        /// What.
        what: String,
        /// Whom it is too much for.
        by: &'static str,
    },
}
