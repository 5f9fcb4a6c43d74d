//! What is known of bootstrap tokens, of `cluster-info`, and of where the API server is (client).

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use keelson_operator_kit::{Informer, ObjectKey, Observe, Watches};
use kube::runtime::watcher::Config;
use kube::{Api, ResourceExt};

/// The namespace of tokens.
pub const TOKENS: &str = "kube-system";
/// The type of their Secrets.
pub const TOKEN_TYPE: &str = "bootstrap.kubernetes.io/token";
/// The namespace of what everybody may know.
pub const PUBLIC: &str = "kube-public";
/// The ConfigMap that tells where the cluster is.
pub const CLUSTER_INFO: &str = "cluster-info";
/// Its key for that.
pub const KUBECONFIG: &str = "kubeconfig";
/// What its keys for signatures begin with, before the token's id.
pub const SIGNATURE: &str = "jws-kubeconfig-";
/// On the ConfigMap: this operator made it, and says in it where the cluster is.
pub const OPERATOR_LABEL: &str = "platform.keelson.io/operator";
/// The Service of the API server, and its namespace.
const API_SERVER: (&str, &str) = ("default", "kubernetes");

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A token: whether it has expired.
    Token(ObjectKey),
    /// What `cluster-info` says.
    ClusterInfo,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Token(key) => write!(f, "{key}"),
            Key::ClusterInfo => write!(f, "{PUBLIC}/{CLUSTER_INFO}"),
        }
    }
}

/// A token as its Secret says; nothing of it belongs into logs.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Token {
    /// The Secret's name.
    pub name: String,
    /// The Secret's UID.
    pub uid: String,
    /// `token-id`.
    pub id: String,
    /// `token-secret`.
    pub secret: String,
    /// `expiration`, as it is written; empty for none.
    pub expiration: String,
    /// Whether it may sign.
    pub signs: bool,
}

/// What there is of `cluster-info`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterInfo {
    /// Its data.
    pub data: BTreeMap<String, String>,
    /// Whether this operator says in it where the cluster is.
    pub is_own: bool,
    /// At which revision.
    pub resource_version: String,
}

/// What is known of the cluster.
pub struct Known {
    /// The certificates, in PEM, that verify the API server.
    pub ca_bundle: String,
    tokens: Informer<Token>,
    info: Informer<ClusterInfo>,
    servers: Informer<String>,
}

/// Everything that a reconcile reads and writes.
pub type World = keelson_operator_kit::World<Known>;

fn token(secret: Secret) -> Token {
    let data = secret.data.as_ref();
    let text = |key: &str| {
        let value = data.and_then(|data| data.get(key));
        value.and_then(|ByteString(bytes)| String::from_utf8(bytes.clone()).ok()).unwrap_or_default()
    };
    Token {
        name: secret.name_any(),
        uid: secret.uid().unwrap_or_default(),
        id: text("token-id"),
        secret: text("token-secret"),
        expiration: text("expiration"),
        signs: text("usage-bootstrap-signing") == "true",
    }
}

fn cluster_info(map: ConfigMap) -> ClusterInfo {
    ClusterInfo {
        is_own: map.labels().contains_key(OPERATOR_LABEL),
        resource_version: map.resource_version().unwrap_or_default(),
        data: map.data.unwrap_or_default(),
    }
}

/// The URL of the first of a slice's addresses, in their order.
fn server(slice: &EndpointSlice) -> Option<String> {
    let port = slice.ports.iter().flatten().find_map(|port| port.port)?;
    let addresses = slice.endpoints.iter().flatten().flat_map(|it| &it.addresses);
    let first = addresses.filter_map(|address| address.parse::<IpAddr>().ok()).min()?;
    Some(match first {
        IpAddr::V4(address) => format!("https://{address}:{port}"),
        IpAddr::V6(address) => format!("https://[{address}]:{port}"),
    })
}

impl Observe for Known {
    type Subject = Key;

    fn watch(watches: &mut Watches<'_, Self>) {
        watches.look_at(Key::ClusterInfo);
        watches.selected(
            Api::<Secret>::namespaced(watches.client(), TOKENS),
            Config::default().fields(&format!("type={TOKEN_TYPE}")),
            |it| &it.tokens,
            |secret| Some(token(secret)),
            |world, change| {
                world.queue.add(Key::Token(change.key.clone()));
                world.queue.add(Key::ClusterInfo);
            },
        );
        watches.selected(
            Api::<ConfigMap>::namespaced(watches.client(), PUBLIC),
            Config::default().fields(&format!("metadata.name={CLUSTER_INFO}")),
            |it| &it.info,
            |map| Some(cluster_info(map)),
            |world, _| world.queue.add(Key::ClusterInfo),
        );
        let (namespace, name) = API_SERVER;
        watches.selected(
            Api::<EndpointSlice>::namespaced(watches.client(), namespace),
            Config::default().fields(&format!("metadata.name={name}")),
            |it| &it.servers,
            |slice| server(&slice),
            |world, _| world.queue.add(Key::ClusterInfo),
        );
    }
}

impl Known {
    /// Nothing yet, but the certificates.
    pub fn new(ca_bundle: String) -> Self {
        Known {
            ca_bundle,
            tokens: Informer::default(),
            info: Informer::default(),
            servers: Informer::default(),
        }
    }

    /// What is known of a token.
    pub fn token(&self, key: &ObjectKey) -> Option<Arc<Token>> {
        self.tokens.get(key)
    }

    /// All tokens, in the order of their names.
    pub fn tokens(&self) -> Vec<Arc<Token>> {
        self.tokens.in_namespace(TOKENS).into_iter().map(|(_, token)| token).collect()
    }

    /// What there is of `cluster-info`.
    pub fn cluster_info(&self) -> Option<Arc<ClusterInfo>> {
        self.info.get(&ObjectKey::new(PUBLIC, CLUSTER_INFO))
    }

    /// The URL of the API server, if it has told its address.
    pub fn server(&self) -> Option<String> {
        let (namespace, name) = API_SERVER;
        self.servers.get(&ObjectKey::new(namespace, name)).map(|url| url.as_ref().clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_at_the_first_of_its_addresses() {
        let slice = |kind: &str, addresses: &[&str]| -> EndpointSlice {
            let endpoints: Vec<_> =
                addresses.iter().map(|it| serde_json::json!({"addresses": [it]})).collect();
            let document =
                serde_json::json!({"addressType": kind, "endpoints": endpoints, "ports": [{"port": 6443}]});
            serde_json::from_value(document).unwrap()
        };
        assert_eq!(server(&slice("IPv4", &["10.0.0.2", "10.0.0.1"])).unwrap(), "https://10.0.0.1:6443");
        assert_eq!(server(&slice("IPv6", &["fd00::1"])).unwrap(), "https://[fd00::1]:6443");
        assert_eq!(server(&slice("IPv4", &[])), None);
    }
}
