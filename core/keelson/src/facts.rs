//! What is true of the whole cluster and a machine that joins has to know: the ConfigMap `keelson-cluster` in
//! `kube-system`. Who begins a cluster writes it; nodes, and machines with a token to become one, read it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use anyhow::{Context, bail};
use ipnet::{IpNet, Ipv4Net};
use k8s_openapi::api::core::v1::ConfigMap;
use keelson_operator_kit::ClusterFacts;
use kube::api::{ObjectMeta, Patch, PatchParams};
use kube::{Api, Client};
use serde::{Deserialize, Serialize};

/// Where the ConfigMap is.
const NAMESPACE: &str = "kube-system";
/// Its name; the role `keelson:cluster-facts` names it too.
const NAME: &str = "keelson-cluster";
/// Who writes it.
const MANAGER: &str = "keelson";
/// What names of Services end with where nobody says otherwise.
pub(crate) const DOMAIN: &str = "cluster.local";

/// What is true of the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Facts {
    /// Eight lower-case hexadecimal digits.
    pub(crate) cluster_id: String,
    /// The addresses of all pods, from which nodes are given theirs.
    pub(crate) cluster_cidr: Ipv4Net,
    /// The addresses of Services.
    pub(crate) service_cidr: Ipv4Net,
    /// The Service address of the name server.
    pub(crate) cluster_dns: IpAddr,
    /// What names of Services end with, without a dot at its end.
    pub(crate) cluster_domain: String,
}

impl Facts {
    /// Of a cluster with these ranges: its name server has the tenth address of Services, as is usual.
    pub(crate) fn new(cluster_id: &str, cluster_cidr: Ipv4Net, service_cidr: Ipv4Net) -> Self {
        Facts {
            cluster_id: cluster_id.to_owned(),
            cluster_cidr,
            service_cidr,
            cluster_dns: IpAddr::V4(Ipv4Addr::from(u32::from(service_cidr.network()) + 10)),
            cluster_domain: DOMAIN.to_owned(),
        }
    }

    /// As operators are told, with the authority's certificate in PEM.
    pub(crate) fn for_operators(&self, ca_bundle: &str) -> ClusterFacts {
        ClusterFacts {
            service_cidr: IpNet::V4(self.service_cidr),
            pod_cidr: IpNet::V4(self.cluster_cidr),
            cluster_dns: self.cluster_dns,
            cluster_domain: self.cluster_domain.clone(),
            ca_bundle: ca_bundle.to_owned(),
        }
    }

    fn data(&self) -> BTreeMap<String, String> {
        let fields: [(&str, &dyn Display); 5] = [
            ("clusterID", &self.cluster_id),
            ("clusterCIDR", &self.cluster_cidr),
            ("serviceCIDR", &self.service_cidr),
            ("clusterDNS", &self.cluster_dns),
            ("clusterDomain", &self.cluster_domain),
        ];
        fields.into_iter().map(|(key, value)| (key.to_owned(), value.to_string())).collect()
    }

    fn from_data(data: &BTreeMap<String, String>) -> anyhow::Result<Self> {
        fn field<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(
            data: &BTreeMap<String, String>,
            key: &str,
        ) -> anyhow::Result<T> {
            let text = data.get(key).with_context(|| format!("{NAMESPACE}/{NAME} has no {key}"))?;
            text.parse().with_context(|| format!("{key} of {NAMESPACE}/{NAME} is {text:?}"))
        }
        let facts = Facts {
            cluster_id: field(data, "clusterID")?,
            cluster_cidr: field(data, "clusterCIDR")?,
            service_cidr: field(data, "serviceCIDR")?,
            cluster_dns: field(data, "clusterDNS")?,
            cluster_domain: field(data, "clusterDomain")?,
        };
        if facts.cluster_domain.is_empty() {
            bail!("clusterDomain of {NAMESPACE}/{NAME} is empty");
        }
        Ok(facts)
    }

    /// Writes the ConfigMap. `client` may write into `kube-system`.
    pub(crate) async fn write(&self, client: &Client) -> anyhow::Result<()> {
        let map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                namespace: Some(NAMESPACE.to_owned()),
                ..ObjectMeta::default()
            },
            data: Some(self.data()),
            ..ConfigMap::default()
        };
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
        let applied = api.patch(NAME, &PatchParams::apply(MANAGER).force(), &Patch::Apply(map)).await;
        applied.map(drop).with_context(|| format!("write {NAMESPACE}/{NAME}"))
    }

    /// What the cluster says; `None` if it says nothing.
    pub(crate) async fn read(client: &Client) -> anyhow::Result<Option<Self>> {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
        let found = api.get_opt(NAME).await.with_context(|| format!("read {NAMESPACE}/{NAME}"))?;
        found.map(|map| Facts::from_data(&map.data.unwrap_or_default())).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts::new("0badcafe", "10.42.0.0/16".parse().unwrap(), "10.96.0.0/16".parse().unwrap())
    }

    #[test]
    fn what_is_written_is_read_and_the_name_server_is_the_tenth_service() {
        assert_eq!(Facts::from_data(&facts().data()).unwrap(), facts());
        assert_eq!(facts().cluster_dns.to_string(), "10.96.0.10");
    }

    #[test]
    fn what_is_missing_or_damaged_is_named() {
        let mut data = facts().data();
        data.insert("serviceCIDR".to_owned(), "ten".to_owned());
        let error = format!("{:#}", Facts::from_data(&data).unwrap_err());
        assert!(error.starts_with("serviceCIDR of kube-system/keelson-cluster is \"ten\""), "{error}");
        data.remove("serviceCIDR");
        assert!(format!("{:#}", Facts::from_data(&data).unwrap_err()).ends_with("has no serviceCIDR"));
    }
}
