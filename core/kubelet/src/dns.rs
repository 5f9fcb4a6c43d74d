//! A pod's resolver configuration and host name.

use std::net::IpAddr;
use std::path::Path;

use k8s_openapi::api::core::v1::{Pod, PodDNSConfig, PodSpec};
use keelson_cri::v1::DnsConfig;

use crate::config::Config;

/// What the node asks.
const USUAL: &str = "/etc/resolv.conf";
/// What systemd-resolved asks for those who ask it.
const BEHIND_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_LENGTH: usize = 2048;
const MAX_LABEL: usize = 63;
/// The kernel takes no longer name.
const MAX_HOSTNAME: usize = 64;

/// A resolver configuration file, as far as pods inherit it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ResolvConf {
    pub(crate) nameservers: Vec<String>,
    pub(crate) searches: Vec<String>,
    pub(crate) options: Vec<String>,
}

impl ResolvConf {
    /// The node's own: what its owner has chosen, none if that is no name, and otherwise the usual one.
    pub(crate) async fn of_node(chosen: Option<&Path>) -> Self {
        let found = match chosen {
            Some(path) if path.as_os_str().is_empty() => None,
            Some(path) => Self::read(path).await,
            None => match Self::read(Path::new(USUAL)).await {
                Some(local) if local.is_local() && Path::new(BEHIND_RESOLVED).exists() => {
                    Self::read(Path::new(BEHIND_RESOLVED)).await.or(Some(local))
                }
                usual => usual,
            },
        };
        found.unwrap_or_default()
    }

    async fn read(path: &Path) -> Option<Self> {
        match tokio::fs::read_to_string(path).await {
            Ok(text) => Some(ResolvConf::parse(&text)),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the node's resolver configuration is not read");
                None
            }
        }
    }

    /// Whether nothing but the node itself is asked.
    fn is_local(&self) -> bool {
        let is_loopback = |server: &String| server.parse().is_ok_and(|address: IpAddr| address.is_loopback());
        !self.nameservers.is_empty() && self.nameservers.iter().all(is_loopback)
    }

    /// Reads `resolv.conf(5)`: the last `search` or `domain` counts, `nameserver` and `options` add up.
    pub(crate) fn parse(text: &str) -> Self {
        let mut found = ResolvConf::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => found.nameservers.extend(words.next()),
                Some("search" | "domain") => {
                    let trimmed = |word: String| match word.trim_end_matches('.') {
                        "" => word,
                        short => short.to_owned(),
                    };
                    found.searches = words.map(trimmed).collect();
                }
                Some("options") => found.options.extend(words),
                Some(_) | None => {}
            }
        }
        found
    }
}

fn append(to: &mut Vec<String>, more: impl IntoIterator<Item = String>) {
    for one in more {
        if !to.contains(&one) {
            to.push(one);
        }
    }
}

fn option_name(option: &str) -> &str {
    option.split(':').next().unwrap_or_default()
}

fn merge(into: &mut DnsConfig, own: &PodDNSConfig) {
    append(&mut into.servers, own.nameservers.iter().flatten().cloned());
    append(&mut into.searches, own.searches.iter().flatten().cloned());
    for option in own.options.iter().flatten() {
        let name = option.name.as_deref().unwrap_or_default();
        let text = match option.value.as_deref().filter(|value| !value.is_empty()) {
            Some(value) => format!("{name}:{value}"),
            None => name.to_owned(),
        };
        match into.options.iter_mut().find(|known| option_name(known) == name) {
            Some(known) => *known = text,
            None => into.options.push(text),
        }
    }
}

fn limit(config: &mut DnsConfig) {
    config.servers.truncate(MAX_NAMESERVERS);
    config.searches.truncate(MAX_SEARCHES);
    let mut length = 0;
    let fits = config.searches.iter().take_while(|search| {
        length += search.len() + usize::from(length > 0);
        length <= MAX_SEARCH_LENGTH
    });
    let fits = fits.count();
    config.searches.truncate(fits);
}

/// What stands in the pod's resolv.conf.
pub(crate) fn dns_config(pod: &Pod, config: &Config, node: &ResolvConf) -> DnsConfig {
    let mut found = wanted(pod, config, node);
    limit(&mut found);
    found
}

