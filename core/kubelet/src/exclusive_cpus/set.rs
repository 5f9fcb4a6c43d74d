//! (pure) Sets of processors, as `0-3,8`, and which of them go together.

use std::collections::{BTreeMap, BTreeSet};

use crate::topology::masks;

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

/// How many processors each memory node of `combination` gives, evenly and in groups of `group`, and what that leaves: the squares of
/// what is left everywhere together, which are the fewer the more even it is. `None` when it cannot be even.
fn shares(
    free: &BTreeMap<u32, usize>,
    combination: &BTreeSet<u32>,
    count: usize,
    group: usize,
) -> Option<(BTreeMap<u32, usize>, usize)> {
    let each = count / combination.len().max(1) / group * group;
    let mut left = free.clone();
    let mut given = BTreeMap::new();
    for node in combination {
        let has = left.get_mut(node).filter(|has| **has >= each)?;
        *has -= each;
        given.insert(*node, each);
    }
    for _ in 0..(count - each * combination.len()) / group {
        // What remains comes from where most is left, the lower number first.
        let most = combination.iter().rev().max_by_key(|node| left.get(node).copied().unwrap_or(0))?;
        let has = left.get_mut(most).filter(|has| **has >= group)?;
        *has -= group;
        *given.entry(*most).or_default() += group;
    }
    Some((given, left.values().map(|has| has * has).sum()))
}

/// The same number, evenly from as few memory nodes as have enough, in groups of `group`; as [`take`] does where that cannot be.
pub(crate) fn spread(
    free: &Cpus,
    count: usize,
    topology: &Topology,
    nodes: &BTreeMap<u32, u32>,
    group: usize,
) -> Option<Cpus> {
    let node = |cpu: &u32| nodes.get(cpu).copied().unwrap_or(0);
    let mut available: BTreeMap<u32, usize> = BTreeMap::new();
    free.iter().for_each(|cpu| *available.entry(node(cpu)).or_default() += 1);
    let numbers: Vec<u32> = available.keys().copied().collect();
    let combinations: Vec<BTreeSet<u32>> = masks(&numbers).into_iter().map(|mask| mask.set()).collect();
    let even = |size: usize| {
        let of_size = combinations.iter().filter(|combination| combination.len() == size);
        of_size.filter_map(|one| shares(&available, one, count, group)).min_by_key(|(_, uneven)| *uneven)
    };
    let found = if count.is_multiple_of(group) { (1..=numbers.len()).find_map(even) } else { None };
    let Some((given, _)) = found else { return take(free, count, topology) };
    let mut taken = Cpus::new();
    for (number, share) in given {
        let here: Cpus = free.iter().copied().filter(|cpu| node(cpu) == number).collect();
        taken.extend(take(&here, share, topology)?);
    }
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_taken_evenly_from_as_few_nodes_as_have_enough() {
        // Three nodes of four cores of one thread.
        let topology: Topology = (0..12).map(|cpu| (cpu, (0, cpu))).collect();
        let nodes: BTreeMap<u32, u32> = (0..12).map(|cpu| (cpu, cpu / 4)).collect();
        let took = |free: &str, count, group| {
            spread(&parse(free).unwrap(), count, &topology, &nodes, group).map(|set| text(&set))
        };
        assert_eq!(took("0-11", 4, 1).unwrap(), "0-3");
        assert_eq!(took("0-11", 6, 1).unwrap(), "0-2,4-6");
        assert_eq!(took("0-11", 7, 1).unwrap(), "0-6");
        assert_eq!(took("1-11", 6, 1).unwrap(), "4-6,8-10", "what is left is as even as can be");
        assert_eq!(took("0-11", 6, 2).unwrap(), "0-5");
        assert_eq!(took("0-4,8-11", 9, 1).unwrap(), "0-4,8-11");
        assert_eq!(took("0-1", 3, 1), None);
    }

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
