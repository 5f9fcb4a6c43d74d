//! Interfaces, addresses and routes.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd as _;

use futures::TryStreamExt as _;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};

use crate::config::Layout;
use crate::netns::Namespace;

/// The pod's interface.
pub(crate) const POD_INTERFACE: &str = "eth0";
const LOOPBACK: u32 = 1;

/// The kernel refused a change of an interface, address or route.
#[derive(Debug, thiserror::Error)]
#[error("{action}")]
pub struct LinkError {
    /// What was tried.
    pub action: String,
    /// Why not.
    #[source]
    pub source: io::Error,
}

impl LinkError {
    pub(crate) fn is(&self, number: i32) -> bool {
        self.source.raw_os_error() == Some(number)
    }
}

pub(crate) fn failed(action: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> LinkError {
    let action = action.into();
    move |error| {
        let source = match &error {
            rtnetlink::Error::NetlinkError(message) => message.to_io(),
            other => io::Error::other(other.to_string()),
        };
        LinkError { action, source }
    }
}

/// What is asked of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) up: bool,
    /// The bridge that it belongs to.
    pub(crate) controller: Option<u32>,
}

/// The name of the node's end of a pod's veth: fifteen characters at most. `attempt` changes it when it is taken.
pub(crate) fn veth_name(cluster_id: &str, container_id: &str, attempt: u32) -> String {
    let mut hasher = DefaultHasher::new();
    (container_id, attempt).hash(&mut hasher);
    format!("k{cluster_id}{:06x}", hasher.finish() & 0xff_ffff)
}

/// An interface by name, if there is one.
pub(crate) async fn find(handle: &Handle, name: &str) -> Result<Option<Link>, LinkError> {
    let mut answers = handle.link().get().match_name(name).execute();
    match answers.try_next().await.map_err(failed(format!("look for interface {name}"))) {
        Ok(found) => Ok(found.as_ref().map(link)),
        Err(error) if error.is(nix::libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

fn link(message: &LinkMessage) -> Link {
    let controller = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Controller(index) => Some(*index),
        _ => None,
    });
    Link { index: message.header.index, up: message.header.flags.contains(LinkFlags::Up), controller }
}

/// The names and indexes of the interfaces whose names begin so.
pub(crate) async fn named(handle: &Handle, prefix: &str) -> Result<Vec<(String, u32)>, LinkError> {
    let links: Vec<LinkMessage> =
        handle.link().get().execute().try_collect().await.map_err(failed("list interfaces"))?;
    let name = |message: &LinkMessage| {
        message.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) if name.starts_with(prefix) => {
                Some((name.clone(), message.header.index))
            }
            _ => None,
        })
    };
    Ok(links.iter().filter_map(name).collect())
}

