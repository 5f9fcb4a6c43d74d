//! Plain routes to other nodes' pods, over networks that both nodes are on.
//!
//! What may be in the kernel is on disk: a route is written down before it is made, and crossed out after it has gone.
//! **Invariant: a route that somebody else has made is neither replaced nor removed.**

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use futures::TryStreamExt as _;
use ipnet::{IpNet, Ipv4Net};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteType};
use rtnetlink::{Handle, RouteMessageBuilder};
use serde::{Deserialize, Serialize};

use crate::link::{LinkError, failed};
use crate::record::RecordError;

/// The kernel's mark of who made a route; it has no name there.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(0x6b);

/// The way to another node's pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeRoute {
    /// The addresses of its pods.
    pub pods: Ipv4Net,
    /// The address of the node.
    pub via: Ipv4Addr,
}

/// Pods of another node that cannot be reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unreachable {
    /// Whose.
    pub route: NodeRoute,
    /// Why, for people.
    pub why: String,
}

/// Where the record is.
fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("routes.json")
}

fn record_failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RecordError {
    let path = path.to_owned();
    move |source| RecordError::File { action, path, source }
}

/// The routes of a node, by the folder of its records, that may be in the kernel.
pub fn read(state_dir: &Path) -> Result<Vec<NodeRoute>, RecordError> {
    let path = file(state_dir);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(record_failed("read", &path)(error)),
    };
    serde_json::from_slice(&text).map_err(|source| RecordError::Content { path, source })
}

fn write(state_dir: &Path, routes: &BTreeSet<NodeRoute>) -> Result<(), RecordError> {
    let path = file(state_dir);
    let aside = path.with_extension("tmp");
    let text =
        serde_json::to_vec(routes).map_err(|source| RecordError::Content { path: path.clone(), source })?;
    // It is not flushed: no route outlives the machine's run.
    fs::write(&aside, &text).map_err(record_failed("write", &aside))?;
    fs::rename(&aside, &path).map_err(record_failed("rename", &aside))
}

/// The ways to nodes' pods of a machine that has none of its own: a server without a node.
#[derive(Debug)]
pub struct Routes {
    handle: Handle,
    state_dir: PathBuf,
    cluster: Vec<IpNet>,
}

impl Routes {
    /// Keeps the record in a folder, which is made. `cluster` has the addresses of all pods.
    pub fn open(state_dir: PathBuf, cluster: Vec<IpNet>) -> Result<Self, crate::Error> {
        fs::create_dir_all(&state_dir).map_err(record_failed("make the folder of", &file(&state_dir)))?;
        Ok(Routes { handle: crate::pod_network::connect()?, state_dir, cluster })
    }

    /// Has exactly these routes, as far as they can be; answers those that cannot.
    pub async fn set(&self, wanted: &[NodeRoute]) -> Result<Vec<Unreachable>, crate::Error> {
        let (wanted, mut refused) = divide(wanted, &self.cluster, None);
        refused.extend(set(&self.handle, &self.state_dir, &wanted).await?);
        Ok(refused)
    }
}

/// Those that lead to pods of this cluster and not to this node's own, and what is wrong with the others (pure).
pub(crate) fn divide(
    wanted: &[NodeRoute],
    cluster: &[IpNet],
    own: Option<IpNet>,
) -> (Vec<NodeRoute>, Vec<Unreachable>) {
    let (mut kept, mut refused) = (Vec::new(), Vec::new());
    for route in wanted {
        let pods = IpNet::V4(route.pods);
        let why = if !cluster.iter().any(|all| all.contains(&pods)) {
            format!("{pods} is not within the addresses of the cluster's pods")
        } else if let Some(own) = own.filter(|own| pods.contains(own) || own.contains(&pods)) {
            format!("{pods} overlaps this node's own {own}")
        } else {
            kept.push(*route);
            continue;
        };
        refused.push(Unreachable { route: *route, why });
    }
    (kept, refused)
}

/// How a node's address is reached.
enum Way {
    Direct,
    /// Not so, and why.
    Not(String),
}

fn judge(via: Ipv4Addr, found: &RouteMessage) -> Way {
    if found.header.kind != RouteType::Unicast {
        return Way::Not(format!("{via} is an address of this node, or none of a node"));
    }
    let gateway = found
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, RouteAttribute::Gateway(_) | RouteAttribute::Via(_)));
    if gateway {
        return Way::Not(format!(
            "{via} is not on a network of this node: nodes have to share one, as pods' packets are not tunnelled"
        ));
    }
    Way::Direct
}

async fn way(handle: &Handle, via: Ipv4Addr) -> Result<Way, LinkError> {
    let probe = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(via, 32).build();
    let mut answers = handle.route().get(probe).execute();
    match answers.try_next().await.map_err(failed(format!("look for the way to {via}"))) {
        Ok(Some(found)) => Ok(judge(via, &found)),
        Ok(None) => Ok(Way::Not(format!("there is no route to {via}"))),
        Err(error) if error.is(nix::libc::ENETUNREACH) || error.is(nix::libc::EHOSTUNREACH) => {
            Ok(Way::Not(format!("there is no route to {via}")))
        }
        Err(error) => Err(error),
    }
}

