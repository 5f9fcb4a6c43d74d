//! Operators and their host against a real API server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bootstraptoken;
mod cluster;
mod faults;
mod garbagecollector;
mod host;
mod kubectl;
mod namespace;
mod nodeipam;
mod serviceaccount;
mod storageprotection;
