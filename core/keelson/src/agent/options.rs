//! Flags of `keelson agent`, and what they mean.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, bail};
use clap::Args;
use k8s_openapi::api::core::v1::Taint;

use crate::cli::DataDir;
use crate::components::kubelet_options::KubeletOptions;

#[derive(Debug, Args)]
pub(crate) struct AgentOptions {
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// A server of the cluster to join, such as https://10.0.0.1:6443. Once joined, the agent follows the servers that the
    /// cluster tells.
    #[arg(long, env = "KEELSON_SERVER", value_name = "URL")]
    pub(crate) server: Option<String>,
    /// What `keelson token create` printed, or @FILE with it. Needed once: from then on the agent has a certificate of its
    /// own.
    #[arg(long, env = "KEELSON_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub(crate) token: Option<String>,
    /// Return when the node is ready, and let it run in the background.
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// The name of this machine's Node, chosen once; the host name otherwise.
    #[arg(long)]
    pub(crate) node_name: Option<String>,
    /// The address at which servers and other nodes reach this one; kept for later starts. Otherwise the one from which it reaches the server.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) node_ip: Option<IpAddr>,
    /// The kubelet's port; kept for later starts. 10250 otherwise.
    #[arg(long)]
    pub(crate) kubelet_port: Option<u16>,
    #[command(flatten)]
    pub(crate) kubelet: KubeletOptions,
    /// A label of the Node, as KEY=VALUE; may be given several times.
    #[arg(long, value_delimiter = ',', value_name = "KEY=VALUE")]
    pub(crate) node_label: Vec<String>,
    /// Taints that the Node is made with, as KEY=VALUE:EFFECT or KEY:EFFECT.
    #[arg(long, value_delimiter = ',', value_name = "TAINTS")]
    pub(crate) register_with_taints: Vec<String>,
    /// Already in the background: standard output ends when the node is ready.
    #[arg(long, hide = true)]
    pub(crate) in_background: bool,
}

/// The domains of labels that a node may not give itself, and those below them that it may.
const RESERVED: [&str; 2] = ["kubernetes.io", "k8s.io"];
const ALLOWED: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
const ALLOWED_LABELS: [&str; 5] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
];

/// Whether the API server would refuse the label from a node.
fn is_reserved(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else { return false };
    let is_within = |of: &&str| domain.strip_suffix(*of).is_some_and(|it| it.is_empty() || it.ends_with('.'));
    let allowed = (ALLOWED.iter().any(is_within) || ALLOWED_LABELS.contains(&key))
        && !is_within(&"node-restriction.kubernetes.io");
    RESERVED.iter().any(is_within) && !allowed
}

impl AgentOptions {
    /// The labels.
    pub(crate) fn labels(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let mut labels = BTreeMap::new();
        for text in &self.node_label {
            let (key, value) =
                text.split_once('=').with_context(|| format!("--node-label {text:?} is not KEY=VALUE"))?;
            if is_reserved(key) {
                bail!(
                    "--node-label {key}: a node may not give itself labels of this domain; \
                     label it with `kubectl label node` when it has joined"
                );
            }
            labels.insert(key.to_owned(), value.to_owned());
        }
        Ok(labels)
    }

    /// The taints.
    pub(crate) fn taints(&self) -> anyhow::Result<Vec<Taint>> {
        let parse = |text: &String| {
            let invalid = || format!("--register-with-taints {text:?} is not KEY=VALUE:EFFECT or KEY:EFFECT");
            let (what, effect) = text.rsplit_once(':').with_context(invalid)?;
            let (key, value) = match what.split_once('=') {
                Some((key, value)) => (key, Some(value.to_owned()).filter(|it| !it.is_empty())),
                None => (what, None),
            };
            if key.is_empty() || !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
                bail!("{}; effects are NoSchedule, PreferNoSchedule and NoExecute", invalid());
            }
            Ok(Taint { key: key.to_owned(), value, effect: effect.to_owned(), time_added: None })
        };
        self.register_with_taints.iter().map(parse).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(label: &str, taint: &str) -> AgentOptions {
        AgentOptions {
            data: DataDir { data_dir: "/x".into() },
            server: None,
            token: None,
            detach: false,
            node_name: None,
            node_ip: None,
            kubelet_port: None,
            kubelet: KubeletOptions::default(),
            node_label: vec![label.to_owned()],
            register_with_taints: vec![taint.to_owned()],
            in_background: false,
        }
    }

    #[test]
    fn labels_and_taints_are_read() {
        let options = with("example.com/disk=fast", "dedicated=build:NoSchedule");
        assert_eq!(options.labels().unwrap()["example.com/disk"], "fast");
        let taint = options.taints().unwrap().remove(0);
        let read = (taint.key.as_str(), taint.value.as_deref(), taint.effect.as_str());
        assert_eq!(read, ("dedicated", Some("build"), "NoSchedule"));
        assert_eq!(with("a=b", "key:NoExecute").taints().unwrap()[0].value, None);
        assert!(with("a=b", "key=value").taints().is_err());
        assert!(with("a", "key:NoExecute").labels().is_err());
    }

    #[test]
    fn labels_that_the_api_server_refuses_are_refused_before() {
        for (label, refused) in [
            ("node-role.kubernetes.io/control-plane=", true),
            ("node-restriction.kubernetes.io/a=b", true),
            ("x.node-restriction.kubernetes.io/a=b", true),
            ("topology.kubernetes.io/zone=a", false),
            ("node.kubernetes.io/pool=a", false),
            ("notkubernetes.io/a=b", false),
        ] {
            assert_eq!(with(label, "a:NoExecute").labels().is_err(), refused, "{label}");
        }
    }
}
