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

/// The address that is told: the one that was given, the one that is listened on, or, when that is every address, the
/// one that packets leave from.
pub(super) fn advertised(config: &Config, bound: SocketAddr) -> IpAddr {
    if let Some(address) = config.advertise {
        return address;
    }
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

fn endpoint_slice(address: IpAddr, port: u16) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": NAME}},
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [address.to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    })
}

fn endpoints(address: IpAddr, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{
            "addresses": [{"ip": address.to_string()}],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        }],
    })
}

/// Makes what is missing and corrects what is no longer so.
pub(super) async fn keep(registry: &Registry, config: &Config, bound: SocketAddr) -> Result<(), Status> {
    let (address, port) = (advertised(config, bound), bound.port());
    correct(registry, service(config, port), &[&["spec", "ports"]]).await?;
    let slice = endpoint_slice(address, port);
    // The kind of address is fixed for the life of a slice.
    let target = target(registry, &slice)?;
    if let Some(found) = registry.find(&target) {
        let live = crate::cache::decode(&found.bytes)?;
        if live.get_str(&["addressType"]) != slice["addressType"].as_str() {
            registry.delete(&target, &DeleteOptions::default(), &options()).await?;
        }
    }
    correct(registry, slice, &[&["endpoints"], &["ports"]]).await?;
    correct(registry, endpoints(address, port), &[&["subsets"]]).await
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
