//! Claims to devices.

use std::sync::Arc;

use k8s_openapi::api::resource::v1 as resource;

use super::selector::Selector;
use crate::names::PodUid;
use crate::node::NodeInfo;
use crate::selector::NodeSelector;

/// How many may use a claim at once.
const MAX_USERS: usize = 256;

/// A ResourceClaim.
#[derive(Debug)]
pub struct Claim {
    /// Its UID.
    pub uid: Arc<str>,
    /// At which revision it is this.
    pub revision: u64,
    /// The UID of the pod for which it was made.
    pub owner: Option<PodUid>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// What it asks for.
    pub requests: Vec<Request>,
    /// What its devices have to have in common, and what not.
    pub constraints: Vec<resource::DeviceConstraint>,
    /// What drivers are told.
    pub config: Vec<resource::DeviceClaimConfiguration>,
    /// Its devices.
    pub allocation: Option<resource::AllocationResult>,
    /// Where they can be reached; `None` is everywhere.
    pub nodes: Option<NodeSelector>,
    /// The pods that may use it.
    pub reserved: Vec<PodUid>,
}

/// One request of a claim.
#[derive(Debug)]
pub struct Request {
    /// Its name.
    pub name: String,
    /// What would do, the best first; one unless the request lists several.
    pub alternatives: Vec<Wanted>,
    /// Whether the alternatives have names.
    pub is_prioritized: bool,
}

/// How many devices are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// So many.
    Exactly(usize),
    /// All that there are.
    All,
    /// Something that is not known.
    Unknown(String),
}

/// What would do for a request.
#[derive(Debug)]
pub struct Wanted {
    /// Its name among the alternatives; empty where it is the only one.
    pub name: String,
    /// The name of the class.
    pub class: String,
    /// How many.
    pub mode: Mode,
    /// Whether it is to see devices that others use.
    pub admin_access: bool,
    /// What they are like.
    pub selectors: Vec<Selector>,
    /// Which of their taints do not matter.
    pub tolerations: Vec<resource::DeviceToleration>,
    /// Whether it asks for parts of devices.
    pub wants_capacity: bool,
}

fn mode(mode: Option<&String>, count: Option<i64>) -> Mode {
    match mode.map_or("ExactCount", String::as_str) {
        "ExactCount" => Mode::Exactly(usize::try_from(count.unwrap_or(1)).unwrap_or(usize::MAX)),
        "All" => Mode::All,
        other => Mode::Unknown(other.to_owned()),
    }
}

fn wants_capacity(capacity: Option<&resource::CapacityRequirements>) -> bool {
    capacity.is_some_and(|capacity| capacity.requests.as_ref().is_some_and(|all| !all.is_empty()))
}

fn selectors(list: Option<&Vec<resource::DeviceSelector>>) -> Vec<Selector> {
    list.into_iter().flatten().map(Selector::read).collect()
}

impl Request {
    fn read(request: &resource::DeviceRequest) -> Self {
        let exactly = request.exactly.iter().map(|it| Wanted {
            name: String::new(),
            class: it.device_class_name.clone(),
            mode: mode(it.allocation_mode.as_ref(), it.count),
            admin_access: it.admin_access == Some(true),
            selectors: selectors(it.selectors.as_ref()),
            tolerations: it.tolerations.clone().unwrap_or_default(),
            wants_capacity: wants_capacity(it.capacity.as_ref()),
        });
        let others = request.first_available.iter().flatten().map(|it| Wanted {
            name: it.name.clone(),
            class: it.device_class_name.clone(),
            mode: mode(it.allocation_mode.as_ref(), it.count),
            admin_access: false,
            selectors: selectors(it.selectors.as_ref()),
            tolerations: it.tolerations.clone().unwrap_or_default(),
            wants_capacity: wants_capacity(it.capacity.as_ref()),
        });
        Request {
            name: request.name.clone(),
            alternatives: exactly.chain(others).collect(),
            is_prioritized: request.first_available.as_ref().is_some_and(|all| !all.is_empty()),
        }
    }

    /// The name under which one of its alternatives appears in results.
    pub fn full_name(&self, wanted: &Wanted) -> String {
        if self.is_prioritized { format!("{}/{}", self.name, wanted.name) } else { self.name.clone() }
    }
}

impl Claim {
    /// Reads a claim.
    pub fn read(claim: &resource::ResourceClaim) -> Self {
        let meta = &claim.metadata;
        let spec = claim.spec.devices.as_ref();
        let status = claim.status.as_ref();
        let owner = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
        let allocation = status.and_then(|status| status.allocation.clone());
        let selector = allocation.as_ref().and_then(|allocation| allocation.node_selector.as_ref());
        let reserved = status.and_then(|status| status.reserved_for.as_ref());
        Claim {
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            revision: meta.resource_version.as_ref().and_then(|it| it.parse().ok()).unwrap_or(0),
            owner: owner.map(|owner| PodUid::new(&owner.uid)),
            deleting: meta.deletion_timestamp.is_some(),
            requests: spec
                .and_then(|it| it.requests.as_ref())
                .into_iter()
                .flatten()
                .map(Request::read)
                .collect(),
            constraints: spec.and_then(|it| it.constraints.clone()).unwrap_or_default(),
            config: spec.and_then(|it| it.config.clone()).unwrap_or_default(),
            nodes: selector.map(NodeSelector::read),
            reserved: reserved.into_iter().flatten().map(|user| PodUid::new(&user.uid)).collect(),
            allocation,
        }
    }

    /// Whether a pod is among those that may use it.
    pub fn is_reserved_for(&self, uid: &PodUid) -> bool {
        self.reserved.contains(uid)
    }

    /// Whether one more may use it.
    pub fn has_room(&self) -> bool {
        self.reserved.len() < MAX_USERS
    }

    /// Whether its devices, if it has any, can be reached from a node.
    pub fn is_available_on(&self, node: &NodeInfo) -> bool {
        self.nodes.as_ref().is_none_or(|nodes| nodes.matches(node.name.as_str(), &node.labels))
    }

    /// Whether it may help a pod that it is no more as before: it has been given devices, or needs some no more.
    pub(super) fn frees(&self, before: &Claim) -> bool {
        let (had, has) = (before.allocation.is_some(), self.allocation.is_some());
        had != has || self.reserved.len() < before.reserved.len()
    }
}
