//! (pure) Signals, and the thresholds at which the node begins to give something back.

use std::collections::BTreeMap;
use std::time::Duration;

use keelson_api::quantity::Amount;

use crate::configuration::KubeletConfiguration;

/// Something that a node can run out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Signal {
    /// Memory of the machine.
    Memory,
    /// Memory of what pods may have together.
    AllocatableMemory,
    /// Bytes of the file system of pods' folders and logs.
    Nodefs,
    /// Its inodes.
    NodefsInodes,
    /// Bytes of the file system of images.
    Imagefs,
    /// Its inodes.
    ImagefsInodes,
    /// Bytes of the file system of writable layers.
    Containerfs,
    /// Its inodes.
    ContainerfsInodes,
    /// Process identifiers.
    Pid,
}

/// What a signal is about, as messages name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resource {
    /// Main memory.
    Memory,
    /// Bytes of a disk.
    EphemeralStorage,
    /// Files of a disk.
    Inodes,
    /// Processes.
    Pids,
}

impl Resource {
    /// The word in messages.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::EphemeralStorage => "ephemeral-storage",
            Self::Inodes => "inodes",
            Self::Pids => "pids",
        }
    }
}

const NAMES: [(Signal, &str); 9] = [
    (Signal::Memory, "memory.available"),
    (Signal::AllocatableMemory, "allocatableMemory.available"),
    (Signal::Nodefs, "nodefs.available"),
    (Signal::NodefsInodes, "nodefs.inodesFree"),
    (Signal::Imagefs, "imagefs.available"),
    (Signal::ImagefsInodes, "imagefs.inodesFree"),
    (Signal::Containerfs, "containerfs.available"),
    (Signal::ContainerfsInodes, "containerfs.inodesFree"),
    (Signal::Pid, "pid.available"),
];

impl Signal {
    fn parse(name: &str) -> Option<Self> {
        NAMES.iter().find(|(_, known)| *known == name).map(|(signal, _)| *signal)
    }

    pub(super) fn name(self) -> &'static str {
        NAMES.iter().find(|(signal, _)| *signal == self).map_or("", |(_, name)| name)
    }

    pub(super) fn resource(self) -> Resource {
        match self {
            Self::Memory | Self::AllocatableMemory => Resource::Memory,
            Self::Nodefs | Self::Imagefs | Self::Containerfs => Resource::EphemeralStorage,
            Self::NodefsInodes | Self::ImagefsInodes | Self::ContainerfsInodes => Resource::Inodes,
            Self::Pid => Resource::Pids,
        }
    }
}

/// What is left of something, of how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Observation {
    /// What is left.
    pub(crate) available: u64,
    /// What there is.
    pub(crate) capacity: u64,
}

/// What is left of everything.
pub(crate) type Observations = BTreeMap<Signal, Observation>;

/// An amount, or a part of the capacity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value {
    /// So much.
    Amount(Amount),
    /// So many millionths.
    Part(u64),
    /// So many millionths, but no more than so many bytes: of a large disk, a part says little.
    PartUpTo(u64, u64),
}

const MILLION: u128 = 1_000_000;

impl Value {
    /// `10%`, `100Mi`.
    fn parse(text: &str) -> Result<Self, &'static str> {
        let Some(percent) = text.strip_suffix('%') else {
            let amount = Amount::parse(text).map_err(|_| "must be a quantity or a percentage")?;
            if amount.quantity().value() < 0 || amount.is_zero() {
                return Err("eviction threshold must be positive");
            }
            return Ok(Self::Amount(amount));
        };
        // Quantities are decimal numbers too, and exact.
        let percent = Amount::parse(percent)
            .map_err(|_| "must be a quantity or a percentage")?
            .quantity()
            .milli_value();
        match u64::try_from(percent) {
            Ok(percent) if percent <= 100_000 => Ok(Self::Part(percent * 10)),
            Ok(_) | Err(_) => Err("eviction percentage threshold must be between 0% and 100%"),
        }
    }

    /// `0%` and `100%` stand for no threshold at all.
    fn is_off(self) -> bool {
        matches!(self, Self::Part(0 | 1_000_000))
    }

    /// How much that is.
    pub(crate) fn of(self, capacity: u64) -> u64 {
        let part = |millionths: u64| {
            let found = u128::from(capacity) * u128::from(millionths) / MILLION;
            u64::try_from(found).unwrap_or(u64::MAX)
        };
        match self {
            Self::Amount(amount) => u64::try_from(amount.quantity().value()).unwrap_or(u64::MAX),
            Self::Part(millionths) => part(millionths),
            Self::PartUpTo(millionths, most) => part(millionths).min(most),
        }
    }
}

