//! What drivers offer.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::resource::v1 as resource;
use keelson_cel::Quantity;
use keelson_cel::device::{Attribute, Device as DeviceView};

use super::DeviceId;
use super::pool::PoolId;
use crate::names::NodeName;
use crate::node::NodeInfo;
use crate::selector::NodeSelector;

/// A ResourceSlice.
#[derive(Debug, PartialEq)]
pub struct Slice {
    /// Its pool.
    pub pool: PoolId,
    /// Which state of the pool it belongs to.
    pub generation: i64,
    /// How many slices the pool has in that state.
    pub slice_count: i64,
    /// From where its devices can be reached.
    pub reach: Reach,
    /// Its devices.
    pub devices: Vec<Device>,
}

/// From where devices can be reached.
#[derive(Debug, PartialEq)]
pub enum Reach {
    /// From this node.
    Node(NodeName),
    /// From everywhere.
    All,
    /// From these nodes.
    Nodes {
        /// Read.
        selector: NodeSelector,
        /// As it was said.
        said: core::NodeSelector,
    },
}

/// A device of a slice.
#[derive(Debug, PartialEq)]
pub struct Device {
    /// Which it is.
    pub id: DeviceId,
    /// As the driver says it.
    pub said: resource::Device,
    /// As selectors see it.
    pub view: DeviceView,
}

fn attribute(said: &resource::DeviceAttribute) -> Option<Attribute> {
    let version = || {
        let version = said.version.as_ref()?.parse().ok()?;
        Some(Attribute::Version(Arc::new(version)))
    };
    let text = || said.string.as_deref().map(|it| Attribute::Text(it.into()));
    said.bool.map(Attribute::Bool).or_else(|| said.int.map(Attribute::Int)).or_else(text).or_else(version)
}

impl Device {
    fn read(pool: &PoolId, said: &resource::Device) -> Self {
        let mut view = DeviceView::new(&pool.driver, said.allow_multiple_allocations == Some(true));
        for (name, said) in said.attributes.iter().flatten() {
            if let Some(attribute) = attribute(said) {
                view.attribute(name, attribute);
            }
        }
        for (name, said) in said.capacity.iter().flatten() {
            if let Some(quantity) = Quantity::parse(&said.value.0) {
                view.capacity(name, quantity);
            }
        }
        let id = DeviceId { pool: pool.clone(), device: said.name.as_str().into() };
        Device { id, said: said.clone(), view }
    }

    /// Whether it is of a kind that this scheduler can give away: not a part of a larger one, and without
    /// conditions that others have to fulfil after it was given.
    pub fn is_plain(&self) -> bool {
        let is_empty = |list: Option<usize>| list.unwrap_or(0) == 0;
        is_empty(self.said.consumes_counters.as_ref().map(Vec::len))
            && is_empty(self.said.binding_conditions.as_ref().map(Vec::len))
    }
}

impl Reach {
    /// Whether pods on a node reach it.
    pub fn includes(&self, node: &NodeInfo) -> bool {
        match self {
            Reach::Node(name) => *name == node.name,
            Reach::All => true,
            Reach::Nodes { selector, .. } => selector.matches(node.name.as_str(), &node.labels),
        }
    }
}

impl Slice {
    /// Reads a slice; `None` of one whose devices each have nodes of their own, and of one that says no node in a
    /// way that is known.
    pub fn read(slice: &resource::ResourceSlice) -> Option<Self> {
        let spec = &slice.spec;
        if spec.per_device_node_selection.is_some() {
            return None;
        }
        let node = spec.node_name.as_deref().filter(|name| !name.is_empty());
        let reach = match (node, spec.all_nodes, &spec.node_selector) {
            (Some(node), _, _) => Reach::Node(NodeName::new(node)),
            (None, Some(true), _) => Reach::All,
            (None, _, Some(said)) => Reach::Nodes { selector: NodeSelector::read(said), said: said.clone() },
            (None, _, None) => return None,
        };
        let pool = PoolId { driver: spec.driver.as_str().into(), pool: spec.pool.name.as_str().into() };
        Some(Slice {
            generation: spec.pool.generation,
            slice_count: spec.pool.resource_slice_count,
            reach,
            devices: spec.devices.iter().flatten().map(|device| Device::read(&pool, device)).collect(),
            pool,
        })
    }
}
