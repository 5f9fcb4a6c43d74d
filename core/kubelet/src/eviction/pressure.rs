//! (pure) What a node is short of, and for how long that has been so.

use std::time::Duration;

use tokio::time::Instant;

use super::threshold::{Observations, Resource, Threshold};

/// What the node is short of, as its conditions say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Shortage {
    /// `MemoryPressure`
    pub(crate) memory: bool,
    /// `DiskPressure`
    pub(crate) disk: bool,
    /// `PIDPressure`
    pub(crate) processes: bool,
}

impl Shortage {
    /// The conditions that hold.
    pub(crate) fn conditions(self) -> Vec<&'static str> {
        let all =
            [(self.disk, "DiskPressure"), (self.memory, "MemoryPressure"), (self.processes, "PIDPressure")];
        all.into_iter().filter(|(holds, _)| *holds).map(|(_, name)| name).collect()
    }
}

/// When each shortage was last seen.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    memory: Option<Instant>,
    disk: Option<Instant>,
    processes: Option<Instant>,
}

/// What is remembered from one look to the next.
#[derive(Debug, Clone, Default)]
pub(super) struct Pressure {
    /// Thresholds that are met, since when.
    since: Vec<(Threshold, Instant)>,
    /// Those whose time was over at the last look.
    met: Vec<Threshold>,
    seen: Seen,
}

/// What a look has found.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Finding {
    /// For the node's conditions.
    pub(super) shortage: Shortage,
    /// Thresholds at which something has to be done, those of memory first.
    pub(super) due: Vec<Threshold>,
}

impl Pressure {
    /// Looks; a shortage is told for `transition` after it was last seen.
    pub(super) fn step(
        &mut self,
        thresholds: &[Threshold],
        observed: &Observations,
        transition: Duration,
        now: Instant,
    ) -> Finding {
        let is_met = |one: &&Threshold| {
            // What was met holds on until more is reclaimed.
            one.is_met(observed, false) || (self.met.contains(one) && one.is_met(observed, true))
        };
        let met: Vec<Threshold> = thresholds.iter().filter(is_met).copied().collect();
        let since = |one: &Threshold| {
            let known = self.since.iter().find(|(known, _)| known == one);
            (*one, known.map_or(now, |(_, since)| *since))
        };
        self.since = met.iter().map(since).collect();
        for one in &met {
            let seen = match one.signal.resource() {
                Resource::Memory => &mut self.seen.memory,
                Resource::EphemeralStorage | Resource::Inodes => &mut self.seen.disk,
                Resource::Pids => &mut self.seen.processes,
            };
            *seen = Some(now);
        }
        // What is seen now is told even where nothing is told for longer.
        let lasts = |seen: Option<Instant>| {
            seen.is_some_and(|seen| seen == now || now.duration_since(seen) < transition)
        };
        let shortage = Shortage {
            memory: lasts(self.seen.memory),
            disk: lasts(self.seen.disk),
            processes: lasts(self.seen.processes),
        };
        let over =
            |(one, since): &(Threshold, Instant)| (now.duration_since(*since) >= one.grace).then_some(*one);
        let mut due: Vec<Threshold> = self.since.iter().filter_map(over).collect();
        self.met.clone_from(&due);
        due.sort_by_key(|one| one.signal.resource() != Resource::Memory);
        Finding { shortage, due }
    }
}

#[cfg(test)]
mod tests {
    use keelson_api::quantity::Amount;

    use super::super::threshold::{Observation, Signal, Value};
    use super::*;

    const TRANSITION: Duration = Duration::from_secs(300);

    fn threshold(signal: Signal, least: i64, grace: u64) -> Threshold {
        let grace = Duration::from_secs(grace);
        Threshold { signal, value: Value::Amount(Amount::whole(least)), grace, reclaim: None }
    }

    fn left(all: &[(Signal, u64)]) -> Observations {
        let of = |(signal, available): &(Signal, u64)| {
            (*signal, Observation { available: *available, capacity: 1000 })
        };
        all.iter().map(of).collect()
    }

    #[test]
    fn a_shortage_is_reported_for_five_minutes_after_it_ended() {
        let (mut pressure, now) = (Pressure::default(), Instant::now());
        let all = [threshold(Signal::Memory, 100, 0)];
        let (short, plenty) = (left(&[(Signal::Memory, 99)]), left(&[(Signal::Memory, 100)]));
        let found = pressure.step(&all, &short, TRANSITION, now);
        assert_eq!((found.shortage.memory, found.due.len()), (true, 1));
        let found = pressure.step(&all, &plenty, TRANSITION, now + Duration::from_secs(299));
        assert_eq!((found.shortage.conditions(), found.due.len()), (vec!["MemoryPressure"], 0));
        let found = pressure.step(&all, &plenty, TRANSITION, now + Duration::from_secs(300));
        assert_eq!(found, Finding { shortage: Shortage::default(), due: Vec::new() });
    }

    #[test]
    fn a_soft_threshold_is_a_condition_at_once_and_due_when_its_time_is_over() {
        let (mut pressure, now) = (Pressure::default(), Instant::now());
        let all = [threshold(Signal::Nodefs, 100, 60)];
        let (short, plenty) = (left(&[(Signal::Nodefs, 1)]), left(&[(Signal::Nodefs, 500)]));
        let after = |seconds| now + Duration::from_secs(seconds);
        let found = pressure.step(&all, &short, TRANSITION, after(0));
        assert_eq!((found.shortage.disk, found.due.len()), (true, 0));
        assert_eq!(pressure.step(&all, &short, TRANSITION, after(60)).due.len(), 1);
        pressure.step(&all, &plenty, TRANSITION, after(70));
        assert_eq!(pressure.step(&all, &short, TRANSITION, after(80)).due.len(), 0);
    }

    #[test]
    fn memory_comes_before_everything_else() {
        let (mut pressure, now) = (Pressure::default(), Instant::now());
        let signals = [Signal::Pid, Signal::NodefsInodes, Signal::AllocatableMemory];
        let all = signals.map(|signal| threshold(signal, 10, 0));
        let found = pressure.step(&all, &left(&signals.map(|signal| (signal, 1))), TRANSITION, now);
        assert_eq!(found.due[0].signal, Signal::AllocatableMemory);
        assert_eq!(found.shortage.conditions(), ["DiskPressure", "MemoryPressure", "PIDPressure"]);
    }
}
