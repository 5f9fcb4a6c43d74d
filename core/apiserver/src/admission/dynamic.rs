//! Admission by what is configured while the server runs: webhooks and policies.
//!
//! - [`hooks`]: the configurations, compiled when they change; [`request`]: a write as webhooks see it, in any version.
//! - [`expression`]: what expressions see; [`policies`]: policies, compiled when they change; [`checks`]: what is refused
//!   before it is stored.
//! - `invocations`: the policies, bindings and parameters of one request; `call`: one question to one webhook.
//! - [`mutating_policy`], [`mutating`], [`validating_policy`], [`validating`]: the plugins, in their order. `rounds`: who is
//!   asked again when a later one has changed the object.
//!
//! # Guarantees
//! - Without configurations a write costs one comparison.
//! - A configuration holds for every request that begins after its writer was answered.
//! - The API server's own writes are not asked about, nor are the configurations themselves: whatever is configured, it
//!   can be taken away again.

use std::time::Duration;

use keelson_api::Status;
use keelson_api::admission::is_exempt;

use super::Attributes;
use crate::identity::MASTERS;

mod call;
pub mod checks;
pub mod expression;
pub mod hooks;
mod invocations;
pub mod metrics;
pub mod mutating;
pub mod mutating_policy;
mod param_access;
pub mod policies;
pub mod request;
mod rounds;
pub mod validating;
pub mod validating_policy;

/// How long all webhooks of a phase may take together.
const BUDGET: Duration = Duration::from_secs(34);

/// Whether nobody is asked about a write.
fn is_spared(attributes: &Attributes<'_>) -> bool {
    let who = attributes.identity;
    let is_own = who.username == "system:apiserver" && who.is_in(MASTERS);
    is_own || is_exempt(&attributes.resource.group, &attributes.resource.kind)
}

/// 504 for a request whose time is over.
fn out_of_time() -> Status {
    Status::timeout("Timeout: request did not complete within requested timeout")
}
