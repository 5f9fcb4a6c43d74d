//! What tests of this crate share.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::Config;
use crate::configuration::KubeletConfiguration;

/// The configuration of a node that nothing listens on.
pub(crate) fn config() -> Config {
    Config {
        node_name: "node-1".into(),
        node_ip: "192.0.2.1".parse().unwrap(),
        bind: "127.0.0.1:10250".parse().unwrap(),
        data_dir: "/nonexistent".into(),
        log_dir: "/nonexistent/logs".into(),
        cri_socket: "/nonexistent/cri.sock".into(),
        image_socket: None,
        pod_cidr: "10.42.0.0/24".parse().ok(),
        cluster_dns: vec!["10.96.0.10".parse().unwrap()],
        cluster_domain: "cluster.local".into(),
        cgroup_root: "/keelson-0badcafe".into(),
        settings: KubeletConfiguration {
            resolv_conf: Some("/nonexistent/resolv.conf".into()),
            ..KubeletConfiguration::default()
        },
        labels: BTreeMap::new(),
        taints: Vec::new(),
        version: "v1.36.0".into(),
        serving: Arc::new(rustls::server::ResolvesServerCertUsingSni::new()),
        client_ca: String::new(),
    }
}