/// A threshold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Threshold {
    /// Of what.
    pub(crate) signal: Signal,
    /// Less than this is too little.
    pub(crate) value: Value,
    /// How long there may be too little; a hard threshold has none.
    pub(crate) grace: Duration,
    /// Once it was met, so much more is to be free.
    pub(crate) reclaim: Option<Value>,
}

impl Threshold {
    /// Whether pods end at once.
    pub(crate) fn is_hard(&self) -> bool {
        self.grace.is_zero()
    }

    /// What has to be available, to begin with or, once it was met, with what is to be reclaimed beyond.
    fn wanted(&self, capacity: u64, reclaimed: bool) -> u64 {
        let more = self.reclaim.filter(|_| reclaimed).map_or(0, |reclaim| reclaim.of(capacity));
        self.value.of(capacity).saturating_add(more)
    }

    /// Whether too little is left.
    pub(crate) fn is_met(&self, observed: &Observations, reclaimed: bool) -> bool {
        let observation = observed.get(&self.signal);
        observation.is_some_and(|one| one.available < self.wanted(one.capacity, reclaimed))
    }
}

/// A fault of a setting: field, value, reason.
pub(crate) type Fault = (&'static str, String, &'static str);

/// What there is to lose on a disk before a small one is in danger.
const LEAST_BYTES: u64 = 5 << 30;

/// Upstream's, but for large disks.
fn defaults() -> Vec<(Signal, Value)> {
    let percent = |percent: u64| Value::PartUpTo(percent * 10_000, LEAST_BYTES);
    let hundred = Amount::parse("100Mi").ok().map(|amount| (Signal::Memory, Value::Amount(amount)));
    let others = [
        (Signal::Nodefs, percent(10)),
        (Signal::Imagefs, percent(15)),
        (Signal::NodefsInodes, Value::Part(50_000)),
        (Signal::ImagefsInodes, Value::Part(50_000)),
    ];
    hundred.into_iter().chain(others).collect()
}

type Statements = BTreeMap<String, String>;

fn read(field: &'static str, statements: &Statements) -> Result<Vec<(Signal, Value)>, Fault> {
    let mut found = Vec::new();
    for (name, text) in statements {
        let fault = |reason: &'static str| (field, format!("{name}: {text}"), reason);
        let signal = Signal::parse(name).filter(|signal| *signal != Signal::AllocatableMemory);
        let signal = signal.ok_or_else(|| fault("unsupported eviction signal"))?;
        found.push((signal, Value::parse(text).map_err(fault)?));
    }
    Ok(found)
}

/// The thresholds of a node by its settings. Those of writable layers follow from where these are.
pub(crate) fn thresholds(settings: &KubeletConfiguration) -> Result<Vec<Threshold>, Fault> {
    let hard = match &settings.eviction_hard {
        None => defaults(),
        Some(own) => {
            let own = read("evictionHard", own)?;
            let unsaid = |(signal, _): &(Signal, Value)| own.iter().all(|(known, _)| known != signal);
            let more = if settings.merge_default_eviction_settings { defaults() } else { Vec::new() };
            let more: Vec<_> = more.into_iter().filter(unsaid).collect();
            own.into_iter().chain(more).collect()
        }
    };
    let soft = read("evictionSoft", &settings.eviction_soft)?;
    let reclaim = read("evictionMinimumReclaim", &settings.eviction_minimum_reclaim)?;
    let reclaim = |signal: Signal| reclaim.iter().find(|(of, _)| *of == signal).map(|(_, value)| *value);
    let hard = hard.into_iter().map(|(signal, value)| Ok((signal, value, Duration::ZERO)));
    let soft = soft.into_iter().map(|(signal, value)| {
        let name = signal.name();
        let grace = settings.eviction_soft_grace_period.get(name).map(|grace| grace.0);
        let missing = || {
            (
                "evictionSoft",
                name.to_owned(),
                "grace period must be specified for the soft eviction threshold",
            )
        };
        grace.filter(|grace| !grace.is_zero()).map(|grace| (signal, value, grace)).ok_or_else(missing)
    });
    let mut all = Vec::new();
    for one in hard.chain(soft) {
        let (signal, value, grace) = one?;
        if !value.is_off() {
            all.push(Threshold { signal, value, grace, reclaim: reclaim(signal) });
        }
    }
    if settings.enforces_pods() {
        let of_memory = |one: &&Threshold| one.signal == Signal::Memory && one.is_hard();
        let of_pods = |one: &Threshold| Threshold { signal: Signal::AllocatableMemory, ..*one };
        let more: Vec<Threshold> = all.iter().filter(of_memory).map(of_pods).collect();
        all.extend(more);
    }
    Ok(all)
}

