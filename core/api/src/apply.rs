//! Server-side apply, and the record of who manages which field.
//!
//! - [`field_set`]: sets of fields, as `fieldsV1` writes them.
//! - `managed_fields`: the entries of `metadata.managedFields`.
//! - `shape`: what is one field and what has fields of its own, by the schema.
//! - `compare`: which fields differ between two states; `merge`: a configuration into an object; `config`: what may be applied.
//! - `structural`: a configuration laid over an object without a record.
//! - `track`: the record after any write but an apply; `server_side`: an apply.

use std::sync::Arc;

use jiff::Timestamp;

use crate::kinds::GroupVersionKind;
use crate::schema::Schema;

mod compare;
mod config;
pub mod field_set;
mod last_applied;
mod managed_fields;
mod merge;
mod prune;
mod reconcile;
mod server_side;
mod shape;
mod structural;
mod track;
mod versions;

pub use field_set::FieldSet;
pub use managed_fields::scale_entries;
pub use server_side::{ApplyError, Conflict, apply};
pub use structural::{OverlayError, overlay};
pub use track::{differ_in_times_alone, track};

/// Finds the schema of a kind in one version; `None` for a version that is not served.
pub type Schemas<'a> = dyn Fn(&GroupVersionKind) -> Option<Arc<Schema>> + 'a;

/// A write whose fields are recorded.
pub struct Write<'a> {
    /// The field manager.
    pub manager: &'a str,
    /// The subresource written through, such as `status`; empty for the object itself.
    pub subresource: &'a str,
    /// Whether the resource has a status that is written through its own subresource alone.
    pub has_status: bool,
    /// Whether the record may have been written by another schema than those of today.
    pub schema_changes: bool,
    /// The schemas of the kind in all its versions.
    pub schemas: &'a Schemas<'a>,
    /// When.
    pub now: Timestamp,
}

impl Write<'_> {
    fn scope(&self) -> Scope {
        match self.subresource {
            "status" => Scope::Status,
            "" if self.has_status => Scope::AllButStatus,
            _ => Scope::All,
        }
    }
}

/// The fields at the top of an object, besides its metadata, that a write can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    All,
    AllButStatus,
    Status,
}

impl Scope {
    fn has(self, field: &str) -> bool {
        match self {
            Scope::All => true,
            Scope::AllButStatus => field != "status",
            Scope::Status => field == "status",
        }
    }
}

#[cfg(test)]
mod tests;
