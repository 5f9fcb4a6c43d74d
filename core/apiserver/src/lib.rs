//! The API server: one generic registry behind authentication, authorization and admission.
//!
//! Access:
//! - [`identity`]: who sent a request. [`pki`]: certificates and keys. [`listener`]: TLS connections.
//! - [`authentication`]: certificate, token, impersonation, anonymous. [`token`]: service-account tokens.
//! - [`authorization`]: RBAC, the node authorizer, escalation. [`review`]: documents that ask who may do what.
//! - [`admission`]: what may be stored, and what is filled in. [`bootstrap`]: what every cluster starts with.
//! - [`allocator`]: cluster IPs and node ports. [`kubelet_proxy`]: logs, exec, attach, port-forward, node proxy.

pub mod authorization;
pub mod identity;
pub mod reader;
pub mod request_info;
