//! Gives back what nobody holds, and notes what nobody has noted.
//!
//! A Service that goes or changes gives its addresses back at once. Every few minutes, and only when something has
//! changed since, all addresses are compared with all Services: what a write that failed left behind goes then.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use keelson_api::{GroupResource, Object, Status};
use tokio_util::sync::CancellationToken;

use super::pending::Item;
use super::{Allocations, addresses, cluster_ips, node_ports, port_claims, ranges};
use crate::cache;
use crate::registry::Registry;

/// The name of the cluster's own range.
pub(super) const DEFAULT: &str = "kubernetes";
/// As upstream's.
const EVERY: Duration = Duration::from_secs(180);
const EVENTS: usize = 1024;
/// How long a range that nobody uses is kept, so that every server has seen that it gives no more addresses.
pub const GRACE: Duration = Duration::from_secs(10);

/// Makes the cluster's own range, and an `IPAddress` for every address that a Service has. Before anything is served.
pub async fn start(registry: &Registry, range: ipnet::Ipv4Net) -> Result<(), Status> {
    ranges::own(registry, range).await?;
    ranges::tend(registry, GRACE).await?;
    for service in registry.resource(&GroupResource::new("", "services")).list().objects.values() {
        noted(registry, &Allocations::default(), &cache::decode(&service.bytes)?).await?;
    }
    Ok(())
}

/// Follows Services and ranges until it is stopped. A range that is to go stays as long as `grace` says.
pub async fn keep(
    registry: Arc<Registry>,
    allocations: Arc<Allocations>,
    grace: Duration,
    stop: CancellationToken,
) {
    let services = registry.resource(&GroupResource::new("", "services"));
    let own_ranges = registry.resource(&GroupResource::new(addresses::GROUP, "servicecidrs"));
    let given = registry.resource(&GroupResource::new(addresses::GROUP, "ipaddresses"));
    let (mut changed, mut range_changed, mut given_changed) =
        (services.follow(), own_ranges.follow(), given.follow());
    let (mut left, mut again) = (ranges::Left::default(), tokio::time::Instant::now());
    let mut revision = services.list().revision;
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut is_dirty = true;
    loop {
        let outcome = tokio::select! {
            () = stop.cancelled() => return,
            Ok(()) = changed.changed() => {
                is_dirty = true;
                given_back(&registry, &allocations, &services, &mut revision).await
            }
            outcome = async {
                tokio::select! {
                    Ok(()) = range_changed.changed() => {}
                    Ok(()) = given_changed.changed(), if left.waits_for_addresses => {}
                    () = tokio::time::sleep_until(again), if left.again.is_some() => {}
                }
                ranges::tend(&registry, grace).await
            } => outcome.map(|found| {
                left = found;
                again = tokio::time::Instant::now() + found.again.unwrap_or_default();
            }),
            _ = every.tick(), if is_dirty => {
                let compared = compare(&registry, &allocations).await;
                is_dirty = compared.as_ref().is_ok_and(|left| *left);
                compared.map(drop)
            }
        };
        if let Err(error) = outcome {
            is_dirty = true;
            tracing::warn!(error = %error.message, "addresses of Services not compared");
        }
    }
}

/// Gives back what Services no longer have since a revision.
async fn given_back(
    registry: &Registry,
    allocations: &Allocations,
    services: &crate::cache::ResourceCache,
    revision: &mut u64,
) -> Result<(), Status> {
    loop {
        let Ok(events) = services.events_after(*revision, EVENTS) else {
            *revision = services.list().revision;
            return compare(registry, allocations).await.map(drop);
        };
        let Some(last) = events.last() else { return Ok(()) };
        *revision = last.revision;
        for event in events.iter().filter(|event| event.kind != keelson_store::EventKind::Deleted) {
            let service = cache::decode(&event.object.bytes)?;
            noted(registry, allocations, &service).await?;
        }
        for (until, previous) in events.iter().filter_map(|it| Some((it.revision, it.previous.as_ref()?))) {
            let previous = cache::decode(&previous.bytes)?;
            let key = format!(
                "{}/{}",
                previous.namespace().unwrap_or_default(),
                previous.name().unwrap_or_default()
            );
            for address in cluster_ips(&previous) {
                if !addresses::holds(registry, &key, &address)? {
                    release(registry, allocations, &address, &key, until).await?;
                }
            }
            for port in node_ports::ports(&previous) {
                if !node_ports::holds(registry, &key, port)? {
                    port_claims::release(registry, port, &key, until).await?;
                }
            }
        }
    }
}

/// A Service has come: what it has is promised no longer, and is its own.
async fn noted(registry: &Registry, allocations: &Allocations, service: &Object) -> Result<(), Status> {
    let (namespace, name) = (service.namespace().unwrap_or_default(), service.name().unwrap_or_default());
    let key = format!("{namespace}/{name}");
    for address in cluster_ips(service) {
        allocations.pending.lock().arrived(&Item::Address(address.clone()), &key);
        let is_free = registry.find(&addresses::target(registry, &address)?).is_none();
        if is_free && addresses::holds(registry, &key, &address)? {
            addresses::make(registry, &address, namespace, name).await?;
        }
    }
    for port in node_ports::ports(service) {
        if node_ports::holds(registry, &key, port)? {
            port_claims::noted(registry, port, &key).await?;
        }
    }
    Ok(())
}

/// Takes an `IPAddress` away that a Service had until a revision, unless it has been made anew since or is promised.
async fn release(
    registry: &Registry,
    allocations: &Allocations,
    address: &str,
    key: &str,
    until: u64,
) -> Result<(), Status> {
    let target = addresses::target(registry, address)?;
    let Some(found) = registry.find(&target) else { return Ok(()) };
    let is_another = addresses::parent(&cache::decode(&found.bytes)?).as_deref() != Some(key);
    if is_another || found.revision > until {
        return Ok(());
    }
    // A new Service of that name may be on its way with the same address.
    if allocations.pending.lock().holder(&Item::Address(address.to_owned())).is_some() {
        return Ok(());
    }
    addresses::take_away(registry, address, &found).await
}

/// Compares all addresses with all Services. `true` where something may still be on its way, so that it is to be
/// looked at again.
async fn compare(registry: &Registry, allocations: &Allocations) -> Result<bool, Status> {
    let mut is_young = port_claims::compare(registry).await?;
    let mut held: HashSet<(String, String)> = HashSet::new();
    for (key, service) in &registry.resource(&GroupResource::new("", "services")).list().objects {
        let service: Object = cache::decode(&service.bytes)?;
        for address in cluster_ips(&service) {
            held.insert((key.to_string(), address));
        }
        noted(registry, allocations, &service).await?;
    }
    let noted = registry.resource(&GroupResource::new(addresses::GROUP, "ipaddresses")).list();
    for (address, found) in &noted.objects {
        let revision = found.revision;
        let found = cache::decode(&found.bytes)?;
        let managed = found.labels().and_then(|labels| labels.get("ipaddress.kubernetes.io/managed-by"));
        let Some(key) =
            addresses::parent(&found).filter(|_| managed.is_some_and(|it| it == addresses::MANAGER))
        else {
            continue;
        };
        if held.contains(&(key.clone(), address.to_string())) {
            continue;
        }
        // The Service may be on its way by another server.
        if addresses::is_young(&found) {
            is_young = true;
        } else {
            release(registry, allocations, address, &key, revision).await?;
        }
    }
    Ok(is_young)
}
