//! Addresses and node ports of Services: given out, reserved when asked for, and never twice.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use async_trait::async_trait;
use ipnet::Ipv4Net;
use keelson_api::validation::FieldError;
use keelson_api::{GroupResource, Object, Status};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{Admission, Attributes, Operation};
use crate::cache;
use crate::registry::Registry;

/// Upstream's default range.
const NODE_PORTS: RangeInclusive<u16> = 30000..=32767;

/// What the Services that are stored hold.
#[derive(Default)]
struct Held {
    addresses: HashMap<Ipv4Addr, String>,
    ports: HashMap<(String, u16), String>,
}

/// What was given to a Service that may not be stored yet. An entry goes when a newer one fills the place; until
/// then it costs an address for a while, never a double use.
#[derive(Default)]
struct Reserved {
    addresses: HashSet<Ipv4Addr>,
    ports: HashSet<(String, u16)>,
    order: std::collections::VecDeque<Grant>,
}

enum Grant {
    Address(Ipv4Addr),
    Port(String, u16),
}

/// Grants that are remembered while their Services are on the way to the store; more than can be under way.
const REMEMBERED: usize = 512;

impl Reserved {
    fn remember(&mut self, grant: Grant) {
        match &grant {
            Grant::Address(address) => drop(self.addresses.insert(*address)),
            Grant::Port(protocol, port) => drop(self.ports.insert((protocol.clone(), *port))),
        }
        self.order.push_back(grant);
        if self.order.len() > REMEMBERED {
            match self.order.pop_front() {
                Some(Grant::Address(address)) => drop(self.addresses.remove(&address)),
                Some(Grant::Port(protocol, port)) => drop(self.ports.remove(&(protocol, port))),
                None => {}
            }
        }
    }
}

/// The plugin.
pub struct ServiceAllocation {
    range: Ipv4Net,
    reserved: Mutex<Reserved>,
}

impl ServiceAllocation {
    /// Gives out addresses of a range.
    pub fn new(range: Ipv4Net) -> Self {
        ServiceAllocation { range, reserved: Mutex::default() }
    }

    fn held(registry: &Registry, except: &str) -> Result<Held, Status> {
        let mut held = Held::default();
        for (key, service) in &registry.resource(&GroupResource::new("", "services")).list().objects {
            if &**key == except {
                continue;
            }
            let service = cache::decode(&service.bytes)?;
            if let Some(address) = service.get_str(&["spec", "clusterIP"]).and_then(|text| text.parse().ok())
            {
                held.addresses.insert(address, key.to_string());
            }
            for port in service.get(&["spec", "ports"]).and_then(Value::as_array).into_iter().flatten() {
                if let Some(number) = node_port(port) {
                    held.ports.insert((protocol(port), number), key.to_string());
                }
            }
        }
        Ok(held)
    }

    fn address(
        &self,
        service: &Object,
        held: &Held,
        reserved: &mut Reserved,
        attributes: &Attributes<'_>,
    ) -> Result<Option<Ipv4Addr>, Status> {
        let refuse =
            |value: &str, detail: String| Err(invalid(attributes, "spec.clusterIPs", value.into(), detail));
        match service.get_str(&["spec", "clusterIP"]).filter(|text| !text.is_empty()) {
            Some("None") => Ok(None),
            Some(text) => {
                let Ok(address) = text.parse::<Ipv4Addr>() else {
                    return refuse(
                        text,
                        "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into(),
                    );
                };
                let kept = attributes.old.and_then(|old| old.get_str(&["spec", "clusterIP"])) == Some(text);
                if !kept && !self.range.contains(&address) {
                    return refuse(
                        text,
                        format!(
                            "failed to allocate IP {text}: the provided network does not match the current range: {}",
                            self.range
                        ),
                    );
                }
                if held.addresses.contains_key(&address) {
                    return refuse(
                        text,
                        format!("failed to allocate IP {text}: provided IP is already allocated"),
                    );
                }
                Ok(Some(address))
            }
            None => {
                let free = |address: &Ipv4Addr| {
                    !held.addresses.contains_key(address) && !reserved.addresses.contains(address)
                };
                // Low addresses are left to those who ask for one, as the cluster's own Services do.
                let low = (self.range.hosts().count() / 16).clamp(16, 256);
                let found = self.range.hosts().skip(low).find(free).or_else(|| self.range.hosts().find(free));
                let Some(address) = found else {
                    return Err(Status::internal("failed to allocate a serviceIP: range is full"));
                };
                reserved.remember(Grant::Address(address));
                Ok(Some(address))
            }
        }
    }

