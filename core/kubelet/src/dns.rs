//! A pod's resolver configuration and host name (pure).

use k8s_openapi::api::core::v1::{Pod, PodDNSConfig, PodSpec};
use keelson_cri::v1::DnsConfig;

use crate::config::Config;

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

fn limit(config: &mut DnsConfig, pod: &Pod) {
    let before = (config.servers.len(), config.searches.len());
    config.servers.truncate(MAX_NAMESERVERS);
    config.searches.truncate(MAX_SEARCHES);
    let mut length = 0;
    let fits = config.searches.iter().take_while(|search| {
        length += search.len() + usize::from(length > 0);
        length <= MAX_SEARCH_LENGTH
    });
    let fits = fits.count();
    config.searches.truncate(fits);
    if before != (config.servers.len(), config.searches.len()) {
        let (namespace, name) = (&pod.metadata.namespace, &pod.metadata.name);
        tracing::warn!(?namespace, pod = ?name, "name servers or search domains above the limits are left out");
    }
}

/// What stands in the pod's resolv.conf.
pub(crate) fn dns_config(pod: &Pod, config: &Config, node: &ResolvConf) -> DnsConfig {
    let spec = pod.spec.as_ref();
    let policy = spec.and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let on_host = spec.is_some_and(|spec| spec.host_network == Some(true));
    let in_cluster = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !on_host,
        _ => false,
    };
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
    limit(&mut found, pod);
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
    if let Some(name) = text(spec.and_then(|spec| spec.hostname_override.as_ref())) {
        return Ok(Hostname { short: name.clone(), name, domain: None });
    }
    let short = text(spec.and_then(|spec| spec.hostname.as_ref())).unwrap_or_else(|| {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        name.get(..MAX_LABEL).unwrap_or(name).trim_end_matches(['-', '.']).to_owned()
    });
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
