//! Where batches come from, so that what became of one can always be found out.
//!
//! A batch carries its [`Origin`]. The member that gathered it answers its writers when it applies the batch itself:
//! so the answer never runs ahead of what the member shows. A leader proposes each origin at most once.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::Outcomes;
use super::message::Origin;

/// The batches of this member that wait to be applied here.
#[derive(Debug)]
pub(crate) struct Pending {
    member: u64,
    run: u64,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    batches: BTreeMap<u64, oneshot::Sender<Outcomes>>,
}

impl Pending {
    pub(crate) fn new(member: u64, run: u64) -> Self {
        Pending { member, run, waiting: Mutex::default() }
    }

    /// A new origin, and where the outcomes of its batch will come from.
    pub(crate) fn register(&self) -> (Origin, oneshot::Receiver<Outcomes>) {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        waiting.last += 1;
        let number = waiting.last;
        waiting.batches.insert(number, sender);
        let decided = waiting.batches.keys().next().copied().unwrap_or(number);
        (Origin { member: self.member, run: self.run, number, decided }, receiver)
    }

    /// The batch will never be applied.
    pub(crate) fn forget(&self, origin: Origin) {
        self.waiting.lock().batches.remove(&origin.number);
    }

    /// A batch has been applied here.
    pub(crate) fn applied(&self, origin: Origin, outcomes: &Outcomes) {
        if (origin.member, origin.run) != (self.member, self.run) {
            return;
        }
        let sender = self.waiting.lock().batches.remove(&origin.number);
        if let Some(sender) = sender {
            // Whoever waited may have given up.
            let _ = sender.send(outcomes.clone());
        }
    }

    /// The state was replaced: which of the batches are in it cannot be told.
    pub(crate) fn replaced(&self) {
        self.waiting.lock().batches.clear();
    }

    /// How many batches wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.lock().batches.len()
    }
}

/// The origins that this member has proposed as leader, or has promised never to propose.
#[derive(Debug, Default)]
pub(crate) struct Seen(Mutex<HashMap<u64, SeenOfMember>>);

#[derive(Debug, Default)]
struct SeenOfMember {
    run: u64,
    /// Lower numbers count as seen.
    decided: u64,
    numbers: BTreeSet<u64>,
}

impl Seen {
    /// Notes an origin; says whether it is new.
    pub(crate) fn insert(&self, origin: Origin) -> bool {
        let mut members = self.0.lock();
        let seen = members.entry(origin.member).or_default();
        if origin.run > seen.run {
            *seen = SeenOfMember { run: origin.run, ..SeenOfMember::default() };
        }
        // What comes late from an earlier run has nobody left who waits for it.
        if origin.run < seen.run || origin.number < seen.decided {
            return false;
        }
        seen.decided = seen.decided.max(origin.decided);
        seen.numbers = seen.numbers.split_off(&seen.decided);
        seen.numbers.insert(origin.number)
    }

    /// Forgets a member that is gone.
    pub(crate) fn forget(&self, member: u64) {
        self.0.lock().remove(&member);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_new_once() {
        let seen = Seen::default();
        let origin = |run, number, decided| Origin { member: 1, run, number, decided };
        assert!(seen.insert(origin(7, 1, 1)));
        assert!(!seen.insert(origin(7, 1, 1)));
        assert!(seen.insert(origin(7, 3, 2)), "numbers may come out of order");
        assert!(seen.insert(origin(7, 2, 2)));
        assert!(!seen.insert(origin(7, 1, 1)), "a decided number stays so");
        assert!(seen.insert(origin(8, 1, 1)), "another run counts anew");
        assert!(!seen.insert(origin(7, 9, 1)), "an earlier run is over");
        assert!(!seen.insert(origin(8, 1, 1)), "and what is late from it changes nothing");
        assert!(seen.insert(Origin { member: 2, ..origin(7, 1, 1) }));
    }

    #[test]
    fn a_batch_is_answered_when_it_is_applied_here_and_only_then() {
        let pending = Pending::new(1, 7);
        let (first, mut answer) = pending.register();
        let (second, mut lost) = pending.register();
        assert_eq!((first.number, second.number, second.decided), (1, 2, 1));
        pending.applied(Origin { run: first.run ^ 1, ..first }, &Outcomes::default());
        pending.applied(Origin { member: 2, ..first }, &Outcomes::default());
        assert!(answer.try_recv().is_err());
        pending.applied(first, &Outcomes::default());
        assert_eq!(answer.try_recv().unwrap(), Outcomes::default());
        assert_eq!(pending.register().0.decided, 2);
        pending.replaced();
        assert!(matches!(lost.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
    }
}
