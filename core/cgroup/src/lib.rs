//! Names of control groups, and the units by which systemd makes them: what kubelet and runtime have in common.
//!
//! - [`name`] (pure): a group's name, and what it is as a path, as a slice and as a scope
//! - [`properties`] (pure): limits as properties of units
//! - [`systemd`]: systemd itself, by D-Bus
//! - [`held`]: processes that hold its scopes open

pub mod held;
pub mod name;
pub mod properties;
pub mod systemd;

pub use name::{CgroupName, Driver, Names};
pub use systemd::{Systemd, SystemdError};
