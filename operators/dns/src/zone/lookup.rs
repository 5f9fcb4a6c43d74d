//! What the zone says about a name (pure), after the Kubernetes DNS-based service discovery specification 1.1.0.
//!
//! ```text
//! SERVICE.NAMESPACE.svc.DOMAIN                   A, AAAA: ClusterIPs, or ready endpoints; CNAME: external name
//! HOSTNAME.SERVICE.NAMESPACE.svc.DOMAIN          A, AAAA: an endpoint, or those with this hostname
//! _PORT._PROTOCOL.SERVICE.NAMESPACE.svc.DOMAIN   SRV
//! A-B-C-D.NAMESPACE.pod.DOMAIN                   A, AAAA: the address itself, if there is such a namespace
//! dns-version.DOMAIN                             TXT
//! ```
//! A name that has no record of a kind, but others, or names below it, exists all the same: "no data", not "no name".

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use keelson_operator_kit::ObjectKey;

use super::Zone;
use super::read::{Endpoint, Protocol, Service, Slice};

/// Of the specification.
const VERSION: &str = "1.1.0";

/// How long an answer may be kept, in seconds: ClusterIPs stay, endpoints do not.
const STABLE_TTL: u32 = 30;
const ENDPOINT_TTL: u32 = 5;

/// How long may be kept that there is nothing, in seconds.
const NEGATIVE_TTL: u32 = 5;

/// What the zone says about a name.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Lookup {
    /// Not ours.
    Elsewhere,
    /// There is no such name.
    NoName,
    /// There is the name, but no such record.
    NoData,
    /// Records, and others that help.
    Found { answers: Vec<Record>, additionals: Vec<Record> },
    /// It stands for another name.
    Alias(Box<Record>, Name),
}

impl Zone {
    /// The authority's record, with which answers that there is nothing are kept for a while.
    pub(crate) fn soa(&self) -> Record {
        let origin = &self.domain.origin;
        let mailbox = below(&["hostmaster"], origin).unwrap_or_else(|| origin.clone());
        let soa = SOA::new(self.server_name(), mailbox, self.serial, 7200, 1800, 86400, NEGATIVE_TTL);
        Record::from_rdata(origin.clone(), NEGATIVE_TTL, RData::SOA(soa))
    }

    /// Whether a name is the zone's or below it.
    pub(crate) fn holds(&self, name: &Name) -> bool {
        self.domain.origin.zone_of(name)
    }

    fn server_name(&self) -> Name {
        below(&["ns", "dns"], &self.domain.origin).unwrap_or_else(|| self.domain.origin.clone())
    }

    /// What there is under a name. Owners of records are written as in the question.
    pub(crate) fn look_up(&self, name: &Name, wanted: RecordType) -> Lookup {
        if !self.holds(name) {
            return self.reverse(name, wanted);
        }
        let ours = usize::from(name.num_labels().saturating_sub(self.domain.origin.num_labels()));
        let labels: Option<Vec<String>> = name
            .iter()
            .take(ours)
            .map(|label| Some(std::str::from_utf8(label).ok()?.to_ascii_lowercase()))
            .collect();
        let Some(labels) = labels else { return Lookup::NoName };
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let ask = Question { name, wanted };
        match labels.as_slice() {
            [] => self.apex(&ask),
            ["dns-version"] => ask.one(RData::TXT(TXT::new(vec![VERSION.to_owned()])), STABLE_TTL),
            ["dns" | "svc" | "pod"] => Lookup::NoData,
            ["ns", "dns"] => ask.addresses([self.domain.server], STABLE_TTL),
            [namespace, "svc" | "pod"] if self.namespaces.contains(*namespace) => Lookup::NoData,
            [address, namespace, "pod"] if self.namespaces.contains(*namespace) => match undashed(address) {
                Some(address) => ask.addresses([address], STABLE_TTL),
                None => Lookup::NoName,
            },
            [service, namespace, "svc"] => match self.find(namespace, service) {
                Some(found) => self.service(&ask, &found),
                None => Lookup::NoName,
            },
            [label, service, namespace, "svc"] => match self.find(namespace, service) {
                Some(found) => self.below_service(&ask, &found, label),
                None => Lookup::NoName,
            },
            [port, protocol, service, namespace, "svc"] => match self.find(namespace, service) {
                Some(found) => self.service_port(&ask, &found, port, protocol),
                None => Lookup::NoName,
            },
            _ => Lookup::NoName,
        }
    }

