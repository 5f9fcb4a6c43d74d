//! Answers that hold for a while.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Answers by question, each until its time is over; never more than a number of them.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    most: usize,
    known: Mutex<HashMap<K, (V, Instant)>>,
}

impl<K: Eq + Hash + Clone, V: Clone> Recent<K, V> {
    /// Remembers at most `most` answers.
    pub(super) fn new(most: usize) -> Self {
        Recent { most, known: Mutex::default() }
    }

    /// What holds now.
    pub(super) fn get(&self, question: &K) -> Option<V> {
        let known = self.known.lock();
        known.get(question).filter(|(_, until)| Instant::now() < *until).map(|(answer, _)| answer.clone())
    }

    /// Remembers an answer for a while; where there is no room, the one that ends first goes.
    pub(super) fn put(&self, question: K, answer: V, holds: Duration) {
        let now = Instant::now();
        let mut known = self.known.lock();
        if known.len() >= self.most && !known.contains_key(&question) {
            known.retain(|_, (_, until)| now < *until);
            let first = known.iter().min_by_key(|(_, (_, until))| *until).map(|(key, _)| key.clone());
            if let Some(first) = first.filter(|_| known.len() >= self.most) {
                known.remove(&first);
            }
        }
        known.insert(question, (answer, now + holds));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_holds_for_its_time() {
        let recent = Recent::new(8);
        recent.put("a", 1, Duration::from_secs(30));
        tokio::time::advance(Duration::from_secs(29)).await;
        assert_eq!(recent.get(&"a"), Some(1));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(recent.get(&"a"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_answer_that_ends_first_makes_room() {
        let recent = Recent::new(2);
        recent.put("long", 1, Duration::from_secs(300));
        recent.put("short", 2, Duration::from_secs(30));
        recent.put("new", 3, Duration::from_secs(60));
        assert_eq!((recent.get(&"long"), recent.get(&"short"), recent.get(&"new")), (Some(1), None, Some(3)));
    }
}
