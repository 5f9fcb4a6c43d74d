//! (pure) What devices there are, who has them, and which of them a container is given.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ResourceHealth, ResourceStatus};
use keelson_devices::v1beta1::{ContainerAllocateResponse, Device};

use crate::pod::{Kind, Member, PodModel};
use crate::resources;
use crate::topology::{Hint, Mask, Supply, hints};

/// What a plugin offered is counted for so long after the plugin has gone.
const GRACE: SignedDuration = SignedDuration::from_mins(5);
/// The word for a device that can be used.
const HEALTHY: &str = "Healthy";

/// The numbers of memory nodes.
pub(crate) type Nodes = BTreeSet<u32>;
type Ids = BTreeSet<String>;

/// One device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct State {
    healthy: bool,
    /// Where it is near; nowhere if that is not known.
    nodes: Nodes,
}

/// What one plugin offers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Resource {
    devices: BTreeMap<String, State>,
    /// Since when its plugin is not there.
    absent: Option<Timestamp>,
}

/// What a container has of a resource.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Grant {
    /// The devices, with where they are.
    pub(super) devices: BTreeMap<String, Nodes>,
    /// What the plugin says is to be done to use them; `None` while it is asked.
    pub(super) response: Option<ContainerAllocateResponse>,
}

/// By resource.
type Grants = BTreeMap<String, Grant>;

/// How many devices a resource has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// All of them.
    pub(crate) capacity: usize,
    /// Those that are healthy.
    pub(crate) allocatable: usize,
}

/// Why a container gets no devices.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Shortage {
    #[error(
        "pod {pod:?} container {container:?} changed request for resource {resource:?} from {from} to {to}"
    )]
    Changed { pod: String, container: String, resource: String, from: usize, to: usize },
    #[error("cannot allocate unregistered device {0}")]
    Unregistered(String),
    #[error("no healthy devices present; cannot allocate unhealthy devices {0}")]
    NoneHealthy(String),
    #[error("previously allocated devices are no longer healthy; cannot allocate unhealthy devices {0}")]
    Unhealthy(String),
    #[error(
        "requested number of devices unavailable for {resource}. Requested: {requested}, Available: {available}"
    )]
    TooFew { resource: String, requested: usize, available: usize },
}

impl Shortage {
    /// Whether a plugin that was there before the restart may end it.
    fn may_pass(&self) -> bool {
        matches!(self, Self::Unregistered(_) | Self::NoneHealthy(_))
    }
}

/// What a container is to be given of a resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Choice {
    /// What init containers before it had.
    reused: Ids,
    /// How many are missing beside those.
    missing: usize,
    /// Free devices where the container belongs.
    aligned: Vec<String>,
    /// All other free ones, in the order in which they are taken.
    others: Vec<String>,
}

/// What a plugin is asked to choose from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    /// Those that there are to choose from.
    pub(super) available: Vec<String>,
    /// Those that are chosen already.
    pub(super) included: Vec<String>,
    /// How many there are to be in all.
    pub(super) size: usize,
}

impl Choice {
    fn is_within(&self) -> bool {
        self.missing < self.aligned.len()
    }

    /// What the plugin may choose; `None` when nothing is left to choose.
    pub(super) fn question(&self) -> Option<Question> {
        let reused: Vec<String> = self.reused.iter().cloned().collect();
        let size = self.reused.len() + self.missing;
        if self.missing == 0 || self.missing == self.aligned.len() {
            return None;
        }
        if self.is_within() {
            return Some(Question {
                available: [&self.aligned[..], &reused].concat(),
                included: reused,
                size,
            });
        }
        let included = [&reused[..], &self.aligned].concat();
        Some(Question { available: [&included[..], &self.others].concat(), included, size })
    }

