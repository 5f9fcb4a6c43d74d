//! Addresses and node ports of Services: given out, reserved when asked for, and never twice.
//!
//! - [`families`]: which families of addresses a Service gets (pure).
//! - [`addresses`]: an address is a Service's once an `IPAddress` of that name says so.
//! - [`node_ports`]: which Service holds which port, kept from the events of Services.
//! - [`port_claims`]: a port is a Service's once a note in the store says so.
//! - [`pending`]: what this server has given to Services that are still on the way to the store.
//! - [`ranges`]: from where addresses are given, and when such a range may go.
//! - [`repair`]: gives back what nobody holds, and notes what nobody has noted.

use std::sync::Arc;

use async_trait::async_trait;
use keelson_api::validation::FieldError;
use keelson_api::{Object, Status};
use parking_lot::Mutex;
use serde_json::{Value, json};

use self::families::Families;
use self::node_ports::{NodePorts, Reserved};
use self::pending::Pending;
use super::{Admission, Attributes};
use crate::registry::Registry;

mod addresses;
mod families;
mod node_ports;
mod pending;
mod port_claims;
mod ranges;
pub mod repair;

/// What allocation remembers between writes.
#[derive(Default)]
pub struct Allocations {
    ports: Mutex<NodePorts>,
    pending: Mutex<Pending>,
}

/// The plugin.
pub struct ServiceAllocation {
    allocations: Arc<Allocations>,
}

impl ServiceAllocation {
    /// A plugin that shares what it gives out with [`repair`].
    pub fn new(allocations: Arc<Allocations>) -> Self {
        ServiceAllocation { allocations }
    }

    /// The addresses of a Service, in the order of its families.
    async fn addresses(
        &self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        service: &mut Object,
        families: &Families,
    ) -> Result<(), Status> {
        let held: Vec<String> = attributes.old.map(cluster_ips).unwrap_or_default();
        let mut given: Vec<String> = cluster_ips(service);
        let grant = addresses::Grant { registry, attributes, pending: &self.allocations.pending };
        for (place, family) in families.list.iter().enumerate() {
            match given.get(place) {
                Some(text) if held.contains(text) => {}
                Some(text) => grant.reserve(text).await?,
                None => given.push(grant.next(*family).await?),
            }
        }
        if let Some(first) = given.first() {
            service.set(&["spec", "clusterIP"], first.as_str().into());
            service.set(&["spec", "clusterIPs"], json!(given));
        }
        Ok(())
    }

    async fn node_ports(
        &self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        service: &mut Object,
    ) -> Result<(), Status> {
        let text = |field: &str| service.get_str(&["spec", field]).unwrap_or_default().to_owned();
        let (kind, policy) = (text("type"), text("externalTrafficPolicy"));
        let allocates = service.get(&["spec", "allocateLoadBalancerNodePorts"]) != Some(&Value::Bool(false));
        let needed = kind == "NodePort" || (kind == "LoadBalancer" && allocates);
        let asks_health = kind == "LoadBalancer" && policy == "Local";
        if !matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
            return Ok(());
        }
        let key = format!("{}/{}", attributes.namespace.unwrap_or_default(), attributes.name);
        let turn = Turn { allocations: &self.allocations, registry, attributes, key: &key };
        let Some(list) = service.get(&["spec", "ports"]).and_then(Value::as_array) else { return Ok(()) };
        let mut list = list.clone();
        for (place, port) in list.iter().enumerate() {
            if let Some(number) = node_ports::number(&port["nodePort"])
                && let Err(detail) = turn.reserve(number).await?
            {
                let error = FieldError::invalid(format!("spec.ports[{place}].nodePort"), number, detail);
                return Err(Status::invalid(&attributes.resource.gvk(), attributes.name, &[error]));
            }
        }
        for port in list.iter_mut().filter(|_| needed) {
            if node_ports::number(&port["nodePort"]).is_none() {
                port["nodePort"] = turn.next().await?.into();
            }
        }
        let health = service.get(&["spec", "healthCheckNodePort"]).and_then(node_ports::number);
        match health {
            Some(number) if asks_health => {
                if let Err(detail) = turn.reserve(number).await? {
                    return Err(Status::internal(format!(
                        "failed to allocate requested HealthCheck NodePort {number}: {detail}"
                    )));
                }
            }
            None if asks_health => {
                let number = turn.next().await?;
                service.set(&["spec", "healthCheckNodePort"], number.into());
            }
            Some(_) | None => {}
        }
        service.set(&["spec", "ports"], list.into());
        Ok(())
    }
}

/// Gives node ports to one Service: what this server knows to be free is claimed in the store.
struct Turn<'a> {
    allocations: &'a Allocations,
    registry: &'a Registry,
    attributes: &'a Attributes<'a>,
    key: &'a str,
}

impl Turn<'_> {
    fn know<T>(&self, ask: impl FnOnce(&mut node_ports::Grant<'_>) -> T) -> Result<T, Status> {
        let mut ports = self.allocations.ports.lock();
        let mut pending = self.allocations.pending.lock();
        ports.follow(self.registry, &mut pending)?;
        Ok(ask(&mut node_ports::Grant { ports: &ports, pending: &mut pending, key: self.key }))
    }

    async fn claim(&self, port: u16) -> Result<bool, Status> {
        Ok(self.attributes.dry_run || port_claims::claim(self.registry, port, self.key).await?)
    }

    /// Gives the port that is asked for, or says why not.
    async fn reserve(&self, port: u16) -> Result<Result<(), &'static str>, Status> {
        match self.know(|grant| grant.reserve(port))? {
            Err(detail) => Ok(Err(detail)),
            // The write is made of the Service that has it, or not at all.
            Ok(Reserved::Before) if self.attributes.old.is_some() => Ok(Ok(())),
            Ok(Reserved::Before | Reserved::Now) => {
                Ok(if self.claim(port).await? { Ok(()) } else { Err(node_ports::TAKEN) })
            }
        }
    }

    /// Gives a port that nobody has.
    async fn next(&self) -> Result<u16, Status> {
        loop {
            // One that is another's all the same is passed over from then on.
            let port = self.know(|grant| grant.next())?.ok_or_else(full)?;
            if self.claim(port).await? {
                return Ok(port);
            }
        }
    }
}

fn full() -> Status {
    Status::internal("failed to allocate a nodePort: range is full")
}

/// The addresses that a Service has or asks for; none where it has none of its own.
fn cluster_ips(service: &Object) -> Vec<String> {
    let list = service.get(&["spec", "clusterIPs"]).and_then(Value::as_array);
    let mut texts: Vec<String> =
        list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    if texts.is_empty() {
        texts.extend(service.get_str(&["spec", "clusterIP"]).map(str::to_owned));
    }
    texts.retain(|text| !text.is_empty() && text != "None");
    texts
}

#[async_trait]
impl Admission for ServiceAllocation {
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.is("", "services") && attributes.is_write()
    }

    async fn mutate(
        &self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        object: &mut Object,
    ) -> Result<(), Status> {
        if object.get_str(&["spec", "type"]) == Some("ExternalName") {
            return Ok(());
        }
        let configured = addresses::configured(registry)?;
        let families = families::settle(object, attributes.old, &configured)
            .map_err(|errors| Status::invalid(&attributes.resource.gvk(), attributes.name, &errors))?;
        if families.is_headless {
            object.set(&["spec", "clusterIPs"], json!(["None"]));
        } else {
            self.addresses(registry, attributes, object, &families).await?;
        }
        self.node_ports(registry, attributes, object).await
    }
}
