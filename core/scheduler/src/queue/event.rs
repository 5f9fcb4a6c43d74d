//! What happens in the cluster that may make room for a pod.

use std::ops::BitOr;

/// A set of kinds of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClusterEvents(u16);

impl ClusterEvents {
    /// No event.
    pub const NONE: Self = ClusterEvents(0);
    /// A node came.
    pub const NODE_ADDED: Self = ClusterEvents(1);
    /// A node's allocatable amounts changed.
    pub const NODE_ALLOCATABLE: Self = ClusterEvents(1 << 1);
    /// A node's labels changed.
    pub const NODE_LABELS: Self = ClusterEvents(1 << 2);
    /// A node's taints changed, or whether it is schedulable.
    pub const NODE_TAINTS: Self = ClusterEvents(1 << 3);
    /// A pod was placed on a node.
    pub const POD_PLACED: Self = ClusterEvents(1 << 4);
    /// A pod went from a node.
    pub const POD_GONE: Self = ClusterEvents(1 << 5);
    /// The labels of a placed pod changed.
    pub const POD_LABELS: Self = ClusterEvents(1 << 6);
    /// A placed pod asks for less than before.
    pub const POD_SCALED_DOWN: Self = ClusterEvents(1 << 7);
    /// A claim or a volume changed.
    pub const VOLUME: Self = ClusterEvents(1 << 8);
    /// A namespace's labels changed.
    pub const NAMESPACE: Self = ClusterEvents(1 << 9);
    /// A node went.
    pub const NODE_GONE: Self = ClusterEvents(1 << 10);

    /// A claim to devices, a slice of devices or a class of them changed.
    pub const DEVICE: Self = ClusterEvents(1 << 11);

    /// Whether both have an event in common.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Events of both.
    pub const fn or(self, other: Self) -> Self {
        ClusterEvents(self.0 | other.0)
    }
}

impl BitOr for ClusterEvents {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.or(other)
    }
}