    /// The devices, by what the plugin prefers.
    pub(super) fn take(self, preferred: &[String]) -> Ids {
        let size = self.reused.len() + self.missing;
        let is_within = self.is_within();
        let mut taken = self.reused;
        let pick = |taken: &mut Ids, from: &mut dyn Iterator<Item = &String>| {
            for one in from {
                if taken.len() < size {
                    taken.insert(one.clone());
                }
            }
        };
        if is_within {
            pick(&mut taken, &mut preferred.iter().filter(|one| self.aligned.contains(one)));
        }
        pick(&mut taken, &mut self.aligned.iter());
        pick(&mut taken, &mut preferred.iter().filter(|one| self.others.contains(one)));
        pick(&mut taken, &mut self.others.iter());
        taken
    }
}

/// A demand of one container for one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Demand {
    /// Of what.
    pub(super) resource: String,
    /// How many.
    pub(super) count: usize,
}

/// What there is and who has it.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    resources: BTreeMap<String, Resource>,
    /// Resources whose plugins are gone for good: nothing is there of them any more.
    removed: BTreeSet<String>,
    /// Resources whose plugins have been there since this process began.
    met: BTreeSet<String>,
    /// By the pod's UID and the container's name.
    grants: BTreeMap<String, BTreeMap<String, Grants>>,
}

/// One line of what was written down.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) uid: String,
    pub(super) container: String,
    pub(super) resource: String,
    pub(super) grant: Grant,
}

impl Inventory {
    /// What was written down: of resources only the names count, until their plugins come back.
    pub(super) fn restore(
        entries: Vec<Entry>,
        resources: impl IntoIterator<Item = String>,
        now: Timestamp,
    ) -> Self {
        let mut found = Inventory::default();
        for Entry { uid, container, resource, grant } in entries {
            found.grants.entry(uid).or_default().entry(container).or_default().insert(resource, grant);
        }
        let absent = Resource { absent: Some(now), ..Resource::default() };
        found.resources = resources.into_iter().map(|name| (name, absent.clone())).collect();
        found
    }

    /// All that was given for good.
    pub(super) fn entries(&self) -> Vec<Entry> {
        let mut found = Vec::new();
        for (uid, pod) in &self.grants {
            for (container, grants) in pod {
                let given = grants.iter().filter(|(_, grant)| grant.response.is_some());
                found.extend(given.map(|(resource, grant)| Entry {
                    uid: uid.clone(),
                    container: container.clone(),
                    resource: resource.clone(),
                    grant: grant.clone(),
                }));
            }
        }
        found
    }

    /// The healthy devices of all resources.
    pub(super) fn registered(&self) -> BTreeMap<String, Vec<String>> {
        let healthy = |resource: &Resource| {
            resource.devices.iter().filter(|(_, it)| it.healthy).map(|(id, _)| id.clone()).collect()
        };
        self.resources.iter().map(|(name, resource)| (name.clone(), healthy(resource))).collect()
    }

    /// The same with where they are.
    pub(super) fn healthy(&self) -> BTreeMap<String, BTreeMap<String, Nodes>> {
        let healthy = |resource: &Resource| {
            let all = resource.devices.iter().filter(|(_, device)| device.healthy);
            all.map(|(id, device)| (id.clone(), device.nodes.clone())).collect()
        };
        self.resources.iter().map(|(name, resource)| (name.clone(), healthy(resource))).collect()
    }

    /// A plugin is there.
    pub(super) fn connect(&mut self, name: &str) {
        self.removed.remove(name);
        let resource = self.resources.entry(name.to_owned()).or_default();
        resource.absent = None;
    }

    /// A plugin says what devices there are. Those that it does not name are no more. Whether that is news.
    pub(super) fn update(&mut self, name: &str, devices: &[Device]) -> bool {
        let Some(resource) = self.resources.get_mut(name) else { return false };
        let is_new = self.met.insert(name.to_owned());
        let state = |device: &Device| {
            let nodes = device.topology.iter().flat_map(|topology| &topology.nodes);
            let nodes = nodes.filter_map(|node| u32::try_from(node.id).ok()).collect();
            (device.id.clone(), State { healthy: device.health == HEALTHY, nodes })
        };
        let before = std::mem::replace(&mut resource.devices, devices.iter().map(state).collect());
        is_new || before != resource.devices
    }