/// What thresholds of the file system of writable layers are: those of images where that is a file system of its own, or of
/// pods' folders.
pub(crate) fn with_containerfs(all: &[Threshold], own_imagefs: bool) -> Vec<Threshold> {
    let of = |one: &Threshold| {
        let signal = match (one.signal, own_imagefs) {
            (Signal::Nodefs, false) | (Signal::Imagefs, true) => Signal::Containerfs,
            (Signal::NodefsInodes, false) | (Signal::ImagefsInodes, true) => Signal::ContainerfsInodes,
            _ => return None,
        };
        Some(Threshold { signal, ..*one })
    };
    let is_told = |one: &Threshold| !matches!(one.signal, Signal::Containerfs | Signal::ContainerfsInodes);
    let told: Vec<Threshold> = all.iter().copied().filter(is_told).collect();
    let more: Vec<Threshold> = told.iter().filter_map(of).collect();
    told.into_iter().chain(more).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> KubeletConfiguration {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_is_not_said_has_upstreams_thresholds_and_large_disks_lower_ones() {
        let all = thresholds(&KubeletConfiguration::default()).unwrap();
        let of = |signal, capacity| all.iter().find(|one| one.signal == signal).unwrap().value.of(capacity);
        assert_eq!((of(Signal::Memory, 8 << 30), of(Signal::AllocatableMemory, 1)), (100 << 20, 100 << 20));
        assert_eq!((of(Signal::Nodefs, 1000), of(Signal::Imagefs, 1000)), (100, 150));
        assert_eq!((of(Signal::Nodefs, 1 << 40), of(Signal::Imagefs, 1 << 40)), (5 << 30, 5 << 30));
        assert_eq!((of(Signal::NodefsInodes, 1000), of(Signal::ImagefsInodes, 1000)), (50, 50));
    }

    #[test]
    fn what_is_said_replaces_all_of_them_unless_they_are_to_be_merged() {
        let text = r#"{"evictionHard": {"memory.available": "5%", "nodefs.available": "0%"}, "enforceNodeAllocatable": ["none"]}"#;
        let all = thresholds(&settings(text)).unwrap();
        assert_eq!((all.len(), all[0].value, all[0].signal), (1, Value::Part(50_000), Signal::Memory));
        let merged = text.replacen('{', r#"{"mergeDefaultEvictionSettings": true, "#, 1);
        assert_eq!(thresholds(&settings(&merged)).unwrap().len(), 4);
    }

    #[test]
    fn a_soft_threshold_has_a_grace_and_a_value_that_can_be() {
        let with = |grace: &str| {
            format!(
                r#"{{"evictionSoft": {{"pid.available": "10%"}}, "evictionSoftGracePeriod": {{{grace}}}}}"#
            )
        };
        let all = thresholds(&settings(&with(r#""pid.available": "1m30s""#))).unwrap();
        assert_eq!(all.iter().find(|one| !one.is_hard()).unwrap().grace, Duration::from_secs(90));
        let (field, value, reason) = thresholds(&settings(&with(""))).unwrap_err();
        assert_eq!((field, value.as_str()), ("evictionSoft", "pid.available"));
        assert_eq!(reason, "grace period must be specified for the soft eviction threshold");
        for wrong in
            [r#"{"evictionHard": {"cpu.available": "1"}}"#, r#"{"evictionHard": {"pid.available": "101%"}}"#]
        {
            assert_eq!(thresholds(&settings(wrong)).unwrap_err().0, "evictionHard");
        }
    }

    #[test]
    fn what_was_met_is_met_until_enough_is_reclaimed() {
        let text = r#"{"evictionHard": {"nodefs.available": "1Gi"}, "evictionMinimumReclaim": {"nodefs.available": "500Mi"}}"#;
        let all = thresholds(&settings(text)).unwrap();
        let left = |mebibytes: u64| {
            Observations::from([(
                Signal::Nodefs,
                Observation { available: mebibytes << 20, capacity: 10 << 30 },
            )])
        };
        assert!(all[0].is_met(&left(1000), false) && !all[0].is_met(&left(1100), false));
        assert!(all[0].is_met(&left(1100), true) && !all[0].is_met(&left(1600), true));
        assert!(!all[0].is_met(&Observations::new(), true));
    }

    #[test]
    fn writable_layers_have_the_thresholds_of_the_disk_that_they_are_on() {
        let all = thresholds(&KubeletConfiguration::default()).unwrap();
        let of = |own: bool| {
            let all = with_containerfs(&all, own);
            all.iter().find(|one| one.signal == Signal::Containerfs).unwrap().value
        };
        assert_eq!(of(false), Value::PartUpTo(100_000, LEAST_BYTES));
        assert_eq!(of(true), Value::PartUpTo(150_000, LEAST_BYTES));
    }
}
