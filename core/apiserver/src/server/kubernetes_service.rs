//! The Service `kubernetes`, and where it leads: this server, at an address that pods can reach. The address may differ
//! from one start to the next.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use keelson_api::{Object, Status};
use serde_json::{Value, json};

use super::Config;
use super::bootstrap::{ensure, options};
use crate::registry::delete::DeleteOptions;
use crate::registry::{Registry, Target};

const NAME: &str = "kubernetes";
const NAMESPACE: &str = "default";

/// The address that is told: the one that was given, or else [`reachable`].
pub(super) fn advertised(config: &Config, bound: SocketAddr) -> IpAddr {
    config.advertise.unwrap_or_else(|| reachable(bound))
}

/// At which address others reach one who listens here: the one that is listened on, or, when that is every address,
/// the one that packets leave from.
pub fn reachable(bound: SocketAddr) -> IpAddr {
    if !bound.ip().is_unspecified() {
        return bound.ip();
    }
    // Connecting a datagram socket sends nothing; it only asks for the route.
    let (own, far) =
        if bound.is_ipv4() { ("0.0.0.0:0", "192.0.2.1:9") } else { ("[::]:0", "[2001:db8::1]:9") };
    let routed = UdpSocket::bind(own).and_then(|socket| {
        socket.connect(far)?;
        socket.local_addr()
    });
    routed.map_or(bound.ip(), |address| address.ip())
}

fn service(config: &Config, port: u16) -> Value {
    let address = config.service_cidr.hosts().next().map(|address| address.to_string());
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {"component": "apiserver", "provider": NAME}},
        "spec": {"type": "ClusterIP", "clusterIP": address, "ports": [
            {"name": "https", "port": 443, "protocol": "TCP", "targetPort": port},
        ]},
    })
}

fn endpoint_slice(addresses: &[IpAddr], port: u16) -> Value {
    let endpoints: Vec<Value> = addresses
        .iter()
        .map(|address| json!({"addresses": [address.to_string()], "conditions": {"ready": true}}))
        .collect();
    let is_ipv4 = addresses.iter().all(IpAddr::is_ipv4);
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": NAME}},
        "addressType": if is_ipv4 { "IPv4" } else { "IPv6" },
        "endpoints": endpoints,
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    })
}

fn endpoints(addresses: &[IpAddr], port: u16) -> Value {
    let addresses: Vec<Value> = addresses.iter().map(|address| json!({"ip": address.to_string()})).collect();
    json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{
            "addresses": addresses,
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        }],
    })
}

/// The Service and what says where it leads.
pub(super) fn documents(config: &Config, bound: SocketAddr) -> [Value; 3] {
    let (address, port) = ([advertised(config, bound)], bound.port());
    [service(config, port), endpoint_slice(&address, port), endpoints(&address, port)]
}

/// Makes what is missing and corrects what is no longer so. One of several servers leaves the others' addresses, which
/// the one that leads takes care of.
pub(super) async fn keep(
    registry: &Registry,
    config: &Config,
    bound: SocketAddr,
    is_sole: bool,
) -> Result<(), Status> {
    let (address, port) = (advertised(config, bound), bound.port());
    correct(registry, service(config, port), &[&["spec", "ports"]]).await?;
    let mut all = vec![address];
    if !is_sole {
        all.extend(found(registry)?);
        all.sort_unstable();
        all.dedup();
    }
    let all: Vec<SocketAddr> = all.into_iter().map(|address| SocketAddr::new(address, port)).collect();
    lead_to(registry, &all).await
}

/// The addresses that clients are led to now.
fn found(registry: &Registry) -> Result<Vec<IpAddr>, Status> {
    let Some(found) = registry.find(&target(registry, &endpoint_slice(&[], 0))?) else {
        return Ok(Vec::new());
    };
    let slice = crate::cache::decode(&found.bytes)?;
    let endpoints = slice.get(&["endpoints"]).and_then(Value::as_array).into_iter().flatten();
    let addresses = endpoints.flat_map(|it| it["addresses"].as_array().cloned().unwrap_or_default());
    Ok(addresses.filter_map(|address| address.as_str()?.parse().ok()).collect())
}

/// Leads clients to these servers, which listen on the same port.
pub(crate) async fn lead_to(registry: &Registry, servers: &[SocketAddr]) -> Result<(), Status> {
    let Some(port) = servers.first().map(SocketAddr::port) else { return Ok(()) };
    // A slice has addresses of one kind.
    let is_ipv4 = servers[0].is_ipv4();
    let addresses: Vec<IpAddr> =
        servers.iter().map(SocketAddr::ip).filter(|address| address.is_ipv4() == is_ipv4).collect();
    let slice = endpoint_slice(&addresses, port);
    // The kind of address is fixed for the life of a slice.
    let target = target(registry, &slice)?;
    if let Some(found) = registry.find(&target) {
        let live = crate::cache::decode(&found.bytes)?;
        if live.get_str(&["addressType"]) != slice["addressType"].as_str() {
            registry.delete(&target, &DeleteOptions::default(), &options()).await?;
        }
    }
    correct(registry, slice, &[&["endpoints"], &["ports"]]).await?;
    correct(registry, endpoints(&addresses, port), &[&["subsets"]]).await
}

fn target(registry: &Registry, document: &Value) -> Result<Target, Status> {
    let object = Object::from_value(document.clone()).map_err(Status::internal)?;
    let resource =
        registry.catalog().find_kind(&object.gvk()).map(Arc::clone).ok_or_else(Status::path_not_found)?;
    let (namespace, name) = (Some(NAMESPACE.to_owned()), NAME.to_owned());
    Ok(Target { resource, namespace, name, subresource: String::new() })
}

/// Sets some fields of an object, which is made if it is missing.
async fn correct(registry: &Registry, document: Value, fields: &[&[&str]]) -> Result<(), Status> {
    let target = target(registry, &document)?;
    ensure(registry, document.clone()).await?;
    let wanted = Object::from_value(document).map_err(Status::internal)?;
    let change = |live: &Object| {
        let mut object = live.clone();
        for field in fields {
            if let Some(value) = wanted.get(field) {
                object.set(field, value.clone());
            }
        }
        Ok(object)
    };
    registry.update(&target, &options(), change).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_given_address_is_told_before_the_one_that_is_listened_on() {
        let bind: SocketAddr = "10.0.0.1:6443".parse().unwrap();
        let mut config = Config::new("/nowhere".into(), bind);
        assert_eq!(advertised(&config, bind), bind.ip());
        config.advertise = Some("10.0.0.2".parse().unwrap());
        assert_eq!(advertised(&config, bind).to_string(), "10.0.0.2");
    }
}
