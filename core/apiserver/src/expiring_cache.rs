//! Answers that hold for a while: bounded in number, so that whoever asks for ever new things costs no memory.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// A cache of at most so many entries, each with an end of its own.
pub(crate) struct ExpiringCache<K, V> {
    entries: Mutex<HashMap<K, (Instant, V)>>,
    most: usize,
}

impl<K: Eq + Hash, V: Clone> ExpiringCache<K, V> {
    /// An empty one.
    pub(crate) fn new(most: usize) -> Self {
        ExpiringCache { entries: Mutex::default(), most }
    }

    /// What was found out about a key, if that still holds.
    pub(crate) fn get(&self, key: &K) -> Option<V> {
        let entries = self.entries.lock();
        entries.get(key).filter(|(end, _)| *end > Instant::now()).map(|(_, value)| value.clone())
    }

    /// Keeps an answer for a while.
    pub(crate) fn put(&self, key: K, value: V, ttl: Duration) {
        if ttl.is_zero() {
            return;
        }
        let now = Instant::now();
        let mut entries = self.entries.lock();
        if entries.len() >= self.most {
            entries.retain(|_, (end, _)| *end > now);
            if entries.len() >= self.most {
                // All of them still hold: what is dropped is found out anew.
                entries.clear();
            }
        }
        entries.insert(key, (now + ttl, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_holds_for_its_time_and_the_cache_stays_small() {
        let cache = ExpiringCache::new(2);
        cache.put("a", 1, Duration::from_secs(10));
        cache.put("never", 0, Duration::ZERO);
        assert_eq!((cache.get(&"a"), cache.get(&"never")), (Some(1), None));
        tokio::time::advance(Duration::from_secs(11)).await;
        assert_eq!(cache.get(&"a"), None);
        for key in ["b", "c", "d"] {
            cache.put(key, 2, Duration::from_secs(10));
        }
        assert_eq!(cache.get(&"d"), Some(2));
        assert!(cache.entries.lock().len() <= 2);
    }
}
