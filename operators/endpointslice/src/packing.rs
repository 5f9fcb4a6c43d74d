//! Endpoints into slices, with as few changes as can be (pure).

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

use crate::endpoints::{Group, sorted};

/// How many endpoints a slice has at most.
pub const LARGEST: usize = 100;

/// What becomes of the slices of one family of addresses.
#[derive(Debug, Default)]
pub struct Packed {
    /// Slices that stay, with the endpoints that they are to have; these may be the same as before.
    pub kept: Vec<(Arc<EndpointSlice>, Content)>,
    /// Slices that nothing is left in.
    pub emptied: Vec<Arc<EndpointSlice>>,
    /// What there is no slice for yet.
    pub new: Vec<Content>,
}

/// What is in a slice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Content {
    /// The ports of all endpoints.
    pub ports: Vec<EndpointPort>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// Packs. Endpoints stay where they are; new ones go first into slices that change anyway, then into one that has room
/// for all of them, then into new slices.
pub fn pack(groups: Vec<Group>, slices: Vec<Arc<EndpointSlice>>) -> Packed {
    let mut packed = Packed::default();
    let mut slices: Vec<Option<Arc<EndpointSlice>>> = slices.into_iter().map(Some).collect();
    for Group { ports, endpoints } in groups {
        let has_ports = |slice: &Arc<EndpointSlice>| sorted(slice.ports.clone().unwrap_or_default()) == ports;
        let own = slices.iter_mut().filter_map(|slot| slot.take_if(|slice| has_ports(slice)));
        pack_group(ports.clone(), endpoints, own.collect(), &mut packed);
    }
    packed.emptied.extend(slices.into_iter().flatten());
    packed
}

fn pack_group(
    ports: Vec<EndpointPort>,
    mut wanted: BTreeMap<String, Endpoint>,
    slices: Vec<Arc<EndpointSlice>>,
    packed: &mut Packed,
) {
    let mut all: Vec<(Arc<EndpointSlice>, Vec<Endpoint>)> = Vec::new();
    for slice in slices {
        let stay = slice.endpoints.iter().flatten().filter_map(|old| wanted.remove(uid(old)?)).collect();
        all.push((slice, stay));
    }
    let mut rest: Vec<Endpoint> = wanted.into_values().collect();
    for (slice, endpoints) in &mut all {
        if slice.endpoints.as_deref().unwrap_or_default() != endpoints.as_slice() {
            fill(endpoints, &mut rest);
        }
    }
    if !rest.is_empty() {
        let fitting = all.iter_mut().filter(|(_, endpoints)| endpoints.len() + rest.len() <= LARGEST);
        if let Some((_, endpoints)) = fitting.max_by_key(|(_, endpoints)| endpoints.len()) {
            fill(endpoints, &mut rest);
        }
    }
    while !rest.is_empty() {
        let mut content = Content { ports: ports.clone(), endpoints: Vec::new() };
        fill(&mut content.endpoints, &mut rest);
        packed.new.push(content);
    }
    for (slice, endpoints) in all {
        if endpoints.is_empty() {
            packed.emptied.push(slice);
        } else {
            packed.kept.push((slice, Content { ports: ports.clone(), endpoints }));
        }
    }
}

fn fill(endpoints: &mut Vec<Endpoint>, rest: &mut Vec<Endpoint>) {
    let room = LARGEST.saturating_sub(endpoints.len()).min(rest.len());
    endpoints.extend(rest.drain(..room));
}

/// The UID of the pod of an endpoint.
fn uid(endpoint: &Endpoint) -> Option<&str> {
    endpoint.target_ref.as_ref()?.uid.as_deref()
}