    /// A plugin is gone: what it offered is there, and of no use.
    pub(super) fn disconnect(&mut self, name: &str, now: Timestamp) {
        let Some(resource) = self.resources.get_mut(name) else { return };
        resource.absent = Some(now);
        resource.devices.values_mut().for_each(|device| device.healthy = false);
    }

    /// How many devices there are. Resources whose plugins are gone for long have none.
    pub(super) fn counts(&mut self, now: Timestamp) -> BTreeMap<String, Counts> {
        let is_over =
            |resource: &Resource| resource.absent.is_some_and(|since| now.duration_since(since) > GRACE);
        let over: Vec<String> =
            self.resources.iter().filter(|(_, it)| is_over(it)).map(|(name, _)| name.clone()).collect();
        for name in over {
            self.resources.remove(&name);
            self.removed.insert(name);
        }
        let count = |resource: &Resource| Counts {
            capacity: resource.devices.len(),
            allocatable: resource.devices.values().filter(|device| device.healthy).count(),
        };
        let there = self.resources.iter().map(|(name, resource)| (name.clone(), count(resource)));
        there.chain(self.removed.iter().map(|name| (name.clone(), Counts::default()))).collect()
    }

    fn is_given(&self, name: &str) -> bool {
        self.grants.values().flat_map(BTreeMap::values).any(|grants| grants.contains_key(name))
    }

    /// What of a container's limits are devices of plugins.
    pub(super) fn demands(&self, member: &Member) -> Vec<Demand> {
        let limits = member.container.resources.iter().flat_map(|all| all.limits.iter().flatten());
        let demand = |(name, quantity): (&String, _)| {
            let known = self.resources.contains_key(name) || self.is_given(name);
            let count = usize::try_from(resources::amount(quantity)? / 1000).ok()?;
            (known && count > 0).then(|| Demand { resource: name.clone(), count })
        };
        limits.filter_map(demand).collect()
    }

    /// What a container has.
    pub(super) fn grants(&self, uid: &str, container: &str) -> Option<&Grants> {
        self.grants.get(uid)?.get(container)
    }

    /// What a container has of a resource, in devices.
    pub(super) fn given(&self, uid: &str, container: &str, resource: &str) -> Option<Ids> {
        let grant = self.grants(uid, container)?.get(resource)?;
        Some(grant.devices.keys().cloned().collect())
    }

    /// Devices of init containers before a container that have ended when it starts, and that no other has since.
    fn reusable(&self, pod: &PodModel, container: &str, resource: &str) -> Ids {
        let mut free = Ids::new();
        for member in pod.members.iter().take_while(|member| member.name() != container) {
            let Some(own) = self.given(&pod.uid, member.name(), resource) else { continue };
            match member.kind {
                Kind::Init => free.extend(own),
                Kind::Sidecar | Kind::Regular | Kind::Ephemeral => free.retain(|id| !own.contains(id)),
            }
        }
        free
    }

    fn in_use(&self, resource: &str) -> BTreeSet<&String> {
        let all = self.grants.values().flat_map(BTreeMap::values);
        all.filter_map(|grants| grants.get(resource)).flat_map(|grant| grant.devices.keys()).collect()
    }

    /// Free devices of a resource, with where they are.
    pub(super) fn free(&self, resource: &str) -> BTreeMap<String, Nodes> {
        let used = self.in_use(resource);
        let all = self.resources.get(resource).into_iter().flat_map(|resource| &resource.devices);
        let free = all.filter(|(id, device)| device.healthy && !used.contains(id));
        free.map(|(id, device)| (id.clone(), device.nodes.clone())).collect()
    }

    /// Whether a pod waits for a plugin that was there before this process began, and has not come back yet.
    pub(super) fn is_awaited(&self, name: &str, shortage: &Shortage) -> bool {
        let is_absent = self.resources.contains_key(name) && !self.met.contains(name);
        is_absent && shortage.may_pass()
    }

