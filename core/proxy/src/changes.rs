//! What the kernel was told, and the transaction from there to what is wanted (pure).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;

use keelson_nftables::{Batch, Element, Table};

use crate::config::Node;
use crate::front::{Endpoint, Front, Masquerade, Name, Protocol, Target};
use crate::rules;

/// All that is in our table.
#[derive(Debug)]
pub(crate) struct Installed {
    node: Node,
    table: Table,
    fronts: HashMap<Front, Installation>,
    of: HashMap<Name, Vec<Front>>,
    /// Services of which a front belongs to another one.
    waiting: BTreeSet<Name>,
    /// Names of chains for numbers of endpoints, and how many rules each has. They stay until the table is made anew.
    chains: HashMap<String, usize>,
    /// For each address on this node the number of its appearances.
    hairpins: HashMap<Ipv4Addr, u32>,
}

#[derive(Debug)]
struct Installation {
    owner: Name,
    target: Target,
}

/// A transaction, and what has to be looked after when it is done.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) batch: Batch,
    pub(crate) aftermath: Aftermath,
    /// Services that may have a front now that another one gave up.
    pub(crate) freed: BTreeSet<Name>,
    /// Fronts that are refused to a Service, since another one has them.
    pub(crate) taken: Vec<(Name, Front, Name)>,
}

/// What the kernel remembers of earlier connections, and must not where endpoints have changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Aftermath {
    /// The endpoints of UDP fronts that have changed; none of those that are gone.
    pub(crate) datagrams: HashMap<Front, HashSet<(Ipv4Addr, u16)>>,
    /// The endpoints of fronts to whose endpoints clients come back.
    pub(crate) sticky: HashMap<Front, HashSet<(Ipv4Addr, u16)>>,
}

impl Aftermath {
    fn add(&mut self, front: &Front, endpoints: &[Endpoint], sticky: bool) {
        let all = || endpoints.iter().map(|one| (one.address, one.port)).collect();
        if front.protocol == Protocol::Udp {
            self.datagrams.insert(*front, all());
        }
        if sticky {
            self.sticky.insert(*front, all());
        }
    }
}

/// Elements to delete from and to add to each set.
#[derive(Default)]
struct Elements {
    services: [Vec<Element>; 2],
    endpoints: [Vec<Element>; 2],
    masquerade: [Vec<Element>; 2],
    /// Addresses that were touched, and whether they were there before.
    hairpin: HashMap<Ipv4Addr, bool>,
}

const DELETE: usize = 0;
const ADD: usize = 1;

impl Installed {
    pub(crate) fn new(node: Node) -> Self {
        Self {
            table: rules::table(&node.cluster_id),
            node,
            fronts: HashMap::new(),
            of: HashMap::new(),
            waiting: BTreeSet::new(),
            chains: HashMap::new(),
            hairpins: HashMap::new(),
        }
    }

    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    /// How many rules the table has.
    pub(crate) fn rules(&self) -> usize {
        rules::FIXED_RULES + self.chains.values().sum::<usize>()
    }

    /// Takes over what Services want now, and says how the kernel gets there. A Service that is gone wants nothing.
    pub(crate) fn change(&mut self, wanted: Vec<(Name, Vec<(Front, Target)>)>) -> Changes {
        let mut changes = Changes::default();
        let mut elements = Elements::default();
        // What goes comes first, so that a front can pass from one Service to another.
        for (name, fronts) in &wanted {
            let kept: HashSet<Front> = fronts.iter().map(|(front, _)| *front).collect();
            let gone: Vec<Front> = self
                .of
                .get(name)
                .into_iter()
                .flatten()
                .filter(|front| !kept.contains(*front))
                .copied()
                .collect();
            if !gone.is_empty() {
                changes.freed.append(&mut self.waiting);
            }
            for front in gone {
                self.replace(name, front, None, &mut elements, &mut changes);
            }
        }
        for (name, fronts) in wanted {
            let mut owned = Vec::with_capacity(fronts.len());
            self.waiting.remove(&name);
            for (front, target) in fronts {
                match self.fronts.get(&front).map(|there| &there.owner) {
                    Some(other) if *other != name => {
                        changes.taken.push((name.clone(), front, other.clone()));
                        self.waiting.insert(name.clone());
                    }
                    // Twice in one Service: an external address that is the node's, or given twice. The first one counts.
                    Some(_) if owned.contains(&front) => {}
                    Some(_) | None => {
                        owned.push(front);
                        self.replace(&name, front, Some(target), &mut elements, &mut changes);
                    }
                }
            }
            if owned.is_empty() {
                self.of.remove(&name);
            } else {
                self.of.insert(name, owned);
            }
        }
        self.write(&mut changes.batch, elements);
        changes
    }

