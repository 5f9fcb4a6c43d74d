//! A node port is a Service's once a note of that number says so: making the note is what reserves it, in a cluster of
//! any number of servers. As upstream's range of node ports, the notes are no objects of the API.

use std::time::Duration;

use jiff::Timestamp;
use keelson_api::{GroupResource, Status};
use keelson_store::{Precondition, Revision};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::node_ports;
use crate::cache::{self, Cached};
use crate::registry::Registry;

/// How many seconds a claim may be without its Service.
pub(super) const YOUNG: i64 = 60;
/// How long it is waited whether what another server has noted comes to be a Service's, or is given back.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// How often a claim is tried again when another was faster.
const ATTEMPTS: usize = 8;

/// Whose a port is.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Claim {
    /// By its key.
    service: String,
    made: Timestamp,
}

fn resource() -> GroupResource {
    GroupResource::new("ranges", "servicenodeports")
}

fn key(port: u16) -> String {
    cache::key(&resource(), None, &port.to_string())
}

fn read(found: &Cached) -> Result<Claim, Status> {
    serde_json::from_slice(&found.bytes).map_err(Status::internal)
}

fn unchanged(found: &Cached) -> Precondition {
    Precondition::Unchanged(Revision::new(found.revision))
}

async fn put(registry: &Registry, port: u16, service: &str, at: Precondition) -> Result<bool, Status> {
    let claim = Claim { service: service.to_owned(), made: Timestamp::now() };
    let note = serde_json::to_vec(&claim).map_err(Status::internal)?;
    registry.note(&key(port), Some(note), at).await
}

/// What stands against a claim.
enum Found {
    /// Nothing, if this holds of the note.
    Free(Precondition),
    Held,
    /// It is another Service's, which is not stored: it is on its way by another server, or has just gone.
    Unsettled,
}

fn look(registry: &Registry, port: u16, service: &str) -> Result<Found, Status> {
    let Some(found) = registry.resource(&resource()).get(&port.to_string()) else {
        return Ok(Found::Free(Precondition::Absent));
    };
    let claim = read(&found)?;
    if claim.service == service {
        return Ok(Found::Free(unchanged(&found)));
    }
    if node_ports::holds(registry, &claim.service, port)? {
        return Ok(Found::Held);
    }
    let age = claim.made.duration_until(Timestamp::now()).as_secs();
    Ok(if age >= YOUNG { Found::Free(unchanged(&found)) } else { Found::Unsettled })
}

/// Claims a port for a Service, by its key; the claim is newer than all that was there before, so that what an earlier
/// Service of that name leaves behind is not taken for this one's. `false` where the port is another's.
pub(super) async fn claim(registry: &Registry, port: u16, service: &str) -> Result<bool, Status> {
    let services = registry.resource(&GroupResource::new("", "services"));
    let (mut claims, mut services) = (registry.resource(&resource()).follow(), services.follow());
    let deadline = Instant::now() + PATIENCE;
    let mut attempts = 0;
    while attempts < ATTEMPTS {
        claims.mark_unchanged();
        services.mark_unchanged();
        match look(registry, port, service)? {
            Found::Held => return Ok(false),
            Found::Free(at) => {
                if put(registry, port, service, at).await? {
                    return Ok(true);
                }
                attempts += 1;
            }
            Found::Unsettled => tokio::select! {
                _ = claims.changed() => {}
                _ = services.changed() => {}
                () = tokio::time::sleep_until(deadline) => return Ok(false),
            },
        }
    }
    Ok(false)
}

/// Notes that a stored Service has a port, where nobody has noted it.
pub(super) async fn noted(registry: &Registry, port: u16, service: &str) -> Result<(), Status> {
    match registry.resource(&resource()).get(&port.to_string()) {
        None => put(registry, port, service, Precondition::Absent).await.map(drop),
        Some(found) => {
            let holder = read(&found)?.service;
            if holder != service && node_ports::holds(registry, &holder, port)? {
                tracing::error!(port, service, holder, "two Services have the same node port");
            }
            Ok(())
        }
    }
}

/// Gives a port back that a Service had until a revision, unless it has been claimed since.
pub(super) async fn release(registry: &Registry, port: u16, service: &str, until: u64) -> Result<(), Status> {
    let Some(found) = registry.resource(&resource()).get(&port.to_string()) else { return Ok(()) };
    if found.revision < until && read(&found)?.service == service {
        // Another server may have been faster, or the port is claimed anew.
        registry.note(&key(port), None, unchanged(&found)).await?;
    }
    Ok(())
}

/// Compares all claims with the Services, and gives back what is nobody's. `true` where something may still be on its way.
pub(super) async fn compare(registry: &Registry) -> Result<bool, Status> {
    let (now, mut is_young) = (Timestamp::now(), false);
    for (port, found) in &registry.resource(&resource()).list().objects {
        let claim = read(found)?;
        let Ok(number) = port.parse() else { continue };
        if node_ports::holds(registry, &claim.service, number)? {
            continue;
        }
        if claim.made.duration_until(now).as_secs() < YOUNG {
            is_young = true;
        } else {
            registry.note(&key(number), None, unchanged(found)).await?;
        }
    }
    Ok(is_young)
}
