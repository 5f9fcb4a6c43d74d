//! The queue's rules (pure).

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// The pause after a first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What waits, what is being looked at, and what has failed how often.
#[derive(Debug)]
pub struct State<K> {
    ready: VecDeque<K>,
    /// What is in `ready`, or has to be as soon as it is no longer in `active`.
    wanted: HashSet<K>,
    active: HashSet<K>,
    delayed: BTreeSet<(Instant, K)>,
    due: HashMap<K, Instant>,
    failures: HashMap<K, u32>,
}

impl<K> Default for State<K> {
    fn default() -> Self {
        State {
            ready: VecDeque::new(),
            wanted: HashSet::new(),
            active: HashSet::new(),
            delayed: BTreeSet::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
        }
    }
}

impl<K: Clone + Ord + Hash> State<K> {
    /// Wants a look at `key`.
    pub fn add(&mut self, key: K) {
        if !self.wanted.insert(key.clone()) {
            return;
        }
        if !self.active.contains(&key) {
            self.ready.push_back(key);
        }
    }

    /// Wants a look at `key` at a time; an earlier one that was asked for before stays.
    pub fn add_at(&mut self, key: K, at: Instant) {
        if let Some(due) = self.due.get(&key).copied() {
            if due <= at {
                return;
            }
            self.delayed.remove(&(due, key.clone()));
        }
        self.due.insert(key.clone(), at);
        self.delayed.insert((at, key));
    }

    /// The next key, which is then being looked at.
    pub fn next(&mut self, now: Instant) -> Option<K> {
        while self.delayed.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, key)) = self.delayed.pop_first() {
                self.due.remove(&key);
                self.add(key);
            }
        }
        let key = self.ready.pop_front()?;
        self.wanted.remove(&key);
        self.active.insert(key.clone());
        Some(key)
    }

    /// When the next key with a time is due.
    pub fn wakes_at(&self) -> Option<Instant> {
        self.delayed.first().map(|(at, _)| *at)
    }

    /// The look was taken.
    pub fn done(&mut self, key: &K) {
        self.failures.remove(key);
        self.release(key);
    }

    /// The look failed; returns the pause before the next one.
    pub fn failed(&mut self, key: &K, now: Instant) -> Duration {
        let failures = self.failures.entry(key.clone()).or_default();
        let pause = FIRST_PAUSE.saturating_mul(1 << (*failures).min(16)).min(LONGEST_PAUSE);
        *failures += 1;
        self.release(key);
        self.add_at(key.clone(), now + pause);
        pause
    }

    fn release(&mut self, key: &K) {
        if self.active.remove(key) && self.wanted.contains(key) {
            self.ready.push_back(key.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_waits_once_and_is_never_looked_at_twice_at_the_same_time() {
        let now = Instant::now();
        let mut state = State::default();
        state.add("a");
        state.add("a");
        assert_eq!(state.next(now), Some("a"));
        assert_eq!(state.next(now), None);
        state.add("a");
        assert_eq!(state.next(now), None, "it is still being looked at");
        state.done(&"a");
        assert_eq!(state.next(now), Some("a"));
    }

    #[test]
    fn a_failed_key_comes_back_after_a_doubling_pause() {
        let mut now = Instant::now();
        let mut state = State::default();
        state.add("a");
        for milliseconds in [10, 20, 40] {
            assert_eq!(state.next(now), Some("a"));
            assert_eq!(state.failed(&"a", now), Duration::from_millis(milliseconds));
            assert_eq!(state.next(now), None);
            now += Duration::from_millis(milliseconds);
        }
        assert_eq!(state.next(now), Some("a"));
        state.done(&"a");
        state.add("a");
        assert_eq!(state.next(now), Some("a"));
        assert_eq!(state.failed(&"a", now), Duration::from_millis(10), "success forgets earlier failures");
    }

    #[test]
    fn the_earliest_of_several_times_counts() {
        let now = Instant::now();
        let mut state = State::default();
        state.add_at("a", now + Duration::from_secs(5));
        state.add_at("a", now + Duration::from_secs(1));
        state.add_at("a", now + Duration::from_secs(9));
        assert_eq!(state.wakes_at(), Some(now + Duration::from_secs(1)));
        assert_eq!(state.next(now + Duration::from_secs(1)), Some("a"));
        state.done(&"a");
        assert_eq!(state.next(now + Duration::from_secs(20)), None);
    }
}
