//! What was given to Services that may not be stored yet.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// No write is under way for longer.
const LASTS: Duration = Duration::from_secs(15);

/// Something that is given to one Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Item {
    Address(String),
    Port(u16),
}

/// Grants by what was given, and in the order in which they end.
#[derive(Default)]
pub(super) struct Pending {
    holders: HashMap<Item, (String, Instant)>,
    order: VecDeque<(Instant, Item)>,
}

impl Pending {
    /// Notes that a Service, named by its key, is given something.
    pub(super) fn note(&mut self, item: Item, key: &str) {
        let now = Instant::now();
        self.forget(now);
        self.order.push_back((now, item.clone()));
        self.holders.insert(item, (key.to_owned(), now));
    }

    fn forget(&mut self, now: Instant) {
        while let Some((since, _)) = self.order.front()
            && now.duration_since(*since) > LASTS
        {
            let Some((since, item)) = self.order.pop_front() else { break };
            if self.holders.get(&item).is_some_and(|(_, last)| *last == since) {
                self.holders.remove(&item);
            }
        }
    }

    /// Forgets what has come to the store with its Service.
    pub(super) fn arrived(&mut self, item: &Item, key: &str) {
        if self.holders.get(item).is_some_and(|(holder, _)| holder == key) {
            self.holders.remove(item);
        }
    }

    /// The Service that was given it, within the time that a write may take.
    pub(super) fn holder(&self, item: &Item) -> Option<&str> {
        let (key, since) = self.holders.get(item)?;
        (since.elapsed() <= LASTS).then_some(key.as_str())
    }

    /// What a Service was given before, when its write was tried already.
    pub(super) fn of<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a Item> {
        self.holders.iter().filter(move |(_, (holder, _))| holder == key).map(|(item, _)| item)
    }
}