fn message(route: NodeRoute) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(route.pods.network(), route.pods.prefix_len())
        .gateway(route.via)
        .protocol(PROTOCOL)
        .build()
}

async fn remove(handle: &Handle, route: NodeRoute) -> Result<(), LinkError> {
    let removed = handle.route().del(message(route)).execute().await;
    match removed.map_err(failed(format!("remove the route to {} via {}", route.pods, route.via))) {
        // It went with its interface.
        Err(error) if error.is(nix::libc::ESRCH) => Ok(()),
        other => other,
    }
}

/// Makes it, if there is not the same already; says why not where somebody else's stands there.
async fn make(handle: &Handle, route: NodeRoute) -> Result<Option<String>, LinkError> {
    let action = format!("make a route to {} via {}", route.pods, route.via);
    match handle.route().add(message(route)).execute().await.map_err(failed(action)) {
        Ok(()) => Ok(None),
        Err(error) if error.is(nix::libc::EEXIST) => {
            // Removing finds only what is exactly as ours: then that is what stands there.
            match handle.route().del(message(route)).execute().await.map_err(failed("look at a route")) {
                Ok(()) => {
                    let again = handle.route().add(message(route)).execute().await;
                    again.map_err(failed("make a route again")).map(|()| None)
                }
                Err(error) if error.is(nix::libc::ESRCH) => {
                    Ok(Some(format!("another route to {} stands in the way", route.pods)))
                }
                Err(error) => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

/// Has exactly these routes, as far as they can be; answers those that cannot.
pub(crate) async fn set(
    handle: &Handle,
    state_dir: &Path,
    wanted: &[NodeRoute],
) -> Result<Vec<Unreachable>, crate::Error> {
    let known: BTreeSet<NodeRoute> = read(state_dir)?.into_iter().collect();
    let mut unreachable = Vec::new();
    let mut direct = BTreeSet::new();
    for route in wanted {
        match way(handle, route.via).await? {
            Way::Direct => {
                direct.insert(*route);
            }
            Way::Not(why) => unreachable.push(Unreachable { route: *route, why }),
        }
    }
    if direct.is_empty() && known.is_empty() {
        return Ok(unreachable);
    }
    let either: BTreeSet<NodeRoute> = known.union(&direct).copied().collect();
    if either != known {
        write(state_dir, &either)?;
    }
    for gone in known.difference(&direct) {
        remove(handle, *gone).await?;
    }
    let mut made = BTreeSet::new();
    for route in direct {
        match make(handle, route).await? {
            None => {
                made.insert(route);
            }
            Some(why) => unreachable.push(Unreachable { route, why }),
        }
    }
    if made != either {
        write(state_dir, &made)?;
    }
    Ok(unreachable)
}

/// Removes what is written down.
pub(crate) async fn remove_all(handle: &Handle, state_dir: &Path) -> Result<(), crate::Error> {
    for route in read(state_dir)? {
        remove(handle, route).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::route::RouteAddress;

    use super::*;

    #[test]
    fn a_node_that_says_to_have_all_addresses_is_led_none() {
        let route =
            |range: &str| NodeRoute { pods: range.parse().unwrap(), via: Ipv4Addr::new(192, 0, 2, 2) };
        let wanted: Vec<_> =
            ["0.0.0.0/0", "10.96.0.0/24", "10.42.0.0/16", "10.42.0.128/25", "10.42.3.0/24"].map(route).into();
        let (cluster, own) = (["10.42.0.0/16".parse().unwrap()], "10.42.0.0/24".parse().unwrap());
        let (kept, refused) = divide(&wanted, &cluster, Some(own));
        assert_eq!(kept, [route("10.42.3.0/24")]);
        assert_eq!(refused.len(), 4);
        assert!(refused[0].why.contains("not within the addresses of the cluster's pods"));
        assert!(refused[2].why.contains("overlaps this node's own"));
        let (kept, refused) = divide(&wanted, &cluster, None);
        assert_eq!((kept.len(), refused.len()), (3, 2), "a machine without pods is led to all");
    }

    fn route() -> NodeRoute {
        NodeRoute { pods: "10.42.1.0/24".parse().unwrap(), via: Ipv4Addr::new(192, 0, 2, 2) }
    }

    #[test]
    fn a_node_behind_a_gateway_is_not_reached_directly_and_neither_is_this_one() {
        let mut found = RouteMessage::default();
        found.header.kind = RouteType::Unicast;
        found.attributes.push(RouteAttribute::Oif(2));
        assert!(matches!(judge(route().via, &found), Way::Direct));
        found.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(Ipv4Addr::new(192, 0, 2, 254))));
        assert!(matches!(judge(route().via, &found), Way::Not(why) if why.contains("share one")));
        found.header.kind = RouteType::Local;
        assert!(matches!(judge(route().via, &found), Way::Not(why) if why.contains("address of this node")));
    }

    #[test]
    fn what_is_written_down_is_read_and_nothing_is_no_fault() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), []);
        write(dir.path(), &BTreeSet::from([route()])).unwrap();
        assert_eq!(read(dir.path()).unwrap(), [route()]);
    }
}