/// Deletes an interface by name; it is no error if there is none.
pub(crate) async fn delete(handle: &Handle, name: &str) -> Result<(), LinkError> {
    let Some(link) = find(handle, name).await? else { return Ok(()) };
    match handle.link().del(link.index).execute().await.map_err(failed(format!("delete interface {name}"))) {
        Err(error) if !error.is(nix::libc::ENODEV) => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Makes the bridge, or brings one that is there into shape: address, MTU, up. Answers its index.
pub(crate) async fn ensure_bridge(handle: &Handle, layout: &Layout, mtu: u32) -> Result<u32, LinkError> {
    let name = &layout.bridge;
    if find(handle, name).await?.is_none() {
        // With an address of its own, the bridge does not take that of some port, which then goes.
        let bridge = LinkBridge::new(name).address(hardware_address(layout.gateway)).build();
        handle.link().add(bridge).execute().await.map_err(failed(format!("make bridge {name}")))?;
    }
    let link = find(handle, name).await?;
    let index = link.map(|link| link.index).ok_or_else(|| LinkError {
        action: format!("find bridge {name}"),
        source: io::ErrorKind::NotFound.into(),
    })?;
    let change = LinkUnspec::new_with_index(index).mtu(mtu).up().build();
    handle.link().change(change).execute().await.map_err(failed(format!("set bridge {name} up")))?;

    let (gateway, prefix) = layout.gateway_net();
    let addresses: Vec<_> = handle
        .address()
        .get()
        .set_link_index_filter(index)
        .execute()
        .try_collect()
        .await
        .map_err(failed(format!("list addresses of {name}")))?;
    for address in addresses {
        let other = address.attributes.iter().any(|attribute| match attribute {
            AddressAttribute::Address(IpAddr::V4(one)) => {
                IpAddr::V4(*one) != gateway || address.header.prefix_len != prefix
            }
            _ => false,
        });
        if other {
            handle.address().del(address).execute().await.map_err(failed(format!("clear {name}")))?;
        }
    }
    let address = handle.address().add(index, gateway, prefix).replace().execute();
    address.await.map_err(failed(format!("give bridge {name} address {gateway}/{prefix}")))?;
    Ok(index)
}

/// Makes the network reachable over the bridge, unless there is a route to it.
pub(crate) async fn ensure_route(
    handle: &Handle,
    bridge: u32,
    network: ipnet::Ipv4Net,
) -> Result<(), LinkError> {
    let probe = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(network.network(), 32).build();
    let mut answers = handle.route().get(probe).execute();
    match answers.try_next().await.map_err(failed(format!("look for a route to {network}"))) {
        Ok(_) => return Ok(()),
        Err(error) if error.is(nix::libc::ENETUNREACH) || error.is(nix::libc::EHOSTUNREACH) => {}
        Err(error) => return Err(error),
    }
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(network.network(), network.prefix_len())
        .output_interface(bridge)
        .scope(RouteScope::Link)
        .build();
    handle.route().add(route).replace().execute().await.map_err(failed(format!("make a route to {network}")))
}

/// The same address has the same hardware address, whichever pod has it: nobody's neighbour table is ever wrong.
fn hardware_address(address: Ipv4Addr) -> Vec<u8> {
    [&[0x0a, 0x58], &address.octets()[..]].concat()
}

/// Makes a veth: one end a port of the bridge and up, the other `eth0` in the namespace, down.
///
/// Answers the node's end's name, which is found anew if another pod has it.
pub(crate) async fn create_veth(
    handle: &Handle,
    name: &str,
    bridge: u32,
    namespace: &Namespace,
    address: Ipv4Addr,
    mtu: u32,
) -> Result<(), LinkError> {
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(POD_INTERFACE)
        .address(hardware_address(address))
        .mtu(mtu)
        .setns_by_fd(namespace.file().as_raw_fd())
        .build();
    let veth = LinkVeth::new(name, POD_INTERFACE)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .mtu(mtu)
        .controller(bridge)
        .up()
        .build();
    handle.link().add(veth).execute().await.map_err(failed(format!("make veth {name}")))?;
    // A pod may reach itself: with br_netfilter on, the frame leaves by the port that it came by.
    let port = LinkMessageBuilder::<LinkBridgePort>::default()
        .name(name)
        .set_port_kind(rtnetlink::packet_route::link::InfoPortKind::Bridge)
        .hairpin(true)
        .build();
    handle.link().set_port(port).execute().await.map_err(failed(format!("let {name} answer its own port")))
}

/// Inside the pod: what every pod has, whoever makes the rest.
pub(crate) async fn loopback_up(handle: &Handle) -> Result<(), LinkError> {
    let change = LinkUnspec::new_with_index(LOOPBACK).up().build();
    handle.link().change(change).execute().await.map_err(failed("set the pod's loopback interface up"))
}

/// Inside the pod: loopback up, the address on `eth0`, everything behind the gateway.
pub(crate) async fn configure_pod(
    handle: &Handle,
    address: Ipv4Addr,
    gateway: Ipv4Addr,
) -> Result<(), LinkError> {
    loopback_up(handle).await?;
    let index = find(handle, POD_INTERFACE).await?.map(|link| link.index).ok_or_else(|| LinkError {
        action: "find the pod's interface".to_owned(),
        source: io::ErrorKind::NotFound.into(),
    })?;
    let add = handle.address().add(index, IpAddr::V4(address), 32).execute();
    add.await.map_err(failed(format!("give the pod address {address}")))?;
    let up = LinkUnspec::new_with_index(index).up().build();
    handle.link().change(up).execute().await.map_err(failed("set the pod's interface up"))?;
    let to_gateway = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(gateway, 32)
        .output_interface(index)
        .scope(RouteScope::Link)
        .build();
    let add = handle.route().add(to_gateway).execute();
    add.await.map_err(failed("make the pod's route to the gateway"))?;
    let default = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(index).build();
    handle.route().add(default).execute().await.map_err(failed("make the pod's default route"))
}

/// Whether the pod's side is as [`configure_pod`] left it.
pub(crate) async fn check_pod(handle: &Handle, address: Ipv4Addr) -> Result<bool, LinkError> {
    let Some(link) = find(handle, POD_INTERFACE).await?.filter(|link| link.up) else { return Ok(false) };
    let addresses: Vec<_> = handle
        .address()
        .get()
        .set_link_index_filter(link.index)
        .execute()
        .try_collect()
        .await
        .map_err(failed("list the pod's addresses"))?;
    Ok(addresses
        .iter()
        .flat_map(|one| &one.attributes)
        .any(|attribute| matches!(attribute, AddressAttribute::Address(IpAddr::V4(one)) if *one == address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_fit_and_differ_between_clusters_pods_and_attempts() {
        let name = veth_name("0badcafe", "c1", 0);
        assert_eq!(name.len(), 15);
        assert!(name.starts_with("k0badcafe"));
        assert_ne!(name, veth_name("0badcafe", "c2", 0));
        assert_ne!(name, veth_name("0badcafe", "c1", 1));
        assert_ne!(name, veth_name("0badcaff", "c1", 0));
    }
}
