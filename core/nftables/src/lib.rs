//! nftables and connection tracking over netlink, as far as a node of a cluster needs them: no `nft` program, no library.
//!
//! - [`Batch`] collects changes ([`Chain`], [`Rule`] of [`Expression`]s, [`Set`], [`Element`]); pure
//! - [`Connection`] commits a batch as one transaction, all of it or nothing, and reads back what the kernel has
//! - [`conntrack`] lists and deletes tracked connections
//! - `attribute`, `message`: the encoding; `socket`: the one place with system calls
//!
//! Calls are synchronous and answered by the kernel within the call, usually in less than a millisecond. A connection belongs
//! to the network namespace of the thread that opened it, whoever uses it later.
//!
//! **Invariant**: whatever is sent belongs to a [`Table`] that the caller names; nothing outside of it is touched.

mod attribute;
mod batch;
mod chain;
mod connection;
pub mod conntrack;
mod expression;
mod message;
mod set;
mod socket;

pub use batch::Batch;
pub use chain::{Chain, ChainKind, Family, Hook, Policy, Rule, Table};
pub use connection::{
    ChainState, Connection, DumpError, ElementState, RuleState, TransactionError, Value as ElementValue,
};
pub use expression::{
    AddressType, Comparison, ConntrackKey, Expression, FibInput, Meta, NatKind, PayloadBase, Register,
    Reject, Verdict, ct_state, ct_status,
};
pub use set::{Data, DataType, Element, Set, SetKind};
pub use socket::SocketError;