    fn ports(
        service: &mut Object,
        held: &Held,
        reserved: &mut Reserved,
        attributes: &Attributes<'_>,
    ) -> Result<(), Status> {
        let wanted = match service.get_str(&["spec", "type"]) {
            Some("NodePort") => true,
            Some("LoadBalancer") => {
                service.get(&["spec", "allocateLoadBalancerNodePorts"]) != Some(&Value::Bool(false))
            }
            Some(_) | None => false,
        };
        let mut ports =
            service.get(&["spec", "ports"]).and_then(Value::as_array).cloned().unwrap_or_default();
        for (place, port) in ports.iter_mut().enumerate() {
            let protocol = protocol(port);
            match node_port(port) {
                Some(number) if held.ports.contains_key(&(protocol.clone(), number)) => {
                    let field = format!("spec.ports[{place}].nodePort");
                    return Err(invalid(
                        attributes,
                        &field,
                        number.into(),
                        "provided port is already allocated".into(),
                    ));
                }
                Some(number) if wanted && !NODE_PORTS.contains(&number) => {
                    let field = format!("spec.ports[{place}].nodePort");
                    let detail =
                        "provided port is not in the valid range. The range of valid ports is 30000-32767";
                    return Err(invalid(attributes, &field, number.into(), detail.into()));
                }
                Some(_) => {}
                None if wanted => {
                    let free = |number: &u16| {
                        let key = (protocol.clone(), *number);
                        !held.ports.contains_key(&key) && !reserved.ports.contains(&key)
                    };
                    let Some(number) = NODE_PORTS.into_iter().find(free) else {
                        return Err(Status::internal("failed to allocate a nodePort: range is full"));
                    };
                    reserved.remember(Grant::Port(protocol, number));
                    port["nodePort"] = number.into();
                }
                None => {}
            }
        }
        if !ports.is_empty() {
            service.set(&["spec", "ports"], ports.into());
        }
        Ok(())
    }
}

fn protocol(port: &Value) -> String {
    port["protocol"].as_str().unwrap_or("TCP").to_owned()
}

fn node_port(port: &Value) -> Option<u16> {
    port["nodePort"].as_u64().and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0)
}

fn invalid(attributes: &Attributes<'_>, field: &str, value: Value, detail: String) -> Status {
    let error = FieldError::invalid(field, value, &detail);
    Status::invalid(&attributes.resource.gvk(), attributes.name, &[error])
}

#[async_trait]
impl Admission for ServiceAllocation {
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.is_write() && attributes.is("", "services")
    }

    async fn mutate(
        &self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        object: &mut Object,
    ) -> Result<(), Status> {
        let services = attributes.resource.group.is_empty() && attributes.resource.plural == "services";
        if !services || !attributes.subresource.is_empty() || attributes.operation == Operation::Delete {
            return Ok(());
        }
        if object.get_str(&["spec", "type"]) == Some("ExternalName") {
            return Ok(());
        }
        let key = format!("{}/{}", attributes.namespace.unwrap_or_default(), attributes.name);
        let mut reserved = self.reserved.lock();
        let held = Self::held(registry, &key)?;
        let address = self.address(object, &held, &mut reserved, attributes)?;
        let text = address.map_or_else(|| "None".to_owned(), |address| address.to_string());
        object.set(&["spec", "clusterIP"], text.as_str().into());
        object.set(&["spec", "clusterIPs"], json!([text]));
        object.set(&["spec", "ipFamilies"], json!(["IPv4"]));
        object.set(&["spec", "ipFamilyPolicy"], "SingleStack".into());
        Self::ports(object, &held, &mut reserved, attributes)
    }
}
