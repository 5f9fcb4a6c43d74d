//! Pod networking: connects a pod's network namespace to the node, and gives its addresses back when it goes.
//!
//! Two ways, chosen by what lies in the CNI configuration directory:
//! - our own: a bridge with the gateway's address, a veth per pod, addresses from the node's range ([`PodNetwork`])
//! - somebody else's CNI plugins, executed as the CNI specification 1.1 says (`cni`)
//!
//! ```text
//! PodNetwork --> ipam (pure), record (files) --> link (rtnetlink) --> rules (pure), nftables
//!            \-> cni::configuration, cni::chain --> plugins
//! ```
//!
//! A pod has its address as a /32 and everything else behind the gateway, so that also packets between two pods of one node pass
//! the node's IP layer: Services, their way back, and policies work without `br_netfilter`.
//!
//! - `config`, `pod`: what is asked; `pod_network`: the driver
//! - `ipam`: which address; `record`: what is on disk, one file per pod, written before anything is made
//! - `routes`: the ways to other nodes' pods
//! - `probe`: whether this kernel can do it at all
//! - `link`, `netns`, `sysctl`: the kernel's interfaces; `rules`: the nftables table; `forwarding`: other people's tables
//!
//! **Invariant**: what exists in the kernel has a record on disk, so that it can be removed after a crash.
//! **Invariant**: every name in the kernel contains the cluster's id. Routes have no names: their record says which are ours.

mod cni;
mod config;
mod forwarding;
mod ipam;
mod link;
mod netns;
mod pod;
mod pod_network;
mod probe;
mod record;
mod routes;
mod rules;
mod sysctl;

pub use cni::chain::ChainError;
pub use cni::configuration::ConfigurationError;
pub use config::{Config, ConfigError, bridge as bridge_name};
pub use forwarding::ForwardingError;
pub use ipam::Exhausted;
pub use link::LinkError;
pub use netns::{NamespaceError, loopback_up};
pub use pod::{AddResult, Pod, PortMapping, Protocol};
pub use pod_network::{Error, PodNetwork, remove_all};
pub use probe::{ProbeError, probe};
pub use record::RecordError;
pub use routes::{NodeRoute, Routes, Unreachable, read as recorded_routes};
pub use sysctl::SysctlError;
