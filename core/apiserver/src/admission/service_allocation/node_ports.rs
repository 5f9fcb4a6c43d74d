//! Which Service holds which port of the nodes.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use keelson_api::{GroupResource, Object, Status};
use serde_json::Value;

use super::pending::{Item, Pending};
use crate::cache;
use crate::registry::Registry;

/// Upstream's default range.
const RANGE: RangeInclusive<u16> = 30000..=32767;
/// The ports at its beginning that are left to those who ask for one: a 32nd of it, at least 16 and at most 128.
const STATIC: u16 = 86;
const EVENTS: usize = 4096;
/// What who asks for another's port is told.
pub(super) const TAKEN: &str = "provided port is already allocated";

/// A port's number where one is set.
pub(super) fn number(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0)
}

/// Whether the stored Service of a key has a port.
pub(super) fn holds(registry: &Registry, key: &str, port: u16) -> Result<bool, Status> {
    let Some(service) = registry.resource(&GroupResource::new("", "services")).get(key) else {
        return Ok(false);
    };
    Ok(ports(&cache::decode(&service.bytes)?).contains(&port))
}

/// All ports of nodes that a Service has.
pub(super) fn ports(service: &Object) -> Vec<u16> {
    let list = service.get(&["spec", "ports"]).and_then(Value::as_array).into_iter().flatten();
    let own = list.filter_map(|port| number(&port["nodePort"]));
    own.chain(service.get(&["spec", "healthCheckNodePort"]).and_then(number)).collect()
}

/// Holders of ports, as of a revision. Each write takes up what has changed since the one before.
#[derive(Default)]
pub(super) struct NodePorts {
    holders: HashMap<u16, String>,
    revision: Option<u64>,
}

impl NodePorts {
    /// Takes up what has changed.
    pub(super) fn follow(&mut self, registry: &Registry, pending: &mut Pending) -> Result<(), Status> {
        let services = registry.resource(&GroupResource::new("", "services"));
        while let Some(revision) = self.revision {
            let Ok(events) = services.events_after(revision, EVENTS) else { break };
            for event in &events {
                self.revision = Some(event.revision);
                if let Some(previous) = &event.previous {
                    self.release(&cache::decode(&previous.bytes)?);
                }
                if event.kind != keelson_store::EventKind::Deleted {
                    self.take(&cache::decode(&event.object.bytes)?, pending);
                }
            }
            if events.len() < EVENTS {
                return Ok(());
            }
        }
        let listing = services.list();
        self.holders.clear();
        for service in listing.objects.values() {
            self.take(&cache::decode(&service.bytes)?, pending);
        }
        self.revision = Some(listing.revision);
        Ok(())
    }

    fn key(service: &Object) -> String {
        format!("{}/{}", service.namespace().unwrap_or_default(), service.name().unwrap_or_default())
    }

    fn take(&mut self, service: &Object, pending: &mut Pending) {
        let key = Self::key(service);
        for port in ports(service) {
            pending.arrived(&Item::Port(port), &key);
            self.holders.insert(port, key.clone());
        }
    }

    fn release(&mut self, service: &Object) {
        let key = Self::key(service);
        for port in ports(service) {
            if self.holders.get(&port) == Some(&key) {
                self.holders.remove(&port);
            }
        }
    }
}

/// Gives ports to one Service.
pub(super) struct Grant<'a> {
    pub(super) ports: &'a NodePorts,
    pub(super) pending: &'a mut Pending,
    pub(super) key: &'a str,
}

/// Why a Service may have a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reserved {
    /// It has it.
    Before,
    /// Nobody had it, as far as this server knows.
    Now,
}

impl Grant<'_> {
    fn is_free(&self, port: u16) -> bool {
        let held = self.ports.holders.get(&port).is_some_and(|holder| holder != self.key);
        let promised = self.pending.holder(&Item::Port(port)).is_some_and(|holder| holder != self.key);
        !held && !promised
    }

    /// Gives the port that is asked for.
    pub(super) fn reserve(&mut self, port: u16) -> Result<Reserved, &'static str> {
        if self.ports.holders.get(&port).is_some_and(|holder| holder == self.key) {
            return Ok(Reserved::Before);
        }
        if !RANGE.contains(&port) {
            return Err("provided port is not in the valid range. The range of valid ports is 30000-32767");
        }
        if !self.is_free(port) {
            return Err(TAKEN);
        }
        self.pending.note(Item::Port(port), self.key);
        Ok(Reserved::Now)
    }

    /// Gives a port that nobody holds: from those that are not asked for by number, while there are any.
    pub(super) fn next(&mut self) -> Option<u16> {
        let unused = |port: &u16| {
            !self.ports.holders.contains_key(port) && self.pending.holder(&Item::Port(*port)).is_none()
        };
        let first = RANGE.start() + STATIC;
        let middle = rand::random_range(first..=*RANGE.end());
        let dynamic = (middle..=*RANGE.end()).chain(first..middle);
        let found = dynamic.chain(*RANGE.start()..first).find(unused)?;
        self.pending.note(Item::Port(found), self.key);
        Some(found)
    }
}
