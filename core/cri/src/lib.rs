//! The Container Runtime Interface (`runtime.v1`) as Rust types, client and server.
//!
//! The protocol file under `proto/` is the interface definition that Kubernetes publishes; it is compiled at
//! build time by a pure-Rust compiler, so that building Keelson needs no `protoc`.

/// Messages, and the `runtime_service_*` and `image_service_*` clients and servers.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, rustdoc::all)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}
