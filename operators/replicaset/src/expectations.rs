//! What was asked of the API and has not been seen by the watch yet (pure).
//!
//! Without it a ReplicaSet whose pods are created faster than the watch tells would create them twice.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

/// When an expectation that nothing fulfils is given up.
const GIVE_UP: Duration = Duration::from_secs(300);

/// By the ReplicaSet's UID.
#[derive(Debug, Default)]
pub struct Expectations(HashMap<String, Expected>);

#[derive(Debug)]
struct Expected {
    creations: usize,
    deletions: HashSet<String>,
    since: Instant,
}

impl Expectations {
    /// Whether everything has been seen, or it took too long.
    pub fn are_settled(&mut self, set: &str, now: Instant) -> bool {
        let Some(expected) = self.0.get(set) else { return true };
        let settled = expected.creations == 0 && expected.deletions.is_empty();
        if settled || now.duration_since(expected.since) > GIVE_UP {
            self.0.remove(set);
            return true;
        }
        false
    }

    /// So many pods are about to be created.
    pub fn expect_creations(&mut self, set: &str, count: usize, now: Instant) {
        self.begin(set, now).creations += count;
    }

    /// These pods, by UID, are about to be deleted.
    pub fn expect_deletions(&mut self, set: &str, pods: impl IntoIterator<Item = String>, now: Instant) {
        self.begin(set, now).deletions.extend(pods);
    }

    /// So many creations were seen, or will not take place.
    pub fn created(&mut self, set: &str, count: usize) {
        if let Some(expected) = self.0.get_mut(set) {
            expected.creations = expected.creations.saturating_sub(count);
        }
    }

    /// The deletion of a pod was seen, or will not take place.
    pub fn deleted(&mut self, set: &str, pod: &str) {
        if let Some(expected) = self.0.get_mut(set) {
            expected.deletions.remove(pod);
        }
    }

    /// The ReplicaSet is gone.
    pub fn forget(&mut self, set: &str) {
        self.0.remove(set);
    }

    fn begin(&mut self, set: &str, now: Instant) -> &mut Expected {
        let expected = self.0.entry(set.to_owned()).or_insert_with(|| Expected {
            creations: 0,
            deletions: HashSet::new(),
            since: now,
        });
        expected.since = now;
        expected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_decided_until_all_creations_and_deletions_were_seen() {
        let now = Instant::now();
        let mut expectations = Expectations::default();
        assert!(expectations.are_settled("a", now));
        expectations.expect_creations("a", 2, now);
        expectations.created("a", 1);
        assert!(!expectations.are_settled("a", now));
        assert!(expectations.are_settled("b", now));
        expectations.created("a", 1);
        assert!(expectations.are_settled("a", now));
        expectations.expect_deletions("a", ["x".to_owned(), "y".to_owned()], now);
        expectations.deleted("a", "x");
        expectations.deleted("a", "x");
        assert!(!expectations.are_settled("a", now));
        expectations.deleted("a", "y");
        assert!(expectations.are_settled("a", now));
    }

    #[test]
    fn what_is_never_seen_is_given_up() {
        let now = Instant::now();
        let mut expectations = Expectations::default();
        expectations.expect_creations("a", 1, now);
        assert!(!expectations.are_settled("a", now + GIVE_UP));
        assert!(expectations.are_settled("a", now + GIVE_UP + Duration::from_secs(1)));
    }
}