    /// Whether the plugin of a resource has been there since this process began.
    pub(super) fn is_met(&self, name: &str) -> bool {
        self.met.contains(name)
    }

    /// What a container can be given, near `affinity` where that is said; `None` when it has all that it asks for.
    pub(super) fn choice(
        &self,
        pod: &PodModel,
        container: &str,
        demand: &Demand,
        affinity: Option<&Nodes>,
    ) -> Result<Option<Choice>, Shortage> {
        let Demand { resource: name, count } = demand;
        let own = self.given(&pod.uid, container, name);
        if let Some(own) = own.as_ref().filter(|own| own.len() != *count) {
            return Err(Shortage::Changed {
                pod: pod.uid.clone(),
                container: container.to_owned(),
                resource: name.clone(),
                from: own.len(),
                to: *count,
            });
        }
        let Some(resource) = self.resources.get(name) else {
            return Err(Shortage::Unregistered(name.clone()));
        };
        let is_healthy = |id: &String| resource.devices.get(id).is_some_and(|device| device.healthy);
        if !resource.devices.values().any(|device| device.healthy) {
            return Err(Shortage::NoneHealthy(name.clone()));
        }
        if let Some(own) = own {
            let all = own.iter().all(is_healthy);
            return if all { Ok(None) } else { Err(Shortage::Unhealthy(name.clone())) };
        }
        let reused = self.reusable(pod, container, name).into_iter().filter(is_healthy);
        let reused: Ids = reused.take(*count).collect();
        let (missing, free) = (count - reused.len(), self.free(name));
        if free.len() < missing {
            return Err(Shortage::TooFew {
                resource: name.clone(),
                requested: missing,
                available: free.len(),
            });
        }
        let Some(affinity) = affinity else {
            let others = free.into_keys().collect();
            return Ok(Some(Choice { reused, missing, aligned: Vec::new(), others }));
        };
        let (mut aligned, mut far, mut anywhere) = (Vec::new(), Vec::new(), Vec::new());
        for (id, nodes) in free {
            if nodes.is_empty() {
                anywhere.push(id);
            } else if nodes.is_disjoint(affinity) {
                far.push(id);
            } else {
                aligned.push(id);
            }
        }
        Ok(Some(Choice { reused, missing, aligned, others: [far, anywhere].concat() }))
    }

    /// Where so many devices can be had beside those that are `reused`; anywhere if it is not known where they are.
    fn places(&self, name: &str, count: usize, own: Option<&Ids>, reused: &Ids, nodes: &[u32]) -> Vec<Hint> {
        let Some(resource) = self.resources.get(name) else { return vec![Hint::NOWHERE] };
        if resource.devices.values().all(|device| device.nodes.is_empty()) {
            return vec![Hint::ANYWHERE];
        }
        let at = |id: &String| {
            let device = resource.devices.get(id).filter(|device| !device.nodes.is_empty())?;
            Some(Mask::of(device.nodes.iter().copied()))
        };
        let free: Ids = match own {
            Some(own) => own.clone(),
            None => self.free(name).into_keys().collect(),
        };
        let supply = Supply {
            all: resource.devices.keys().filter_map(at).collect(),
            free: free.difference(reused).filter_map(at).collect(),
            reused: reused.iter().filter_map(at).collect(),
        };
        hints(nodes, &supply, count)
    }

    /// Where the devices of a container can be had, by resource.
    pub(super) fn hints(&self, pod: &PodModel, member: &Member, nodes: &[u32]) -> Vec<Vec<Hint>> {
        let of = |Demand { resource, count }: Demand| {
            let own = self.given(&pod.uid, member.name(), &resource);
            let reused = match own {
                Some(_) => Ids::new(),
                None => self.reusable(pod, member.name(), &resource).into_iter().take(count).collect(),
            };
            self.places(&resource, count, own.as_ref(), &reused, nodes)
        };
        self.demands(member).into_iter().map(of).collect()
    }

