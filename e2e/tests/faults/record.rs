//! What the clients were told, and whether it can be true.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

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

/// Each key has what was acknowledged of it, or something newer.
pub(crate) fn check_nothing_is_lost(
    acknowledged: &BTreeMap<String, u64>,
    found: &BTreeMap<&str, u64>,
) -> Result<(), String> {
    for (key, revision) in acknowledged {
        let there = found.get(key.as_str());
        if there < Some(revision) {
            return Err(format!("{key} was acknowledged at {revision}, and is at {there:?}"));
        }
    }
    Ok(())
}

impl Watched {
    /// How far it came.
    pub(crate) fn last(&self) -> u64 {
        self.events.last().map_or(self.after, |event| event.0)
    }
}

impl Record {
    /// Notes a write that was acknowledged at a revision.
    pub(crate) fn acknowledge(&mut self, revision: u64, write: Acknowledged) -> Result<(), String> {
        match self.acknowledged.insert(revision, write.clone()) {
            None => Ok(()),
            Some(before) => Err(format!("two writes at revision {revision}: {before:?} and {write:?}")),
        }
    }

    /// The revision of the newest write of each key that was acknowledged.
    pub(crate) fn newest_acknowledged(&self) -> BTreeMap<String, u64> {
        // In their order, so that later ones stay.
        self.acknowledged.iter().map(|(revision, write)| (write.key.clone(), *revision)).collect()
    }

    /// Checks the registers of epochs that are over, and forgets their operations.
    pub(crate) fn check_registers_before(&mut self, epoch: u64) -> Result<(), String> {
        let open = self.operations.split_off(&(epoch, String::new()));
        let over = std::mem::replace(&mut self.operations, open);
        // The search goes as deep as there are operations.
        let thread = std::thread::Builder::new().stack_size(512 << 20);
        let checked = thread.spawn(move || {
            for ((_, key), operations) in over {
                if !is_linearizable(&operations) {
                    return Err(format!("{key} is no register: {operations:?}"));
                }
            }
            Ok(())
        });
        checked.unwrap().join().unwrap()
    }

    /// Checks everything.
    pub(crate) fn check(mut self) -> Result<(), String> {
        self.check_registers_before(u64::MAX)?;
        self.check_lists()?;
        self.check_watches()
    }

