//! The ranges that addresses are given from: each is ready to be used, and stays as long as addresses are in it alone.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use keelson_api::object::format_time;
use keelson_api::{GroupResource, Object, ResourceInfo, Status};
use serde_json::{Value, json};

use super::addresses::{GROUP, MANAGER};
use super::repair::DEFAULT;
use crate::cache;
use crate::registry::{Registry, Target};
use crate::server::bootstrap::{ensure, options};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const HELD: &str =
    "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
/// What is left to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Left {
    /// A range that is to go has addresses.
    pub(super) waits_for_addresses: bool,
    /// When to look again.
    pub(super) again: Option<Duration>,
}

/// Makes the cluster's own range if it is not there. One that differs stays in force, and an Event says so.
pub(super) async fn own(registry: &Registry, range: ipnet::Ipv4Net) -> Result<(), Status> {
    let document = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": DEFAULT},
        "spec": {"cidrs": [range.to_string()]},
    });
    ensure(registry, document).await?;
    let Some(found) = registry.resource(&GroupResource::new(GROUP, "servicecidrs")).get(DEFAULT) else {
        return Ok(());
    };
    let live: Object = cache::decode(&found.bytes)?;
    let cidrs: Vec<&str> = texts(&live).collect();
    if cidrs.contains(&range.to_string().as_str()) {
        return Ok(());
    }
    let message = format!(
        "The default ServiceCIDR [{}] does not match the flag configurations [{range}]",
        cidrs.join(" ")
    );
    tracing::warn!(stored = cidrs.join(","), configured = %range, "the range of Services' addresses is the stored one");
    warn(registry, &live, "KubernetesDefaultServiceCIDRInconsistent", &message).await
}

async fn warn(registry: &Registry, about: &Object, reason: &str, message: &str) -> Result<(), Status> {
    let (name, now) = (about.name().unwrap_or_default(), Timestamp::now());
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "type": "Warning", "reason": reason, "message": message, "count": 1,
        "metadata": {"name": format!("{name}.{:x}", now.as_nanosecond()), "namespace": "default"},
        "involvedObject": {"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "name": name, "uid": about.uid(),
            "resourceVersion": about.resource_version()},
        "source": {"component": "ipallocator-repair-controller"}, "reportingComponent": "ipallocator-repair-controller",
        "firstTimestamp": format_time(now), "lastTimestamp": format_time(now),
    });
    match ensure(registry, event).await {
        // Before the first start there is no namespace for it; then there is nothing to warn of either.
        Err(status) if status.code == 404 => Ok(()),
        outcome => outcome,
    }
}

fn texts(range: &Object) -> impl Iterator<Item = &str> {
    let cidrs = range.get(&["spec", "cidrs"]).and_then(Value::as_array);
    cidrs.into_iter().flatten().filter_map(Value::as_str)
}

fn nets(range: &Object) -> Vec<IpNet> {
    texts(range).filter_map(|text| text.parse().ok()).collect()
}

/// Brings every range to what it should be.
pub(super) async fn tend(registry: &Registry, grace: Duration) -> Result<Left, Status> {
    let catalog = registry.catalog();
    let Some(resource) = catalog.find(GROUP, "v1", "servicecidrs") else { return Ok(Left::default()) };
    let listed = registry.resource(&resource.group_resource()).list();
    let all: Vec<Object> =
        listed.objects.values().map(|range| cache::decode(&range.bytes)).collect::<Result<_, _>>()?;
    let mut left = Left::default();
    for range in &all {
        let Some(since) = range.deletion_timestamp() else {
            keep(registry, resource, range).await?;
            continue;
        };
        if !range.finalizers().any(|it| it == FINALIZER) {
            continue;
        }
        if is_needed(registry, range, &all)? {
            left.waits_for_addresses = true;
            say(registry, resource, range, ("False", "Terminating", HELD)).await?;
            continue;
        }
        let gone = since.parse::<Timestamp>().map_or(grace, |since| {
            Duration::from_millis(
                u64::try_from(since.duration_until(Timestamp::now()).as_millis()).unwrap_or(0),
            )
        });
        match grace.checked_sub(gone).filter(|rest| !rest.is_zero()) {
            Some(rest) => left.again = Some(left.again.map_or(rest, |other| other.min(rest))),
            None => finalize(registry, resource, range, false).await?,
        }
    }
    Ok(left)
}

