//! Lets go of history that is older than an interval, as upstream's server has its store do.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::cache::WatchCache;

/// What was the newest revision when an interval ended is the oldest when the next one does.
#[derive(Debug, Default)]
struct Marks {
    next: u64,
}

impl Marks {
    /// An interval has ended: the oldest revision from now on.
    fn advance(&mut self, newest: u64) -> u64 {
        std::mem::replace(&mut self.next, newest)
    }
}

/// Runs until the server ends; an interval of zero keeps history as long as there is room.
pub(super) async fn keep(cache: Arc<WatchCache>, interval: Duration, stop: CancellationToken) {
    let mut marks = Marks::default();
    while !interval.is_zero() {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
        cache.compact(marks.advance(cache.revision()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_past_after_one_interval_and_before_three() {
        let mut marks = Marks::default();
        assert_eq!(marks.advance(10), 0);
        assert_eq!(marks.advance(20), 10);
        assert_eq!(marks.advance(20), 20);
    }
}