    /// A list is not older than what was known before it was asked for.
    fn check_lists(&self) -> Result<(), String> {
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
            if list.revision < known {
                return Err(format!("a list at {} after {known} was known", list.revision));
            }
        }
        Ok(())
    }

    /// Watchers are told the same in the same order, and nothing that was acknowledged is missing between.
    fn check_watches(&self) -> Result<(), String> {
        let mut truth: BTreeMap<u64, (&str, u64)> = BTreeMap::new();
        for watched in &self.watched {
            let mut last = watched.after;
            for (revision, key, value) in &watched.events {
                if *revision <= last {
                    return Err(format!("a watch went from {last} to {revision}"));
                }
                last = *revision;
                let event = (key.as_str(), *value);
                let other = *truth.entry(*revision).or_insert(event);
                if other != event {
                    return Err(format!("one watch told {event:?} at {revision}, another one {other:?}"));
                }
            }
            let told: BTreeSet<u64> = watched.events.iter().map(|(revision, ..)| *revision).collect();
            let between = self.acknowledged.range((Bound::Excluded(watched.after), Bound::Included(last)));
            for (revision, write) in between {
                if !told.contains(revision) {
                    return Err(format!("a watch missed {write:?} at {revision}"));
                }
            }
        }
        for (revision, write) in &self.acknowledged {
            if let Some(event) = truth.get(revision)
                && *event != (write.key.as_str(), write.value)
            {
                return Err(format!("{write:?} was acknowledged at {revision}, and {event:?} was told"));
            }
        }
        if truth.is_empty() { Err("nothing was watched".to_owned()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use keelson_store::simulation::history::Action;

    use super::*;

    const KEY: &str = "r-0-0";

    /// Three writes of one key, a read of each, a list after each, and a watch of all.
    fn good() -> Record {
        let mut record = Record::default();
        let operations = record.operations.entry((0, KEY.to_owned())).or_default();
        for number in 0..3_u64 {
            let (begun, value) = (number * 10, number);
            let old = number.checked_sub(1);
            let action = Action::Swap(old, value);
            operations.push(Operation { begun, ended: Some(begun + 1), action });
            let action = Action::Read(Some(value));
            operations.push(Operation { begun: begun + 2, ended: Some(begun + 3), action });
        }
        let mut watched = Watched { after: 100, events: Vec::new() };
        for number in 0..3 {
            let (begun, revision) = (number * 10, 101 + number);
            let write = Acknowledged { key: KEY.to_owned(), value: number, ended: begun + 1 };
            record.acknowledge(revision, write).unwrap();
            record.lists.push(Listed { begun: begun + 4, ended: begun + 5, revision });
            watched.events.push((revision, KEY.to_owned(), number));
        }
        record.watched.push(watched);
        record
    }

    /// What is found in a record that was good before something was changed.
    fn found(change: impl FnOnce(&mut Record)) -> String {
        let mut record = good();
        change(&mut record);
        record.check().unwrap_err()
    }

    fn operations(record: &mut Record) -> &mut Vec<Operation> {
        record.operations.get_mut(&(0, KEY.to_owned())).unwrap()
    }

    #[test]
    fn a_history_without_fault_has_none() {
        good().check().unwrap();
        let newest = good().newest_acknowledged();
        assert_eq!(newest, BTreeMap::from([(KEY.to_owned(), 103)]));
        check_nothing_is_lost(&newest, &BTreeMap::from([(KEY, 103)])).unwrap();
        check_nothing_is_lost(&newest, &BTreeMap::from([(KEY, 104), ("other", 1)])).unwrap();
    }

    #[test]
    fn a_lost_write_is_found() {
        let newest = good().newest_acknowledged();
        check_nothing_is_lost(&newest, &BTreeMap::from([(KEY, 102)])).unwrap_err();
        check_nothing_is_lost(&newest, &BTreeMap::new()).unwrap_err();
        let read = |value| Operation { begun: 50, ended: Some(51), action: Action::Read(value) };
        for value in [None, Some(0), Some(1), Some(7)] {
            let said = found(|record| operations(record).push(read(value)));
            assert!(said.contains("is no register"), "{said}");
        }
        // One that nobody saw, and whose place another write took.
        let swap = Operation { begun: 50, ended: Some(51), action: Action::Swap(Some(1), 9) };
        assert!(found(|record| operations(record).push(swap)).contains("is no register"));
        let write = Acknowledged { key: KEY.to_owned(), value: 9, ended: 60 };
        assert!(good().acknowledge(103, write).unwrap_err().contains("two writes at revision 103"));
    }

    #[test]
    fn a_stale_read_is_found_unless_it_was_at_the_same_time() {
        // The read of the last value has begun when the write before was over.
        let stale = |begun| Operation { begun, ended: Some(25), action: Action::Read(Some(1)) };
        assert!(found(|record| operations(record).push(stale(22))).contains("is no register"));
        let mut record = good();
        operations(&mut record).push(stale(19));
        record.check().unwrap();
    }

    #[test]
    fn a_list_that_goes_back_is_found() {
        // Behind what another list has shown, and behind what was acknowledged.
        assert!(found(|record| record.lists[2].revision = 101).contains("a list at 101 after 103 was known"));
        let said = found(|record| {
            record.lists.truncate(1);
            record.lists.push(Listed { begun: 12, ended: 13, revision: 101 });
        });
        assert!(said.contains("a list at 101 after 102 was known"), "{said}");
    }

    #[test]
    fn a_watch_with_a_gap_is_found_wherever_it_is() {
        for missing in [0, 1] {
            let said = found(|record| drop(record.watched[0].events.remove(missing)));
            assert!(said.contains("a watch missed"), "{said}");
        }
        // What comes after the last that it has seen it may still be told.
        let mut record = good();
        record.watched[0].events.pop();
        record.check().unwrap();
    }

    #[test]
    fn a_watch_that_tells_something_else_is_found() {
        let again = |record: &mut Record| record.watched[0].events.push((103, KEY.to_owned(), 2));
        assert!(found(again).contains("a watch went from 103 to 103"));
        assert!(found(|record| record.watched[0].events.swap(0, 1)).contains("a watch went from"));
        assert!(found(|record| record.watched[0].events[1].2 = 9).contains("was acknowledged at 102"));
        let other = |record: &mut Record| {
            let events = vec![(104, KEY.to_owned(), 4)];
            record.watched.push(Watched { after: 103, events });
            record.watched.push(Watched { after: 103, events: vec![(104, KEY.to_owned(), 5)] });
        };
        assert!(found(other).contains("another one"));
        assert!(found(|record| record.watched.clear()).contains("nothing was watched"));
    }
}
