//! Kernel parameters that a pod may set: those that are its namespaces' own and hurt nobody else.

use crate::pod::PodModel;

/// The parameters that every node allows, and what they belong to.
const SAFE: [(&str, Namespace); 12] = [
    ("kernel.shm_rmid_forced", Namespace::Ipc),
    ("net.ipv4.ip_local_port_range", Namespace::Net),
    ("net.ipv4.ip_local_reserved_ports", Namespace::Net),
    ("net.ipv4.ip_unprivileged_port_start", Namespace::Net),
    ("net.ipv4.ping_group_range", Namespace::Net),
    ("net.ipv4.tcp_fin_timeout", Namespace::Net),
    ("net.ipv4.tcp_keepalive_intvl", Namespace::Net),
    ("net.ipv4.tcp_keepalive_probes", Namespace::Net),
    ("net.ipv4.tcp_keepalive_time", Namespace::Net),
    ("net.ipv4.tcp_rmem", Namespace::Net),
    ("net.ipv4.tcp_syncookies", Namespace::Net),
    ("net.ipv4.tcp_wmem", Namespace::Net),
];

/// Whose a parameter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Namespace {
    Ipc,
    Net,
}

/// The form with dots of a name, which may be written with slashes.
fn canonical(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name[at..].starts_with('/') => {
            name.chars().map(|one| if one == '/' { '.' } else { one }).collect()
        }
        Some(_) | None => name.to_owned(),
    }
}

/// Why the node refuses a pod for the kernel parameters that it asks for.
pub(crate) fn refusal(pod: &PodModel) -> Option<String> {
    let spec = pod.spec();
    let asked = spec.security_context.as_ref()?.sysctls.as_ref()?;
    asked.iter().find_map(|one| {
        let name = canonical(&one.name);
        let because = match SAFE.iter().find(|(safe, _)| *safe == name) {
            None => "not allowlisted",
            Some((_, Namespace::Net)) if pod.host_network() => "not allowed with host net enabled",
            Some((_, Namespace::Ipc)) if spec.host_ipc == Some(true) => "not allowed with host ipc enabled",
            Some((_, Namespace::Net | Namespace::Ipc)) => return None,
        };
        Some(format!("forbidden sysctl: {:?} {because}", one.name))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn refused(name: &str, host_network: bool) -> Option<String> {
        let pod = json!({ "metadata": { "name": "p", "namespace": "n", "uid": "u" }, "spec": {
            "hostNetwork": host_network, "containers": [{ "name": "a" }],
            "securityContext": { "sysctls": [{ "name": name, "value": "1" }] } } });
        let pod = PodModel::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap();
        refusal(&pod)
    }

    #[test]
    fn a_parameter_of_the_machine_is_refused_and_one_of_the_pod_is_not() {
        assert_eq!(
            refused("vm.swappiness", false).unwrap(),
            "forbidden sysctl: \"vm.swappiness\" not allowlisted"
        );
        assert!(refused("net/../vm/swappiness", false).is_some());
        assert_eq!(refused("net.ipv4.tcp_syncookies", false), None);
        assert_eq!(refused("net/ipv4/tcp_syncookies", false), None);
        assert!(refused("net.ipv4.tcp_syncookies", true).unwrap().ends_with("host net enabled"));
    }
}
