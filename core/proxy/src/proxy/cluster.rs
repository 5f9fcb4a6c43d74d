//! What is known of the cluster's Services, and which have changed (pure).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::config::Node;
use crate::endpoint_slice::Slice;
use crate::front::{Front, Name, Target};
use crate::plan::plan;
use crate::service::Service;

/// What a watch tells.
#[derive(Debug)]
pub(crate) enum Told<V> {
    /// A list begins.
    Begin,
    /// An object of the list; `None` if it does not matter.
    Listed(Name, Option<V>),
    /// The list is complete: what was not in it is gone.
    End,
    /// An object as it is now; `None` if it is gone or does not matter.
    Is(Name, Option<V>),
}

/// What one of the watches tells.
#[derive(Debug)]
pub(crate) enum Update {
    Service(Told<Service>),
    /// A slice, with its Service's name.
    Slice(Told<(Name, Slice)>),
}

/// What is known.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    services: HashMap<Name, Service>,
    /// By Service and by name.
    slices: HashMap<Name, BTreeMap<Name, Slice>>,
    service_of: HashMap<Name, Name>,
    listed_services: Listed,
    listed_slices: Listed,
    dirty: BTreeSet<Name>,
}

#[derive(Debug, Default)]
struct Listed {
    names: HashSet<Name>,
    complete: bool,
}

impl Cluster {
    /// Whether all Services and slices are known.
    pub(crate) fn is_complete(&self) -> bool {
        self.listed_services.complete && self.listed_slices.complete
    }

    /// How many Services are known.
    pub(crate) fn len(&self) -> usize {
        self.services.len()
    }

    pub(crate) fn take(&mut self, update: Update) {
        match update {
            Update::Service(Told::Begin) => self.listed_services.names.clear(),
            Update::Service(Told::Listed(name, service)) => {
                self.listed_services.names.insert(name.clone());
                self.set_service(name, service);
            }
            Update::Service(Told::End) => {
                let listed = std::mem::take(&mut self.listed_services.names);
                self.listed_services.complete = true;
                let gone: Vec<_> =
                    self.services.keys().filter(|name| !listed.contains(*name)).cloned().collect();
                gone.into_iter().for_each(|name| self.set_service(name, None));
            }
            Update::Service(Told::Is(name, service)) => self.set_service(name, service),
            Update::Slice(Told::Begin) => self.listed_slices.names.clear(),
            Update::Slice(Told::Listed(name, slice)) => {
                self.listed_slices.names.insert(name.clone());
                self.set_slice(name, slice);
            }
            Update::Slice(Told::End) => {
                let listed = std::mem::take(&mut self.listed_slices.names);
                self.listed_slices.complete = true;
                let gone: Vec<_> =
                    self.service_of.keys().filter(|name| !listed.contains(*name)).cloned().collect();
                gone.into_iter().for_each(|name| self.set_slice(name, None));
            }
            Update::Slice(Told::Is(name, slice)) => self.set_slice(name, slice),
        }
    }

    fn set_service(&mut self, name: Name, service: Option<Service>) {
        match service {
            Some(service) if self.services.get(&name) == Some(&service) => return,
            Some(service) => drop(self.services.insert(name.clone(), service)),
            None => drop(self.services.remove(&name)),
        }
        self.dirty.insert(name);
    }

    fn set_slice(&mut self, name: Name, slice: Option<(Name, Slice)>) {
        let (service, slice) = slice.map_or((None, None), |(service, slice)| (Some(service), Some(slice)));
        let before = self.service_of.get(&name).cloned();
        if let (Some(service), Some(slice)) = (&service, &slice)
            && before.as_ref() == Some(service)
            && self.slices.get(service).and_then(|slices| slices.get(&name)) == Some(slice)
        {
            return;
        }
        if let Some(before) = before {
            self.service_of.remove(&name);
            if let Some(slices) = self.slices.get_mut(&before) {
                slices.remove(&name);
                if slices.is_empty() {
                    self.slices.remove(&before);
                }
            }
            self.dirty.insert(before);
        }
        if let (Some(service), Some(slice)) = (service, slice) {
            self.service_of.insert(name.clone(), service.clone());
            self.slices.entry(service.clone()).or_default().insert(name, slice);
            self.dirty.insert(service);
        }
    }

    /// Services that have to be planned again.
    pub(crate) fn take_dirty(&mut self) -> BTreeSet<Name> {
        std::mem::take(&mut self.dirty)
    }

    pub(crate) fn mark(&mut self, names: BTreeSet<Name>) {
        self.dirty.extend(names);
    }

    /// What a Service wants; nothing if there is none of this name.
    pub(crate) fn plan(&self, name: &Name, node: &Node) -> Vec<(Front, Target)> {
        let Some(service) = self.services.get(name) else { return Vec::new() };
        let slices = self.slices.get(name);
        plan(service, slices.into_iter().flat_map(BTreeMap::values), node)
    }
}
