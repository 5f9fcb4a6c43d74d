//! Claims to devices, the devices that drivers offer, and their classes, as far as they decide where a pod can run.
//!
//! | module | what it holds |
//! |---|---|
//! | [`claim`], [`slice`], [`class`], [`selector`] | what the API says, read once |
//! | [`pool`] | the slices of a driver that belong together |
//! | [`allocator`], [`constraint`] | which devices a node has for claims |
//! | [`allocation`] | what is written at a claim |

pub mod allocation;
pub mod allocator;
pub mod claim;
pub mod class;
pub mod constraint;
pub mod pool;
pub mod selector;
pub mod slice;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::resource::v1::{AllocationResult, DeviceRequestAllocationResult};

use crate::names::{NodeName, ObjectName, PodUid};
use crate::node::NodeInfo;
use crate::pod::PendingPod;
use allocator::Allocator;
use claim::Claim;
use class::Class;
use pool::{Pool, PoolId};
use slice::{Reach, Slice};

/// A device; shown as `driver/pool/device`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId {
    /// Its pool.
    pub pool: PoolId,
    /// Its name in it.
    pub device: Arc<str>,
}

impl DeviceId {
    fn of(result: &DeviceRequestAllocationResult) -> Self {
        let pool = PoolId { driver: result.driver.as_str().into(), pool: result.pool.as_str().into() };
        DeviceId { pool, device: result.device.as_str().into() }
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.device)
    }
}

/// The place of a pod in a claim, which is written before the pod is bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Reservation {
    /// The claim.
    pub claim: ObjectName,
    /// Its UID.
    pub uid: Arc<str>,
    /// The claim's devices, where it has none yet.
    pub allocation: Option<AllocationResult>,
}

// What it is made of cannot be compared partially.
impl Eq for Reservation {}

/// The cluster's claims, slices and classes, with what has been decided and is not seen yet.
#[derive(Clone, Debug, Default)]
pub struct Devices {
    claims: HashMap<ObjectName, Arc<Claim>>,
    classes: HashMap<Arc<str>, Arc<Class>>,
    slices: BTreeMap<Arc<str>, Arc<Slice>>,
    pools: BTreeMap<PoolId, Pool>,
    /// Pools that have devices of one node, by its name.
    local: HashMap<NodeName, BTreeSet<PoolId>>,
    /// Pools with devices that are not of one node.
    shared: BTreeSet<PoolId>,
    /// The devices of claims whose allocation is being written.
    in_flight: HashMap<ObjectName, Vec<DeviceId>>,
}

fn devices_of(allocation: &AllocationResult) -> impl Iterator<Item = DeviceId> {
    let results = allocation.devices.iter().flat_map(|devices| devices.results.iter().flatten());
    // Who looks at devices that others use takes nothing.
    results.filter(|result| result.admin_access != Some(true)).map(DeviceId::of)
}

impl Devices {
    /// A claim.
    pub fn claim(&self, name: &ObjectName) -> Option<&Arc<Claim>> {
        self.claims.get(name)
    }

    /// A class.
    pub fn class(&self, name: &str) -> Option<&Arc<Class>> {
        self.classes.get(name)
    }

    /// The names of all claims.
    pub fn claim_names(&self) -> impl Iterator<Item = &ObjectName> {
        self.claims.keys()
    }

