//! What clients saw of one key, and whether a single register could have answered so.
//!
//! The check is that of Wing and Gong, with the memory of Lowe: it looks for an order of the operations that keeps the
//! order of those that did not overlap, and in which each answer is right.

use std::collections::HashSet;

/// What a client did to a register, and what it was told. Each value is written once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It read this value; `None` where there was nothing.
    Read(Option<u64>),
    /// It set this value.
    Write(u64),
    /// It set a value where another one was, and was told so.
    Swap(Option<u64>, u64),
    /// It wanted to set or remove a value where another one was, and was told what there was instead.
    NotSwapped(Option<u64>),
    /// It removed this value.
    Removed(u64),
    /// It removed whatever was there, and something was.
    Cleared,
}

/// One operation of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// When it was begun.
    pub begun: u64,
    /// When it was answered; `None` if it is not known whether it was done.
    pub ended: Option<u64>,
    /// What it was.
    pub action: Action,
}

impl Action {
    /// The value after it, if its answer is right for the value before it.
    fn step(self, value: Option<u64>) -> Option<Option<u64>> {
        match self {
            Action::Read(read) | Action::NotSwapped(read) => (read == value).then_some(value),
            Action::Write(new) => Some(Some(new)),
            Action::Swap(old, new) => (old == value).then_some(Some(new)),
            Action::Removed(old) => (value == Some(old)).then_some(None),
            Action::Cleared => value.map(|_| None),
        }
    }
}

/// Whether a register that is empty at first could have answered so.
pub fn is_linearizable(history: &[Operation]) -> bool {
    let mut operations = history.to_vec();
    operations.sort_by_key(|operation| operation.begun);
    let words = operations.len().div_ceil(64);
    let mut done = vec![0_u64; words];
    let mut seen = HashSet::new();
    search(&operations, &mut done, None, &mut seen)
}

fn search(
    operations: &[Operation],
    done: &mut Vec<u64>,
    value: Option<u64>,
    seen: &mut HashSet<(Vec<u64>, Option<u64>)>,
) -> bool {
    let is_done = |done: &[u64], at: usize| done[at / 64] >> (at % 64) & 1 == 1;
    let open = || operations.iter().enumerate();
    // One that was answered must come before all that begin after its answer.
    let first_end =
        open().filter(|(at, _)| !is_done(done, *at)).filter_map(|(_, operation)| operation.ended).min();
    let Some(first_end) = first_end else { return true };
    if !seen.insert((done.clone(), value)) {
        return false;
    }
    for (at, operation) in operations.iter().enumerate() {
        if operation.begun > first_end {
            break;
        }
        if is_done(done, at) {
            continue;
        }
        if let Some(next) = operation.action.step(value) {
            done[at / 64] |= 1 << (at % 64);
            if search(operations, done, next, seen) {
                return true;
            }
            done[at / 64] &= !(1 << (at % 64));
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(begun: u64, ended: u64, action: Action) -> Operation {
        Operation { begun, ended: Some(ended), action }
    }

    #[test]
    fn a_history_in_which_a_read_goes_back_in_time_is_found() {
        let write = |at, value| operation(at, at + 1, Action::Write(value));
        let read = |at, value| operation(at, at + 1, Action::Read(value));
        assert!(is_linearizable(&[write(0, 1), read(2, Some(1)), write(4, 2), read(6, Some(2))]));
        assert!(!is_linearizable(&[write(0, 1), write(4, 2), read(6, Some(1))]), "a stale read");
        assert!(!is_linearizable(&[write(0, 1), read(2, None)]), "a lost write");
        assert!(!is_linearizable(&[read(0, Some(1)), write(2, 1)]), "a read of the future");
    }

    #[test]
    fn operations_at_the_same_time_may_come_in_any_order() {
        let write = operation(0, 10, Action::Write(1));
        for read in [None, Some(1)] {
            assert!(is_linearizable(&[write, operation(1, 2, Action::Read(read))]));
        }
        let back = [write, operation(1, 2, Action::Read(Some(1))), operation(3, 4, Action::Read(None))];
        assert!(!is_linearizable(&back), "but once seen it stays");
    }

    #[test]
    fn one_of_which_nothing_is_known_may_have_been_done_or_not_and_late() {
        let unknown = Operation { begun: 0, ended: None, action: Action::Write(7) };
        for reads in [vec![None, None], vec![None, Some(7)], vec![Some(7), Some(7)]] {
            let mut history = vec![unknown];
            let reads = reads.iter().zip([10, 20]);
            history.extend(reads.map(|(value, at)| operation(at, at + 1, Action::Read(*value))));
            assert!(is_linearizable(&history), "{history:?}");
        }
        let undone =
            [unknown, operation(10, 11, Action::Read(Some(7))), operation(20, 21, Action::Read(None))];
        assert!(!is_linearizable(&undone));
    }

    #[test]
    fn what_was_removed_is_not_read_and_is_not_removed_twice() {
        let write = operation(0, 1, Action::Write(1));
        let removed = |at| operation(at, at + 1, Action::Removed(1));
        let cleared = |at| operation(at, at + 1, Action::Cleared);
        let read = |at, value| operation(at, at + 1, Action::Read(value));
        assert!(is_linearizable(&[write, removed(2), read(4, None)]));
        assert!(is_linearizable(&[write, cleared(2), operation(4, 5, Action::NotSwapped(None))]));
        assert!(!is_linearizable(&[write, removed(2), read(4, Some(1))]));
        assert!(!is_linearizable(&[write, removed(2), cleared(4)]));
    }

    #[test]
    fn of_two_swaps_from_the_same_value_one_is_told_so() {
        let swap = |at, new| operation(at, at + 5, Action::Swap(None, new));
        assert!(!is_linearizable(&[swap(0, 1), swap(1, 2)]));
        assert!(is_linearizable(&[swap(0, 1), operation(1, 6, Action::NotSwapped(Some(1)))]));
    }
}
