//! What a kubelet speaks about devices, as Rust types, clients and servers: with plugins that offer some (`v1beta1` of the device plugin
//! API), and with who asks which pods have what (`v1` of the pod resources API).
//!
//! The files under `proto/` are compiled at build time by a pure-Rust compiler.

/// Device plugins.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, rustdoc::all)]
pub mod v1beta1 {
    tonic::include_proto!("v1beta1");
}

/// Who has which devices, processors and memory.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, rustdoc::all)]
pub mod pod_resources {
    tonic::include_proto!("v1");
}
