//! The way to other members over gRPC and mutual TLS.
//!
//! | module | what it does |
//! |---|---|
//! | [`client`] | asks and sends |
//! | [`listener`] | listens and answers |
//! | [`tls`] | certificates, and whose they are |

pub(crate) mod client;
pub(crate) mod listener;
pub(crate) mod tls;

/// What protox makes of `proto/peer.v1.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub(crate) mod proto {
    tonic::include_proto!("keelson.store.peer.v1");
}

/// The most bytes of one message: the largest entry that can be written, with room to spare.
pub(crate) const MESSAGE_BYTES: usize = 72 << 20;
/// The bytes of one piece of a snapshot.
pub(crate) const PIECE_BYTES: usize = 256 << 10;

/// Metadata of each call: the cluster, the number and the name of who asks, and the number of who is asked. Numbers
/// are hexadecimal; those that are not known are left out.
pub(crate) mod header {
    pub(crate) const CLUSTER: &str = "keelson-cluster";
    pub(crate) const MEMBER: &str = "keelson-member";
    pub(crate) const NAME: &str = "keelson-name";
    pub(crate) const TO: &str = "keelson-to";
}
