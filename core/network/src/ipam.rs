//! Which address a pod gets; pure.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// No address is left.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("all {used} pod addresses of {range} are in use")]
pub struct Exhausted {
    /// The node's range.
    pub range: Ipv4Net,
    /// How many of it are given away.
    pub used: usize,
}

/// The addresses of a node's range and who has them.
///
/// An address that was given back is given again as late as possible, so that what still knows it does not meet another pod.
#[derive(Debug)]
pub(crate) struct Addresses {
    range: Ipv4Net,
    used: BTreeMap<Ipv4Addr, String>,
    last: Ipv4Addr,
}

impl Addresses {
    /// The network's own address, the gateway and the broadcast address are never given away.
    pub(crate) fn new(range: Ipv4Net) -> Self {
        Self { range, used: BTreeMap::new(), last: Self::first(range) }
    }

    fn first(range: Ipv4Net) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(range.network()).saturating_add(2))
    }

    /// Takes over what a record says; the earlier owner if there is one.
    pub(crate) fn restore(&mut self, address: Ipv4Addr, owner: &str) -> Option<String> {
        self.last = self.last.max(self.after(address));
        self.used.insert(address, owner.to_owned())
    }

    /// The next free address.
    pub(crate) fn allocate(&mut self, owner: &str) -> Result<Ipv4Addr, Exhausted> {
        let start = self.last;
        let mut address = start;
        loop {
            let next = self.after(address);
            if let Entry::Vacant(free) = self.used.entry(address) {
                free.insert(owner.to_owned());
                self.last = next;
                return Ok(address);
            }
            if next == start {
                return Err(Exhausted { range: self.range, used: self.used.len() });
            }
            address = next;
        }
    }

    /// Gives it back, if the owner has it.
    pub(crate) fn release(&mut self, address: Ipv4Addr, owner: &str) {
        if self.used.get(&address).is_some_and(|one| one == owner) {
            self.used.remove(&address);
        }
    }

    fn after(&self, address: Ipv4Addr) -> Ipv4Addr {
        let next = Ipv4Addr::from(u32::from(address).saturating_add(1));
        if next < self.range.broadcast() && self.range.contains(&next) {
            next
        } else {
            Self::first(self.range)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> Addresses {
        Addresses::new("10.42.0.0/29".parse().unwrap())
    }

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 42, 0, last)
    }

    #[test]
    fn neither_the_network_nor_the_gateway_nor_the_broadcast_address_is_given_away() {
        let mut addresses = addresses();
        let given: Vec<_> = (0..5).map(|n| addresses.allocate(&n.to_string()).unwrap()).collect();
        assert_eq!(given, [ip(2), ip(3), ip(4), ip(5), ip(6)]);
        let error = addresses.allocate("one too many").unwrap_err();
        assert_eq!(error.to_string(), "all 5 pod addresses of 10.42.0.0/29 are in use");
    }

    #[test]
    fn an_address_that_was_given_back_comes_last() {
        let mut addresses = addresses();
        assert_eq!(addresses.allocate("a"), Ok(ip(2)));
        addresses.release(ip(2), "a");
        let next: Vec<_> = (0..5).map(|_| addresses.allocate("b").unwrap()).collect();
        assert_eq!(next, [ip(3), ip(4), ip(5), ip(6), ip(2)]);
    }

    #[test]
    fn only_its_owner_gives_an_address_back() {
        let mut addresses = addresses();
        assert_eq!(addresses.allocate("a"), Ok(ip(2)));
        addresses.release(ip(2), "b");
        assert_eq!(addresses.restore(ip(2), "c"), Some("a".to_owned()));
    }

    #[test]
    fn what_was_restored_is_not_given_again() {
        let mut addresses = addresses();
        assert_eq!(addresses.restore(ip(4), "a"), None);
        let next: Vec<_> = (0..4).map(|_| addresses.allocate("b").unwrap()).collect();
        assert_eq!(next, [ip(5), ip(6), ip(2), ip(3)]);
    }
}