/// A range in use has its finalizer and says that it is ready.
async fn keep(registry: &Registry, resource: &Arc<ResourceInfo>, range: &Object) -> Result<(), Status> {
    if !range.finalizers().any(|it| it == FINALIZER) {
        finalize(registry, resource, range, true).await?;
    }
    let message = if range.name() == Some(DEFAULT) {
        "Kubernetes default Service CIDR is ready"
    } else {
        "Kubernetes Service CIDR is ready"
    };
    say(registry, resource, range, ("True", "", message)).await
}

/// Whether a range has addresses that no other one has.
fn is_needed(registry: &Registry, range: &Object, all: &[Object]) -> Result<bool, Status> {
    let own = nets(range);
    let others: Vec<IpNet> = all
        .iter()
        .filter(|other| other.name() != range.name() && other.deletion_timestamp().is_none())
        .flat_map(nets)
        .collect();
    if own.iter().all(|net| others.iter().any(|other| other.contains(net))) {
        return Ok(false);
    }
    for (name, found) in &registry.resource(&GroupResource::new(GROUP, "ipaddresses")).list().objects {
        let Ok(address) = name.parse::<IpAddr>() else { continue };
        let alone = own.iter().any(|net| net.contains(&address))
            && !others.iter().any(|other| other.contains(&address));
        let labels = found.labels.as_ref();
        let is_managed = labels
            .and_then(|labels| labels.get("ipaddress.kubernetes.io/managed-by"))
            .is_some_and(|manager| manager == MANAGER);
        if alone && is_managed {
            return Ok(true);
        }
    }
    Ok(false)
}

fn target(resource: &Arc<ResourceInfo>, range: &Object, subresource: &str) -> Target {
    Target {
        resource: Arc::clone(resource),
        namespace: None,
        name: range.name().unwrap_or_default().to_owned(),
        subresource: subresource.to_owned(),
    }
}

async fn write(
    registry: &Registry,
    target: Target,
    change: impl Fn(&mut Object) + Send + Sync,
) -> Result<(), Status> {
    let options = options();
    let written = registry.update(&target, &options, |live| {
        let mut object = live.clone();
        object.set_resource_version(None);
        change(&mut object);
        Ok(object)
    });
    match written.await {
        Err(status) if status.code != 404 => Err(status),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Adds the finalizer, or takes it away.
async fn finalize(
    registry: &Registry,
    resource: &Arc<ResourceInfo>,
    range: &Object,
    is_kept: bool,
) -> Result<(), Status> {
    write(registry, target(resource, range, ""), |object| {
        let mut list: Vec<String> = object.finalizers().map(str::to_owned).collect();
        list.retain(|it| it != FINALIZER);
        // One that is being deleted meanwhile takes no more.
        if is_kept && object.deletion_timestamp().is_none() {
            list.push(FINALIZER.to_owned());
        }
        match list.is_empty() {
            true => drop(object.remove(&["metadata", "finalizers"])),
            false => object.set(&["metadata", "finalizers"], json!(list)),
        }
    })
    .await
}

/// Says whether addresses are given from a range, and why.
async fn say(
    registry: &Registry,
    resource: &Arc<ResourceInfo>,
    range: &Object,
    (status, reason, message): (&str, &str, &str),
) -> Result<(), Status> {
    let list = range.get(&["status", "conditions"]).and_then(Value::as_array);
    if list.into_iter().flatten().any(|it| it["type"] == "Ready" && it["status"] == status) {
        return Ok(());
    }
    let now = format_time(Timestamp::now());
    let condition = json!({
        "type": "Ready", "status": status, "reason": reason, "message": message, "lastTransitionTime": now,
    });
    write(registry, target(resource, range, "status"), |object| {
        let mut all =
            object.get(&["status", "conditions"]).and_then(Value::as_array).cloned().unwrap_or_default();
        all.retain(|it| it["type"] != "Ready");
        all.push(condition.clone());
        object.set(&["status", "conditions"], all.into());
    })
    .await
}
