//! How far back states can be asked for: a period, as upstream compacts its store, so that a list that was left lying
//! has an end even where nothing happens.

use std::time::{Duration, Instant};

/// The oldest revision whose state is given.
#[derive(Debug)]
pub(super) struct Horizon {
    period: Duration,
    since: Instant,
    next: u64,
    oldest: u64,
}

impl Horizon {
    pub(super) fn new(now: Instant, period: Duration) -> Self {
        Horizon { period, since: now, next: 0, oldest: 0 }
    }

    /// Moves on where a period has passed: what was the newest then is the oldest now. Gives the oldest.
    pub(super) fn advance(&mut self, now: Instant, newest: u64) -> u64 {
        if now.saturating_duration_since(self.since) >= self.period {
            self.oldest = self.next;
            self.next = newest;
            self.since = now;
        }
        self.oldest
    }

    pub(super) fn oldest(&self) -> u64 {
        self.oldest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_past_after_one_period_and_before_three() {
        let (start, period) = (Instant::now(), Duration::from_secs(300));
        let mut horizon = Horizon::new(start, period);
        assert_eq!(horizon.advance(start + period / 2, 10), 0);
        assert_eq!(horizon.advance(start + period, 20), 0);
        assert_eq!(horizon.advance(start + period * 3 / 2, 30), 0);
        assert_eq!(horizon.advance(start + period * 2, 40), 20);
        assert_eq!(horizon.oldest(), 20);
    }
}
