//! (pure) What the runtime is told of a pod's sandbox.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use keelson_cri::v1;

use crate::config::Config;
use crate::dns::{self, HostnameError, ResolvConf};
use crate::labels;
use crate::pod::{Kind, PodModel};
use crate::{resources, security};

fn port_mappings(pod: &PodModel) -> Vec<v1::PortMapping> {
    let members = pod.members.iter().filter(|one| matches!(one.kind, Kind::Regular | Kind::Sidecar));
    let ports = members.flat_map(|member| member.container.ports.iter().flatten());
    let protocol = |text: Option<&str>| match text {
        Some("UDP") => v1::Protocol::Udp,
        Some("SCTP") => v1::Protocol::Sctp,
        Some(_) | None => v1::Protocol::Tcp,
    };
    ports
        .map(|port| v1::PortMapping {
            protocol: protocol(port.protocol.as_deref()) as i32,
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or(0),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}

/// The pod's labels, and those by which it is found again.
fn sandbox_labels(pod: &PodModel) -> HashMap<String, String> {
    let mut out: HashMap<String, String> =
        pod.pod.metadata.labels.clone().unwrap_or_default().into_iter().collect();
    out.insert(labels::POD_NAME.to_owned(), pod.name.clone());
    out.insert(labels::POD_NAMESPACE.to_owned(), pod.namespace.clone());
    out.insert(labels::POD_UID.to_owned(), pod.uid.clone());
    out
}

fn annotations(pod: &PodModel, config: &Config) -> HashMap<String, String> {
    let own: BTreeMap<String, String> = pod.pod.metadata.annotations.clone().unwrap_or_default();
    let mut out: HashMap<String, String> = own.into_iter().collect();
    out.insert(labels::CONFIG_SOURCE.to_owned(), "api".to_owned());
    out.insert(labels::CGROUP_ROOT.to_owned(), config.cgroup_root.clone());
    // What a pod says of it is not believed.
    out.remove(labels::PODS_CGROUP);
    if !config.settings.cgroup_root.is_empty() {
        let groups = config.cgroups();
        out.insert(labels::PODS_CGROUP.to_owned(), groups.path(&groups.root));
    }
    out
}

/// Where the pod's containers write their logs.
pub(crate) fn log_directory(pod: &PodModel, config: &Config) -> PathBuf {
    config.log_dir.join(pod.log_folder())
}

/// The configuration of the pod's sandbox. `attempt` counts the ones before.
pub(crate) fn configuration(
    pod: &PodModel,
    attempt: u32,
    config: &Config,
    node: &ResolvConf,
) -> Result<v1::PodSandboxConfig, HostnameError> {
    // On the node's network the pod has the node's name.
    let hostname = if pod.host_network() { String::new() } else { dns::hostname(&pod.pod, config)?.name };
    let sysctls = pod.spec().security_context.as_ref().and_then(|context| context.sysctls.as_ref());
    let sysctls = sysctls.into_iter().flatten().map(|one| (one.name.clone(), one.value.clone())).collect();
    let groups = config.cgroups();
    Ok(v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            namespace: pod.namespace.clone(),
            attempt,
        }),
        hostname,
        log_directory: log_directory(pod, config).display().to_string(),
        dns_config: Some(dns::dns_config(&pod.pod, config, node)),
        port_mappings: if pod.host_network() { Vec::new() } else { port_mappings(pod) },
        labels: sandbox_labels(pod),
        annotations: annotations(pod, config),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: groups.parent(&pod.cgroup(&groups.root)),
            security_context: Some(security::of_sandbox(pod)),
            sysctls,
            resources: Some(resources::of_pod(pod)),
            overhead: resources::overhead(pod),
        }),
        windows: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn the_runtime_is_told_of_a_slice_by_its_name() {
        let pod = json!({ "metadata": { "name": "p", "namespace": "n", "uid": "a-b" },
            "spec": { "containers": [{ "name": "a", "resources": { "requests": { "cpu": "1" } } }] } });
        let pod = PodModel::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap();
        let mut config = crate::testing::config();
        config.settings = serde_json::from_value(json!({ "cgroupDriver": "systemd" })).unwrap();
        let told = configuration(&pod, 0, &config, &ResolvConf::default()).unwrap().linux.unwrap();
        assert_eq!(told.cgroup_parent, "keelson_0badcafe-kubepods-burstable-poda_b.slice");
        assert!(!annotations(&pod, &config).contains_key(labels::PODS_CGROUP));
        config.settings = serde_json::from_value(json!({ "cgroupRoot": "/pods" })).unwrap();
        assert_eq!(annotations(&pod, &config)[labels::PODS_CGROUP], "/pods/kubepods");
        assert!(
            serde_json::from_value::<crate::KubeletConfiguration>(json!({ "cgroupDriver": "runc" })).is_err()
        );
    }

    #[test]
    fn ports_of_a_pod_on_the_nodes_network_are_not_mapped() {
        let configure = |host: bool| {
            let pod = json!({ "metadata": { "name": "p", "namespace": "n", "uid": "u" }, "spec": { "hostNetwork": host,
                "containers": [{ "name": "a", "ports": [{ "containerPort": 53, "hostPort": 5353, "protocol": "UDP" }] }] } });
            let pod = PodModel::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap();
            configuration(&pod, 2, &crate::testing::config(), &ResolvConf::default()).unwrap()
        };
        let own = configure(false);
        let port = &own.port_mappings[0];
        assert_eq!((port.container_port, port.host_port, port.protocol()), (53, 5353, v1::Protocol::Udp));
        assert_eq!(own.hostname, "p");
        assert_eq!(own.linux.unwrap().cgroup_parent, "/keelson-0badcafe/besteffort/podu");
        assert_eq!(own.log_directory, "/nonexistent/logs/n_p_u");
        let host = configure(true);
        assert!(host.port_mappings.is_empty() && host.hostname.is_empty());
    }
}
