//! Which devices a node has for claims (pure).
//!
//! Claims are served one after the other, of each claim its requests, of each request device by device: a device is
//! taken, the rest is tried, and if that fails it is put back and the next one taken. The first solution counts.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::resource::v1::AllocationResult;

use super::allocation::{Chosen, result};
use super::claim::{Claim, Mode, Request, Wanted};
use super::class::Class;
use super::constraint::Constraint;
use super::pool::Pool;
use super::selector::{Selector, forbids, tolerates};
use super::slice::{Device, Slice};
use super::{DeviceId, Devices};
use crate::names::ObjectName;
use crate::node::NodeInfo;

/// The most devices of a claim.
const MAX_RESULTS: usize = 32;
/// The most steps of a search on one node.
const MAX_STEPS: usize = 100_000;

/// Finds devices for the claims of one pod.
pub struct Allocator<'a> {
    devices: &'a Devices,
    claims: Vec<(ObjectName, Arc<Claim>)>,
    taken: HashSet<DeviceId>,
    /// Whether a device is what a request is after does not depend on the node.
    matches: RefCell<HashMap<(Place, *const Device), bool>>,
}

/// Where a search stands: an alternative of a request of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place {
    claim: usize,
    request: usize,
    alternative: usize,
}

/// Why a part of a search ends without a result.
enum Stop {
    /// A claim would have too many devices.
    TooMany,
    /// Nothing can be found, whatever is tried.
    Fault(String),
}

/// A device that may be taken.
#[derive(Clone, Copy)]
struct Candidate<'s> {
    slice: &'s Slice,
    device: &'s Device,
}

/// How an alternative of a request is served on a node.
struct Target<'s> {
    class: &'s Class,
    count: usize,
    /// All devices, where all are wanted.
    all: Option<Vec<Candidate<'s>>>,
}

/// The search on one node.
struct Search<'s> {
    allocator: &'s Allocator<'s>,
    /// Devices that can be reached, by pool.
    offers: Vec<(&'s Pool, Vec<Candidate<'s>>)>,
    targets: HashMap<Place, Target<'s>>,
    constraints: Vec<Vec<Constraint>>,
    chosen: Vec<Vec<Chosen<'s>>>,
    /// Which alternative of a request was taken.
    selected: HashMap<(usize, usize), usize>,
    steps: usize,
}

impl<'a> Allocator<'a> {
    pub(super) fn new(
        devices: &'a Devices,
        claims: Vec<(ObjectName, Arc<Claim>)>,
        taken: HashSet<DeviceId>,
    ) -> Self {
        Allocator { devices, claims, taken, matches: RefCell::default() }
    }

    /// The claims, in the order of the results.
    pub fn names(&self) -> impl Iterator<Item = &ObjectName> {
        self.claims.iter().map(|(name, _)| name)
    }

    /// The devices of a node for all claims; `None` where it has not enough.
    ///
    /// # Errors
    /// What is wrong with a claim, a class or a pool.
    pub fn allocate(&self, node: &NodeInfo) -> Result<Option<Vec<AllocationResult>>, String> {
        let mut search = Search::new(self, node)?;
        search.prepare()?;
        match search.next_request(0, 0) {
            Ok(true) => search.results().map(Some),
            Ok(false) | Err(Stop::TooMany) => {
                if search.offers.iter().any(|(pool, _)| pool.is_invalid) {
                    return Err("invalid resource pools were encountered".to_owned());
                }
                Ok(None)
            }
            Err(Stop::Fault(fault)) => Err(fault),
        }
    }

    /// Whether a device is what a place is after; its taints do not matter yet.
    fn is_wanted(
        &self,
        place: Place,
        wanted: &Wanted,
        class: &Class,
        device: &Device,
    ) -> Result<bool, String> {
        let key = (place, std::ptr::from_ref(device));
        if let Some(known) = self.matches.borrow().get(&key) {
            return Ok(*known);
        }
        let all = |selectors: &[Selector], who: &dyn std::fmt::Display| {
            for (at, selector) in selectors.iter().enumerate() {
                match selector.matches(&device.view, &device.id) {
                    Ok(true) => {}
                    Ok(false) => return Ok(false),
                    Err(fault) if fault.starts_with("on ") => {
                        return Err(format!("{who}: selector #{at} {fault}"));
                    }
                    Err(fault) => return Err(format!("{who}: selector #{at}: {fault}")),
                }
            }
            Ok(true)
        };
        let (name, _) = &self.claims[place.claim];
        let found = device.is_plain()
            && all(&class.selectors, &format_args!("class {}", class.name))?
            && all(&wanted.selectors, &format_args!("claim {name}"))?;
        self.matches.borrow_mut().insert(key, found);
        Ok(found)
    }
}

