//! How others reach an operator that serves something: a Service without a selector and its EndpointSlice, which leads to an
//! address of the operator's process. [`service`] and [`slice`] decide (pure), [`publish`] acts (client).

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{DeleteParams, ObjectMeta, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};

use crate::controller::Fault;

/// The label of a slice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label of a slice by which others leave it alone.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

/// Why the operator could not be made known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its Service, which exists, is not told.
    #[error("read the operator's Service")]
    ReadService(#[source] kube::Error),
    /// Its Service is refused.
    #[error("make the operator's Service")]
    MakeService(#[source] kube::Error),
    /// A change of its Service is refused.
    #[error("change the operator's Service")]
    ChangeService(#[source] kube::Error),
    /// Its Service, which has another address, cannot go.
    #[error("delete the operator's Service, which has another address")]
    DeleteService(#[source] kube::Error),
    /// Its slice, which exists, is not told.
    #[error("read the operator's EndpointSlice")]
    ReadSlice(#[source] kube::Error),
    /// Its slice is refused.
    #[error("make the operator's EndpointSlice")]
    MakeSlice(#[source] kube::Error),
    /// A change of its slice is refused.
    #[error("change the operator's EndpointSlice")]
    ChangeSlice(#[source] kube::Error),
    /// Its slice, which is of another family, cannot go.
    #[error("delete the operator's EndpointSlice, which is of another family")]
    DeleteSlice(#[source] kube::Error),
}

impl Fault for Error {}

/// A port of the Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its name, also in the slice.
    pub name: &'static str,
    /// `TCP` or `UDP`.
    pub protocol: &'static str,
    /// At the Service's address.
    pub port: i32,
}

/// What is to be made known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Where Service and slice are.
    pub namespace: String,
    /// What both are called.
    pub name: String,
    /// Labels of the Service.
    pub labels: Vec<(&'static str, &'static str)>,
    /// Who keeps the slice.
    pub manager: &'static str,
    /// The Service's address, if it has to be a certain one.
    pub address: Option<IpAddr>,
    /// All lead to the same port of the target.
    pub ports: Vec<Port>,
}

/// What becomes of an object.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan<K> {
    /// It is right.
    Keep,
    /// It is not there.
    Make(K),
    /// It is this, with what others have written into it.
    Change(K),
    /// A field that cannot be changed is wrong.
    Remake(K),
}

/// What becomes of the Service. `target` is where the operator listens.
pub fn service(of: &Publication, there: Option<&Service>, target: SocketAddr) -> Plan<Service> {
    let port = |port: &Port| ServicePort {
        name: Some(port.name.to_owned()),
        protocol: Some(port.protocol.to_owned()),
        port: port.port,
        target_port: Some(IntOrString::Int(i32::from(target.port()))),
        ..ServicePort::default()
    };
    let ports: Vec<ServicePort> = of.ports.iter().map(port).collect();
    let labels = || of.labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let wanted = || Service {
        metadata: ObjectMeta {
            name: Some(of.name.clone()),
            namespace: Some(of.namespace.clone()),
            labels: Some(labels().collect()),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            cluster_ip: of.address.map(|address| address.to_string()),
            ports: Some(ports.clone()),
            type_: Some("ClusterIP".to_owned()),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    };
    let Some(there) = there else { return Plan::Make(wanted()) };
    let spec = there.spec.clone().unwrap_or_default();
    let has = spec.cluster_ip.as_deref().and_then(|text| text.parse::<IpAddr>().ok());
    if of.address.map_or(has.is_none(), |address| has != Some(address)) {
        return Plan::Remake(wanted());
    }
    let mut changed = there.clone();
    changed.metadata.labels.get_or_insert_default().extend(labels());
    let selects = spec.selector.as_ref().is_some_and(|selector| !selector.is_empty());
    let same_type = spec.type_.as_deref() == Some("ClusterIP");
    if selects || !same_type || spec.ports.as_ref() != Some(&ports) {
        let (type_, ports) = (Some("ClusterIP".to_owned()), Some(ports));
        changed.spec = Some(ServiceSpec { selector: None, type_, ports, ..spec });
    }
    if changed == *there { Plan::Keep } else { Plan::Change(changed) }
}

/// What becomes of the slice of this Service.
pub fn slice(
    of: &Publication,
    there: Option<&EndpointSlice>,
    service: &Service,
    target: SocketAddr,
) -> Plan<EndpointSlice> {
    let labels = [(SERVICE_NAME, of.name.as_str()), (MANAGED_BY, of.manager)];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let port = |port: &Port| EndpointPort {
        name: Some(port.name.to_owned()),
        protocol: Some(port.protocol.to_owned()),
        port: Some(i32::from(target.port())),
        ..EndpointPort::default()
    };
    let conditions = EndpointConditions { ready: Some(true), serving: Some(true), terminating: Some(false) };
    let owner = service.uid().map(|uid| OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Service".to_owned(),
        name: of.name.clone(),
        uid,
        ..OwnerReference::default()
    });
    let wanted = EndpointSlice {
        metadata: ObjectMeta {
            name: Some(of.name.clone()),
            namespace: Some(of.namespace.clone()),
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
        ports: Some(of.ports.iter().map(port).collect()),
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
pub async fn publish(client: &Client, of: &Publication, target: SocketAddr) -> Result<(), Error> {
    let name = &of.name;
    let services: Api<Service> = Api::namespaced(client.clone(), &of.namespace);
    let there = services.get_opt(name).await.map_err(Error::ReadService)?;
    let post = PostParams::default();
    let service = match (service(of, there.as_ref(), target), there) {
        (Plan::Keep, Some(there)) => there,
        (Plan::Change(wanted), _) => {
            services.replace(name, &post, &wanted).await.map_err(Error::ChangeService)?
        }
        (Plan::Remake(wanted), Some(there)) => {
            let this = DeleteParams::default().preconditions(exactly(&there.metadata));
            services.delete(name, &this).await.map_err(Error::DeleteService)?;
            services.create(&post, &wanted).await.map_err(Error::MakeService)?
        }
        (Plan::Make(wanted) | Plan::Remake(wanted), None) | (Plan::Make(wanted), Some(_)) => {
            services.create(&post, &wanted).await.map_err(Error::MakeService)?
        }
        (Plan::Keep, None) => return Ok(()),
    };
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), &of.namespace);
    let there = slices.get_opt(name).await.map_err(Error::ReadSlice)?;
    match slice(of, there.as_ref(), &service, target) {
        Plan::Keep => {}
        Plan::Change(wanted) => drop(slices.replace(name, &post, &wanted).await.map_err(Error::ChangeSlice)?),
        Plan::Make(wanted) => drop(slices.create(&post, &wanted).await.map_err(Error::MakeSlice)?),
        Plan::Remake(wanted) => {
            let this = there.map(|there| DeleteParams::default().preconditions(exactly(&there.metadata)));
            slices.delete(name, &this.unwrap_or_default()).await.map_err(Error::DeleteSlice)?;
            slices.create(&post, &wanted).await.map_err(Error::MakeSlice)?;
        }
    }
    Ok(())
}

/// The port that the slice tells, where others may still ask.
pub async fn port_before(client: &Client, namespace: &str, name: &str) -> Result<Option<u16>, Error> {
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    let slice = slices.get_opt(name).await.map_err(Error::ReadSlice)?;
    let port = slice.and_then(|slice| slice.ports?.first()?.port);
    Ok(port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0))
}

fn exactly(metadata: &ObjectMeta) -> Preconditions {
    Preconditions { uid: metadata.uid.clone(), resource_version: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(address: &str) -> Publication {
        Publication {
            namespace: "kube-system".to_owned(),
            name: "kube-dns".to_owned(),
            labels: vec![("k8s-app", "kube-dns")],
            manager: "dns.keelson.io",
            address: address.parse().ok(),
            ports: vec![Port { name: "dns", protocol: "UDP", port: 53 }],
        }
    }

    fn target() -> SocketAddr {
        "192.0.2.1:40053".parse().unwrap()
    }

    fn made() -> Service {
        let Plan::Make(mut made) = service(&of("10.96.0.10"), None, target()) else {
            panic!("it is not there")
        };
        made.metadata.uid = Some("u".to_owned());
        made
    }

    #[test]
    fn a_service_that_is_right_is_kept_and_what_others_wrote_stays() {
        let of_dns = of("10.96.0.10");
        let mut there = made();
        there.metadata.annotations = Some([("theirs".to_owned(), "1".to_owned())].into());
        assert_eq!(service(&of_dns, Some(&there), target()), Plan::Keep);
        let elsewhere = "192.0.2.1:40054".parse().unwrap();
        let Plan::Change(changed) = service(&of_dns, Some(&there), elsewhere) else { panic!("a port") };
        assert_eq!(changed.metadata.annotations, there.metadata.annotations);
        let mut selects = there.clone();
        selects.spec.as_mut().unwrap().selector = Some([("a".to_owned(), "b".to_owned())].into());
        assert_eq!(service(&of_dns, Some(&selects), target()), Plan::Change(there.clone()));
        let other = service(&of("10.96.0.11"), Some(&there), target());
        assert!(matches!(other, Plan::Remake(_)));
        assert_eq!(service(&of("any"), Some(&there), target()), Plan::Keep);
    }

    #[test]
    fn a_slice_leads_to_where_the_operator_listens() {
        let (of, service) = (of("10.96.0.10"), made());
        let Plan::Make(there) = slice(&of, None, &service, target()) else { panic!("it is not there") };
        assert_eq!(there.endpoints.as_ref().unwrap()[0].addresses, ["192.0.2.1"]);
        assert_eq!(there.metadata.owner_references.as_ref().unwrap()[0].uid, "u");
        assert_eq!(slice(&of, Some(&there), &service, target()), Plan::Keep);
        let moved = slice(&of, Some(&there), &service, "192.0.2.2:40053".parse().unwrap());
        assert!(matches!(moved, Plan::Change(_)));
        let other = slice(&of, Some(&there), &service, "[fd00::1]:40053".parse().unwrap());
        assert!(matches!(other, Plan::Remake(_)));
    }
}
