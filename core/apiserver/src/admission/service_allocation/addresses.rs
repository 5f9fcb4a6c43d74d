//! An address is a Service's once an `IPAddress` of that name says so: its creation is what reserves it, in a cluster
//! of any number of servers.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use keelson_api::validation::FieldError;
use keelson_api::{GroupResource, Object, Status};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::Attributes;
use super::families::Family;
use super::pending::{Item, Pending};
use super::port_claims::{PATIENCE, YOUNG};
use crate::cache::{self, Cached};
use crate::registry::delete::{DeleteOptions, Preconditions};
use crate::registry::{Registry, Target};
use crate::server::bootstrap::options;

pub(super) const GROUP: &str = "networking.k8s.io";
const LABEL: &str = "ipaddress.kubernetes.io/managed-by";
/// Who manages the addresses of Services, as upstream names it.
pub(super) const MANAGER: &str = "ipallocator.k8s.io";
/// How many taken addresses are passed over before the range counts as full.
const TRIES: u32 = 1 << 17;

fn resource(registry: &Registry, plural: &str) -> Arc<crate::cache::ResourceCache> {
    registry.resource(&GroupResource::new(GROUP, plural))
}

/// The ranges that addresses are given from, the cluster's own first.
pub(super) fn ranges(registry: &Registry) -> Result<Vec<IpNet>, Status> {
    let mut found = Vec::new();
    for (name, range) in &resource(registry, "servicecidrs").list().objects {
        let range = cache::decode(&range.bytes)?;
        if range.deletion_timestamp().is_some() {
            continue;
        }
        let cidrs = range.get(&["spec", "cidrs"]).and_then(Value::as_array).into_iter().flatten();
        let nets = cidrs.filter_map(|text| text.as_str()?.parse::<IpNet>().ok());
        let is_own = &**name == super::repair::DEFAULT;
        found.extend(nets.map(|net| (!is_own, net)));
    }
    found.sort_by_key(|(later, _)| *later);
    Ok(found.into_iter().map(|(_, net)| net).collect())
}

/// The families that the cluster has, its own first.
pub(super) fn configured(registry: &Registry) -> Result<Vec<Family>, Status> {
    let mut families = Vec::new();
    for net in ranges(registry)? {
        let family = if net.addr().is_ipv4() { Family::V4 } else { Family::V6 };
        if !families.contains(&family) {
            families.push(family);
        }
    }
    Ok(families)
}

/// The `IPAddress` that gives an address to a Service.
pub(super) fn document(address: &str, namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {"name": address, "labels": {
            "ipaddress.kubernetes.io/ip-family": Family::of(address).to_string(), LABEL: MANAGER,
        }},
        "spec": {"parentRef": {"resource": "services", "namespace": namespace, "name": name}},
    })
}

/// The Service that an `IPAddress` names, by its key.
pub(super) fn parent(address: &Object) -> Option<String> {
    let text = |field: &str| address.get_str(&["spec", "parentRef", field]);
    (text("resource") == Some("services") && text("group").unwrap_or_default().is_empty())
        .then(|| format!("{}/{}", text("namespace").unwrap_or_default(), text("name").unwrap_or_default()))
}

/// Whether the stored Service of a key holds an address.
pub(super) fn holds(registry: &Registry, key: &str, address: &str) -> Result<bool, Status> {
    let Some(service) = registry.resource(&GroupResource::new("", "services")).get(key) else {
        return Ok(false);
    };
    Ok(super::cluster_ips(&cache::decode(&service.bytes)?).iter().any(|ip| ip == address))
}

pub(super) fn target(registry: &Registry, address: &str) -> Result<Target, Status> {
    let catalog = registry.catalog();
    let found = catalog.find(GROUP, "v1", "ipaddresses").cloned().ok_or_else(Status::path_not_found)?;
    Ok(Target { resource: found, namespace: None, name: address.to_owned(), subresource: String::new() })
}

/// Makes the `IPAddress`. `false` where there is one of that name.
pub(super) async fn make(
    registry: &Registry,
    address: &str,
    namespace: &str,
    name: &str,
) -> Result<bool, Status> {
    let object = Object::from_value(document(address, namespace, name)).map_err(Status::internal)?;
    match registry.create(target(registry, address)?, object, &options()).await {
        Ok(_) => Ok(true),
        Err(status) if status.reason == "AlreadyExists" => Ok(false),
        Err(status) => Err(status),
    }
}

/// Whether the Service of an `IPAddress` may still be on its way.
pub(super) fn is_young(address: &Object) -> bool {
    let made = address.creation_timestamp().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    made.is_some_and(|made| made.duration_until(jiff::Timestamp::now()).as_secs() < YOUNG)
}

