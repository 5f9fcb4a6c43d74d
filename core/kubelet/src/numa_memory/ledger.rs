//! (pure) Which memory nodes' memory was promised to whom.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::devices::Nodes;
use crate::pod::{Kind, Member, PodModel};
use crate::topology::{Hint, Mask, is_memory, masks, request};

/// Bytes by the name of the resource: `memory`, `hugepages-2Mi`.
pub(crate) type Amounts = BTreeMap<String, u64>;

/// Memory of one kind that a container was promised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Block {
    /// The nodes that it is at.
    #[serde(rename = "numaAffinity")]
    pub(crate) nodes: Nodes,
    /// The name of the resource.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// Bytes.
    pub(crate) size: u64,
    /// What of it was taken from which node, in bytes; the rest was taken for an init container of the pod before.
    #[serde(default)]
    pub(crate) taken: BTreeMap<u32, u64>,
}

/// Why a container gets no memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoMemory {
    #[error("failed to get the default NUMA affinity, no NUMA nodes with enough memory is available")]
    TooLittle,
    #[error("failed to find NUMA nodes to extend the current topology hint")]
    NotExtended,
    #[error("preferred hint violates NUMA node allocation")]
    Mixed,
}

type OfPod = BTreeMap<String, Vec<Block>>;

/// What the nodes have for pods, and who was promised some.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    /// By node.
    pub(super) allocatable: BTreeMap<u32, Amounts>,
    /// By the pod's UID and the container's name.
    pub(super) entries: BTreeMap<String, OfPod>,
}

/// What a container asks for.
pub(super) fn requests(member: &Member) -> Amounts {
    let resources = member.container.resources.iter();
    let maps = resources.flat_map(|all| [&all.requests, &all.limits]).flatten();
    let names: BTreeSet<&String> = maps.flat_map(|map| map.keys()).filter(|name| is_memory(name)).collect();
    let amount = |name: &String| {
        let bytes = u64::try_from(request(member, name)? / 1000).ok()?;
        (bytes > 0).then(|| (name.clone(), bytes))
    };
    names.into_iter().filter_map(amount).collect()
}

/// What the containers of a pod need at once: those that go on together, or an init container beside the sidecars before it.
pub(super) fn requests_of_pod(pod: &PodModel) -> Amounts {
    let add = |into: &mut Amounts, more: &Amounts| {
        more.iter().for_each(|(name, bytes)| *into.entry(name.clone()).or_default() += bytes);
    };
    let (mut lasting, mut most) = (Amounts::new(), Amounts::new());
    let raise = |most: &mut Amounts, now: &Amounts| {
        for (name, bytes) in now {
            let known = most.entry(name.clone()).or_default();
            *known = (*known).max(*bytes);
        }
    };
    for member in &pod.members {
        let own = requests(member);
        match member.kind {
            Kind::Init => {
                let mut now = lasting.clone();
                add(&mut now, &own);
                raise(&mut most, &now);
            }
            Kind::Sidecar | Kind::Regular => add(&mut lasting, &own),
            Kind::Ephemeral => {}
        }
    }
    raise(&mut most, &lasting);
    most
}

impl Ledger {
    fn nodes(&self) -> Vec<u32> {
        self.allocatable.keys().copied().collect()
    }

    fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.entries.values().flat_map(BTreeMap::values).flatten()
    }

    fn allocatable(&self, node: u32, kind: &str) -> u64 {
        self.allocatable.get(&node).and_then(|amounts| amounts.get(kind)).copied().unwrap_or(0)
    }

    fn free(&self, node: u32, kind: &str) -> u64 {
        let of_kind = self.blocks().filter(|block| block.kind == kind);
        let taken: u64 = of_kind.filter_map(|block| block.taken.get(&node)).sum();
        self.allocatable(node, kind).saturating_sub(taken)
    }

    /// The group of nodes in which a node's memory was promised, if any was.
    fn group(&self, node: u32) -> Option<Mask> {
        let block = self.blocks().find(|block| block.nodes.contains(&node))?;
        Some(Mask::of(block.nodes.iter().copied()))
    }

    /// A node belongs to one group at a time: alone, or with always the same others.
    fn mixes(&self, mask: Mask) -> bool {
        mask.nodes().any(|node| self.group(node).is_some_and(|group| group != mask))
    }

    /// What init containers of a pod before `container` had at these nodes, and nobody has since.
    fn reusable(&self, pod: &PodModel, container: &str, mask: Mask, kind: &str) -> u64 {
        let mut left = 0_u64;
        for member in pod.members.iter().take_while(|member| member.name() != container) {
            let own = self.entries.get(&pod.uid).and_then(|of_pod| of_pod.get(member.name()));
            let fits = |block: &&Block| block.kind == kind && Mask::of(block.nodes.iter().copied()) == mask;
            let size: u64 = own.into_iter().flatten().filter(fits).map(|block| block.size).sum();
            match member.kind {
                Kind::Init => left = left.max(size),
                Kind::Sidecar | Kind::Regular | Kind::Ephemeral => left = left.saturating_sub(size),
            }
        }
        left
    }

    fn is_enough(&self, mask: Mask, wanted: &Amounts, reusable: impl Fn(Mask, &str) -> u64) -> bool {
        wanted.iter().all(|(kind, size)| {
            let free: u64 = mask.nodes().map(|node| self.free(node, kind)).sum();
            free.saturating_add(reusable(mask, kind)) >= *size
        })
    }

    /// The sets of nodes that have enough. Those are preferred that are as small as the machine allows.
    fn places(&self, wanted: &Amounts, reusable: impl Fn(Mask, &str) -> u64) -> Vec<Hint> {
        let nodes = self.nodes();
        let mut least = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
        let mut found = Vec::new();
        for mask in masks(&nodes) {
            let has = |(kind, size): (&String, &u64)| {
                mask.nodes().map(|node| self.allocatable(node, kind)).sum::<u64>() >= *size
            };
            if !wanted.iter().all(has) {
                continue;
            }
            least = least.min(mask.len());
            if !self.mixes(mask) && self.is_enough(mask, wanted, &reusable) {
                found.push(mask);
            }
        }
        found.into_iter().map(|mask| Hint { nodes: Some(mask), preferred: mask.len() == least }).collect()
    }

    fn told(found: Vec<Hint>, wanted: &Amounts) -> Vec<Vec<Hint>> {
        let found = if found.is_empty() { vec![Hint::NOWHERE] } else { found };
        wanted.keys().map(|_| found.clone()).collect()
    }

    /// Where a container's memory can be had.
    pub(super) fn hints(&self, pod: &PodModel, member: &Member) -> Vec<Vec<Hint>> {
        if let Some(blocks) = self.entries.get(&pod.uid).and_then(|of_pod| of_pod.get(member.name())) {
            let nodes = |block: &Block| Some(Mask::of(block.nodes.iter().copied()));
            return blocks.iter().map(|block| vec![Hint { nodes: nodes(block), preferred: true }]).collect();
        }
        let wanted = requests(member);
        let found = self.places(&wanted, |mask, kind| self.reusable(pod, member.name(), mask, kind));
        Self::told(found, &wanted)
    }

    /// Where a whole pod's memory can be had.
    pub(super) fn hints_of_pod(&self, pod: &PodModel) -> Vec<Vec<Hint>> {
        if self.entries.contains_key(&pod.uid) {
            return pod.members.iter().flat_map(|member| self.hints(pod, member)).collect();
        }
        let wanted = requests_of_pod(pod);
        Self::told(self.places(&wanted, |_, _| 0), &wanted)
    }

    /// Promises a container its memory, at `place` or around it where that is said; whether that is new.
    pub(super) fn allocate(
        &mut self,
        pod: &PodModel,
        member: &Member,
        place: Option<Mask>,
    ) -> Result<bool, NoMemory> {
        let name = member.name();
        let wanted = requests(member);
        let has = self.entries.get(&pod.uid).is_some_and(|of_pod| of_pod.contains_key(name));
        if wanted.is_empty() || has {
            return Ok(false);
        }
        let reusable = |mask: Mask, kind: &str| self.reusable(pod, name, mask, kind);
        let best = |within: Mask| {
            let found = self
                .places(&wanted, reusable)
                .into_iter()
                .filter_map(|hint| Some((hint.nodes?, hint.preferred)));
            let fits = found.filter(|(mask, _)| mask.contains(within));
            fits.reduce(|one, other| {
                let is_better = (other.1 && !one.1) || (other.1 == one.1 && other.0.is_narrower(one.0));
                if is_better { other } else { one }
            })
        };
        let mask = match place {
            Some(place) if self.is_enough(place, &wanted, reusable) => place,
            Some(place) => best(place).ok_or(NoMemory::NotExtended)?.0,
            None => best(Mask::default()).ok_or(NoMemory::TooLittle)?.0,
        };
        if self.mixes(mask) {
            return Err(NoMemory::Mixed);
        }
        let block = |(kind, size): (&String, &u64)| {
            let mut missing = size.saturating_sub(self.reusable(pod, name, mask, kind));
            let mut taken = BTreeMap::new();
            for node in mask.nodes() {
                let here = missing.min(self.free(node, kind));
                missing -= here;
                if here > 0 {
                    taken.insert(node, here);
                }
            }
            Block { nodes: mask.set(), kind: kind.clone(), size: *size, taken }
        };
        let blocks: Vec<Block> = wanted.iter().map(block).collect();
        self.entries.entry(pod.uid.clone()).or_default().insert(name.to_owned(), blocks);
        Ok(true)
    }

    /// Whether all that was promised is there.
    pub(super) fn is_sound(&self) -> bool {
        let known = |block: &Block| block.nodes.iter().all(|node| self.allocatable.contains_key(node));
        let mut kinds: BTreeSet<(u32, &str)> = BTreeSet::new();
        self.blocks()
            .for_each(|block| kinds.extend(block.taken.keys().map(|node| (*node, block.kind.as_str()))));
        let enough = |(node, kind): &(u32, &str)| {
            let of_kind = self.blocks().filter(|block| block.kind == *kind);
            of_kind.filter_map(|block| block.taken.get(node)).sum::<u64>() <= self.allocatable(*node, kind)
        };
        self.blocks().all(known) && kinds.iter().all(enough)
    }
}
