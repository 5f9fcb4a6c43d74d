//! What the zone knows (pure): Services, the ready endpoints of their slices, and namespaces.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::rr::Name;
use ipnet::IpNet;
use keelson_operator_kit::ObjectKey;

pub(crate) mod lookup;
pub(crate) mod read;

pub(crate) use self::lookup::Lookup;
use self::read::{Service, Slice};

/// What is true of the zone whatever is in the cluster.
#[derive(Debug, Clone)]
pub(crate) struct Domain {
    /// The cluster's domain, fully qualified and in lower case.
    pub(crate) origin: Name,
    /// The address of the cluster's name server.
    pub(crate) server: IpAddr,
    /// Addresses whose names are ours, or nobody's: those of Services and pods.
    pub(crate) ranges: Vec<IpNet>,
}

/// The zone.
#[derive(Debug)]
pub(crate) struct Zone {
    domain: Domain,
    serial: u32,
    namespaces: HashSet<Arc<str>>,
    services: HashMap<ObjectKey, Arc<Service>>,
    /// By Service, and by the name of the slice.
    slices: HashMap<ObjectKey, BTreeMap<ObjectKey, Arc<Slice>>>,
    /// The Services that have an address, or an endpoint with it; one as often as it does.
    by_address: HashMap<IpAddr, Vec<ObjectKey>>,
}

impl Zone {
    /// An empty zone. `serial` is larger than any that an earlier process used.
    pub(crate) fn new(domain: Domain, serial: u32) -> Self {
        Zone {
            domain,
            serial,
            namespaces: HashSet::new(),
            services: HashMap::new(),
            slices: HashMap::new(),
            by_address: HashMap::new(),
        }
    }

    pub(crate) fn set_namespace(&mut self, name: &str, exists: bool) {
        self.serial = self.serial.wrapping_add(1);
        if exists {
            self.namespaces.insert(name.into());
        } else {
            self.namespaces.remove(name);
        }
    }

    pub(crate) fn set_service(&mut self, key: &ObjectKey, service: Option<Arc<Service>>) {
        self.serial = self.serial.wrapping_add(1);
        let old = match &service {
            Some(service) => self.services.insert(key.clone(), Arc::clone(service)),
            None => self.services.remove(key),
        };
        self.forget(key, old.iter().flat_map(|service| &service.addresses));
        self.remember(key, service.iter().flat_map(|service| &service.addresses));
    }

    /// A slice was `old` and is `new`.
    pub(crate) fn set_slice(&mut self, name: &ObjectKey, old: Option<&Slice>, new: Option<Arc<Slice>>) {
        self.serial = self.serial.wrapping_add(1);
        if let Some(old) = old
            && let Some(slices) = self.slices.get_mut(&old.service)
            && slices.remove(name).is_some()
        {
            if slices.is_empty() {
                self.slices.remove(&old.service);
            }
            self.forget(&old.service, old.addresses());
        }
        if let Some(new) = new {
            self.remember(&new.service, new.addresses());
            self.slices.entry(new.service.clone()).or_default().insert(name.clone(), new);
        }
    }

    fn remember<'a>(&mut self, service: &ObjectKey, addresses: impl Iterator<Item = &'a IpAddr>) {
        for address in addresses {
            self.by_address.entry(*address).or_default().push(service.clone());
        }
    }

    fn forget<'a>(&mut self, service: &ObjectKey, addresses: impl Iterator<Item = &'a IpAddr>) {
        for address in addresses {
            let Some(services) = self.by_address.get_mut(address) else { continue };
            if let Some(place) = services.iter().position(|one| one == service) {
                services.swap_remove(place);
            }
            if services.is_empty() {
                self.by_address.remove(address);
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
