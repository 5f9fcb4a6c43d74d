//! (pure) What one who gives something says of where it can be had.

use super::mask::{Mask, masks};

/// A set of nodes that would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hint {
    /// The nodes; `None` for any.
    pub(crate) nodes: Option<Mask>,
    /// No other set would be better.
    pub(crate) preferred: bool,
}

impl Hint {
    /// It can be had anywhere.
    pub(crate) const ANYWHERE: Hint = Hint { nodes: None, preferred: true };
    /// It can be had nowhere.
    pub(crate) const NOWHERE: Hint = Hint { nodes: None, preferred: false };
}

/// Pieces, each at some nodes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Supply {
    /// All that the machine has.
    pub(crate) all: Vec<Mask>,
    /// Those that are free.
    pub(crate) free: Vec<Mask>,
    /// Those that have to be among what is given, since the pod has them already.
    pub(crate) reused: Vec<Mask>,
}

/// The sets of nodes at which so many pieces can be had. Those are preferred that are as small as the machine allows.
pub(crate) fn hints(nodes: &[u32], supply: &Supply, count: usize) -> Vec<Hint> {
    let mut least = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
    let mut found = Vec::new();
    for mask in masks(nodes) {
        let within = |pieces: &[Mask]| pieces.iter().filter(|piece| piece.meets(mask)).count();
        if within(&supply.all) >= count {
            least = least.min(mask.len());
        }
        let reused = within(&supply.reused);
        if reused == supply.reused.len() && reused + within(&supply.free) >= count {
            found.push(mask);
        }
    }
    if found.is_empty() {
        return vec![Hint::NOWHERE];
    }
    found.into_iter().map(|mask| Hint { nodes: Some(mask), preferred: mask.len() == least }).collect()
}
