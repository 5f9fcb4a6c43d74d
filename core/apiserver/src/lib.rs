//! The API server: one generic registry behind authentication, authorization and admission.
//!
//! | module | what it does |
//! |---|---|
//! | [`request_info`], [`identity`] | what is asked, and by whom |
//! | [`cache`] | what the store holds, ready to be listed and watched |
//! | [`custom_resources`] | serves the kinds that CustomResourceDefinitions define |
//! | [`remote`] | calls servers outside: webhooks, extensions |
//! | [`flow_control`] | which requests are served first when there are too many |
//! | [`audit`] | who has asked for what, and how it was answered |
//! | [`insight`] | metrics, health, and the trace of a request |
//! | [`conversion`] | between versions of custom resources, by webhooks |
//! | [`snapshots`] | of the store, for people to keep |
//! | [`encryption`] | seals what the store keeps |
//! | [`registry`] | reads and writes objects of every resource by the same rules |

pub mod admission;
pub mod aggregation;
pub mod audit;
pub mod authentication;
pub mod authorization;
pub mod cache;
pub mod certificates;
pub mod control_plane;
pub mod conversion;
pub mod custom_resources;
mod devices;
pub mod encryption;
mod expiring_cache;
pub mod expression;
pub mod flow_control;
pub mod http;
pub mod identity;
pub mod insight;
pub mod kubelet_proxy;
pub mod pki;
pub mod proxy;
pub mod registry;
mod reload;
pub mod remote;
pub mod request_info;
pub mod server;
pub mod snapshots;

pub use identity::Identity;
pub use registry::Registry;
pub use request_info::RequestInfo;
pub use server::ApiServer;
