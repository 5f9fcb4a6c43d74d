//! What a node speaks with storage drivers: the Container Storage Interface (`csi.v1`) and the protocol by which a driver makes
//! itself known to a kubelet (`pluginregistration`), as Rust types, clients and servers.
//!
//! Of the interface there are the identity and node services; the controller service is spoken by the sidecars of drivers alone. The files
//! under `proto/` are compiled at build time by a pure-Rust compiler.

/// The Container Storage Interface, version 1.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, rustdoc::all)]
pub mod v1 {
    tonic::include_proto!("csi.v1");
}

/// How plugins make themselves known to a kubelet.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, rustdoc::all)]
pub mod registration {
    tonic::include_proto!("pluginregistration");
}