impl<'s> Search<'s> {
    fn new(allocator: &'s Allocator<'s>, node: &NodeInfo) -> Result<Self, String> {
        let reach = |pool: &'s Pool| {
            let slices = pool.slices.iter().filter(|slice| slice.reach.includes(node));
            let all: Vec<Candidate<'s>> = slices
                .flat_map(|slice| slice.devices.iter().map(move |device| Candidate { slice, device }))
                .collect();
            (pool, all)
        };
        let mut constraints = Vec::with_capacity(allocator.claims.len());
        for (name, claim) in &allocator.claims {
            let mut of_claim = Vec::with_capacity(claim.constraints.len());
            for (at, constraint) in claim.constraints.iter().enumerate() {
                of_claim.push(Constraint::read(constraint).ok_or_else(|| {
                    format!("claim {name}, constraint #{at}: empty constraint (unsupported constraint type?)")
                })?);
            }
            constraints.push(of_claim);
        }
        let offers = allocator.devices.pools_for(node).map(reach);
        Ok(Search {
            allocator,
            offers: offers.filter(|(_, all)| !all.is_empty()).collect(),
            targets: HashMap::new(),
            constraints,
            chosen: vec![Vec::new(); allocator.claims.len()],
            selected: HashMap::new(),
            steps: 0,
        })
    }

    fn claim(&self, claim: usize) -> &'s Claim {
        &self.allocator.claims[claim].1
    }

    fn wanted(&self, place: Place) -> (&'s Request, &'s Wanted) {
        let request = &self.claim(place.claim).requests[place.request];
        (request, &request.alternatives[place.alternative])
    }

    /// Finds out how many devices each request is for.
    fn prepare(&mut self) -> Result<(), String> {
        for (at, (name, claim)) in self.allocator.claims.iter().enumerate() {
            let mut least = 0;
            for (number, request) in claim.requests.iter().enumerate() {
                let mut counts = Vec::with_capacity(request.alternatives.len());
                for alternative in 0..request.alternatives.len() {
                    let place = Place { claim: at, request: number, alternative };
                    let target = self.target(place)?;
                    counts.push(target.count);
                    self.targets.insert(place, target);
                }
                least += counts.into_iter().min().ok_or_else(|| {
                    format!("claim {name}, request {}: unsupported request type", request.name)
                })?;
            }
            if least > MAX_RESULTS {
                return Err(format!(
                    "claim {name}: number of requested devices {least} exceeds the claim limit of {MAX_RESULTS}"
                ));
            }
        }
        Ok(())
    }

    fn target(&self, place: Place) -> Result<Target<'s>, String> {
        let (request, wanted) = self.wanted(place);
        let label = if request.is_prioritized { &wanted.name } else { &request.name };
        let about = format!("claim {}, request {label}", self.allocator.claims[place.claim].0);
        if let Some(at) = wanted.selectors.iter().position(|selector| !selector.is_known()) {
            return Err(format!(
                "{about}, selector #{at}: CEL expression empty (unsupported selector type?)"
            ));
        }
        if wanted.wants_capacity {
            return Err(format!("{about}: capacity is requested, but the feature is disabled"));
        }
        let class = self.allocator.devices.class(&wanted.class);
        let class = class.ok_or_else(|| {
            format!(
                "{about}: could not retrieve device class {0}: device class {0} does not exist",
                wanted.class
            )
        })?;
        match &wanted.mode {
            Mode::Exactly(count) => Ok(Target { class, count: *count, all: None }),
            Mode::Unknown(mode) => Err(format!("{about}: unsupported count mode {mode}")),
            Mode::All => {
                let mut all = Vec::new();
                for (pool, candidates) in &self.offers {
                    let state = match (pool.is_incomplete, pool.is_invalid) {
                        (true, _) => "currently being updated",
                        (false, true) => "currently invalid",
                        (false, false) => "",
                    };
                    if !state.is_empty() {
                        let id = &pool.id;
                        return Err(format!(
                            "{about}: asks for all devices, but resource pool {id} is {state}"
                        ));
                    }
                    for candidate in candidates {
                        if self.allocator.is_wanted(place, wanted, class, candidate.device)? {
                            all.push(*candidate);
                        }
                    }
                }
                Ok(Target { class, count: all.len(), all: Some(all) })
            }
        }
    }

    /// Serves a request and all after it.
    fn next_request(&mut self, claim: usize, request: usize) -> Result<bool, Stop> {
        if claim >= self.allocator.claims.len() {
            return Ok(true);
        }
        let Some(wanted) = self.claim(claim).requests.get(request) else {
            return match self.next_request(claim + 1, 0) {
                // Another choice for an earlier claim does not change how many a later one has.
                Err(Stop::TooMany) => Ok(false),
                other => other,
            };
        };
        let mut always_too_many = true;
        for alternative in 0..wanted.alternatives.len() {
            match self.next_device(Place { claim, request, alternative }, 0) {
                Err(Stop::TooMany) => continue,
                Err(fault) => return Err(fault),
                Ok(true) => {
                    self.selected.insert((claim, request), alternative);
                    return Ok(true);
                }
                Ok(false) => always_too_many = false,
            }
        }
        if always_too_many { Err(Stop::TooMany) } else { Ok(false) }
    }

    /// Takes the device of a number for a place, and all that come after it.
    fn next_device(&mut self, place: Place, number: usize) -> Result<bool, Stop> {
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return Err(Stop::Fault("timed out trying to allocate devices".to_owned()));
        }
        let Some(target) = self.targets.get(&place) else { return Ok(false) };
        let (class, count) = (target.class, target.count);
        let of_all = target.all.as_ref().map(|all| all.get(number).copied());
        if of_all.is_some() && count == 0 {
            return Ok(false);
        }
        if number >= count {
            return self.next_request(place.claim, place.request + 1);
        }
        if self.chosen[place.claim].len() + count - number > MAX_RESULTS {
            return Err(Stop::TooMany);
        }
        match of_all {
            Some(Some(candidate)) => self.try_device(place, number, candidate, true),
            Some(None) => Ok(false),
            None => {
                for at in 0..self.offers.len() {
                    let (pool, candidates) = &self.offers[at];
                    if pool.is_incomplete || pool.is_invalid {
                        continue;
                    }
                    for index in 0..candidates.len() {
                        let candidate = self.offers[at].1[index];
                        let (_, wanted) = self.wanted(place);
                        if self.is_used(place.claim, wanted, &candidate.device.id) {
                            continue;
                        }
                        let is_wanted = self.allocator.is_wanted(place, wanted, class, candidate.device);
                        if is_wanted.map_err(Stop::Fault)?
                            && self.try_device(place, number, candidate, false)?
                        {
                            return Ok(true);
                        }
                    }
                }
                Ok(false)
            }
        }
    }

    /// Takes a device and goes on; puts it back if that leads nowhere. One that has to be taken must not be held back by a
    /// constraint.
    fn try_device(
        &mut self,
        place: Place,
        number: usize,
        candidate: Candidate<'s>,
        must: bool,
    ) -> Result<bool, Stop> {
        let (request, wanted) = self.wanted(place);
        let Candidate { slice, device } = candidate;
        let mut taints = device.said.taints.iter().flatten();
        if self.is_used(place.claim, wanted, &device.id)
            || taints.any(|taint| forbids(taint) && !tolerates(&wanted.tolerations, taint))
        {
            return Ok(false);
        }
        let constraints = &mut self.constraints[place.claim];
        if !constraints.iter().all(|one| one.allows(request, wanted, device)) {
            if !must {
                return Ok(false);
            }
            let name = &self.allocator.claims[place.claim].0;
            return Err(Stop::Fault(format!(
                "claim {name}, request {}: cannot add device {} because a claim constraint would not be satisfied",
                request.name, device.id
            )));
        }
        constraints.iter_mut().for_each(|one| one.add(request, wanted, device));
        self.chosen[place.claim].push(Chosen { request, wanted, slice, device });
        let done = self.next_device(place, number + 1);
        if !matches!(done, Ok(true)) {
            self.chosen[place.claim].pop();
            self.constraints[place.claim].iter_mut().for_each(|one| one.take_back(request, wanted));
        }
        done
    }

    /// Whether a device is somebody's; who looks at devices in use has each once in a claim.
    fn is_used(&self, claim: usize, wanted: &Wanted, id: &DeviceId) -> bool {
        let of = |chosen: &Vec<Chosen<'_>>| chosen.iter().any(|one| one.device.id == *id);
        if wanted.admin_access {
            return of(&self.chosen[claim]);
        }
        self.allocator.taken.contains(id) || self.chosen.iter().any(of)
    }

    fn results(&self) -> Result<Vec<AllocationResult>, String> {
        let claims = self.allocator.claims.iter().enumerate();
        let each = claims.map(|(at, (name, claim))| {
            let mut served = Vec::with_capacity(claim.requests.len());
            for request in 0..claim.requests.len() {
                let alternative = self.selected.get(&(at, request)).copied().unwrap_or(0);
                let place = Place { claim: at, request, alternative };
                let (request, wanted) = self.wanted(place);
                if let Some(target) = self.targets.get(&place) {
                    served.push((request, wanted, target.class));
                }
            }
            let made = result(claim, &self.chosen[at], &served);
            made.map_err(|fault| format!("create NodeSelector for claim {}: {fault}", name.name))
        });
        each.collect()
    }
}