    /// Where those of all containers of a pod can be had, by resource.
    pub(super) fn hints_of_pod(&self, pod: &PodModel, nodes: &[u32]) -> Vec<Vec<Hint>> {
        if self.grants.contains_key(&pod.uid) {
            return pod.members.iter().flat_map(|member| self.hints(pod, member, nodes)).collect();
        }
        let (mut lasting, mut most) = (BTreeMap::<String, usize>::new(), BTreeMap::<String, usize>::new());
        for member in &pod.members {
            for Demand { resource, count } in self.demands(member) {
                let beside = lasting.get(&resource).copied().unwrap_or(0);
                let now = most.entry(resource.clone()).or_default();
                *now = (*now).max(beside + count);
                if matches!(member.kind, Kind::Sidecar | Kind::Regular) {
                    *lasting.entry(resource).or_default() += count;
                }
            }
        }
        most.iter().map(|(name, count)| self.places(name, *count, None, &Ids::new(), nodes)).collect()
    }

    /// Gives devices to a container while its plugin is asked; `false` when one was given to another meanwhile.
    pub(super) fn reserve(&mut self, pod: &PodModel, container: &str, resource: &str, ids: &Ids) -> bool {
        let used = self.in_use(resource);
        let reusable = self.reusable(pod, container, resource);
        if ids.iter().any(|id| used.contains(id) && !reusable.contains(id)) {
            return false;
        }
        let known = self.resources.get(resource);
        let nodes = |id: &String| {
            known.and_then(|it| it.devices.get(id)).map(|device| device.nodes.clone()).unwrap_or_default()
        };
        let devices = ids.iter().map(|id| (id.clone(), nodes(id))).collect();
        let grant = Grant { devices, response: None };
        let of_pod = self.grants.entry(pod.uid.clone()).or_default();
        of_pod.entry(container.to_owned()).or_default().insert(resource.to_owned(), grant);
        true
    }

    /// What the plugin answers. `false` if the container has not got the devices any more.
    pub(super) fn grant(
        &mut self,
        uid: &str,
        container: &str,
        resource: &str,
        response: ContainerAllocateResponse,
    ) -> bool {
        let pod = self.grants.get_mut(uid).and_then(|pod| pod.get_mut(container));
        let Some(grant) = pod.and_then(|grants| grants.get_mut(resource)) else { return false };
        grant.response = Some(response);
        true
    }

    /// Takes back what a container was to get of a resource.
    pub(super) fn withdraw(&mut self, uid: &str, container: &str, resource: &str) {
        let Some(pod) = self.grants.get_mut(uid) else { return };
        if let Some(grants) = pod.get_mut(container) {
            grants.remove(resource);
        }
        pod.retain(|_, grants| !grants.is_empty());
        if pod.is_empty() {
            self.grants.remove(uid);
        }
    }

    /// Takes back what a pod had; whether that was anything.
    pub(super) fn release(&mut self, uid: &str) -> bool {
        self.grants.remove(uid).is_some()
    }

    /// The pods that have devices.
    pub(super) fn pods(&self) -> impl Iterator<Item = &str> {
        self.grants.keys().map(String::as_str)
    }

    /// How the devices of a pod fare, by container.
    pub(super) fn health(&self, uid: &str) -> BTreeMap<String, Vec<ResourceStatus>> {
        let one = |resource: &str, id: &String| {
            let device = self.resources.get(resource).and_then(|it| it.devices.get(id));
            let health = match device {
                Some(device) if device.healthy => "Healthy",
                Some(_) => "Unhealthy",
                None => "Unknown",
            };
            ResourceHealth {
                resource_id: id.clone(),
                health: Some(health.to_owned()),
                ..ResourceHealth::default()
            }
        };
        let status = |(resource, grant): (&String, &Grant)| ResourceStatus {
            name: resource.clone(),
            resources: Some(grant.devices.keys().map(|id| one(resource, id)).collect()),
        };
        let pod = self.grants.get(uid).into_iter().flatten();
        pod.map(|(container, grants)| (container.clone(), grants.iter().map(status).collect())).collect()
    }
}

#[cfg(test)]
mod tests;
