//! The Service by which pods reach the server, and its EndpointSlice: [`service`] and [`slice`] decide (pure), the rest
//! acts (client).

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use keelson_operator_kit::{Fault, Next};
use kube::api::{DeleteParams, ObjectMeta, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};

use crate::zone::read::SERVICE_NAME;

/// Where both are, and what they are called; programs look for it there.
pub(crate) const NAMESPACE: &str = "kube-system";
pub(crate) const NAME: &str = "kube-dns";

/// Names of ports, and their protocols.
const PORTS: [(&str, &str); 2] = [("dns", "UDP"), ("dns-tcp", "TCP")];
const PORT: i32 = 53;

/// The label of a slice by which others leave it alone.
const MANAGED_BY: (&str, &str) = ("endpointslice.kubernetes.io/managed-by", "dns.keelson.io");

/// Why the server could not be made known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("read the Service of the name server")]
    ReadService(#[source] kube::Error),
    #[error("make the Service of the name server")]
    MakeService(#[source] kube::Error),
    #[error("change the Service of the name server")]
    ChangeService(#[source] kube::Error),
    #[error("delete the Service of the name server, which has another address")]
    DeleteService(#[source] kube::Error),
    #[error("read the EndpointSlice of the name server")]
    ReadSlice(#[source] kube::Error),
    #[error("make the EndpointSlice of the name server")]
    MakeSlice(#[source] kube::Error),
    #[error("change the EndpointSlice of the name server")]
    ChangeSlice(#[source] kube::Error),
    #[error("delete the EndpointSlice of the name server, which is of another family")]
    DeleteSlice(#[source] kube::Error),
}

impl Fault for Error {}

/// What becomes of an object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Plan<K> {
    Keep,
    Make(K),
    /// It is this, with what others have written into it.
    Change(K),
    /// A field that cannot be changed is wrong.
    Remake(K),
}

/// What becomes of the Service. `target` is where the server listens.
pub(crate) fn service(there: Option<&Service>, address: IpAddr, target: SocketAddr) -> Plan<Service> {
    let ports = PORTS.map(|(name, protocol)| ServicePort {
        name: Some(name.to_owned()),
        protocol: Some(protocol.to_owned()),
        port: PORT,
        target_port: Some(IntOrString::Int(i32::from(target.port()))),
        ..ServicePort::default()
    });
    let labels = [("k8s-app", NAME), ("kubernetes.io/cluster-service", "true")];
    let wanted = || Service {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            cluster_ip: Some(address.to_string()),
            ports: Some(ports.to_vec()),
            type_: Some("ClusterIP".to_owned()),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    };
    let Some(there) = there else { return Plan::Make(wanted()) };
    let spec = there.spec.clone().unwrap_or_default();
    if spec.cluster_ip.as_deref().and_then(|text| text.parse().ok()) != Some(address) {
        return Plan::Remake(wanted());
    }
    let mut changed = there.clone();
    let has = |(key, value): &(&str, &str)| there.labels().get(*key).is_some_and(|there| there == value);
    if !labels.iter().all(has) {
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        changed.metadata.labels.get_or_insert_default().extend(labels);
    }
    let selects = spec.selector.as_ref().is_some_and(|selector| !selector.is_empty());
    let same_type = spec.type_.as_deref() == Some("ClusterIP");
    if selects || !same_type || spec.ports.as_deref() != Some(ports.as_slice()) {
        let (type_, ports) = (Some("ClusterIP".to_owned()), Some(ports.to_vec()));
        changed.spec = Some(ServiceSpec { selector: None, type_, ports, ..spec });
    }
    if changed == *there { Plan::Keep } else { Plan::Change(changed) }
}

/// What becomes of the slice of this Service.
pub(crate) fn slice(
    there: Option<&EndpointSlice>,
    service: &Service,
    target: SocketAddr,
) -> Plan<EndpointSlice> {
    let labels = [(SERVICE_NAME, NAME), MANAGED_BY].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let port = |(name, protocol): (&str, &str)| EndpointPort {
        name: Some(name.to_owned()),
        protocol: Some(protocol.to_owned()),
        port: Some(i32::from(target.port())),
        ..EndpointPort::default()
    };
    let conditions = EndpointConditions { ready: Some(true), serving: Some(true), terminating: Some(false) };
    let owner = service.uid().map(|uid| OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Service".to_owned(),
        name: NAME.to_owned(),
        uid,
        ..OwnerReference::default()
    });
    let wanted = EndpointSlice {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            labels: Some(labels.into()),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        address_type: if target.is_ipv4() { "IPv4" } else { "IPv6" }.to_owned(),
        endpoints: Some(vec![Endpoint {
            addresses: vec![target.ip().to_string()],
            conditions: Some(conditions),
            ..Endpoint::default()
        }]),
        ports: Some(PORTS.map(port).to_vec()),
    };
    let Some(there) = there else { return Plan::Make(wanted) };
    if there.address_type != wanted.address_type {
        return Plan::Remake(wanted);
    }
    let mut changed = there.clone();
    changed.metadata.labels.get_or_insert_default().extend(wanted.metadata.labels.unwrap_or_default());
    changed.metadata.owner_references = wanted.metadata.owner_references;
    (changed.endpoints, changed.ports) = (wanted.endpoints, wanted.ports);
    if changed == *there { Plan::Keep } else { Plan::Change(changed) }
}

/// Brings both about.
pub(crate) async fn publish(client: &Client, address: IpAddr, target: SocketAddr) -> Result<Next, Error> {
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    let there = services.get_opt(NAME).await.map_err(Error::ReadService)?;
    let post = PostParams::default();
    let service = match (service(there.as_ref(), address, target), there) {
        (Plan::Keep, Some(there)) => there,
        (Plan::Change(wanted), _) => {
            services.replace(NAME, &post, &wanted).await.map_err(Error::ChangeService)?
        }
        (Plan::Remake(wanted), Some(there)) => {
            let this = DeleteParams::default().preconditions(exactly(&there.metadata));
            services.delete(NAME, &this).await.map_err(Error::DeleteService)?;
            services.create(&post, &wanted).await.map_err(Error::MakeService)?
        }
        (Plan::Make(wanted) | Plan::Remake(wanted), None) | (Plan::Make(wanted), Some(_)) => {
            services.create(&post, &wanted).await.map_err(Error::MakeService)?
        }
        (Plan::Keep, None) => return Ok(Next::OnChange),
    };
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), NAMESPACE);
    let there = slices.get_opt(NAME).await.map_err(Error::ReadSlice)?;
    match slice(there.as_ref(), &service, target) {
        Plan::Keep => {}
        Plan::Change(wanted) => drop(slices.replace(NAME, &post, &wanted).await.map_err(Error::ChangeSlice)?),
        Plan::Make(wanted) => drop(slices.create(&post, &wanted).await.map_err(Error::MakeSlice)?),
        Plan::Remake(wanted) => {
            let this = there.map(|there| DeleteParams::default().preconditions(exactly(&there.metadata)));
            slices.delete(NAME, &this.unwrap_or_default()).await.map_err(Error::DeleteSlice)?;
            slices.create(&post, &wanted).await.map_err(Error::MakeSlice)?;
        }
    }
    Ok(Next::OnChange)
}

/// The port that the slice tells, where pods may still ask.
pub(crate) async fn port_before(client: &Client) -> Result<Option<u16>, Error> {
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), NAMESPACE);
    let slice = slices.get_opt(NAME).await.map_err(Error::ReadSlice)?;
    let port = slice.and_then(|slice| slice.ports?.first()?.port);
    Ok(port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0))
}

