//! Auditing: which requests are recorded, and how much of them (`audit.k8s.io/v1`).

pub mod policy;

pub use policy::{Level, Policy, PolicyError, Stage, Stages, Subject, Verdict};
