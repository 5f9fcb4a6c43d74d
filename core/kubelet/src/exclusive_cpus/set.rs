//! (pure) Sets of processors, as `0-3,8`, and which of them go together.

use std::collections::{BTreeMap, BTreeSet};

/// Processors by their numbers.
pub(crate) type Cpus = BTreeSet<u32>;

/// Reads `0-3,8`.
pub(crate) fn parse(text: &str) -> Option<Cpus> {
    let mut found = Cpus::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last > 65_535 {
            return None;
        }
        found.extend(first..=last);
    }
    Some(found)
}

/// Writes `0-3,8`.
pub(crate) fn text(cpus: &Cpus) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for &cpu in cpus {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            Some(_) | None => ranges.push((cpu, cpu)),
        }
    }
    let write = |(first, last): &(u32, u32)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.iter().map(write).collect::<Vec<_>>().join(",")
}

/// Socket and core of each processor.
pub(crate) type Topology = BTreeMap<u32, (u32, u32)>;

/// Takes so many of those that are free: whole sockets first, then whole cores, then threads of cores of which others are taken
/// already. `None` when there are too few.
pub(crate) fn take(free: &Cpus, count: usize, topology: &Topology) -> Option<Cpus> {
    if free.len() < count {
        return None;
    }
    let place = |cpu: u32| topology.get(&cpu).copied().unwrap_or((0, cpu));
    let mut left = free.clone();
    let mut taken = Cpus::new();
    let groups = |left: &Cpus, key: &dyn Fn(u32) -> (u32, u32)| {
        let mut groups: BTreeMap<(u32, u32), Cpus> = BTreeMap::new();
        for &cpu in left {
            groups.entry(key(cpu)).or_default().insert(cpu);
        }
        groups
    };
    let socket = |cpu: u32| (place(cpu).0, 0_u32);
    for key in [&socket as &dyn Fn(u32) -> (u32, u32), &place] {
        let size = |group: &(u32, u32)| topology.keys().filter(|cpu| key(**cpu) == *group).count();
        for (group, cpus) in groups(&left, key) {
            if cpus.len() == size(&group).max(1) && cpus.len() <= count - taken.len() {
                left.retain(|cpu| !cpus.contains(cpu));
                taken.extend(cpus);
            }
        }
    }
    let mut threads: Vec<(usize, u32)> = Vec::new();
    for cpus in groups(&left, &place).into_values() {
        threads.extend(cpus.iter().map(|cpu| (cpus.len(), *cpu)));
    }
    threads.sort_unstable();
    let missing = count - taken.len();
    taken.extend(threads.into_iter().take(missing).map(|(_, cpu)| cpu));
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_read_and_written_as_ranges() {
        for given in ["", "0", "0-3,8", "1,3,5-6"] {
            assert_eq!(text(&parse(given).unwrap()), given);
        }
        for wrong in ["a", "3-1", "1-", "0-99999999"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn whole_sockets_and_cores_are_taken_before_threads() {
        // Two sockets of two cores of two threads: 0 and 4 are one core.
        let topology: Topology = (0..8).map(|cpu| (cpu, (cpu % 4 / 2, cpu % 4))).collect();
        let took = |free: &str, count| take(&parse(free).unwrap(), count, &topology).map(|set| text(&set));
        assert_eq!(took("0-7", 4).unwrap(), "0-1,4-5");
        assert_eq!(took("0-7", 2).unwrap(), "0,4");
        assert_eq!(took("0-7", 3).unwrap(), "0-1,4");
        assert_eq!(took("0-1,5", 1).unwrap(), "0");
        assert_eq!(took("1-7", 6).unwrap(), "1-3,5-7");
        assert_eq!(took("0-2", 4), None);
    }
}
