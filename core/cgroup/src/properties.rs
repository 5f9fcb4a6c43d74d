//! (pure) Limits as properties of systemd's units.
//!
//! What systemd is told it keeps: when it looks over a unit's control group again it writes what its properties say. So it is told
//! all that has a property, also where the same is written into the group's files.

use keelson_cri::v1::LinuxContainerResources;

/// A property's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `b`
    Bool(bool),
    /// `t`
    Number(u64),
    /// `s`
    Text(String),
    /// `au`
    Processes(Vec<u32>),
    /// `ay`
    Bytes(Vec<u8>),
    /// `a(ss)`: a device, and what of `rwm` may be done with it.
    Devices(Vec<(String, String)>),
}

/// A property of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    /// As systemd names it.
    pub name: &'static str,
    /// What it is to be.
    pub value: Value,
}

/// Of the kernel's control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy for each controller.
    One,
    /// One hierarchy.
    Two,
}

/// `USEC_INFINITY` and `CGROUP_LIMIT_MAX`.
const NO_LIMIT: u64 = u64::MAX;
/// What a quota is in, unless it is said, in microseconds.
const PERIOD: u64 = 100_000;
/// systemd counts a processor's time in hundredths.
const HUNDREDTH: u64 = 10_000;

fn property(name: &'static str, value: Value) -> Property {
    Property { name, value }
}

fn number(name: &'static str, value: u64) -> Property {
    property(name, Value::Number(value))
}

/// Nothing of a usual unit's ties.
fn apart() -> Property {
    property("DefaultDependencies", Value::Bool(false))
}

/// All that is used is counted.
pub fn accounting(version: Version) -> [Property; 4] {
    let io = match version {
        Version::One => "BlockIOAccounting",
        Version::Two => "IOAccounting",
    };
    ["MemoryAccounting", "CPUAccounting", io, "TasksAccounting"].map(|name| property(name, Value::Bool(true)))
}

/// A slice for a group of groups.
pub fn slice(description: String, version: Version) -> Vec<Property> {
    let mut out = vec![property("Description", Value::Text(description)), apart()];
    out.extend(accounting(version));
    out
}

/// A scope with a process in it, in a slice, whose inside is not systemd's matter.
pub fn scope(description: String, slice: &str, process: u32, version: Version) -> Vec<Property> {
    let mut out = vec![
        property("Description", Value::Text(description)),
        property("Slice", Value::Text(slice.to_owned())),
        property("Delegate", Value::Bool(true)),
        property("PIDs", Value::Processes(vec![process])),
        apart(),
    ];
    out.extend(accounting(version));
    out
}

/// What limits are, and how many processes and threads there may be, 0 for any number. What they say nothing of is left out.
pub fn limits(limits: &LinuxContainerResources, pids: u64, version: Version) -> Vec<Property> {
    let mut out = Vec::new();
    if limits.cpu_shares > 0 {
        let shares = limits.cpu_shares.clamp(2, 262_144).unsigned_abs();
        out.push(match version {
            Version::One => number("CPUShares", shares),
            Version::Two => number("CPUWeight", 1 + (shares - 2) * 9999 / 262_142),
        });
    }
    if limits.cpu_quota != 0 {
        let period = u64::try_from(limits.cpu_period).ok().filter(|period| *period > 0).unwrap_or(PERIOD);
        out.push(number("CPUQuotaPeriodUSec", period));
        let quota = u64::try_from(limits.cpu_quota).ok();
        // Rounded up, so that groups below may have what they are to have.
        let each_second = quota.map(|quota| (quota * 1_000_000 / period).div_ceil(HUNDREDTH) * HUNDREDTH);
        out.push(number("CPUQuotaPerSecUSec", each_second.unwrap_or(NO_LIMIT)));
    }
    if limits.memory_limit_in_bytes != 0 {
        let bytes = u64::try_from(limits.memory_limit_in_bytes).unwrap_or(NO_LIMIT);
        out.push(match version {
            Version::One => number("MemoryLimit", bytes),
            Version::Two => number("MemoryMax", bytes),
        });
        let with_swap = u64::try_from(limits.memory_swap_limit_in_bytes).unwrap_or(NO_LIMIT);
        // With version 1 systemd knows nothing of it.
        if version == Version::Two && with_swap > 0 {
            let swap = if with_swap == NO_LIMIT { NO_LIMIT } else { with_swap.saturating_sub(bytes) };
            out.push(number("MemorySwapMax", swap));
        }
    }
    if pids > 0 {
        out.push(number("TasksMax", pids));
    }
    if version == Version::Two {
        for (name, set) in [("AllowedCPUs", &limits.cpuset_cpus), ("AllowedMemoryNodes", &limits.cpuset_mems)]
        {
            if let Some(bits) = bits(set).filter(|bits| !bits.is_empty()) {
                out.push(property(name, Value::Bytes(bits)));
            }
        }
        for (file, name) in UNIFIED {
            let value = limits.unified.get(file).map(|text| text.trim());
            let value = value.and_then(|text| if text == "max" { Some(NO_LIMIT) } else { text.parse().ok() });
            out.extend(value.map(|value| number(name, value)));
        }
    }
    out
}

