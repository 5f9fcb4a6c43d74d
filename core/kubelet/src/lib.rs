//! The node agent: makes the node run the pods that are bound to it, through the Container Runtime Interface.
//!
//! ```text
//! API --watch--> pod_source --> dispatcher --wakes--> worker (one per pod) --> CRI
//! CRI --events-----------------^                      observe -> plan -> act -> status --> API
//! ```
//!
//! - [`Config`]: what the kubelet is told; `runtime_client`: the CRI

mod config;
mod labels;
mod pods;
mod runtime_client;
mod runtime_view;

pub use config::Config;
