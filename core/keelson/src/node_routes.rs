//! Routes to other nodes' pods, kept as the Nodes say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use futures::StreamExt as _;
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use keelson_network::{NodeRoute, Routes, Unreachable};
use kube::runtime::events::{Event as Told, EventType, Recorder, Reporter};
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::pod_network::NodeNetwork;

/// An interface that went down took its routes with it: they are looked after this often.
const LOOK: Duration = Duration::from_secs(60);
/// Nodes that come together are taken up together.
const GATHER: Duration = Duration::from_millis(50);

/// Who has the routes.
#[derive(Clone)]
pub(crate) enum Ways {
    /// A node, by its name, beside its own pods.
    Node(String, Arc<NodeNetwork>),
    /// A machine without pods.
    Server(Arc<Routes>),
}

/// What keeps them.
#[derive(Clone)]
pub(crate) struct NodeRoutes {
    /// The API as who has them.
    pub(crate) client: Client,
    pub(crate) ways: Ways,
}

impl Ways {
    /// The name of the node that has them; none for a server.
    fn node(&self) -> &str {
        match self {
            Ways::Node(name, _) => name,
            Ways::Server(_) => "",
        }
    }

    async fn set(&self, routes: &[NodeRoute]) -> Result<Vec<Unreachable>, keelson_network::Error> {
        match self {
            Ways::Node(_, network) => network.set_routes(routes).await,
            Ways::Server(ways) => ways.set(routes).await,
        }
    }
}

/// The way to a node's pods, if it has any yet.
fn route(node: &Node) -> Option<NodeRoute> {
    let range = node.spec.as_ref()?.pod_cidr.as_deref()?;
    let pods: Ipv4Net = range.parse().ok()?;
    let addresses = node.status.as_ref()?.addresses.iter().flatten();
    let mut internal = addresses.filter(|address| address.type_ == "InternalIP");
    let via: Ipv4Addr = internal.find_map(|address| address.address.parse().ok())?;
    Some(NodeRoute { pods: pods.trunc(), via })
}

/// The ways to all other nodes (pure). Of two whose ranges overlap the first of its name counts.
fn wanted(own: &str, nodes: &BTreeMap<String, NodeRoute>) -> Vec<NodeRoute> {
    let taken = nodes.get(own).map(|route| route.pods);
    let mut seen: Vec<Ipv4Net> = taken.into_iter().collect();
    let others = nodes.iter().filter(|(name, _)| *name != own).map(|(_, route)| *route);
    let is_new = |route: &NodeRoute| {
        let overlaps = seen.iter().any(|range| range.contains(&route.pods) || route.pods.contains(range));
        if !overlaps {
            seen.push(route.pods);
        }
        !overlaps
    };
    others.filter(is_new).collect()
}

impl NodeRoutes {
    /// Keeps the routes until it is told to stop; they stay, as pods do.
    pub(crate) async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let changes = watcher(Api::<Node>::all(self.client.clone()), watcher::Config::default());
        let mut changes = std::pin::pin!(changes.default_backoff());
        let mut network = match &self.ways {
            Ways::Node(_, network) => Some(network.changes()),
            Ways::Server(_) => None,
        };
        let (mut nodes, mut listed) = (BTreeMap::new(), false);
        let mut told: BTreeSet<Unreachable> = BTreeSet::new();
        let mut due = Instant::now() + LOOK;
        loop {
            let changed = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = changed(&mut network) => true,
                event = changes.next() => match event {
                    Some(Ok(event)) => take(&mut nodes, &mut listed, event),
                    // It is tried again by itself.
                    Some(Err(error)) => {
                        tracing::debug!(%error, "the nodes cannot be watched");
                        false
                    }
                    None => bail!("nothing more is told of the nodes"),
                },
                () = sleep_until(due) => {
                    due = Instant::now() + LOOK;
                    // What is not known is not taken away.
                    if listed {
                        match self.set(&nodes, &mut told).await {
                            Ok(()) => {}
                            Err(error) if error.is_not_permitted() && self.ways.node().is_empty() => {
                                tracing::warn!(
                                    "this server may not make routes: webhooks and API servers in pods are reached only if \
                                     the machine has routes to the nodes' pods"
                                );
                                stop.cancelled().await;
                                return Ok(());
                            }
                            Err(error) => return Err(error.into()),
                        }
                    }
                    false
                }
            };
            if changed {
                due = due.min(Instant::now() + GATHER);
            }
        }
    }

    async fn set(
        &self,
        nodes: &BTreeMap<String, NodeRoute>,
        told: &mut BTreeSet<Unreachable>,
    ) -> Result<(), keelson_network::Error> {
        let unreachable = self.ways.set(&wanted(self.ways.node(), nodes)).await?;
        let unreachable: BTreeSet<Unreachable> = unreachable.into_iter().collect();
        for one in unreachable.difference(told) {
            let name = nodes.iter().find(|(_, route)| **route == one.route).map(|(name, _)| name.as_str());
            self.tell(name.unwrap_or_default(), one).await;
        }
        *told = unreachable;
        Ok(())
    }

    /// An Event of this node, in the words of upstream's controller of routes.
    async fn tell(&self, other: &str, what: &Unreachable) {
        let Unreachable { route, why } = what;
        let note =
            format!("Could not create route to {} of node {other} via {}: {why}", route.pods, route.via);
        let Ways::Node(node, _) = &self.ways else {
            // An agent on the same machine may have what is missing.
            let (range, via) = (route.pods, route.via);
            return tracing::info!(node = other, %range, %via, why, "this server makes no route to a node's pods");
        };
        tracing::warn!(node = other, range = %route.pods, via = %route.via, why, "pods of a node cannot be reached");
        let reporter = Reporter { controller: "keelson-routes".to_owned(), instance: Some(node.clone()) };
        let reference = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            // Events of nodes are found by the name in this place.
            uid: Some(node.clone()),
            name: Some(node.clone()),
            ..ObjectReference::default()
        };
        let event = Told {
            type_: EventType::Warning,
            reason: "FailedToCreateRoute".to_owned(),
            note: Some(note),
            action: "CreateRoute".to_owned(),
            secondary: None,
        };
        if let Err(error) = Recorder::new(self.client.clone(), reporter).publish(&event, &reference).await {
            tracing::warn!(%error, "an event of the node cannot be written");
        }
    }
}

