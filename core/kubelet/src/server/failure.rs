//! How the kubelet refuses: a status and a line of text, which the API server passes on.

use axum::response::{IntoResponse, Response};
use http::StatusCode;

use crate::logs::OptionError;
use crate::node::machine::MachineError;
use crate::pods::LookupError;
use crate::runtime_client::RuntimeError;
use crate::usage::UsageError;

/// An answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    pub(super) text: String,
}

impl Failure {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Failure { status, text: text.into() }
    }

    pub(super) fn bad_request(text: impl Into<String>) -> Self {
        Failure::new(StatusCode::BAD_REQUEST, text)
    }

    pub(super) fn internal(text: impl Into<String>) -> Self {
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, text)
    }
}

impl From<OptionError> for Failure {
    fn from(error: OptionError) -> Self {
        Failure::bad_request(error.to_string())
    }
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Self {
        Failure::internal(error.text())
    }
}

impl From<MachineError> for Failure {
    fn from(error: MachineError) -> Self {
        Failure::internal(error.to_string())
    }
}

impl From<UsageError> for Failure {
    fn from(error: UsageError) -> Self {
        Failure::internal(error.to_string())
    }
}

impl From<LookupError> for Failure {
    fn from(error: LookupError) -> Self {
        let status = match error {
            LookupError::Pod { .. } | LookupError::Container { .. } => StatusCode::NOT_FOUND,
            LookupError::Waiting { .. } => StatusCode::BAD_REQUEST,
        };
        Failure::new(status, error.to_string())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, self.text).into_response()
    }
}
