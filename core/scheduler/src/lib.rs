//! The scheduler: which node runs which pod.
//!
//! One task, [`run()`], owns all state. The watches feed it; each decision is a synchronous call; what is to be done
//! at the API runs beside it, many requests at once, and its outcome comes back:
//!
//! ```text
//! informer (client) --Update--> scheduler (pure) --Action--> actor (client)
//!                                      ^------------Outcome-------'
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`informer`] | the watches, reduced to what decisions need |
//! | [`scheduler`] | the state machine: updates and outcomes in, actions out (pure) |
//! | [`cache`], [`node`], [`pod`], [`volume`], [`device`] | the cluster, with everything computed once that decisions need (pure) |
//! | [`queue`] | pods that wait, and what may help them (pure) |
//! | [`cycle`] | one decision: find, score, or say why not; and who has to go (pure) |
//! | [`framework`], [`plugins`] | the extension points, and a file for each plugin (pure) |
//! | [`labels`], [`selector`], [`taint`], [`resources`], [`names`] | the small values of all this (pure) |
//! | [`actor`], [`recorder`] | bindings, conditions, deletions and Events (client) |
//!
//! **Invariant:** room on a node is given away once: a pod counts there from the decision on, before its binding is
//! sent, and is taken back if that fails.

pub mod actor;
pub mod cache;
pub mod config;
pub mod cycle;
pub mod device;
pub mod framework;
pub mod informer;
pub mod labels;
pub mod names;
pub mod node;
pub mod plugins;
pub mod pod;
pub mod queue;
pub mod recorder;
pub mod resources;
pub mod run;
pub mod scheduler;
pub mod selector;
pub mod taint;
pub mod volume;

pub use config::Config;
pub use run::{Error, run};