/// Waits for another network of the node; a server has none.
async fn changed(network: &mut Option<watch::Receiver<()>>) {
    if let Some(network) = network
        && network.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Takes up what happened; says whether routes may have changed by it.
fn take(nodes: &mut BTreeMap<String, NodeRoute>, listed: &mut bool, event: Event<Node>) -> bool {
    match event {
        Event::Init => {
            nodes.clear();
            *listed = false;
            false
        }
        Event::InitApply(node) => {
            if let Some(route) = route(&node) {
                nodes.insert(node.name_any(), route);
            }
            false
        }
        Event::InitDone => {
            *listed = true;
            true
        }
        Event::Apply(node) => match route(&node) {
            Some(route) => nodes.insert(node.name_any(), route) != Some(route),
            None => nodes.remove(&node.name_any()).is_some(),
        },
        Event::Delete(node) => nodes.remove(&node.name_any()).is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, range: Option<&str>, address: &str) -> Node {
        let document = serde_json::json!({
            "metadata": {"name": name}, "spec": {"podCIDR": range},
            "status": {"addresses": [
                {"type": "Hostname", "address": name}, {"type": "InternalIP", "address": address},
            ]},
        });
        serde_json::from_value(document).unwrap()
    }

    #[test]
    fn routes_lead_to_others_and_two_nodes_with_one_range_do_not_take_it_from_each_other() {
        let (mut nodes, mut listed) = (BTreeMap::new(), false);
        for event in [
            Event::Init,
            Event::InitApply(node("a", Some("10.42.0.0/24"), "192.0.2.1")),
            Event::InitApply(node("b", Some("10.42.1.0/24"), "192.0.2.2")),
            Event::InitApply(node("c", None, "192.0.2.3")),
            Event::InitApply(node("d", Some("10.42.1.0/24"), "192.0.2.4")),
            Event::InitApply(node("e", Some("10.42.0.0/24"), "192.0.2.5")),
            Event::InitApply(node("f", Some("10.42.1.128/25"), "192.0.2.6")),
            Event::InitApply(node("g", Some("0.0.0.0/0"), "192.0.2.7")),
        ] {
            assert!(!take(&mut nodes, &mut listed, event));
        }
        assert!(take(&mut nodes, &mut listed, Event::InitDone) && listed);
        let found = wanted("a", &nodes);
        let expected = NodeRoute { pods: "10.42.1.0/24".parse().unwrap(), via: Ipv4Addr::new(192, 0, 2, 2) };
        assert_eq!(found, [expected]);
    }

    #[test]
    fn a_node_that_says_the_same_again_changes_nothing_and_one_that_goes_takes_its_route_along() {
        let (mut nodes, mut listed) = (BTreeMap::new(), true);
        let one = || node("b", Some("10.42.1.0/24"), "192.0.2.2");
        assert!(take(&mut nodes, &mut listed, Event::Apply(one())));
        assert!(!take(&mut nodes, &mut listed, Event::Apply(one())));
        assert!(take(&mut nodes, &mut listed, Event::Delete(one())));
        assert!(wanted("a", &nodes).is_empty());
    }
}
