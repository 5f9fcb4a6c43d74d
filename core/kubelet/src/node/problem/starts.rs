//! A kubelet that is started again and again.

use std::fs;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};

use super::Problem;

/// So many starts within [`WINDOW`] are a problem.
const MANY: usize = 5;
const WINDOW: SignedDuration = SignedDuration::from_mins(20);

/// (pure) Those starts that still count.
fn recent(starts: &[Timestamp], now: Timestamp) -> Vec<Timestamp> {
    // What lies in the future was written before the clock was set back.
    let counts = |at: &&Timestamp| (SignedDuration::ZERO..WINDOW).contains(&now.duration_since(**at));
    starts.iter().filter(counts).copied().collect()
}

/// Writes a start down beside those of late, and answers them all. Where nothing can be kept, this one is all that is known.
pub(super) fn record(path: &Path, now: Timestamp) -> Vec<Timestamp> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let known: Vec<Timestamp> = text.lines().filter_map(|line| line.parse().ok()).collect();
    let mut starts = recent(&known, now);
    starts.push(now);
    let lines: String = starts.iter().map(|at| format!("{at}\n")).collect();
    if let Err(error) = fs::write(path, lines) {
        tracing::warn!(%error, path = %path.display(), "the start of the kubelet is not written down");
    }
    starts
}

/// (pure) The condition.
pub(super) fn problem(starts: &[Timestamp], now: Timestamp) -> Problem {
    let count = recent(starts, now).len();
    let kind = "FrequentKubeletRestart";
    if count < MANY {
        let message = "kubelet is functioning properly".to_owned();
        return Problem { kind, is_there: false, reason: "NoFrequentKubeletRestart", message };
    }
    let message = format!("the kubelet was started {count} times within 20 minutes");
    Problem { kind, is_there: true, reason: kind, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_starts_within_twenty_minutes_are_a_problem_until_they_are_past() {
        let path = std::env::temp_dir().join(format!("keelson-starts-{}", uuid::Uuid::new_v4()));
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let mut starts = Vec::new();
        for number in 0..5 {
            assert!(!problem(&starts, at(10_000)).is_there);
            starts = record(&path, at(10_000 + number));
        }
        assert!(problem(&starts, at(10_010)).is_there);
        assert!(!problem(&starts, at(10_000 + 1200)).is_there);
        assert_eq!(record(&path, at(20_000)), [at(20_000)]);
        fs::remove_file(path).unwrap();
    }
}
