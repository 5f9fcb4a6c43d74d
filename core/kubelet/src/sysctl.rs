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

/// The namespace that a parameter is one of, if any.
fn namespace(name: &str) -> Option<Namespace> {
    const IPC: [&str; 4] = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];
    if IPC.iter().any(|prefix| name.starts_with(prefix)) {
        return Some(Namespace::Ipc);
    }
    name.starts_with("net.").then_some(Namespace::Net)
}

/// Whether all parameters that a pattern means belong to namespaces of a pod.
pub(crate) fn is_of_a_pod(pattern: &str) -> bool {
    namespace(&canonical(pattern)).is_some()
}

fn fits(pattern: &str, name: &str) -> bool {
    let pattern = canonical(pattern);
    pattern.strip_suffix('*').map_or(pattern == name, |prefix| name.starts_with(prefix))
}

/// Why the node refuses a pod for the kernel parameters that it asks for. `allowed` are those that its owner allows beside the
/// safe ones.
pub(crate) fn refusal(pod: &PodModel, allowed: &[String]) -> Option<String> {
    let spec = pod.spec();
    let asked = spec.security_context.as_ref()?.sysctls.as_ref()?;
    asked.iter().find_map(|one| {
        let name = canonical(&one.name);
        let safe = SAFE.iter().find(|(safe, _)| *safe == name).map(|(_, namespace)| *namespace);
        let found =
            safe.or_else(|| allowed.iter().find(|one| fits(one, &name)).and_then(|_| namespace(&name)));
        let because = match found {
            None => "not allowlisted",
            Some(Namespace::Net) if pod.host_network() => "not allowed with host net enabled",
            Some(Namespace::Ipc) if spec.host_ipc == Some(true) => "not allowed with host ipc enabled",
            Some(Namespace::Net | Namespace::Ipc) => return None,
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
        refusal(&pod, &["net.core.*".to_owned()])
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
        // What the node's owner allows.
        assert_eq!(refused("net.core.somaxconn", false), None);
        assert!(
            refused("net.core.somaxconn", true).is_some() && refused("net.ipv4.ip_forward", false).is_some()
        );
        assert!(is_of_a_pod("net.core.*") && is_of_a_pod("kernel.shm_rmid_forced") && !is_of_a_pod("vm.*"));
        assert!(refused("net.ipv4.tcp_syncookies", true).unwrap().ends_with("host net enabled"));
    }
}
