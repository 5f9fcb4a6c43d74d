//! (pure) How long a thing that failed again and again waits.

use jiff::{SignedDuration, Timestamp};

/// Waits double from `first` to `longest`; after ten minutes without a failure they begin anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Backoff {
    first: SignedDuration,
    longest: SignedDuration,
    /// The wait in force, and when it was set.
    current: Option<(SignedDuration, Timestamp)>,
}

/// Of containers that end, and of images that cannot be pulled.
const FIRST: SignedDuration = SignedDuration::from_secs(10);
pub(crate) const LONGEST: SignedDuration = SignedDuration::from_secs(300);
/// After so long without a failure the waits begin anew.
const QUIET: SignedDuration = SignedDuration::from_secs(600);

impl Default for Backoff {
    fn default() -> Self {
        Self { first: FIRST, longest: LONGEST, current: None }
    }
}

impl Backoff {
    /// Waits that are no longer than this.
    pub(crate) fn up_to(longest: SignedDuration) -> Self {
        Self { first: FIRST.min(longest), longest, current: None }
    }

    /// Begins anew.
    pub(crate) fn reset(&mut self) {
        self.current = None;
    }

    fn expired(&self, at: Timestamp) -> bool {
        self.current.is_some_and(|(_, set)| at.duration_since(set) > QUIET)
    }

    /// The wait after a failure at `failed`, and its end; `None` when the next try may be at once.
    pub(crate) fn waiting(&self, failed: Timestamp, now: Timestamp) -> Option<(SignedDuration, Timestamp)> {
        let (wait, _) = self.current?;
        if self.expired(failed) {
            return None;
        }
        let end = failed.checked_add(wait).unwrap_or(Timestamp::MAX);
        (now < end).then_some((wait, end))
    }

    /// A try is made now, after a failure at `failed`: the next failure waits twice as long.
    pub(crate) fn advance(&mut self, failed: Timestamp, now: Timestamp) {
        let wait = match self.current {
            Some((wait, _)) if !self.expired(failed) => (wait * 2).min(self.longest),
            Some(_) | None => self.first,
        };
        self.current = Some((wait, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn waits_double_from_ten_seconds_to_five_minutes() {
        let mut backoff = Backoff::default();
        let mut now = at(1000);
        let mut waits = Vec::new();
        for _ in 0..8 {
            let failed = now;
            let end = backoff.waiting(failed, now).map(|(wait, end)| {
                waits.push(wait.as_secs());
                end
            });
            now = end.unwrap_or(now);
            assert_eq!(backoff.waiting(failed, now), None);
            backoff.advance(failed, now);
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn no_wait_is_longer_than_the_owner_of_the_node_wants() {
        let waits = |longest: i64| {
            let mut backoff = Backoff::up_to(SignedDuration::from_secs(longest));
            let wait = |_| {
                backoff.advance(at(0), at(0));
                backoff.waiting(at(0), at(0)).unwrap().0.as_secs()
            };
            [(); 4].map(wait)
        };
        assert_eq!((waits(30), waits(4), waits(300)), ([10, 20, 30, 30], [4; 4], [10, 20, 40, 80]));
    }

    #[test]
    fn ten_quiet_minutes_begin_the_waits_anew() {
        let mut backoff = Backoff::default();
        backoff.advance(at(0), at(0));
        backoff.advance(at(10), at(20));
        assert!(backoff.waiting(at(30), at(31)).is_some());
        assert_eq!(backoff.waiting(at(621), at(621)), None);
        backoff.advance(at(621), at(621));
        assert_eq!(backoff.waiting(at(630), at(631)).unwrap().0.as_secs(), 10);
    }
}
