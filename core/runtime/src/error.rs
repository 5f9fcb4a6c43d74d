//! What can go wrong in a call, and how the CRI hears of it.

use std::io;
use std::path::PathBuf;

use tonic::{Code, Status};

use crate::device_filter::DeviceFilterError;
use crate::image::{PullError, StoreError};
use crate::network::NetworkError;
use crate::pod_client::PodClientError;
use crate::snapshot::SnapshotError;
use crate::spec::SpecError;

#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{kind} {id:?} not found")]
    NotFound { kind: &'static str, id: String },
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Precondition(String),
    #[error("{action} {path}")]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("start the pod process")]
    PodProcess(#[source] PodClientError),
    /// The container's first process did not come up.
    #[error("{0}")]
    Start(String),
    #[error("ask the pod process")]
    Ask(#[source] PodClientError),
    #[error("failed to set up the pod's network")]
    Network(#[source] NetworkError),
    #[error("failed to tear down the pod's network")]
    NetworkDown(#[source] NetworkError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("failed to generate the container's configuration")]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Pull(#[from] PullError),
    #[error("command {0:?} timed out")]
    Timeout(String),
    #[error("remove the control group {path}")]
    Cgroup {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Systemd(#[from] keelson_cgroup::SystemdError),
    #[error("the container's devices are not under control")]
    DeviceFilter(#[from] DeviceFilterError),
    #[error("the runtime is stopping")]
    Interrupted,
}

pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> CallError {
    let path = path.into();
    move |source| CallError::File { action, path, source }
}

/// The error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

impl From<CallError> for Status {
    fn from(error: CallError) -> Self {
        let code = match &error {
            CallError::Missing(_) | CallError::Refused(_) | CallError::Pull(PullError::Name { .. }) => {
                Code::InvalidArgument
            }
            CallError::NotFound { .. } | CallError::Pull(PullError::NotFound { .. }) => Code::NotFound,
            CallError::Precondition(_) => Code::FailedPrecondition,
            CallError::Timeout(_) => Code::DeadlineExceeded,
            CallError::Interrupted => Code::Unavailable,
            CallError::File { .. }
            | CallError::PodProcess(_)
            | CallError::Ask(_)
            | CallError::Start(_)
            | CallError::Network(_)
            | CallError::NetworkDown(_)
            | CallError::Snapshot(_)
            | CallError::Spec(_)
            | CallError::Store(_)
            | CallError::Pull(_)
            | CallError::DeviceFilter(_)
            | CallError::Systemd(_)
            | CallError::Cgroup { .. } => Code::Unknown,
        };
        Status::new(code, chain(&error))
    }
}
