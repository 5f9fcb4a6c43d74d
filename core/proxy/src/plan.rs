//! Which fronts a Service has, and who answers there (pure).

use crate::config::Node;
use crate::endpoint_slice::{Slice, State};
use crate::front::{Action, Affinity, Endpoint, Front, Masquerade, Target};
use crate::service::{Policy, Service, ServicePort};

/// All fronts of a Service with what happens there. The order of endpoints depends on nothing but the endpoints.
pub(crate) fn plan<'a>(
    service: &Service,
    slices: impl Iterator<Item = &'a Slice> + Clone,
    node: &Node,
) -> Vec<(Front, Target)> {
    let mut planned = Vec::new();
    for port in &service.ports {
        let candidates = Candidates::of(port, slices.clone());
        let front = |address, port_number| Front { address, protocol: port.protocol, port: port_number };
        let inside = candidates.internal(service.internal, service.affinity);
        for address in &service.cluster_ips {
            let masquerade =
                if node.services.contains(address) { Masquerade::ByRange } else { Masquerade::Outside };
            planned.push((front(*address, port.port), inside.clone().seen(masquerade)));
        }
        let balanced = service.external_ips.iter().map(|address| (*address, port.port));
        let node_ports = port.node_port.map(|number| node.addresses.iter().map(move |one| (*one, number)));
        for (address, number) in balanced.chain(node_ports.into_iter().flatten()) {
            planned.push((front(address, number), candidates.external(service.external, service.affinity)));
        }
    }
    planned
}

struct Candidates {
    all: Vec<Endpoint>,
    local: Vec<Endpoint>,
}

impl Candidates {
    fn of<'a>(port: &ServicePort, slices: impl Iterator<Item = &'a Slice>) -> Self {
        let mut known = Vec::new();
        for slice in slices {
            let same = |other: &&crate::endpoint_slice::SlicePort| {
                other.name == port.name && other.protocol == port.protocol
            };
            for number in slice.ports.iter().filter(same) {
                known.extend(slice.endpoints.iter().map(|one| {
                    let endpoint = Endpoint { address: one.address, port: number.port, local: one.local };
                    (endpoint, one.state)
                }));
            }
        }
        Self { all: serving(known.iter()), local: serving(known.iter().filter(|(one, _)| one.local)) }
    }

    /// For callers inside of the cluster.
    fn internal(&self, policy: Policy, affinity: Option<Affinity>) -> Target {
        let endpoints = match policy {
            Policy::Cluster => &self.all,
            Policy::Local => &self.local,
        };
        let action = match (count(&self.all), count(endpoints)) {
            (0, _) => Action::Reject,
            (_, 0) => Action::Drop,
            (_, endpoints) => Action::Balance { endpoints, affinity },
        };
        let endpoints = endpoints.clone();
        Target { action, masquerade: Masquerade::ByRange, endpoints }
    }

    /// For callers from outside; pods and the node itself may call there, too, and are not bound to what is local.
    fn external(&self, policy: Policy, affinity: Option<Affinity>) -> Target {
        let all = count(&self.all);
        match policy {
            Policy::Cluster => self.internal(policy, affinity).seen(Masquerade::Always),
            Policy::Local if all == 0 => self.internal(policy, affinity).seen(Masquerade::Node),
            Policy::Local => Target {
                action: Action::Split { local: count(&self.local), all, affinity },
                masquerade: Masquerade::Node,
                endpoints: self.local.iter().chain(&self.all).copied().collect(),
            },
        }
    }
}

impl Target {
    fn seen(self, masquerade: Masquerade) -> Self {
        Self { masquerade, ..self }
    }
}

/// The ready ones, or if there is none those that end and still serve.
fn serving<'a>(known: impl Iterator<Item = &'a (Endpoint, State)> + Clone) -> Vec<Endpoint> {
    let in_state = |wanted| {
        let mut found: Vec<Endpoint> =
            known.clone().filter(|(_, state)| *state == wanted).map(|(endpoint, _)| *endpoint).collect();
        found.sort_unstable();
        found.dedup_by_key(|endpoint| (endpoint.address, endpoint.port));
        found
    };
    let ready = in_state(State::Ready);
    if ready.is_empty() { in_state(State::Terminating) } else { ready }
}

fn count(endpoints: &[Endpoint]) -> u32 {
    u32::try_from(endpoints.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