/// What is not as the pod wants it: the reasons and messages of events.
pub(crate) fn notices(pod: &Pod, config: &Config, node: &ResolvConf) -> Vec<(&'static str, String)> {
    let (wanted, found) = (wanted(pod, config, node), dns_config(pod, config, node));
    let mut notices = Vec::new();
    if wanted.searches.len() > found.searches.len() {
        let line = found.searches.join(" ");
        notices.push((
            "DNSConfigForming",
            format!(
                "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {line}"
            ),
        ));
    }
    if wanted.servers.len() > found.servers.len() {
        let line = found.servers.join(" ");
        notices.push((
            "DNSConfigForming",
            format!(
                "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {line}"
            ),
        ));
    }
    if asks_cluster(pod) && config.cluster_dns.is_empty() {
        let metadata = &pod.metadata;
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let name = format!("{}_{}({})", text(&metadata.name), text(&metadata.namespace), text(&metadata.uid));
        let policy = pod.spec.as_ref().and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst");
        notices.push((
            "MissingClusterDNS",
            format!(
                "pod: {name:?}. kubelet does not have ClusterDNS IP configured and cannot create Pod using {policy:?} policy. Falling back to \"Default\" policy."
            ),
        ));
    }
    notices
}

/// Whether the pod's names are first those of the cluster.
fn asks_cluster(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    match spec.and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst") {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !on_host(spec),
        _ => false,
    }
}

/// What the pod wants, without limits.
fn wanted(pod: &Pod, config: &Config, node: &ResolvConf) -> DnsConfig {
    let spec = pod.spec.as_ref();
    let policy = spec.and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let in_cluster = asks_cluster(pod);
    let mut found = if policy == "None" {
        DnsConfig::default()
    } else if in_cluster && !config.cluster_dns.is_empty() {
        let domain = &config.cluster_domain;
        let mut searches = Vec::new();
        if !domain.is_empty() {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
        }
        append(&mut searches, node.searches.iter().cloned());
        DnsConfig {
            servers: config.cluster_dns.iter().map(ToString::to_string).collect(),
            searches,
            options: vec!["ndots:5".to_owned()],
        }
    } else {
        DnsConfig {
            servers: node.nameservers.clone(),
            searches: node.searches.clone(),
            options: node.options.clone(),
        }
    };
    if let Some(own) = spec.and_then(|spec| spec.dns_config.as_ref()) {
        merge(&mut found, own);
    }
    found
}

/// Why a pod can have no host name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HostnameError {
    /// The kernel would not take it.
    #[error("failed to construct FQDN from pod hostname and cluster domain, FQDN {0} is too long (64 characters is the max, {1} characters requested)", fqdn, fqdn.len())]
    TooLong {
        /// The whole name.
        fqdn: String,
    },
}

/// The names of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hostname {
    /// The name that the kernel gets.
    pub(crate) name: String,
    /// The first part, as the hosts file has it.
    pub(crate) short: String,
    /// `SUBDOMAIN.NAMESPACE.svc.DOMAIN`, when the pod has a subdomain.
    pub(crate) domain: Option<String>,
}

fn on_host(spec: Option<&PodSpec>) -> bool {
    spec.is_some_and(|spec| spec.host_network == Some(true))
}

/// The pod's host name: its own, else the node's on the node's network, else by the pod's name.
pub(crate) fn hostname(pod: &Pod, config: &Config) -> Result<Hostname, HostnameError> {
    let spec = pod.spec.as_ref();
    let text = |value: Option<&String>| value.filter(|value| !value.is_empty()).cloned();
    if on_host(spec) {
        let name = config.node_name.clone();
        return Ok(Hostname { short: name.clone(), name, domain: None });
    }
    let cut = |name: &str| match name.get(..MAX_LABEL) {
        Some(short) if name.len() > MAX_LABEL => short.trim_end_matches(['-', '.']).to_owned(),
        Some(_) | None => name.to_owned(),
    };
    if let Some(name) = text(spec.and_then(|spec| spec.hostname_override.as_ref())) {
        let name = cut(&name);
        return Ok(Hostname { short: name.clone(), name, domain: None });
    }
    let short = text(spec.and_then(|spec| spec.hostname.as_ref()))
        .unwrap_or_else(|| cut(pod.metadata.name.as_deref().unwrap_or_default()));
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let domain = text(spec.and_then(|spec| spec.subdomain.as_ref()))
        .map(|subdomain| format!("{subdomain}.{namespace}.svc.{}", config.cluster_domain));
    let name = match &domain {
        Some(domain) if spec.is_some_and(|spec| spec.set_hostname_as_fqdn == Some(true)) => {
            let fqdn = format!("{short}.{domain}");
            if fqdn.len() > MAX_HOSTNAME {
                return Err(HostnameError::TooLong { fqdn });
            }
            fqdn
        }
        Some(_) | None => short.clone(),
    };
    Ok(Hostname { name, short, domain })
}

#[cfg(test)]
mod tests;
