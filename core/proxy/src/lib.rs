//! Services in the kernel: nftables maps that are kept equal to Services and EndpointSlices.
//!
//! - [`Config`]: what the proxy is told
//! - `service`, `endpoint_slice`: what is kept of the API's objects; pure
//! - `plan`: which addresses and ports a Service answers at, and who answers; pure
//! - `front`: the words for it
//! - `rules`: table, chains and rules; `changes`: what the kernel was told, and the transaction from there to what is
//!   wanted; both pure
//! - `kernel`: commits, and forgets tracked connections and clients' endpoints that are no longer right
//! - `proxy`: the one task, from watch events to the kernel
//!
//! Everything is in the one table `keelson-CLUSTERID-proxy`, of IPv4. Packets are looked up once per connection: a verdict
//! map leads from address, protocol and port to the chain for that number of endpoints, and the chain to an endpoint by
//! a random index in one map of all endpoints. The number of rules does not depend on the number of Services.
//!
//! Not done: IPv6, endpoints chosen by topology (hints are ignored, all endpoints serve), `healthCheckNodePort`.
//!
//! **Invariant**: what the kernel has is replaced in one transaction or changed in one, so that there is no moment without
//! a working Service.

mod changes;
mod config;
mod endpoint_slice;
mod front;
mod kernel;
mod plan;
mod proxy;
mod rules;
mod service;

pub use config::{Config, ConfigError};
pub use kernel::KernelError;
pub use proxy::{Error, remove_all, run};