/// Deletes an `IPAddress`, unless it has changed or gone.
pub(super) async fn take_away(registry: &Registry, address: &str, found: &Cached) -> Result<(), Status> {
    let resource_version = Some(found.revision.to_string());
    let preconditions = Some(Preconditions { uid: None, resource_version });
    let delete = DeleteOptions { preconditions, ..DeleteOptions::default() };
    match registry.delete(&target(registry, address)?, &delete, &options()).await {
        Err(status) if status.code != 404 && status.code != 409 => Err(status),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// What there is of an address that is asked for.
enum Left {
    Nothing,
    Taken,
    /// An `IPAddress` that is nobody's any more.
    Behind(Arc<Cached>),
}

/// Gives addresses to one Service.
pub(super) struct Grant<'a> {
    pub(super) registry: &'a Registry,
    pub(super) attributes: &'a Attributes<'a>,
    pub(super) pending: &'a Mutex<Pending>,
}

impl Grant<'_> {
    fn namespace(&self) -> &str {
        self.attributes.namespace.unwrap_or_default()
    }

    fn key(&self) -> String {
        format!("{}/{}", self.namespace(), self.attributes.name)
    }

    fn note(&self, address: &str) {
        self.pending.lock().note(Item::Address(address.to_owned()), &self.key());
    }

    fn refused(&self, address: &str, why: &str) -> Status {
        let detail = format!("failed to allocate IP {address}: {why}");
        let error = FieldError::invalid("spec.clusterIPs", json!([address]), detail);
        Status::invalid(&self.attributes.resource.gvk(), self.attributes.name, &[error])
    }

    /// Gives the address that is asked for.
    pub(super) async fn reserve(&self, address: &str) -> Result<(), Status> {
        // What is no address is refused by the rules of Services.
        let Ok(parsed) = address.parse::<IpAddr>() else { return Ok(()) };
        let taken = || self.refused(address, "provided IP is already allocated");
        if !ranges(self.registry)?.iter().any(|range| range.contains(&parsed)) {
            return Err(self.refused(address, "the provided network does not match the current range"));
        }
        let item = Item::Address(address.to_owned());
        if self.pending.lock().holder(&item).is_some_and(|holder| holder != self.key()) {
            return Err(taken());
        }
        let left = match self.left_behind(address).await? {
            Left::Taken => return Err(taken()),
            Left::Nothing => None,
            Left::Behind(found) => Some(found),
        };
        if self.attributes.dry_run {
            return Ok(());
        }
        self.note(address);
        if let Some(found) = left {
            // One of an earlier Service of this name must not be given back when that one's end is noticed.
            take_away(self.registry, address, &found).await?;
        }
        let made = make(self.registry, address, self.namespace(), self.attributes.name).await?;
        if made { Ok(()) } else { Err(taken()) }
    }

    /// What there is of an address before it is reserved. One that is another Service's which is not stored is waited for:
    /// that is on its way by another server, or has just gone.
    async fn left_behind(&self, address: &str) -> Result<Left, Status> {
        let addresses = resource(self.registry, "ipaddresses");
        let services = self.registry.resource(&GroupResource::new("", "services"));
        let (mut changed, mut services) = (addresses.follow(), services.follow());
        let deadline = Instant::now() + PATIENCE;
        loop {
            changed.mark_unchanged();
            services.mark_unchanged();
            let Some(found) = addresses.get(address) else { return Ok(Left::Nothing) };
            let object = cache::decode(&found.bytes)?;
            match parent(&object) {
                None => return Ok(Left::Taken),
                Some(holder) if holder == self.key() => return Ok(Left::Behind(found)),
                Some(holder) if holds(self.registry, &holder, address)? => return Ok(Left::Taken),
                Some(_) if !is_young(&object) => return Ok(Left::Behind(found)),
                Some(_) => tokio::select! {
                    _ = changed.changed() => {}
                    _ = services.changed() => {}
                    () = tokio::time::sleep_until(deadline) => return Ok(Left::Taken),
                },
            }
        }
    }

    /// Gives an address that nobody has: from those that are not asked for by number, while there are any.
    pub(super) async fn next(&self, family: Family) -> Result<String, Status> {
        let again = self.pending.lock().of(&self.key()).find_map(|item| match item {
            Item::Address(address) if Family::of(address) == family => Some(address.clone()),
            Item::Address(_) | Item::Port(_) => None,
        });
        let cache = resource(self.registry, "ipaddresses");
        if let Some(address) = again
            && let Some(found) = cache.get(&address)
            && parent(&cache::decode(&found.bytes)?) == Some(self.key())
        {
            return Ok(address);
        }
        for range in ranges(self.registry)? {
            let bits = if range.addr().is_ipv4() { 32 } else { 128 };
            if (bits == 32) != (family == Family::V4) {
                continue;
            }
            // Neither the network's own address nor, of IPv4, the last one.
            let host_bits = u32::from(bits - range.prefix_len()).min(20);
            let last = (1_u32 << host_bits).saturating_sub(if bits == 32 { 1 } else { 0 });
            let low = (last / 16).clamp(16, 256).min(last);
            let start = if low + 1 < last { rand::random_range(low + 1..last) } else { 1 };
            let dynamic = (start..last).chain(low + 1..start);
            for offset in dynamic.chain(1..=low.min(last.saturating_sub(1))).take(TRIES as usize) {
                let address = at(range, offset).to_string();
                if cache.get(&address).is_some()
                    || self.pending.lock().holder(&Item::Address(address.clone())).is_some()
                {
                    continue;
                }
                if self.attributes.dry_run {
                    return Ok(address);
                }
                self.note(&address);
                if make(self.registry, &address, self.namespace(), self.attributes.name).await? {
                    return Ok(address);
                }
            }
        }
        Err(Status::internal("failed to allocate a serviceIP: range is full"))
    }
}

/// The address at a place in a range.
fn at(range: IpNet, offset: u32) -> IpAddr {
    match range.network() {
        IpAddr::V4(network) => IpAddr::V4((u32::from(network).wrapping_add(offset)).into()),
        IpAddr::V6(network) => IpAddr::V6((u128::from(network).wrapping_add(u128::from(offset))).into()),
    }
}
