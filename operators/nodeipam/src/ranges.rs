//! The parts of the cluster's range, and which of them are free (pure).

use std::collections::BTreeSet;

use ipnet::Ipv4Net;

/// How many bits of a node's range are the network's, as elsewhere.
pub const NODE_BITS: u8 = 24;

/// The cluster's range in parts of the size of a node's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges {
    cluster: Ipv4Net,
    /// The part that was given last.
    last: usize,
}

/// The cluster's range has no parts for nodes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cluster's range of pod addresses {0} is smaller than a node's, /{NODE_BITS}")]
pub struct TooSmall(pub Ipv4Net);

impl Ranges {
    /// Of a cluster.
    pub fn new(cluster: Ipv4Net) -> Result<Self, TooSmall> {
        if cluster.prefix_len() > NODE_BITS {
            return Err(TooSmall(cluster));
        }
        Ok(Ranges { cluster: cluster.trunc(), last: 0 })
    }

    fn count(&self) -> usize {
        1 << (NODE_BITS - self.cluster.prefix_len())
    }

    /// The numbers of the parts that a range touches.
    fn parts(&self, range: &Ipv4Net) -> Option<std::ops::RangeInclusive<usize>> {
        let (first, end) = (u32::from(self.cluster.network()), u32::from(self.cluster.broadcast()));
        let (from, to) = (u32::from(range.network()).max(first), u32::from(range.broadcast()).min(end));
        let number = |address: u32| usize::try_from((address - first) >> (32 - NODE_BITS)).ok();
        if from > to {
            return None;
        }
        Some(number(from)?..=number(to)?)
    }

    /// Whether a range lies in the cluster's.
    pub fn contains(&self, range: &Ipv4Net) -> bool {
        self.cluster.contains(range)
    }

    /// The next part that none of these touches, after the one that was given last: one that was given back rests for a
    /// while. The first part is never given.
    pub fn next<'a>(&mut self, used: impl IntoIterator<Item = &'a Ipv4Net>) -> Option<Ipv4Net> {
        let taken: BTreeSet<usize> =
            used.into_iter().filter_map(|range| self.parts(range)).flatten().collect();
        let count = self.count();
        let numbers = (1..=count).map(|step| (self.last + step) % count);
        let free = numbers.filter(|number| *number != 0).find(|number| !taken.contains(number))?;
        self.last = free;
        let address = u32::from(self.cluster.network()) + (u32::try_from(free).ok()? << (32 - NODE_BITS));
        Ipv4Net::new(address.into(), NODE_BITS).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn each_node_gets_another_range_and_the_first_is_left() {
        let mut ranges = Ranges::new(net("10.42.0.0/22")).unwrap();
        let mut used = Vec::new();
        while let Some(range) = ranges.next(&used) {
            used.push(range);
        }
        assert_eq!(used, [net("10.42.1.0/24"), net("10.42.2.0/24"), net("10.42.3.0/24")]);
        used.remove(1);
        assert_eq!(ranges.next(&used), Some(net("10.42.2.0/24")));
    }

    #[test]
    fn what_is_given_back_is_the_last_to_be_given_again() {
        let mut ranges = Ranges::new(net("10.42.0.0/16")).unwrap();
        assert_eq!(ranges.next([]), Some(net("10.42.1.0/24")));
        assert_eq!(ranges.next([]), Some(net("10.42.2.0/24")));
    }

    #[test]
    fn ranges_of_other_sizes_count_for_all_that_they_touch() {
        let mut ranges = Ranges::new(net("10.42.0.0/21")).unwrap();
        let used = [net("10.42.0.0/22"), net("10.42.4.128/25"), net("10.0.0.0/24")];
        assert_eq!(ranges.next(&used), Some(net("10.42.5.0/24")));
        assert_eq!(ranges.next(&[net("10.0.0.0/8")]), None);
    }

    #[test]
    fn a_cluster_of_one_part_has_none_to_give_and_a_smaller_one_is_refused() {
        assert_eq!(Ranges::new(net("10.42.0.0/24")).unwrap().next([]), None);
        assert_eq!(Ranges::new(net("10.42.0.0/25")), Err(TooSmall(net("10.42.0.0/25"))));
    }
}
