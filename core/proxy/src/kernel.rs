//! Commits, and forgets what the kernel remembers of endpoints that are no longer right.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use keelson_nftables::conntrack::{self, Entry};
use keelson_nftables::{
    Batch, Connection, Data, DumpError, Element, ElementState, ElementValue, Family, SocketError, Table,
    TransactionError,
};

use crate::changes::Aftermath;
use crate::front::{Front, Protocol};
use crate::rules;

/// The kernel does not have what it should.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// No connection to it.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A change was refused; nothing of it was applied.
    #[error("change the rules of Services")]
    Transaction(#[from] TransactionError),
    /// It did not say what it has.
    #[error("read back the rules of Services")]
    Dump(#[from] DumpError),
}

type Endpoints = HashMap<Front, HashSet<(Ipv4Addr, u16)>>;

/// The nftables of the network namespace where it was opened.
#[derive(Debug)]
pub(crate) struct Kernel {
    connection: Connection,
    /// When our table was last known to be whole.
    generation: Option<u32>,
}

impl Kernel {
    pub(crate) fn open() -> Result<Self, KernelError> {
        Ok(Self { connection: Connection::open()?, generation: None })
    }

    /// Applies a change, and then what follows from it.
    pub(crate) fn change(
        &mut self,
        table: &Table,
        batch: Batch,
        aftermath: &Aftermath,
    ) -> Result<(), KernelError> {
        if !batch.is_empty() {
            self.connection.commit(batch)?;
        }
        self.forget_clients(table, &aftermath.sticky)?;
        if !aftermath.datagrams.is_empty() {
            self.forget_connections(|entry| is_wrong(entry, &aftermath.datagrams))?;
        }
        Ok(())
    }

    /// Puts the table in the place of what is there.
    pub(crate) fn replace(
        &mut self,
        batch: Batch,
        aftermath: &Aftermath,
        range: Ipv4Net,
    ) -> Result<(), KernelError> {
        self.connection.commit(batch)?;
        self.generation = Some(self.connection.generation()?);
        self.forget_connections(|entry| {
            is_wrong(entry, &aftermath.datagrams) || is_orphaned(entry, &aftermath.datagrams, range)
        })
    }

    /// Whether our table is there with so many rules. It costs nothing while nobody changes any rules.
    pub(crate) fn is_whole(&mut self, table: &Table, rules: usize) -> Result<bool, KernelError> {
        let generation = self.connection.generation()?;
        if self.generation == Some(generation) {
            return Ok(true);
        }
        let whole = match self.connection.rules(table) {
            Ok(found) => found.len() == rules,
            Err(error) if error.is_missing() => false,
            Err(error) => return Err(error.into()),
        };
        self.generation = whole.then_some(generation);
        Ok(whole)
    }

    /// The clients that come back to one of these endpoints, as elements for a new table.
    pub(crate) fn clients(&mut self, table: &Table, sticky: &Endpoints) -> Result<Vec<Element>, KernelError> {
        let right = endpoint_bytes(sticky);
        let kept = self.remembered(table)?.into_iter().filter(|one| comes_to(one, &right) == Some(true));
        let element = |one: ElementState| {
            let ElementValue::Data(value) = one.value else { return None };
            Some(Element { timeout: one.timeout, expires: one.expires, ..Element::value(one.key, value) })
        };
        Ok(kept.filter_map(element).collect())
    }

    fn forget_clients(&mut self, table: &Table, sticky: &Endpoints) -> Result<(), KernelError> {
        if sticky.is_empty() {
            return Ok(());
        }
        let right = endpoint_bytes(sticky);
        let wrong = self.remembered(table)?.into_iter().filter(|one| comes_to(one, &right) == Some(false));
        for one in wrong {
            let mut batch = Batch::new();
            batch.delete_elements(table, &rules::affinity(), [Element::key(one.key)]);
            match self.connection.commit(batch) {
                Ok(()) => {}
                // Its time was over.
                Err(error) if error.is_missing() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn remembered(&mut self, table: &Table) -> Result<Vec<ElementState>, KernelError> {
        match self.connection.elements(table, &rules::affinity().name) {
            Ok(found) => Ok(found),
            Err(error) if error.is_missing() => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    fn forget_connections(&mut self, wrong: impl Fn(&Entry) -> bool) -> Result<(), KernelError> {
        for entry in self.connection.connections(Family::Ipv4, conntrack::UDP)? {
            if wrong(&entry) {
                self.connection.forget(Family::Ipv4, &entry)?;
            }
        }
        Ok(())
    }

    /// Deletes the table.
    pub(crate) fn remove(&mut self, table: &Table) -> Result<(), KernelError> {
        Ok(self.connection.remove_table(table)?)
    }
}

fn endpoint_bytes(sticky: &Endpoints) -> HashMap<Data, HashSet<Data>> {
    let bytes = |all: &HashSet<(Ipv4Addr, u16)>| {
        all.iter().map(|(address, port)| rules::endpoint_data(*address, *port)).collect()
    };
    sticky.iter().map(|(front, endpoints)| (rules::front_key(front), bytes(endpoints))).collect()
}

/// Whether a remembered client comes to one of the endpoints; nothing if its front is none of these.
fn comes_to(one: &ElementState, right: &HashMap<Data, HashSet<Data>>) -> Option<bool> {
    let endpoints = right.get(&Data(rules::affinity_front(&one.key)?.to_vec()))?;
    let ElementValue::Data(value) = &one.value else { return None };
    Some(endpoints.contains(value))
}

fn front(entry: &Entry) -> Option<Front> {
    let IpAddr::V4(address) = entry.original.destination else { return None };
    Some(Front { address, protocol: Protocol::Udp, port: entry.original.destination_port })
}

fn is_translated(entry: &Entry) -> bool {
    let (original, reply) = (&entry.original, &entry.reply);
    (original.destination, original.destination_port) != (reply.source, reply.source_port)
}

/// Whether datagrams to a front go on to somebody who is not its endpoint.
fn is_wrong(entry: &Entry, fronts: &Endpoints) -> bool {
    let Some(endpoints) = front(entry).and_then(|front| fronts.get(&front)) else { return false };
    let IpAddr::V4(answers) = entry.reply.source else { return false };
    if endpoints.is_empty() {
        // Not translated, they are none of ours: a process may listen there.
        is_translated(entry)
    } else {
        !endpoints.contains(&(answers, entry.reply.source_port))
    }
}

/// Whether datagrams are translated for a Service that is gone.
fn is_orphaned(entry: &Entry, fronts: &Endpoints, range: Ipv4Net) -> bool {
    front(entry).is_some_and(|front| range.contains(&front.address) && !fronts.contains_key(&front))
        && is_translated(entry)
}