fn exactly(metadata: &ObjectMeta) -> Preconditions {
    Preconditions { uid: metadata.uid.clone(), resource_version: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address() -> IpAddr {
        "10.96.0.10".parse().unwrap()
    }

    fn target() -> SocketAddr {
        "192.0.2.1:40053".parse().unwrap()
    }

    fn made() -> Service {
        let Plan::Make(mut made) = service(None, address(), target()) else { panic!("it is not there") };
        made.metadata.uid = Some("u".to_owned());
        made
    }

    #[test]
    fn a_service_that_is_right_is_kept_and_what_others_wrote_stays() {
        let mut there = made();
        there.metadata.annotations = Some([("theirs".to_owned(), "1".to_owned())].into());
        assert_eq!(service(Some(&there), address(), target()), Plan::Keep);
        let elsewhere = "192.0.2.1:40054".parse().unwrap();
        let Plan::Change(changed) = service(Some(&there), address(), elsewhere) else { panic!("a port") };
        assert_eq!(changed.metadata.annotations, there.metadata.annotations);
        let mut selects = there.clone();
        selects.spec.as_mut().unwrap().selector = Some([("a".to_owned(), "b".to_owned())].into());
        assert_eq!(service(Some(&selects), address(), target()), Plan::Change(there.clone()));
        let other = service(Some(&there), "10.96.0.11".parse().unwrap(), target());
        assert!(matches!(other, Plan::Remake(_)));
    }

    #[test]
    fn a_slice_leads_to_where_the_server_listens() {
        let service = made();
        let Plan::Make(there) = slice(None, &service, target()) else { panic!("it is not there") };
        assert_eq!(there.endpoints.as_ref().unwrap()[0].addresses, ["192.0.2.1"]);
        assert_eq!(there.metadata.owner_references.as_ref().unwrap()[0].uid, "u");
        assert_eq!(slice(Some(&there), &service, target()), Plan::Keep);
        let moved = slice(Some(&there), &service, "192.0.2.2:40053".parse().unwrap());
        assert!(matches!(moved, Plan::Change(_)));
        let other = slice(Some(&there), &service, "[fd00::1]:40053".parse().unwrap());
        assert!(matches!(other, Plan::Remake(_)));
    }
}