    fn replace(
        &mut self,
        name: &Name,
        front: Front,
        new: Option<Target>,
        elements: &mut Elements,
        changes: &mut Changes,
    ) {
        let old = self.fronts.remove(&front).map(|there| there.target);
        if old == new {
            if let Some(target) = new {
                self.fronts.insert(front, Installation { owner: name.clone(), target });
            }
            return;
        }
        if let Some(target) = &new {
            self.ensure_chains(target, &mut changes.batch);
        }
        let action = |target: &Option<Target>| target.as_ref().map(|target| target.action);
        if action(&old) != action(&new) {
            elements.services[DELETE]
                .extend(action(&old).map(|action| rules::service_element(&front, action)));
            elements.services[ADD].extend(action(&new).map(|action| rules::service_element(&front, action)));
        }
        let masquerade =
            |target: &Option<Target>| target.as_ref().map_or(Masquerade::ByRange, |it| it.masquerade);
        if masquerade(&old) != masquerade(&new) {
            elements.masquerade[DELETE].extend(rules::masquerade_element(&front, masquerade(&old)));
            elements.masquerade[ADD].extend(rules::masquerade_element(&front, masquerade(&new)));
        }
        let endpoints = |target: &Option<Target>| {
            target.as_ref().map(|target| target.endpoints.clone()).unwrap_or_default()
        };
        let (before, after) = (endpoints(&old), endpoints(&new));
        for index in 0..before.len().max(after.len()) {
            let place = u32::try_from(index).unwrap_or(u32::MAX);
            let (was, is) = (before.get(index), after.get(index));
            let same = |a: &Endpoint, b: &Endpoint| (a.address, a.port) == (b.address, b.port);
            if was.zip(is).is_some_and(|(was, is)| same(was, is)) {
                continue;
            }
            let element = |endpoint| rules::endpoint_element(&front, place, endpoint);
            elements.endpoints[DELETE].extend(was.map(element));
            elements.endpoints[ADD].extend(is.map(element));
        }
        for address in after.iter().filter(|one| one.local).map(|one| one.address) {
            self.count_hairpin(address, elements);
        }
        for address in before.iter().filter(|one| one.local).map(|one| one.address) {
            self.discount_hairpin(address, elements);
        }
        let sticky = old.as_ref().is_some_and(|target| target.action.affinity().is_some());
        changes.aftermath.add(&front, &after, sticky);
        if let Some(target) = new {
            self.fronts.insert(front, Installation { owner: name.clone(), target });
        }
    }

    fn count_hairpin(&mut self, address: Ipv4Addr, elements: &mut Elements) {
        let count = self.hairpins.entry(address).or_insert(0);
        elements.hairpin.entry(address).or_insert(*count > 0);
        *count += 1;
    }

    fn discount_hairpin(&mut self, address: Ipv4Addr, elements: &mut Elements) {
        let Some(count) = self.hairpins.get_mut(&address) else { return };
        elements.hairpin.entry(address).or_insert(true);
        *count -= 1;
        if *count == 0 {
            self.hairpins.remove(&address);
        }
    }

    fn ensure_chains(&mut self, target: &Target, batch: &mut Batch) {
        for (name, rules) in rules::chains(target.action) {
            if !self.chains.contains_key(&name) {
                rules::add_chain(batch, &self.table, &name, &rules);
                self.chains.insert(name, rules.len());
            }
        }
    }

    /// Deletions come first: a key may get another value in one transaction.
    fn write(&self, batch: &mut Batch, elements: Elements) {
        let Elements { services, endpoints, masquerade, hairpin: touched } = elements;
        let is_there = |address: &Ipv4Addr| self.hairpins.contains_key(address);
        let mut hairpin = [Vec::new(), Vec::new()];
        for (address, was_there) in touched {
            match (was_there, is_there(&address)) {
                (true, false) => hairpin[DELETE].push(rules::hairpin_element(address)),
                (false, true) => hairpin[ADD].push(rules::hairpin_element(address)),
                (true, true) | (false, false) => {}
            }
        }
        let both = [
            (rules::services(), services),
            (rules::endpoints(), endpoints),
            (rules::masquerade(), masquerade),
            (rules::hairpin(), hairpin),
        ];
        for (set, [delete, _]) in &both {
            batch.delete_elements(&self.table, set, delete.iter().map(|one| Element::key(one.key.clone())));
        }
        for (set, [_, add]) in both {
            batch.add_elements(&self.table, &set, add);
        }
    }

    /// The whole table anew, in place of what is there. `clients` are elements of the affinity map to keep.
    pub(crate) fn install(&mut self, clients: Vec<Element>) -> (Batch, Aftermath) {
        let mut batch = Batch::new();
        let mut aftermath = Aftermath::default();
        rules::install(&mut batch, &self.node);
        self.chains.clear();
        let fronts = std::mem::take(&mut self.fronts);
        for (front, there) in &fronts {
            self.ensure_chains(&there.target, &mut batch);
            aftermath.add(front, &there.target.endpoints, false);
        }
        let targets = || fronts.iter().map(|(front, there)| (front, &there.target));
        let table = &self.table;
        let services = targets().map(|(front, target)| rules::service_element(front, target.action));
        batch.add_elements(table, &rules::services(), services);
        let endpoints = targets().flat_map(|(front, target)| rules::endpoint_elements(front, target));
        batch.add_elements(table, &rules::endpoints(), endpoints);
        let masquerade =
            targets().filter_map(|(front, target)| rules::masquerade_element(front, target.masquerade));
        batch.add_elements(table, &rules::masquerade(), masquerade);
        let hairpin = self.hairpins.keys().map(|address| rules::hairpin_element(*address));
        batch.add_elements(table, &rules::hairpin(), hairpin);
        batch.add_elements(table, &rules::affinity(), clients);
        self.fronts = fronts;
        (batch, aftermath)
    }

    /// Who answers at fronts where clients come back to their endpoint.
    pub(crate) fn sticky(&self) -> HashMap<Front, HashSet<(Ipv4Addr, u16)>> {
        let sticky = self.fronts.iter().filter(|(_, there)| there.target.action.affinity().is_some());
        sticky
            .map(|(front, there)| {
                (*front, there.target.endpoints.iter().map(|one| (one.address, one.port)).collect())
            })
            .collect()
    }

    /// The range whose addresses are all ours.
    pub(crate) fn range(&self) -> ipnet::Ipv4Net {
        self.node.services
    }
}

#[cfg(test)]
mod tests;
