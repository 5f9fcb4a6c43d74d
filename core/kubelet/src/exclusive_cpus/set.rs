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

/// Socket and last-level cache of each processor.
pub(crate) type Caches = BTreeMap<u32, (u32, u32)>;

/// What goes together below a socket.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Order<'a> {
    /// Whole cores, then threads of cores of which others are taken already.
    Packed,
    /// The same within as few last-level caches as can be.
    Cached(&'a Caches),
    /// One thread of each core first.
    Spread,
}

/// Those that go together, by what they have in common.
fn groups(cpus: &Cpus, key: &dyn Fn(u32) -> (u32, u32)) -> BTreeMap<(u32, u32), Cpus> {
    let mut groups: BTreeMap<(u32, u32), Cpus> = BTreeMap::new();
    for &cpu in cpus {
        groups.entry(key(cpu)).or_default().insert(cpu);
    }
    groups
}

/// Processors that are being chosen.
struct Choice<'a> {
    topology: &'a Topology,
    left: Cpus,
    taken: Cpus,
    missing: usize,
}

impl Choice<'_> {
    fn take(&mut self, cpus: impl IntoIterator<Item = u32>) {
        for cpu in cpus {
            if self.missing > 0 && self.left.remove(&cpu) {
                self.taken.insert(cpu);
                self.missing -= 1;
            }
        }
    }

    /// Groups that are free as a whole, as long as they are needed as a whole.
    fn take_whole(&mut self, key: &dyn Fn(u32) -> (u32, u32)) {
        let size =
            |group: &(u32, u32)| self.topology.keys().filter(|cpu| key(**cpu) == *group).count().max(1);
        let whole: Vec<Cpus> = groups(&self.left, key)
            .into_iter()
            .filter(|(group, cpus)| cpus.len() == size(group))
            .map(|(_, cpus)| cpus)
            .collect();
        for cpus in whole {
            if cpus.len() <= self.missing {
                self.take(cpus);
            }
        }
    }

    /// Threads of cores of which others are taken already.
    fn take_threads(&mut self, place: &dyn Fn(u32) -> (u32, u32)) {
        let cores = groups(&self.left, place).into_values();
        let of_core = |cpus: Cpus| cpus.iter().map(|cpu| (cpus.len(), *cpu)).collect::<Vec<_>>();
        let mut threads: Vec<(usize, u32)> = cores.flat_map(of_core).collect();
        threads.sort_unstable();
        self.take(threads.into_iter().map(|(_, cpu)| cpu));
    }

    /// A thread of each core, of the socket with the fewest free ones first; then another of each.
    fn take_spread(&mut self, place: &dyn Fn(u32) -> (u32, u32)) {
        let socket = |cpu: u32| (place(cpu).0, 0_u32);
        let sockets = groups(&self.left, &socket);
        let free = |of: u32| sockets.get(&(of, 0)).map_or(0, Cpus::len);
        let cores = groups(&self.left, place);
        let of_core = |((of, _), cpus): ((u32, u32), Cpus)| -> Vec<(usize, u32, usize, u32)> {
            cpus.into_iter().enumerate().map(|(rank, cpu)| (free(of), of, rank, cpu)).collect()
        };
        let mut threads: Vec<_> = cores.into_iter().flat_map(of_core).collect();
        threads.sort_unstable();
        self.take(threads.into_iter().map(|(_, _, _, cpu)| cpu));
    }
}

/// Takes so many of those that are free: whole sockets first, and then as `order` says. `None` when there are too few.
pub(crate) fn take_in(free: &Cpus, count: usize, topology: &Topology, order: Order<'_>) -> Option<Cpus> {
    if free.len() < count {
        return None;
    }
    let place = |cpu: u32| topology.get(&cpu).copied().unwrap_or((0, cpu));
    let mut choice = Choice { topology, left: free.clone(), taken: Cpus::new(), missing: count };
    choice.take_whole(&|cpu| (place(cpu).0, 0));
    match order {
        Order::Packed => {}
        Order::Spread => choice.take_spread(&place),
        Order::Cached(caches) => {
            let cache = |cpu: u32| caches.get(&cpu).copied().unwrap_or((place(cpu).0, 0));
            choice.take_whole(&cache);
            let enough = groups(&choice.left, &cache).into_values().find(|cpus| cpus.len() >= choice.missing);
            if let Some(within) = enough {
                choice.take(take_in(&within, choice.missing, topology, Order::Packed)?);
            }
        }
    }
    choice.take_whole(&place);
    choice.take_threads(&place);
    Some(choice.taken)
}

/// The same, packed.
pub(crate) fn take(free: &Cpus, count: usize, topology: &Topology) -> Option<Cpus> {
    take_in(free, count, topology, Order::Packed)
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

    #[test]
    fn threads_of_as_many_cores_as_can_be_are_taken_where_that_is_wanted() {
        // One socket of four cores, and two of three; siblings are far apart, and near each other.
        let one: Topology = (0..8).map(|cpu| (cpu, (0, cpu % 4))).collect();
        let near: Topology = (0..8).map(|cpu| (cpu, (0, cpu / 2))).collect();
        let two: Topology = (0..12).map(|cpu| (cpu, (cpu % 2, cpu % 6))).collect();
        let took = |free: &str, count, topology: &Topology| {
            take_in(&parse(free).unwrap(), count, topology, Order::Spread).map(|set| text(&set))
        };
        assert_eq!(took("0-7", 3, &one).unwrap(), "0-2");
        assert_eq!(took("0-7", 5, &one).unwrap(), "0-4");
        assert_eq!(took("0,4-6", 2, &one).unwrap(), "0,5");
        assert_eq!(took("0-7", 3, &near).unwrap(), "0,2,4", "whatever their numbers are");
        assert_eq!(took("0-11", 2, &two).unwrap(), "0,2", "at one socket");
        assert_eq!(took("0-11", 6, &two).unwrap(), "0,2,4,6,8,10", "a whole socket is one");
        assert_eq!(took("0-11", 7, &two).unwrap(), "0-2,4,6,8,10");
        assert_eq!(took("1-11", 2, &two).unwrap(), "2,4", "where the fewest are free");
        assert_eq!(took("0-1", 3, &one), None);
    }

    #[test]
    fn as_few_caches_as_can_be_are_shared_where_that_is_wanted() {
        // A socket of two caches of four cores of two threads: 0 and 8 are one core.
        let topology: Topology = (0..16).map(|cpu| (cpu, (0, cpu % 8))).collect();
        let caches: Caches = (0..16).map(|cpu| (cpu, (0, cpu % 8 / 4))).collect();
        let took = |free: &str, count| {
            take_in(&parse(free).unwrap(), count, &topology, Order::Cached(&caches)).map(|set| text(&set))
        };
        assert_eq!(took("2-7,10-15", 6).unwrap(), "4-6,12-14", "the first that has enough");
        assert_eq!(took("2-7,10-15", 4).unwrap(), "2-3,10-11");
        assert_eq!(took("1-7,9-15", 10).unwrap(), "1,4-7,9,12-15", "a whole one, and a part");
        assert_eq!(took("1-3,5-7,9-11,13-15", 8).unwrap(), "1-3,5,9-11,13", "none has enough");
        assert_eq!(took("0-15", 16).unwrap(), "0-15");
        assert_eq!(took("0-15", 3).unwrap(), "0-1,8");
    }
}
