//! Server-side apply and the record of who manages which field.

use jiff::Timestamp;

use crate::object::Object;
use crate::schema::Schema;
use crate::status::Status;

/// Who writes: a field manager and the subresource written through (empty for the main resource).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manager<'a> {
    /// The manager's name.
    pub name: &'a str,
    /// The subresource, such as `status`.
    pub subresource: &'a str,
}

/// Why an apply is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ApplyError {
    /// Server-side apply is not served by this build.
    #[error("server-side apply is not supported")]
    Unsupported,
}

impl ApplyError {
    /// The HTTP answer.
    pub fn to_status(&self) -> Status {
        match self {
            Self::Unsupported => Status::new(415, "UnsupportedMediaType", self.to_string()),
        }
    }
}

/// Merges an applied configuration into the live object. Refused with an error for now.
pub fn apply(
    _live: Option<&Object>,
    _applied: &Object,
    _manager: Manager<'_>,
    _force: bool,
    _schema: Option<&Schema>,
    _now: Timestamp,
) -> Result<Object, ApplyError> {
    Err(ApplyError::Unsupported)
}

/// Keeps the record of managed fields of the live object in its new state; a client cannot forge it.
pub fn track_update(
    live: Option<&Object>,
    new: &mut Object,
    _manager: Manager<'_>,
    _schema: Option<&Schema>,
    _now: Timestamp,
) {
    let entries = live.map_or_else(Vec::new, |live| live.managed_fields().to_vec());
    new.set_managed_fields(entries);
}
