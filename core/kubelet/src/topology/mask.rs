//! (pure) Sets of memory nodes.

use std::collections::BTreeSet;

/// Some memory nodes, by their numbers, which are below 64.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mask(u64);

impl Mask {
    /// The set of some numbers.
    pub(crate) fn of(nodes: impl IntoIterator<Item = u32>) -> Self {
        let bit = |node: u32| 1_u64.checked_shl(node).unwrap_or(0);
        Mask(nodes.into_iter().map(bit).fold(0, |mask, bit| mask | bit))
    }

    /// How many there are.
    pub(crate) fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those that are in both.
    pub(crate) fn and(self, other: Self) -> Self {
        Mask(self.0 & other.0)
    }

    /// Whether both have one in common.
    pub(crate) fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether all of the other are in this one.
    pub(crate) fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The numbers.
    pub(crate) fn nodes(self) -> impl Iterator<Item = u32> {
        (0..64).filter(move |node| self.0 & (1 << node) != 0)
    }

    /// The numbers as a set.
    pub(crate) fn set(self) -> BTreeSet<u32> {
        self.nodes().collect()
    }

    /// Fewer nodes, or as many with lower numbers.
    pub(crate) fn is_narrower(self, other: Self) -> bool {
        (self.len(), self.0) < (other.len(), other.0)
    }
}

/// All sets that can be made of some nodes, the small ones first.
pub(crate) fn masks(nodes: &[u32]) -> Vec<Mask> {
    let count = u32::try_from(nodes.len()).unwrap_or(0).min(super::machine::MOST_NODES);
    let chosen = |bits: u64| {
        let picked = nodes.iter().enumerate().filter(move |(place, _)| bits & (1 << place) != 0);
        Mask::of(picked.map(|(_, node)| *node))
    };
    let mut found: Vec<Mask> = (1..1_u64 << count).map(chosen).collect();
    found.sort_by_key(|mask| (mask.len(), mask.0));
    found
}
