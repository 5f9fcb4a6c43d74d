//! The store on an external etcd cluster, for sites that run one.
//!
//! Everything lies below one prefix. A copy of it is kept in memory, which one watch feeds: it is what lists and watches
//! are served from, so that reading costs etcd nothing but the question of how far it is.
//!
//! | module | what it holds |
//! |---|---|
//! | [`config`] | where etcd is and how it is used |
//! | `layout` | keys and values as they lie in etcd |
//! | `connection` | the way to its members, TLS, and what their errors mean |
//! | `copy` | the state in memory, those who are told of it, and writes that wait for their event |
//! | `follower` | the list and the watch that feed the copy |
//! | `reader` | how far etcd is, asked once for all who ask at the same time |
//! | [`store`] | [`keelson_store::Store`] |
//! | `upkeep` | compaction, shared with others who do it; size and versions |
//!
//! # Guarantees
//! - A value does not know its revision before it is written, so it is stored without and gets it when it is read.
//! - Revisions are etcd's. They have gaps, since others may write elsewhere, and what one transaction changes has one.
//! - A deletion writes the last state of what is deleted to one more key in the same transaction, where all who share
//!   the prefix find it; only the latest one is kept.
//! - A write whose answer is lost is looked for by its number, which is stored with the value. If it cannot be told
//!   whether it was made, [`keelson_store::StoreError::OutcomeUnknown`] says so.

pub mod config;
mod connection;
mod copy;
mod follower;
mod layout;
mod reader;
pub mod store;
mod upkeep;

pub use config::{Config, OpenError};
pub use store::EtcdStore;

/// What is spoken with etcd.
#[allow(missing_docs, unreachable_pub, clippy::all)]
mod proto {
    tonic::include_proto!("etcdserverpb");
}
