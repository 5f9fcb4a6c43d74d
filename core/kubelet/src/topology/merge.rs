//! (pure) The best place for all that say where theirs can be had.

use std::collections::BTreeSet;

use super::hint::Hint;
use super::machine::NumaMachine;
use super::mask::Mask;

/// What one hint of each together come to: preferred where all are, and are the same. Of the many ways to choose them only the
/// different results are kept.
fn combinations(hints: &[Vec<Hint>]) -> BTreeSet<(Option<Mask>, bool)> {
    let start = BTreeSet::from([(None, true)]);
    hints.iter().fold(start, |known, of_one| {
        let with = |(nodes, preferred): &(Option<Mask>, bool), hint: &Hint| match (*nodes, hint.nodes) {
            (nodes, None) => (nodes, *preferred && hint.preferred),
            (None, Some(own)) => (Some(own), *preferred && hint.preferred),
            (Some(nodes), Some(own)) => (Some(nodes.and(own)), *preferred && hint.preferred && nodes == own),
        };
        known.iter().flat_map(|one| of_one.iter().map(move |hint| with(one, hint))).collect()
    })
}

/// The most nodes that one of them needs at the least.
fn needed(hints: &[Vec<Hint>]) -> u32 {
    let least = |hints: &Vec<Hint>| hints.iter().filter_map(|hint| hint.nodes).map(Mask::len).min();
    hints.iter().filter_map(least).max().unwrap_or(0)
}

struct Judge<'a> {
    needed: u32,
    closest: Option<&'a NumaMachine>,
}

type Merged = (Mask, bool);

impl Judge<'_> {
    /// Of two places equally preferred the narrower, or, where that is wanted, the one whose nodes are nearer to each other.
    fn fitter(&self, current: Merged, candidate: Merged) -> Merged {
        let (one, other) = (current.0, candidate.0);
        let is_better = match self.closest {
            Some(machine) if one.len() == other.len() => {
                let (mine, theirs) = (machine.spread(one), machine.spread(other));
                mine > theirs || (mine == theirs && other.is_narrower(one))
            }
            Some(_) | None => other.is_narrower(one),
        };
        if is_better { candidate } else { current }
    }

    fn better(&self, current: Merged, candidate: Merged) -> Merged {
        match (current.1, candidate.1) {
            (false, true) => return candidate,
            (true, false) => return current,
            (true, true) => return self.fitter(current, candidate),
            (false, false) => {}
        }
        // Neither is what all want: as many nodes as the neediest needs, rather fewer than more.
        let (have, given) = (current.0.len(), candidate.0.len());
        if have > self.needed || have == given {
            return self.fitter(current, candidate);
        }
        if have == self.needed || given > self.needed || given < have { current } else { candidate }
    }
}

/// The best place. `closest` says how far nodes are from each other, where that counts.
pub(super) fn best(hints: &[Vec<Hint>], all: Mask, closest: Option<&NumaMachine>) -> Hint {
    let judge = Judge { needed: needed(hints), closest };
    let merged =
        combinations(hints).into_iter().map(|(nodes, preferred)| (nodes.unwrap_or(all).and(all), preferred));
    let best = merged.filter(|(nodes, _)| !nodes.is_empty()).reduce(|one, other| judge.better(one, other));
    let (nodes, preferred) = best.unwrap_or((all, false));
    Hint { nodes: Some(nodes), preferred }
}
