//! What a kubelet is told at its start.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Taint;
use rustls::server::ResolvesServerCert;

use crate::configuration::KubeletConfiguration;
use crate::credential_provider::CredentialProviders;

/// Everything that a node agent has to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the Node object.
    pub node_name: String,
    /// Address under which the node is reached; its `InternalIP`.
    pub node_ip: IpAddr,
    /// Where logs, exec, attach, port-forward and metrics are served, usually port 10250.
    pub bind: SocketAddr,
    /// Folder of the pods: `pods/UID/volumes/KIND/NAME`, `pods/UID/etc-hosts`, `pods/UID/containers/NAME`.
    pub data_dir: PathBuf,
    /// Folder of the logs: `NAMESPACE_NAME_UID/CONTAINER/N.log`.
    pub log_dir: PathBuf,
    /// Unix socket of the container runtime.
    pub cri_socket: PathBuf,
    /// Unix socket of the runtime's images, where that is another one.
    pub image_socket: Option<PathBuf>,
    /// Addresses of this node's pods; written to `spec.podCIDR`. Without them the node takes what the cluster writes there.
    pub pod_cidr: Option<IpNet>,
    /// Name servers of pods with `dnsPolicy: ClusterFirst`.
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's domain, without a dot at its end.
    pub cluster_domain: String,
    /// Parent of all pods' control groups, as `/keelson-0badcafe`, unless the settings name another; pods carry it as the cluster's
    /// mark in any case.
    pub cgroup_root: String,
    /// What the node's owner has decided.
    pub settings: KubeletConfiguration,
    /// Who provides credentials for images.
    pub credential_providers: Option<CredentialProviders>,
    /// Labels of the Node object beside the usual ones.
    pub labels: BTreeMap<String, String>,
    /// Taints that the Node object is made with.
    pub taints: Vec<Taint>,
    /// The `kubeletVersion` of the Node, as `v1.36.0`.
    pub version: String,
    /// Says with which certificate the server answers; asked in every handshake, so that it may be another one later.
    pub serving: Arc<dyn ResolvesServerCert>,
    /// Certificate authority of the server's clients, PEM.
    pub client_ca: String,
}

impl Config {
    /// The control groups of the pods.
    pub(crate) fn cgroups(&self) -> keelson_cgroup::Names {
        let driver = self.settings.cgroup_driver;
        match self.settings.cgroup_root.as_str() {
            "" => keelson_cgroup::Names::new(driver, &self.cgroup_root),
            root => keelson_cgroup::Names::below(driver, root),
        }
    }
}
