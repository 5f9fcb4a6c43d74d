//! The cluster as one decision sees it.

use std::sync::Arc;

use super::Cache;
use crate::device::Devices;
use crate::names::ObjectName;
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::pod::affinity::Namespaces;
use crate::volume::{Claim, Volume, Volumes};

/// The cluster, with one node replaced where a decision asks what would be if.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    cache: &'a Cache,
    replaced: Option<(usize, &'a NodeInfo)>,
}

impl<'a> View<'a> {
    pub(super) fn of(cache: &'a Cache) -> Self {
        View { cache, replaced: None }
    }

    /// The same cluster with `node` at a position.
    pub fn with<'b>(self, at: usize, node: &'b NodeInfo) -> View<'b>
    where
        'a: 'b,
    {
        View { cache: self.cache, replaced: Some((at, node)) }
    }

    /// How many nodes there are.
    pub fn len(self) -> usize {
        self.cache.nodes.len()
    }

    /// Whether there is no node.
    pub fn is_empty(self) -> bool {
        self.cache.nodes.is_empty()
    }

    /// The node at a position.
    pub fn node(self, at: usize) -> Option<&'a NodeInfo> {
        match self.replaced {
            Some((place, node)) if place == at => Some(node),
            Some(_) | None => self.cache.nodes.get(at),
        }
    }

    /// The position of a node.
    pub fn position(self, name: &str) -> Option<usize> {
        self.cache.index.get(name).copied()
    }

    /// The positions of all nodes, in the order in which they are searched.
    pub fn order(self) -> &'a [usize] {
        &self.cache.order
    }

    /// All nodes.
    pub fn nodes(self) -> impl Iterator<Item = &'a NodeInfo> {
        (0..self.len()).filter_map(move |at| self.node(at))
    }

    /// Whether a placed pod has an affinity to other pods.
    pub fn any_affinity(self) -> bool {
        self.cache.with_affinity > 0 || self.replaced.is_some_and(|(_, node)| node.with_affinity > 0)
    }

    /// Whether a placed pod forbids others near it.
    pub fn any_forbidden(self) -> bool {
        self.cache.with_forbidden > 0 || self.replaced.is_some_and(|(_, node)| node.with_forbidden > 0)
    }

    /// The labels of namespaces.
    pub fn namespaces(self) -> &'a Namespaces {
        &self.cache.namespaces
    }

    /// A claim.
    pub fn claim(self, name: &ObjectName) -> Option<&'a Claim> {
        self.cache.volumes.claims.get(name)
    }

    /// A volume.
    pub fn volume(self, name: &str) -> Option<&'a Volume> {
        self.cache.volumes.volumes.get(name)
    }

    /// All claims, volumes and classes.
    pub fn volumes(self) -> &'a Volumes {
        &self.cache.volumes
    }

    /// All claims to devices, slices and classes.
    pub fn devices(self) -> &'a Devices {
        &self.cache.devices
    }

    /// How many nodes have an image.
    pub fn nodes_with_image(self, image: &str) -> i64 {
        self.cache.image_nodes.get(image).copied().unwrap_or(0)
    }

    /// Pods for which room on the node is reserved.
    pub fn nominated(self, node: &NodeInfo) -> &'a [Arc<PodInfo>] {
        if self.cache.nominated.is_empty() {
            return &[];
        }
        self.cache.nominated.get(&node.name).map(Vec::as_slice).unwrap_or_default()
    }
}
