//! The node's own time, for what is only waited for: it passes evenly, whatever becomes of the wall clock.
//!
//! It begins with the wall clock's time when the process starts. What others see, as statuses and events, has the wall
//! clock's.

use std::sync::LazyLock;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};

static START: LazyLock<(Timestamp, Instant)> = LazyLock::new(|| (Timestamp::now(), Instant::now()));

/// The node's own time.
pub(crate) fn now() -> Timestamp {
    let (began, since) = *START;
    began.saturating_add(since.elapsed()).unwrap_or(Timestamp::MAX)
}

/// When something was that the wall clock saw at `seen`.
pub(crate) fn of_past(seen: Timestamp) -> Timestamp {
    ago(seen, Timestamp::now(), now())
}

/// (pure) As long ago for our clock as for the wall clock, and not in the future if that was set back since.
fn ago(seen: Timestamp, wall: Timestamp, own: Timestamp) -> Timestamp {
    let age = wall.duration_since(seen).max(SignedDuration::ZERO);
    own.checked_sub(age).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stays_as_long_ago_when_the_wall_clock_is_another() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(ago(at(90), at(100), at(100)), at(90));
        // An hour ahead when it was seen, and when it is asked.
        assert_eq!(ago(at(3690), at(3700), at(100)), at(90));
        // Seen before the wall clock was set back by an hour.
        assert_eq!(ago(at(3690), at(100), at(100)), at(100));
    }
}
