//! (pure but for `machine`) Where in the machine a container is to be: whoever gives it processors, memory or devices says which memory
//! nodes would do, and one answer is made of that.
//!
//! - `mask`: sets of memory nodes; `hint`: what one provider says; `merge`: the best for all of them
//! - `machine` (kernel): the memory nodes that there are

use crate::configuration::KubeletConfiguration;
use crate::resources;

mod hint;
pub(crate) mod machine;
mod mask;
mod merge;

pub(crate) use hint::{Hint, Supply, hints};
pub(crate) use machine::NumaMachine;
pub(crate) use mask::{Mask, masks};

/// How strictly a container's parts have to be together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Nobody asks.
    #[default]
    None,
    /// As near as can be.
    BestEffort,
    /// As near as the machine allows, or not at all.
    Restricted,
    /// At one node, or not at all.
    SingleNumaNode,
}

/// What is placed together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Each container for itself.
    #[default]
    Container,
    /// All containers of a pod.
    Pod,
}

/// The machine, and what its owner wants of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Topology {
    pub(crate) policy: Policy,
    pub(crate) scope: Scope,
    /// Of sets of the same size those that are nearer to each other.
    closest: bool,
    machine: NumaMachine,
}

/// No place satisfies all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Resources cannot be allocated with Topology locality")]
pub(crate) struct Unaligned;

/// Why a machine cannot be shared out by its topology.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "topologyManagerPolicy is unsupported on machines with more than {most} NUMA Nodes, and this one has {found}"
)]
pub(crate) struct TooManyNodes {
    most: usize,
    found: usize,
}

/// The policy of a name.
pub(crate) fn policy(name: &str) -> Option<Policy> {
    match name {
        "none" => Some(Policy::None),
        "best-effort" => Some(Policy::BestEffort),
        "restricted" => Some(Policy::Restricted),
        "single-numa-node" => Some(Policy::SingleNumaNode),
        _ => None,
    }
}

/// The scope of a name.
pub(crate) fn scope(name: &str) -> Option<Scope> {
    match name {
        "container" => Some(Scope::Container),
        "pod" => Some(Scope::Pod),
        _ => None,
    }
}

impl Topology {
    /// The numbers of the machine's memory nodes.
    pub(crate) fn nodes(&self) -> Vec<u32> {
        self.machine.nodes()
    }

    /// What the settings say of a machine; they are right.
    pub(crate) fn new(settings: &KubeletConfiguration, machine: NumaMachine) -> Result<Self, TooManyNodes> {
        let policy = policy(&settings.topology_manager_policy).unwrap_or_default();
        let most = settings.max_allowable_numa_nodes().unwrap_or(machine::USUAL_NODES);
        let found = machine.nodes().len();
        if policy != Policy::None && found > most {
            return Err(TooManyNodes { most, found });
        }
        Ok(Topology {
            policy,
            scope: scope(&settings.topology_manager_scope).unwrap_or_default(),
            closest: settings.topology_option("prefer-closest-numa-nodes") == Some("true"),
            machine,
        })
    }

    /// Where a container is to be, by what is said of each resource; `None` for anywhere.
    pub(crate) fn place(&self, hints: &[Vec<Hint>]) -> Result<Option<Mask>, Unaligned> {
        let all = Mask::of(self.machine.nodes().iter().copied());
        let best =
            |hints: &[Vec<Hint>], closest: bool| merge::best(hints, all, closest.then_some(&self.machine));
        match self.policy {
            Policy::None => Ok(None),
            Policy::BestEffort => Ok(best(hints, self.closest).nodes),
            Policy::Restricted => {
                let best = best(hints, self.closest);
                if best.preferred { Ok(best.nodes) } else { Err(Unaligned) }
            }
            Policy::SingleNumaNode => {
                let is_single =
                    |hint: &&Hint| hint.preferred && hint.nodes.is_none_or(|nodes| nodes.len() == 1);
                let single: Vec<Vec<Hint>> =
                    hints.iter().map(|hints| hints.iter().filter(is_single).copied().collect()).collect();
                let best = best(&single, false);
                if best.preferred { Ok(best.nodes.filter(|nodes| *nodes != all)) } else { Err(Unaligned) }
            }
        }
    }
}

/// What a resource's name has to be to be memory.
pub(crate) fn is_memory(name: &str) -> bool {
    name == "memory" || name.starts_with("hugepages-")
}

/// What a container asks for of a resource, in thousandths.
pub(crate) fn request(member: &crate::pod::Member, name: &str) -> Option<i128> {
    let resources = member.container.resources.as_ref()?;
    let of = |map: &Option<_>| {
        let map: Option<&std::collections::BTreeMap<String, _>> = map.as_ref();
        map.and_then(|map| map.get(name)).and_then(resources::amount)
    };
    of(&resources.requests).or_else(|| of(&resources.limits))
}

#[cfg(test)]
mod tests;