    /// The names of all classes.
    pub fn class_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.classes.keys()
    }

    /// The names of all slices.
    pub fn slice_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.slices.keys()
    }

    /// Whether a claim's devices are decided, and not written yet.
    pub fn is_in_flight(&self, name: &ObjectName) -> bool {
        self.in_flight.contains_key(name)
    }

    /// Takes in a claim; says whether that may help a pod. What is older than what is known changes nothing.
    pub fn set_claim(&mut self, name: ObjectName, claim: Arc<Claim>) -> bool {
        let before = self.claims.get(&name);
        if before.is_some_and(|before| before.uid == claim.uid && before.revision >= claim.revision) {
            return false;
        }
        let helps = before.is_none_or(|before| before.uid != claim.uid || claim.frees(before));
        self.claims.insert(name, claim);
        helps
    }

    /// Takes in a claim as it was written; one that is gone meanwhile, or another one of its name, stays as it is known.
    pub fn written(&mut self, name: ObjectName, claim: Arc<Claim>) -> bool {
        let is_known = self.claims.get(&name).is_some_and(|known| known.uid == claim.uid);
        is_known && self.set_claim(name, claim)
    }

    /// Forgets a claim; says whether that may help a pod.
    pub fn remove_claim(&mut self, name: &ObjectName) -> bool {
        self.claims.remove(name).is_some_and(|claim| claim.allocation.is_some())
    }

    /// Takes in a class; says whether that may help a pod.
    pub fn set_class(&mut self, name: Arc<str>, class: Arc<Class>) -> bool {
        let changed = self.classes.get(&name) != Some(&class);
        self.classes.insert(name, class);
        changed
    }

    /// Forgets a class.
    pub fn remove_class(&mut self, name: &str) {
        self.classes.remove(name);
    }

    /// Takes in a slice; says whether that may help a pod.
    pub fn set_slice(&mut self, name: Arc<str>, slice: Arc<Slice>) -> bool {
        if self.slices.get(&name) == Some(&slice) {
            return false;
        }
        let before = self.slices.insert(name, Arc::clone(&slice));
        for id in before.iter().map(|slice| &slice.pool).chain([&slice.pool]) {
            self.gather(id);
        }
        true
    }

    /// Forgets a slice; says whether that may help a pod: its pool may be complete without it.
    pub fn remove_slice(&mut self, name: &str) -> bool {
        let Some(before) = self.slices.remove(name) else { return false };
        self.gather(&before.pool);
        true
    }

    /// Makes a pool anew of its slices.
    fn gather(&mut self, id: &PoolId) {
        for pools in self.local.values_mut() {
            pools.remove(id);
        }
        self.local.retain(|_, pools| !pools.is_empty());
        self.shared.remove(id);
        let slices = self.slices.values().filter(|slice| slice.pool == *id).cloned();
        let Some(pool) = Pool::of(slices) else {
            self.pools.remove(id);
            return;
        };
        for slice in &pool.slices {
            match &slice.reach {
                Reach::Node(node) => {
                    self.local.entry(node.clone()).or_default().insert(id.clone());
                }
                Reach::All | Reach::Nodes { .. } => {
                    self.shared.insert(id.clone());
                }
            }
        }
        self.pools.insert(id.clone(), pool);
    }

    /// The pools that may have devices for pods on a node.
    fn pools_for(&self, node: &NodeInfo) -> impl Iterator<Item = &Pool> {
        let local = self.local.get(&node.name);
        let ids: BTreeSet<&PoolId> = local.into_iter().flatten().chain(&self.shared).collect();
        ids.into_iter().filter_map(|id| self.pools.get(id))
    }

    /// The devices that are somebody's.
    fn taken(&self) -> HashSet<DeviceId> {
        let allocations = self.claims.values().filter_map(|claim| claim.allocation.as_ref());
        let written = allocations.flat_map(devices_of);
        written.chain(self.in_flight.values().flatten().cloned()).collect()
    }

    /// The pod's claims that have no devices yet.
    fn unallocated(&self, pod: &PendingPod) -> Vec<(ObjectName, Arc<Claim>)> {
        let named = pod.device_claims.iter().map(|claim| pod.sibling(&claim.name));
        let mut found: Vec<(ObjectName, Arc<Claim>)> = Vec::new();
        for name in named {
            if let Some(claim) = self.claims.get(&name).filter(|claim| claim.allocation.is_none())
                && found.iter().all(|(known, _)| *known != name)
            {
                found.push((name, Arc::clone(claim)));
            }
        }
        found
    }

    /// What finds devices for a pod's claims; `None` where all have theirs.
    pub fn allocator(&self, pod: &PendingPod) -> Option<Allocator<'_>> {
        let claims = self.unallocated(pod);
        (!claims.is_empty()).then(|| Allocator::new(self, claims, self.taken()))
    }

    /// The places in its claims that a pod needs on a node.
    ///
    /// # Errors
    /// Why the node cannot have its devices.
    pub fn reserve(&self, pod: &PendingPod, node: &NodeInfo) -> Result<Vec<Reservation>, String> {
        let mut allocations: HashMap<ObjectName, AllocationResult> = HashMap::new();
        if let Some(allocator) = self.allocator(pod) {
            let found = allocator.allocate(node)?.ok_or("claim allocation not found for node")?;
            allocations.extend(allocator.names().cloned().zip(found));
        }
        let mut reservations: Vec<Reservation> = Vec::new();
        for wanted in &pod.device_claims {
            let name = pod.sibling(&wanted.name);
            let Some(claim) = self.claims.get(&name) else { continue };
            let known = reservations.iter().any(|one| one.claim == name);
            if !known && !claim.is_reserved_for(&pod.info.uid) {
                let allocation = allocations.remove(&name);
                reservations.push(Reservation { claim: name, uid: Arc::clone(&claim.uid), allocation });
            }
        }
        Ok(reservations)
    }

    /// Takes reservations as made until [`Devices::forget`].
    pub fn assume(&mut self, reservations: &[Reservation]) {
        for one in reservations {
            if let Some(allocation) = &one.allocation {
                self.in_flight.insert(one.claim.clone(), devices_of(allocation).collect());
            }
        }
    }

    /// Reservations are written, or they do not hold.
    pub fn forget(&mut self, reservations: &[Reservation]) {
        for one in reservations.iter().filter(|one| one.allocation.is_some()) {
            self.in_flight.remove(&one.claim);
        }
    }

    /// A claim that keeps a pod from nodes although nobody else uses it: the pod is better off if it is allocated anew.
    pub fn to_free<'a>(
        &self,
        pod: &PendingPod,
        nodes: impl Iterator<Item = &'a NodeInfo> + Clone,
    ) -> Option<(ObjectName, Arc<Claim>)> {
        pod.device_claims.iter().find_map(|wanted| {
            let name = pod.sibling(&wanted.name);
            let claim = self.claims.get(&name)?;
            let alone = claim.reserved.iter().all(|uid| *uid == pod.info.uid);
            let is_away = nodes.clone().any(|node| !claim.is_available_on(node));
            (alone && claim.allocation.is_some() && is_away).then(|| (name, Arc::clone(claim)))
        })
    }

    /// Whether a pod is among those that may use a claim.
    pub fn is_reserved_for(&self, name: &ObjectName, uid: &PodUid) -> bool {
        self.claims.get(name).is_some_and(|claim| claim.is_reserved_for(uid))
    }
}

#[cfg(test)]
mod tests;
