//! What the clients were told, and whether it can be true.

use std::collections::BTreeMap;

use keelson_store::simulation::history::{Operation, is_linearizable};

/// Where the registers are.
pub(crate) const NAMESPACE: &str = "registers";

/// A list that was answered.
pub(crate) struct Listed {
    pub(crate) begun: u64,
    pub(crate) ended: u64,
    pub(crate) revision: u64,
}

/// What one watcher saw without an interruption: from after a revision on, what was written at which one.
#[derive(Default)]
pub(crate) struct Watched {
    pub(crate) after: u64,
    pub(crate) events: Vec<(u64, String, u64)>,
}

/// A write that was acknowledged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Acknowledged {
    pub(crate) key: String,
    pub(crate) value: u64,
    pub(crate) ended: u64,
}

/// All of it.
#[derive(Default)]
pub(crate) struct Record {
    /// By key, and the key's epoch first.
    pub(crate) operations: BTreeMap<(u64, String), Vec<Operation>>,
    /// By the revision at which they were made.
    pub(crate) acknowledged: BTreeMap<u64, Acknowledged>,
    pub(crate) lists: Vec<Listed>,
    pub(crate) watched: Vec<Watched>,
}

impl Record {
    /// Checks the registers of epochs that are over, and forgets their operations.
    pub(crate) fn check_registers_before(&mut self, epoch: u64) {
        let open = self.operations.split_off(&(epoch, String::new()));
        let over = std::mem::replace(&mut self.operations, open);
        // The search goes as deep as there are operations.
        let thread = std::thread::Builder::new().stack_size(512 << 20);
        let checked = thread.spawn(move || {
            for ((_, key), operations) in over {
                assert!(is_linearizable(&operations), "{key} is no register: {operations:?}");
            }
        });
        checked.unwrap().join().unwrap();
    }

    /// Checks lists and watches.
    pub(crate) fn check(mut self) {
        self.check_registers_before(u64::MAX);
        let mut seen: Vec<(u64, u64)> = self.lists.iter().map(|list| (list.ended, list.revision)).collect();
        seen.extend(self.acknowledged.iter().map(|(revision, write)| (write.ended, *revision)));
        seen.sort_unstable();
        let mut newest = 0;
        let newest: Vec<(u64, u64)> = seen
            .into_iter()
            .map(|(ended, revision)| {
                newest = newest.max(revision);
                (ended, newest)
            })
            .collect();
        for list in &self.lists {
            let before = newest.partition_point(|(ended, _)| *ended < list.begun);
            let known = before.checked_sub(1).map_or(0, |at| newest[at].1);
            assert!(list.revision >= known, "a list at {} after {known} was known", list.revision);
        }
        let mut truth: BTreeMap<u64, (String, u64)> = BTreeMap::new();
        for watched in &self.watched {
            let mut last = watched.after;
            for (revision, key, value) in &watched.events {
                assert!(*revision > last, "a watch went from {last} to {revision}");
                last = *revision;
                let event = (key.clone(), *value);
                assert_eq!(*truth.entry(*revision).or_insert_with(|| event.clone()), event, "at {revision}");
            }
            let told: BTreeMap<u64, ()> =
                watched.events.iter().map(|(revision, ..)| (*revision, ())).collect();
            if last == watched.after {
                continue;
            }
            for (revision, write) in self.acknowledged.range(watched.after + 1..=last) {
                assert!(told.contains_key(revision), "a watch missed {write:?} at {revision}");
            }
        }
        for (revision, write) in &self.acknowledged {
            if let Some(event) = truth.get(revision) {
                assert_eq!(*event, (write.key.clone(), write.value), "at {revision}");
            }
        }
        assert!(!truth.is_empty(), "nothing was watched");
    }
}
