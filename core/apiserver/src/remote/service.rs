//! From a Service to one of its endpoints that is ready.

use std::sync::Arc;

use keelson_api::{GroupResource, Object};
use serde_json::Value;

use crate::cache::WatchCache;

const SERVICE_OF_SLICE: &str = "kubernetes.io/service-name";

/// Finds the servers behind Services of this cluster.
pub struct ServiceResolver {
    cache: Arc<WatchCache>,
}

/// Where a server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// An address, or a DNS name.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Why a Service leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// There is no such Service.
    #[error("service {name:?} not found")]
    NotFound {
        /// Its name.
        name: String,
    },
    /// The Service has another port.
    #[error("no service port {port} found for service {name:?}")]
    NoPort {
        /// The Service.
        name: String,
        /// The port.
        port: u16,
    },
    /// Nothing behind it is ready.
    #[error("no endpoints available for service {name:?}")]
    NoEndpoints {
        /// The Service.
        name: String,
    },
    /// What is stored cannot be read.
    #[error("service {name:?} cannot be read")]
    Unreadable {
        /// The Service.
        name: String,
    },
}

impl ServiceResolver {
    /// Resolves by what the store holds.
    pub fn new(cache: Arc<WatchCache>) -> Self {
        ServiceResolver { cache }
    }

    /// A ready endpoint of a Service's port, any of them; the external name of a Service that has one.
    pub fn resolve(&self, namespace: &str, name: &str, port: u16) -> Result<Endpoint, ServiceError> {
        let found =
            self.cache.resource(&GroupResource::new("", "services")).get(&format!("{namespace}/{name}"));
        let found = found.ok_or_else(|| ServiceError::NotFound { name: name.to_owned() })?;
        let unreadable = || ServiceError::Unreadable { name: name.to_owned() };
        let service = Object::from_slice(&found.bytes).map_err(|_| unreadable())?;
        if service.get_str(&["spec", "type"]) == Some("ExternalName") {
            let host = service.get_str(&["spec", "externalName"]).unwrap_or_default().to_owned();
            return Ok(Endpoint { host, port });
        }
        let ports = service.get(&["spec", "ports"]).and_then(Value::as_array);
        let own = ports.into_iter().flatten().find(|own| own["port"] == port);
        let own = own.ok_or_else(|| ServiceError::NoPort { name: name.to_owned(), port })?;
        let ready = self.ready(namespace, name, own["name"].as_str().unwrap_or_default());
        match ready.len() {
            0 => Err(ServiceError::NoEndpoints { name: name.to_owned() }),
            count => ready.into_iter().nth(rand::random_range(0..count)).ok_or_else(unreadable),
        }
    }

    /// The ready endpoints of a port; a slice has the port by its name and knows the number that pods listen on.
    fn ready(&self, namespace: &str, service: &str, port: &str) -> Vec<Endpoint> {
        let slices = self.cache.resource(&GroupResource::new("discovery.k8s.io", "endpointslices")).list();
        let prefix = format!("{namespace}/");
        let in_namespace = slices
            .objects
            .range::<_, str>((std::ops::Bound::Included(prefix.as_str()), std::ops::Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix.as_str()));
        let mut found = Vec::new();
        for (_, slice) in in_namespace {
            let owner = slice.labels.as_ref().and_then(|labels| labels.get(SERVICE_OF_SLICE));
            if owner != Some(service) {
                continue;
            }
            let Ok(slice) = Object::from_slice(&slice.bytes) else { continue };
            found.extend(endpoints(&slice, port));
        }
        found
    }
}

fn endpoints(slice: &Object, port: &str) -> Vec<Endpoint> {
    let list =
        |field: &str| slice.get(&[field]).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let named = list("ports").iter().find(|own| own["name"].as_str().unwrap_or_default() == port);
    let number = named.and_then(|own| u16::try_from(own["port"].as_u64()?).ok());
    let Some(number) = number else { return Vec::new() };
    let is_ready = |endpoint: &&Value| endpoint.pointer("/conditions/ready") != Some(&Value::Bool(false));
    // Of an endpoint's addresses only the first has a meaning.
    let address = |endpoint: &Value| endpoint.pointer("/addresses/0")?.as_str().map(str::to_owned);
    let ready = list("endpoints").iter().filter(is_ready).filter_map(address);
    ready.map(|host| Endpoint { host, port: number }).collect()
}
