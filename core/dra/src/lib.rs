//! What a node speaks with drivers of devices for ResourceClaims: the service `k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin`, as Rust types,
//! client and server, and the optional service `v1alpha1.DRAResourceHealth`. The files under `proto/` are compiled at build time by a pure-Rust compiler.

/// The protocol, version 1. That of version 1 beta 1 has the same messages under another name of the service.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, rustdoc::all)]
pub mod v1 {
    tonic::include_proto!("k8s.io.kubelet.pkg.apis.dra.v1");
}

/// How devices fare, version 1 alpha 1.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, rustdoc::all)]
pub mod health {
    tonic::include_proto!("v1alpha1");
}
