//! Auditing: which requests are recorded, how much of them, and as what (`audit.k8s.io/v1`).
//!
//! [`policy`] decides, [`event`] is what is recorded, [`content`] makes the objects in it.

pub mod content;
pub mod event;
pub mod policy;

pub use event::{AuthenticationMetadata, Event, ObjectReference, ResponseStatus, User};
pub use policy::{Level, Policy, PolicyError, Stage, Stages, Subject, Verdict};
