//! What every operator shares, so that its own crate holds nothing but its decisions.
//!
//! - [`operator`]: the contract between an operator and the host that runs it.
//! - [`object_key`], [`informer`], [`work_queue`], [`controller`]: what is known of the cluster, what has to be looked
//!   at again, and the driver that does so: one place where a reconcile is started, retried and logged.
//! - [`world`], [`subject`]: the frame around these for an operator with one queue, which most are.
//! - [`recorder`]: Events, correlated so that a repetition is a count and not a further object.
//! - [`condition`], [`owner`], [`pod`], [`int_or_percent`], [`selection`]: pure rules that several kinds follow.
//! - [`discovery`]: which resources the API serves.
//! - [`apply`]: server-side apply under an own field manager, and pruning of what is no longer wanted.
//! - [`publication`]: the Service and the EndpointSlice of an operator that serves something.
//! - [`leader_election`]: one holder of a Lease at a time.
//!
//! Data flows one way: a watch task writes an [`informer::Informer`] and adds keys to a [`work_queue::WorkQueue`]; the
//! controller takes keys from there and runs the operator's reconcile function, which reads informers and writes
//! through the API.

pub mod apply;
pub mod condition;
pub mod controller;
pub mod discovery;
pub mod informer;
pub mod int_or_percent;
pub mod leader_election;
pub mod object_key;
pub mod operator;
pub mod owner;
pub mod pod;
pub mod publication;
pub mod recorder;
pub mod selection;
pub mod subject;
pub mod time;
pub mod work_queue;
pub mod world;

pub use controller::{Controller, Fault, Next, Policy};
pub use informer::Informer;
pub use object_key::ObjectKey;
pub use operator::{
    ClusterFacts, Context, Definition, Error, OPERATOR_LABEL, Operator, Readiness, SYSTEM_NAMESPACE, rule,
};
pub use recorder::Recorder;
pub use subject::Subject;
pub use work_queue::WorkQueue;
pub use world::{Observe, Watches, World};

pub use async_trait::async_trait;