/// Files of version 2 that hold one number, and what systemd calls them.
const UNIFIED: [(&str, &str); 4] = [
    ("memory.min", "MemoryMin"),
    ("memory.low", "MemoryLow"),
    ("memory.high", "MemoryHigh"),
    ("memory.swap.max", "MemorySwapMax"),
];

/// A set as `0-1,8`, a bit for each number, the lowest in the first byte. `None` for what is no such set.
fn bits(set: &str) -> Option<Vec<u8>> {
    const MOST: usize = 8192;
    let mut out = Vec::new();
    for range in set.trim().split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        if first > last || last >= MOST {
            return None;
        }
        for number in first..=last {
            if out.len() <= number / 8 {
                out.resize(number / 8 + 1, 0);
            }
            out[number / 8] |= 1 << (number % 8);
        }
    }
    Some(out)
}

/// Which devices are let through, and nothing else; all of them without.
///
/// With version 1 systemd writes them anew whenever it looks over the group: without, it would let through all.
pub fn devices(allowed: Option<Vec<(String, String)>>) -> [Property; 2] {
    let policy = if allowed.is_some() { "strict" } else { "auto" };
    [
        property("DevicePolicy", Value::Text(policy.to_owned())),
        property("DeviceAllow", Value::Devices(allowed.unwrap_or_default())),
    ]
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    fn told(limits_: &LinuxContainerResources, pids: u64, version: Version) -> Vec<(&'static str, u64)> {
        let number = |one: Property| match one.value {
            Value::Number(value) => (one.name, value),
            other => panic!("{other:?}"),
        };
        limits(limits_, pids, version).into_iter().map(number).collect()
    }

    #[test]
    fn limits_are_told_in_the_words_of_the_version() {
        let resources = LinuxContainerResources {
            cpu_shares: 1024,
            cpu_quota: 25_500,
            cpu_period: 100_000,
            memory_limit_in_bytes: 64 << 20,
            memory_swap_limit_in_bytes: 64 << 20,
            ..LinuxContainerResources::default()
        };
        let one = [
            ("CPUShares", 1024),
            ("CPUQuotaPeriodUSec", 100_000),
            ("CPUQuotaPerSecUSec", 260_000),
            ("MemoryLimit", 64 << 20),
            ("TasksMax", 100),
        ];
        assert_eq!(told(&resources, 100, Version::One), one);
        let two = [
            ("CPUWeight", 39),
            ("CPUQuotaPeriodUSec", 100_000),
            ("CPUQuotaPerSecUSec", 260_000),
            ("MemoryMax", 64 << 20),
            ("MemorySwapMax", 0),
        ];
        assert_eq!(told(&resources, 0, Version::Two), two);
    }

    #[test]
    fn a_limit_that_is_taken_away_is_told_too() {
        let resources = LinuxContainerResources {
            cpu_quota: -1,
            memory_limit_in_bytes: -1,
            ..LinuxContainerResources::default()
        };
        let none =
            [("CPUQuotaPeriodUSec", PERIOD), ("CPUQuotaPerSecUSec", NO_LIMIT), ("MemoryLimit", NO_LIMIT)];
        assert_eq!(told(&resources, 0, Version::One), none);
        assert_eq!(told(&LinuxContainerResources::default(), 0, Version::Two), []);
    }

    #[test]
    fn version_two_has_processors_and_other_files_too() {
        let resources = LinuxContainerResources {
            cpuset_cpus: "0-1,9".to_owned(),
            unified: [("memory.high", "4096"), ("memory.min", "max"), ("memory.oom.group", "1")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            ..LinuxContainerResources::default()
        };
        let expected = [
            property("AllowedCPUs", Value::Bytes(vec![0b11, 0b10])),
            number("MemoryMin", NO_LIMIT),
            number("MemoryHigh", 4096),
        ];
        assert_eq!(limits(&resources, 0, Version::Two), expected);
        assert_eq!(limits(&resources, 0, Version::One), []);
        assert_eq!((bits("1-0"), bits("x"), bits("0-99999")), (None, None, None));
    }

    #[test]
    fn a_scope_begins_with_its_process_in_its_slice() {
        let scope = scope("d".into(), "a-b.slice", 7, Version::One);
        let of = |name: &str| scope.iter().find(|one| one.name == name).map(|one| one.value.clone());
        assert_eq!(of("Slice"), Some(Value::Text("a-b.slice".into())));
        assert_eq!(of("PIDs"), Some(Value::Processes(vec![7])));
        assert_eq!(
            (of("Delegate"), of("DefaultDependencies")),
            (Some(Value::Bool(true)), Some(Value::Bool(false)))
        );
        assert!(of("BlockIOAccounting").is_some() && of("IOAccounting").is_none());
    }

    #[test]
    fn devices_that_are_not_named_are_refused() {
        let some = vec![("/dev/char/1:3".to_owned(), "rwm".to_owned())];
        assert_eq!(devices(Some(some.clone()))[0].value, Value::Text("strict".into()));
        assert_eq!(devices(Some(some.clone()))[1].value, Value::Devices(some));
        assert_eq!(devices(None)[0].value, Value::Text("auto".into()));
    }
}
