//! Where a Service answers, and who answers there.

use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;

use kube::Resource;

/// Namespace and name of an object, as `namespace/name`. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Name(Arc<str>);

impl Name {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self(format!("{namespace}/{name}").into())
    }

    /// Of an object of a kind that has namespaces.
    pub(crate) fn of<K: Resource>(object: &K) -> Option<Self> {
        let meta = object.meta();
        Some(Self::new(meta.namespace.as_deref()?, meta.name.as_deref()?))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// Of a port in the API, where TCP need not be said.
    pub(crate) fn named(name: Option<&str>) -> Option<Self> {
        match name {
            None | Some("TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }

    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// An address and port at which a Service answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Front {
    pub(crate) address: Ipv4Addr,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Endpoint {
    pub(crate) address: Ipv4Addr,
    pub(crate) port: u16,
    /// Whether it is on this node.
    pub(crate) local: bool,
}

/// What happens to the first packet of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// There is nobody: the sender is told.
    Reject,
    /// There is somebody, but not here where the policy wants them.
    Drop,
    /// To any of so many endpoints.
    Balance { endpoints: u32, affinity: Option<Affinity> },
    /// From outside of the cluster to any of the first `local` endpoints, or lost if there is none; from inside to any of
    /// the `all` endpoints behind them.
    Split { local: u32, all: u32, affinity: Option<Affinity> },
}

impl Action {
    pub(crate) fn affinity(self) -> Option<Affinity> {
        match self {
            Self::Reject | Self::Drop => None,
            Self::Balance { affinity, .. } | Self::Split { affinity, .. } => affinity,
        }
    }
}

/// For how many seconds after its last connection a client comes back to the same endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Affinity(pub(crate) u32);

/// Which senders are seen by endpoints with the node's address, so that answers come back by this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Masquerade {
    /// As all of the range of ClusterIPs: those that are not pods.
    ByRange,
    /// Those that are not pods.
    Outside,
    /// All.
    Always,
    /// Only the node itself.
    Node,
}

/// Who answers at a front, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) action: Action,
    pub(crate) masquerade: Masquerade,
    /// As many as `action` says, in its order.
    pub(crate) endpoints: Vec<Endpoint>,
}
