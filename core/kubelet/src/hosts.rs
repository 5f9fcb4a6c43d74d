//! The pod's `/etc/hosts`.

use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{HostAlias, Pod};

use crate::config::Config;
use crate::dns::Hostname;

const NODE_HOSTS: &str = "/etc/hosts";

/// Why the file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("write {}", path.display())]
pub(crate) struct HostsError {
    path: PathBuf,
    source: io::Error,
}

fn aliases(out: &mut String, aliases: &[HostAlias]) {
    if aliases.is_empty() {
        return;
    }
    out.push_str("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        out.push_str(&format!("{}\t{names}\n", alias.ip));
    }
}

/// The file of a pod with its own network.
fn own(pod_ips: &[IpAddr], hostname: &Hostname, extra: &[HostAlias]) -> String {
    let mut out = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    for ip in pod_ips {
        match &hostname.domain {
            Some(domain) => {
                out.push_str(&format!("{ip}\t{short}.{domain}\t{short}\n", short = hostname.short));
            }
            None => out.push_str(&format!("{ip}\t{}\n", hostname.short)),
        }
    }
    aliases(&mut out, extra);
    out
}

/// The file of a pod on the node's network.
fn of_node(node: &str, extra: &[HostAlias]) -> String {
    let mut out = format!("# Kubernetes-managed hosts file (host network).\n{node}");
    aliases(&mut out, extra);
    out
}

/// Where a pod's file is: `DATA/pods/UID/etc-hosts`.
pub(crate) fn path(data_dir: &Path, uid: &str) -> PathBuf {
    data_dir.join("pods").join(uid).join("etc-hosts")
}

/// Writes the file, to be mounted at `/etc/hosts` in the pod's containers, and says where it is.
pub(crate) async fn write_hosts_file(
    pod: &Pod,
    pod_ips: &[IpAddr],
    hostname: &Hostname,
    config: &Config,
) -> Result<PathBuf, HostsError> {
    let path = path(&config.data_dir, pod.metadata.uid.as_deref().unwrap_or_default());
    let failed = |source| HostsError { path: path.clone(), source };
    let spec = pod.spec.as_ref();
    let extra = spec.and_then(|spec| spec.host_aliases.as_deref()).unwrap_or_default();
    let text = if spec.is_some_and(|spec| spec.host_network == Some(true)) {
        let node = tokio::fs::read_to_string(NODE_HOSTS).await;
        of_node(&node.map_err(|source| HostsError { path: NODE_HOSTS.into(), source })?, extra)
    } else {
        own(pod_ips, hostname, extra)
    };
    if let Some(parent) = path.parent() {
        tokio::fs::create_dir_all(parent).await.map_err(failed)?;
    }
    tokio::fs::write(&path, text).await.map_err(failed)?;
    let mode = std::fs::Permissions::from_mode(0o644);
    tokio::fs::set_permissions(&path, mode).await.map_err(failed)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_names_and_aliases_stand_in_the_file() {
        let hostname =
            Hostname { name: "a".into(), short: "a".into(), domain: Some("b.n.svc.cluster.local".into()) };
        let alias =
            HostAlias { ip: "192.0.2.7".into(), hostnames: Some(vec!["one".into(), "two.example".into()]) };
        let text = own(&["10.42.0.9".parse().unwrap()], &hostname, &[alias]);
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(text.contains("\n10.42.0.9\ta.b.n.svc.cluster.local\ta\n"));
        assert!(text.ends_with("\n\n# Entries added by HostAliases.\n192.0.2.7\tone\ttwo.example\n"));
    }
}
