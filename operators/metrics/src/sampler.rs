//! Keeps what kubelets tell for as long as somebody asks for it (client).
//!
//! The first who asks waits for two answers of each kubelet, a second apart. From then on kubelets are asked every quarter of a
//! minute, until nobody has asked for [`INTEREST`]; then everything is forgotten, and nothing is done any more.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;

use crate::figures::{History, PodUsage, Usage};
use crate::scrape::Scraper;

/// Between two answers of a kubelet while somebody asks.
const RESOLUTION: Duration = Duration::from_secs(15);
/// Kubelets tell something new no sooner.
const APART: Duration = Duration::from_millis(1100);
/// For so long after a question there may be another.
const INTEREST: Duration = Duration::from_secs(300);
/// Kubelets that are asked at once.
const AT_ONCE: usize = 32;
/// Without another wish a node's kubelet listens here.
const KUBELET_PORT: u16 = 10250;
/// A token holds for so long, and is used for the first part of it.
const TOKEN: Duration = Duration::from_secs(3600);
const TOKEN_USE: Duration = Duration::from_secs(2700);

/// Why nothing is known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SampleError {
    #[error("list the nodes")]
    Nodes(#[source] kube::Error),
    #[error("get a token for kubelets")]
    Token(#[source] kube::Error),
}

#[derive(Default)]
struct Known {
    histories: HashMap<String, History>,
    scraped: Option<Instant>,
    asked: Option<Instant>,
    token: Option<(String, Instant)>,
}

/// What is known of all nodes.
pub(crate) struct Sampler {
    client: Client,
    account: (String, String),
    scraper: Scraper,
    known: Mutex<Known>,
    wanted: Notify,
}

/// Where a node's kubelet listens; `None` while nobody hears of it, for then it would only be waited for.
fn endpoint(node: &Node) -> Option<(IpAddr, u16)> {
    let status = node.status.as_ref()?;
    let mut conditions = status.conditions.iter().flatten();
    if conditions.any(|one| one.type_ == "Ready" && one.status == "Unknown") {
        return None;
    }
    let addresses = status.addresses.as_deref().unwrap_or_default();
    let address = addresses.iter().find(|one| one.type_ == "InternalIP")?.address.parse().ok()?;
    let port = status.daemon_endpoints.as_ref().and_then(|all| all.kubelet_endpoint.as_ref());
    let port = port.and_then(|port| u16::try_from(port.port).ok()).filter(|port| *port > 0);
    Some((address, port.unwrap_or(KUBELET_PORT)))
}

impl Sampler {
    /// `account` is namespace and name of the operator's account, as which kubelets are asked.
    pub(crate) fn new(client: Client, account: (&str, &str), scraper: Scraper) -> Self {
        let account = (account.0.to_owned(), account.1.to_owned());
        Sampler { client, account, scraper, known: Mutex::default(), wanted: Notify::new() }
    }

    async fn token(&self, known: &mut Known) -> Result<String, SampleError> {
        if let Some((token, until)) = &known.token
            && Instant::now() < *until
        {
            return Ok(token.clone());
        }
        let (namespace, name) = &self.account;
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let seconds = i64::try_from(TOKEN.as_secs()).ok();
        let spec = TokenRequestSpec { expiration_seconds: seconds, ..TokenRequestSpec::default() };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let made = accounts.create_token_request(name, &PostParams::default(), &request).await;
        let token =
            made.map_err(SampleError::Token)?.status.and_then(|status| status.token).unwrap_or_default();
        known.token = Some((token.clone(), Instant::now() + TOKEN_USE));
        Ok(token)
    }

    async fn scrape(&self, known: &mut Known) -> Result<(), SampleError> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let nodes = nodes.list(&ListParams::default().match_any()).await.map_err(SampleError::Nodes)?.items;
        let token = self.token(known).await?;
        let places: Vec<_> =
            nodes.iter().filter_map(|node| Some((node.name_any(), endpoint(node)?))).collect();
        known.histories.retain(|name, _| places.iter().any(|(asked, _)| asked == name));
        let asked = futures::stream::iter(places).map(|(name, (ip, port))| {
            let (scraper, token) = (self.scraper.clone(), token.as_str());
            async move { (name, scraper.scrape(ip, port, token).await) }
        });
        let mut answers = asked.buffer_unordered(AT_ONCE);
        while let Some((node, answer)) = answers.next().await {
            match answer {
                Ok(points) => known.histories.entry(node).or_default().add(points),
                Err(error) => {
                    tracing::warn!(
                        node,
                        error = &error as &dyn std::error::Error,
                        "a kubelet does not tell what is used"
                    );
                    // What it told before is not true any more.
                    known.histories.remove(&node);
                }
            }
        }
        known.scraped = Some(Instant::now());
        Ok(())
    }

    /// What is used now, looked up by `look`.
    pub(crate) async fn ask<T>(&self, look: impl FnOnce(&Figures<'_>) -> T) -> Result<T, SampleError> {
        let mut known = self.known.lock().await;
        known.asked = Some(Instant::now());
        let is_fresh = known.scraped.is_some_and(|at| at.elapsed() < RESOLUTION * 2);
        if !is_fresh {
            self.scrape(&mut known).await?;
        }
        if known.histories.values().any(|history| history.node().is_none()) {
            tokio::time::sleep(APART).await;
            self.scrape(&mut known).await?;
        }
        self.wanted.notify_one();
        Ok(look(&Figures(&known.histories)))
    }

    /// Asks kubelets as long as somebody asks here.
    pub(crate) async fn keep(self: Arc<Self>) {
        loop {
            self.wanted.notified().await;
            loop {
                tokio::time::sleep(RESOLUTION).await;
                let mut known = self.known.lock().await;
                if known.asked.is_none_or(|at| at.elapsed() > INTEREST) {
                    *known = Known::default();
                    break;
                }
                if let Err(error) = self.scrape(&mut known).await {
                    tracing::warn!(error = &error as &dyn std::error::Error, "what is used is not known");
                }
            }
        }
    }
}

/// What is known of nodes and pods.
pub(crate) struct Figures<'a>(&'a HashMap<String, History>);

impl Figures<'_> {
    /// What a node uses.
    pub(crate) fn node(&self, name: &str) -> Option<Usage> {
        self.0.get(name)?.node()
    }

    /// What a pod uses.
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Option<PodUsage> {
        self.0.values().find_map(|history| history.pod(namespace, name))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_of_which_nobody_hears_is_not_waited_for() {
        let node = |ready: &str| {
            let node = json!({"metadata": {"name": "a"}, "status": {
                "addresses": [{"type": "Hostname", "address": "a"}, {"type": "InternalIP", "address": "192.0.2.7"}],
                "conditions": [{"type": "Ready", "status": ready}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": 10260}},
            }});
            endpoint(&serde_json::from_value(node).unwrap())
        };
        let expected = (IpAddr::from([192, 0, 2, 7]), 10260);
        assert_eq!((node("True"), node("False"), node("Unknown")), (Some(expected), Some(expected), None));
    }
}
