//! Why a volume cannot be had. The texts end up in events, `FailedMount` or `FailedMapVolume`.

use std::io;
use std::path::PathBuf;

use super::claim::ClaimError;
use super::device::DeviceError;
use super::host_path::HostPathError;
use super::plan::Refused;
use super::token::TokenError;
use crate::csi::CsiError;
use crate::field::FieldError;
use crate::node::machine::MachineError;
use crate::objects::ObjectError;

/// What went wrong with the volumes of a pod. Displays whole: there is no source to add.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    /// The pod's UID cannot be part of a path.
    #[error("the pod's UID {uid:?} is not usable")]
    Uid {
        /// The UID.
        uid: String,
    },
    /// One volume cannot be made.
    #[error("MountVolume.SetUp failed for volume {volume:?} : {reason}")]
    SetUp {
        /// Its name.
        volume: String,
        /// Why.
        reason: Box<SetUpError>,
    },
    /// A block device cannot be had.
    #[error("MapVolume.SetUpDevice failed for volume {volume:?} : {reason}")]
    Map {
        /// Its name.
        volume: String,
        /// Why.
        reason: Box<SetUpError>,
    },
    /// Containers use a volume as what it is not.
    #[error(
        "Unable to attach or mount volumes: unmounted volumes=[{volume}], unattached volumes=[], failed to process volumes=[{volume}]: {reason}"
    )]
    Misused {
        /// Its name.
        volume: String,
        /// In which way.
        reason: String,
    },
    /// A container mounts what the pod does not have.
    #[error("cannot find volume {volume:?} to mount into container {container:?}")]
    Missing {
        /// The volume's name.
        volume: String,
        /// The container's name.
        container: String,
    },
    /// A container asks for a block device that is none.
    #[error(
        "container {container:?} cannot have volume {volume:?} as a device: it is not a claim with volumeMode Block"
    )]
    Device {
        /// The volume's name.
        volume: String,
        /// The container's name.
        container: String,
    },
    /// A mount of a container contradicts itself, or is more than the runtime can do.
    #[error("{0}")]
    Mount(String),
    /// A part of a volume cannot be used. Why is not told: it would tell of the node's files.
    #[error("failed to prepare subPath for volumeMount {volume:?} of container {container:?}")]
    SubPath {
        /// The volume's name.
        volume: String,
        /// The container's name.
        container: String,
    },
    /// A part of a volume cannot be made; as little is told.
    #[error("failed to create subPath directory for volumeMount {volume:?} of container {container:?}")]
    NewSubPath {
        /// The volume's name.
        volume: String,
        /// The container's name.
        container: String,
    },
    /// A pod's folder cannot be removed.
    #[error("{action} {}: {reason}", path.display())]
    TearDown {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        reason: io::Error,
    },
    /// A driver does not take a volume back.
    #[error(transparent)]
    Csi(#[from] CsiError),
    /// The work was given up with the process.
    #[error("interrupted")]
    Interrupted,
}

impl VolumeError {
    pub(super) fn new(volume: &str, reason: SetUpError) -> Self {
        let volume = volume.to_owned();
        match reason {
            SetUpError::Block(reason) => VolumeError::Map { volume, reason },
            SetUpError::Misused(reason) => VolumeError::Misused { volume, reason },
            reason => VolumeError::SetUp { volume, reason: Box::new(reason) },
        }
    }

    /// Whether a device of the pod has become another one, which its containers would write to.
    pub(crate) fn is_loss(&self) -> bool {
        matches!(self, VolumeError::Map { reason, .. }
            if matches!(**reason, SetUpError::Device(DeviceError::Replaced { .. })))
    }

    /// The reason of the event that tells it.
    pub(crate) fn event(&self) -> &'static str {
        match self {
            VolumeError::Map { .. } => "FailedMapVolume",
            VolumeError::Uid { .. }
            | VolumeError::SetUp { .. }
            | VolumeError::Misused { .. }
            | VolumeError::Missing { .. }
            | VolumeError::Device { .. }
            | VolumeError::Mount { .. }
            | VolumeError::SubPath { .. }
            | VolumeError::NewSubPath { .. }
            | VolumeError::TearDown { .. }
            | VolumeError::Csi(_)
            | VolumeError::Interrupted => "FailedMount",
        }
    }
}

/// Why one volume cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetUpError {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    HostPath(#[from] HostPathError),
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error(transparent)]
    Csi(#[from] CsiError),
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error(transparent)]
    Field(#[from] FieldError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error("{kind} {name:?} not found")]
    NotFound { kind: &'static str, name: String },
    #[error("{kind} references non-existent config key: {key}")]
    Key { kind: &'static str, key: String },
    #[error("references non-existent secret key: {key}")]
    SecretKey { key: String },
    #[error("invalid path {path:?}: must be relative and stay in the volume")]
    Path { path: String },
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Of a block device.
    #[error(transparent)]
    Block(Box<SetUpError>),
    /// Containers use the volume as what it is not.
    #[error("{0}")]
    Misused(String),
    #[error("{action} {}: {reason}", path.display())]
    Io { action: &'static str, path: PathBuf, reason: io::Error },
    #[error("interrupted")]
    Interrupted,
}

/// The process ends.
pub(super) struct Interrupted;

impl From<Interrupted> for VolumeError {
    fn from(_: Interrupted) -> Self {
        VolumeError::Interrupted
    }
}

impl From<Interrupted> for SetUpError {
    fn from(_: Interrupted) -> Self {
        SetUpError::Interrupted
    }
}

/// Says what was tried on which path.
pub(super) fn io_error<E: Into<io::Error>>(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(E) -> SetUpError {
    let path = path.into();
    move |reason| SetUpError::Io { action, path, reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_lost_when_it_was_replaced_and_not_when_it_cannot_be_had() {
        let of = |reason: DeviceError| {
            VolumeError::new("v", SetUpError::Block(Box::new(SetUpError::Device(reason))))
        };
        let path = PathBuf::from("/dev/x");
        let lost = of(DeviceError::Replaced { path: path.clone(), major: 7, minor: 0 });
        assert!(lost.is_loss());
        assert_eq!(
            lost.to_string(),
            "MapVolume.SetUpDevice failed for volume \"v\" : the device 7:0 that the pod was given at /dev/x is another one now: it has been replaced"
        );
        assert!(!of(DeviceError::Kind { path }).is_loss());
    }
}
