//! When a node is short of something (pure).

use std::time::Duration;

use tokio::time::Instant;

use super::machine::{FileSystem, Memory, Processes, RESERVED_MEMORY};

/// A shortage is reported for so long after it was seen.
const TRANSITION: Duration = Duration::from_secs(300);
/// The least free part of the file system in percent of its bytes, which is no more than so many bytes: on a large disk
/// a part says little.
const LEAST_PART: u64 = 10;
const LEAST_BYTES: u64 = 5 << 30;
/// The least free part of its inodes, in percent.
const LEAST_INODES: u64 = 5;
/// The least free part of the process identifiers, in percent.
const LEAST_PROCESSES: u64 = 5;

/// What a node can be short of, as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    pub(super) memory: Memory,
    pub(super) storage: FileSystem,
    pub(super) processes: Processes,
}

/// What the node is short of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Shortage {
    pub(super) memory: bool,
    pub(super) disk: bool,
    pub(super) processes: bool,
}

/// Less than so many percent.
fn is_below(free: u64, total: u64, percent: u64) -> bool {
    // Some file systems do not count inodes.
    total > 0 && u128::from(free) * 100 < u128::from(total) * u128::from(percent)
}

fn of(state: &State) -> Shortage {
    let State { memory, storage, processes } = state;
    let free = processes.max.saturating_sub(processes.running);
    Shortage {
        memory: memory.available < RESERVED_MEMORY,
        disk: is_below(storage.available, storage.capacity, LEAST_PART) && storage.available < LEAST_BYTES
            || is_below(storage.inodes_free, storage.inodes, LEAST_INODES),
        processes: is_below(free, processes.max, LEAST_PROCESSES),
    }
}

/// When each shortage was last seen.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pressure {
    memory: Option<Instant>,
    disk: Option<Instant>,
    processes: Option<Instant>,
}

fn lasts(seen: &mut Option<Instant>, now_short: bool, now: Instant) -> bool {
    if now_short {
        *seen = Some(now);
    }
    seen.is_some_and(|seen| now.duration_since(seen) < TRANSITION)
}

impl Pressure {
    /// What is short now or was so lately.
    pub(super) fn step(&mut self, state: &State, now: Instant) -> Shortage {
        let short = of(state);
        Shortage {
            memory: lasts(&mut self.memory, short.memory, now),
            disk: lasts(&mut self.disk, short.disk, now),
            processes: lasts(&mut self.processes, short.processes, now),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn plenty() -> State {
        State {
            memory: Memory { total: 8 << 30, available: 4 << 30 },
            storage: FileSystem { capacity: 1000, available: 100, inodes: 1000, inodes_free: 50 },
            processes: Processes { max: 1000, running: 950 },
        }
    }

    #[test]
    fn each_threshold_is_a_shortage_of_its_own() {
        assert_eq!(of(&plenty()), Shortage::default());
        let mut state = plenty();
        state.memory.available = RESERVED_MEMORY - 1;
        assert_eq!(of(&state), Shortage { memory: true, ..Shortage::default() });
        let mut state = plenty();
        state.storage.available = 99;
        assert_eq!(of(&state), Shortage { disk: true, ..Shortage::default() });
        let mut state = plenty();
        state.storage.capacity = 1000 << 30;
        state.storage.available = LEAST_BYTES;
        assert_eq!(of(&state), Shortage::default());
        state.storage.inodes_free = 49;
        assert_eq!(of(&state), Shortage { disk: true, ..Shortage::default() });
        state.storage = FileSystem { inodes: 0, inodes_free: 0, ..plenty().storage };
        assert_eq!(of(&state), Shortage::default());
        state.processes.running = 951;
        assert_eq!(of(&state), Shortage { processes: true, ..Shortage::default() });
    }

    #[test]
    fn a_shortage_is_reported_for_five_minutes_after_it_ended() {
        let (mut pressure, now) = (Pressure::default(), Instant::now());
        let mut short = plenty();
        short.memory.available = 0;
        assert!(pressure.step(&short, now).memory);
        assert!(pressure.step(&plenty(), now + Duration::from_secs(299)).memory);
        assert!(!pressure.step(&plenty(), now + Duration::from_secs(300)).memory);
    }
}