    fn apex(&self, ask: &Question<'_>) -> Lookup {
        match ask.wanted {
            RecordType::SOA => Lookup::Found { answers: vec![self.soa()], additionals: Vec::new() },
            RecordType::NS => {
                let server = self.server_name();
                let glue = address_record(&server, self.domain.server, STABLE_TTL);
                let answers = vec![ask.record(RData::NS(NS(server)), STABLE_TTL)];
                Lookup::Found { answers, additionals: vec![glue] }
            }
            _ => Lookup::NoData,
        }
    }

    fn find(&self, namespace: &str, name: &str) -> Option<Found<'_>> {
        let key = ObjectKey::new(namespace, name);
        let service = self.services.get(&key)?;
        Some(Found { slices: self.slices_of(&key), service, key })
    }

    fn slices_of(&self, service: &ObjectKey) -> Vec<&Slice> {
        self.slices.get(service).into_iter().flat_map(|slices| slices.values()).map(AsRef::as_ref).collect()
    }

    fn service(&self, ask: &Question<'_>, found: &Found<'_>) -> Lookup {
        if let Some(alias) = &found.service.alias {
            let record = ask.record(RData::CNAME(CNAME(alias.clone())), STABLE_TTL);
            return Lookup::Alias(Box::new(record), alias.clone());
        }
        if !found.service.is_headless() {
            return ask.addresses(found.service.addresses.iter().copied(), STABLE_TTL);
        }
        let addresses: Vec<IpAddr> = found.endpoints().map(|endpoint| endpoint.address).collect();
        if addresses.is_empty() { Lookup::NoName } else { ask.addresses(addresses, ENDPOINT_TTL) }
    }

    /// An endpoint by its name, or the protocol of ports.
    fn below_service(&self, ask: &Question<'_>, found: &Found<'_>, label: &str) -> Lookup {
        if found.service.alias.is_some() {
            return Lookup::NoName;
        }
        if let Some(protocol) = Protocol::in_names(label) {
            let any = found.service.ports.iter().any(|port| port.protocol == protocol);
            return if any { Lookup::NoData } else { Lookup::NoName };
        }
        let of_name = found.endpoints().filter(|endpoint| endpoint.label() == label);
        let addresses: Vec<IpAddr> = of_name.map(|endpoint| endpoint.address).collect();
        if addresses.is_empty() { Lookup::NoName } else { ask.addresses(addresses, ENDPOINT_TTL) }
    }

    fn service_port(&self, ask: &Question<'_>, found: &Found<'_>, port: &str, protocol: &str) -> Lookup {
        let wanted = port.strip_prefix('_').zip(Protocol::in_names(protocol));
        let Some((port, protocol)) = wanted else { return Lookup::NoName };
        let targets = if found.service.is_headless() {
            self.endpoint_targets(found, port, protocol)
        } else {
            self.service_targets(found, port, protocol)
        };
        if targets.is_empty() {
            return Lookup::NoName;
        }
        if !matches!(ask.wanted, RecordType::SRV | RecordType::ANY) {
            return Lookup::NoData;
        }
        let ttl = if found.service.is_headless() { ENDPOINT_TTL } else { STABLE_TTL };
        let weight = u16::try_from(100 / targets.len()).unwrap_or(1).max(1);
        let (mut answers, mut additionals) = (Vec::new(), Vec::new());
        for ((target, number), addresses) in targets {
            additionals.extend(addresses.into_iter().map(|address| address_record(&target, address, ttl)));
            answers.push(ask.record(RData::SRV(SRV::new(0, weight, number, target)), ttl));
        }
        Lookup::Found { answers, additionals }
    }

    fn service_targets(&self, found: &Found<'_>, port: &str, protocol: Protocol) -> Targets {
        let ports = found.service.ports.iter();
        let numbers = ports.filter(|one| &*one.name == port && one.protocol == protocol);
        let addresses = || found.service.addresses.iter().copied().collect();
        numbers.filter_map(|one| Some(((self.name_of(&found.key)?, one.number), addresses()))).collect()
    }

    /// Endpoints with one hostname are one target.
    fn endpoint_targets(&self, found: &Found<'_>, port: &str, protocol: Protocol) -> Targets {
        let mut targets = Targets::new();
        for slice in &found.slices {
            let ports = slice.ports.iter();
            for port in ports.filter(|one| &*one.name == port && one.protocol == protocol) {
                for endpoint in &slice.endpoints {
                    if let Some(name) = self.endpoint_name(&found.key, endpoint) {
                        targets.entry((name, port.number)).or_default().insert(endpoint.address);
                    }
                }
            }
        }
        targets
    }

    fn name_of(&self, service: &ObjectKey) -> Option<Name> {
        below(&[service.name(), service.namespace(), "svc"], &self.domain.origin)
    }

    fn endpoint_name(&self, service: &ObjectKey, endpoint: &Endpoint) -> Option<Name> {
        below(&[&endpoint.label(), service.name(), service.namespace(), "svc"], &self.domain.origin)
    }

    /// The names of an address.
    fn reverse(&self, name: &Name, wanted: RecordType) -> Lookup {
        let Ok(net) = name.parse_arpa_name() else { return Lookup::Elsewhere };
        if net.prefix_len() != net.max_prefix_len() {
            return Lookup::Elsewhere;
        }
        let address = net.addr();
        let names = self.names_of(address);
        if names.is_empty() {
            let ours = self.domain.ranges.iter().any(|range| range.contains(&address));
            return if ours { Lookup::NoName } else { Lookup::Elsewhere };
        }
        if !matches!(wanted, RecordType::PTR | RecordType::ANY) {
            return Lookup::NoData;
        }
        let ask = Question { name, wanted };
        let answers = names.into_iter().map(|name| ask.record(RData::PTR(PTR(name)), ENDPOINT_TTL));
        Lookup::Found { answers: answers.collect(), additionals: Vec::new() }
    }

    fn names_of(&self, address: IpAddr) -> Vec<Name> {
        let mut names = Vec::new();
        for key in self.by_address.get(&address).into_iter().flatten() {
            let Some(service) = self.services.get(key) else { continue };
            if service.addresses.contains(&address) {
                names.extend(self.name_of(key));
            } else if service.is_headless() {
                let slices = self.slices_of(key);
                let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
                let of_address = endpoints.filter(|endpoint| endpoint.address == address);
                names.extend(of_address.filter_map(|endpoint| self.endpoint_name(key, endpoint)));
            }
        }
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// Names with ports, and the addresses of the names.
type Targets = BTreeMap<(Name, u16), BTreeSet<IpAddr>>;

struct Found<'a> {
    key: ObjectKey,
    service: &'a Service,
    slices: Vec<&'a Slice>,
}

impl<'a> Found<'a> {
    fn endpoints(&self) -> impl Iterator<Item = &'a Endpoint> {
        self.slices.iter().flat_map(|slice| &slice.endpoints)
    }
}

struct Question<'a> {
    name: &'a Name,
    wanted: RecordType,
}

impl Question<'_> {
    fn record(&self, data: RData, ttl: u32) -> Record {
        Record::from_rdata(self.name.clone(), ttl, data)
    }

    fn one(&self, data: RData, ttl: u32) -> Lookup {
        if self.wanted == data.record_type() || self.wanted == RecordType::ANY {
            Lookup::Found { answers: vec![self.record(data, ttl)], additionals: Vec::new() }
        } else {
            Lookup::NoData
        }
    }

    /// Those of the wanted family.
    fn addresses(&self, addresses: impl IntoIterator<Item = IpAddr>, ttl: u32) -> Lookup {
        let addresses: BTreeSet<IpAddr> = addresses.into_iter().collect();
        let records = addresses.into_iter().map(|address| address_record(self.name, address, ttl));
        let is_wanted =
            |record: &Record| self.wanted == record.record_type() || self.wanted == RecordType::ANY;
        let answers: Vec<Record> = records.filter(is_wanted).collect();
        if answers.is_empty() { Lookup::NoData } else { Lookup::Found { answers, additionals: Vec::new() } }
    }
}

fn address_record(name: &Name, address: IpAddr, ttl: u32) -> Record {
    let data = match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    };
    Record::from_rdata(name.clone(), ttl, data)
}

/// None if it were too long.
fn below(labels: &[&str], origin: &Name) -> Option<Name> {
    Name::from_labels(labels.iter().map(|label| label.as_bytes())).ok()?.append_domain(origin).ok()
}

/// The address in the first label of a pod's name.
fn undashed(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    v4.or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6)).ok()
}
