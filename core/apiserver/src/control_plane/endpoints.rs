//! Where clients find the servers: the endpoints of the Service `kubernetes`.
//!
//! Each server says in a Lease of its own at which address it is reached. The one that leads the store knows who is
//! alive without asking, and keeps the endpoints to those.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use keelson_api::{GroupResource, Object, Status};
use keelson_store::{MemberId, MemberStatus, Members, Role};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::cache;
use crate::registry::delete::DeleteOptions;
use crate::registry::{Registry, Target};
use crate::server::bootstrap::{ensure, options};
use crate::server::kubernetes_service;

const NAMESPACE: &str = "kube-system";
const IDENTITY: &str = "apiserver.kubernetes.io/identity";
const ADDRESS: &str = "keelson.io/address";
/// As long as one that renews its Lease no longer is believed to be there, where nobody knows better.
const LEASE: Duration = Duration::from_secs(3600);
/// How often a server renews it.
const RENEW: Duration = Duration::from_secs(1200);
/// How often the leader looks at who is alive, while there are others.
const LOOK: Duration = Duration::from_secs(1);
/// And while there are none.
const LOOK_ALONE: Duration = Duration::from_secs(15);

/// This server.
pub(crate) struct Own {
    /// Its name.
    pub(crate) name: String,
    /// Where its API is reached.
    pub(crate) address: SocketAddr,
}

fn lease_name(id: MemberId) -> String {
    format!("apiserver-{id}")
}

fn lease(id: MemberId, own: &Own) -> Value {
    let now = format!("{:.6}", Timestamp::now());
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {
            "name": lease_name(id), "namespace": NAMESPACE,
            "labels": {IDENTITY: "kube-apiserver", "kubernetes.io/hostname": own.name},
            "annotations": {ADDRESS: own.address.to_string()},
        },
        "spec": {"holderIdentity": format!("{}_{id}", own.name), "leaseDurationSeconds": LEASE.as_secs(), "renewTime": now},
    })
}

/// The addresses at which clients find a server that is alive; those that are known if none seems to be.
fn living(members: &[MemberStatus], known: &BTreeMap<MemberId, SocketAddr>) -> Vec<SocketAddr> {
    let of = |wanted: &dyn Fn(&MemberStatus) -> bool| {
        let chosen = members.iter().filter(|member| member.role == Role::Voter && wanted(member));
        let mut found: Vec<_> = chosen.filter_map(|member| known.get(&member.id).copied()).collect();
        found.sort_unstable();
        found
    };
    let alive = of(&|member| member.healthy);
    if alive.is_empty() { of(&|_| true) } else { alive }
}

fn target(registry: &Registry, name: String) -> Result<Target, Status> {
    let catalog = registry.catalog();
    let resource = catalog.find("coordination.k8s.io", "v1", "leases").ok_or_else(Status::path_not_found)?;
    let namespace = Some(NAMESPACE.to_owned());
    Ok(Target { resource: Arc::clone(resource), namespace, name, subresource: String::new() })
}

/// Says where this server is.
pub(super) async fn say(registry: &Registry, id: MemberId, own: &Own) -> Result<(), Status> {
    let document = lease(id, own);
    ensure(registry, document.clone()).await?;
    let wanted = Object::from_value(document).map_err(Status::internal)?;
    let change = |live: &Object| {
        let mut object = live.clone();
        for field in [&["spec"][..], &["metadata", "labels"], &["metadata", "annotations"]] {
            if let Some(value) = wanted.get(field) {
                object.set(field, value.clone());
            }
        }
        Ok(object)
    };
    registry.update(&target(registry, lease_name(id))?, &options(), change).await.map(drop)
}

/// What a server has said.
pub(super) struct Said {
    pub(super) id: MemberId,
    pub(super) address: SocketAddr,
    /// When.
    pub(super) renewed: Timestamp,
}

/// What servers have said.
pub(super) fn all_said(registry: &Registry) -> Result<Vec<Said>, Status> {
    let mut all = Vec::new();
    let leases = registry.resource(&GroupResource::new("coordination.k8s.io", "leases")).list();
    // Those of nodes and operators are many, and lie elsewhere.
    for object in leases.in_namespace(NAMESPACE) {
        let lease = cache::decode(&object.bytes)?;
        if lease.get_str(&["metadata", "labels", IDENTITY]) != Some("kube-apiserver") {
            continue;
        }
        let id = lease.name().and_then(|name| name.strip_prefix("apiserver-")?.parse().ok());
        let address = lease.get_str(&["metadata", "annotations", ADDRESS]).and_then(|it| it.parse().ok());
        let renewed = lease.get_str(&["spec", "renewTime"]).and_then(|it| it.parse().ok());
        if let (Some(id), Some(address)) = (id, address) {
            all.push(Said { id, address, renewed: renewed.unwrap_or_default() });
        }
    }
    Ok(all)
}

/// The addresses that servers have said.
fn said(registry: &Registry) -> Result<BTreeMap<MemberId, SocketAddr>, Status> {
    Ok(all_said(registry)?.into_iter().map(|said| (said.id, said.address)).collect())
}

/// Takes back what a server has said.
pub(super) async fn forget(registry: &Registry, id: MemberId) -> Result<(), Status> {
    let lease = target(registry, lease_name(id))?;
    match registry.delete(&lease, &DeleteOptions::default(), &options()).await {
        Err(error) if error.code != 404 => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// On the leader: corrects the endpoints, and forgets servers that are members no more.
async fn correct(registry: &Registry, members: &Members) -> Result<(), Status> {
    let list = members.list().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let known = said(registry)?;
    let gone = known.keys().filter(|id| list.iter().all(|member| member.id != **id));
    for id in gone {
        forget(registry, *id).await?;
    }
    kubernetes_service::lead_to(registry, &living(&list, &known)).await
}

/// Keeps the endpoints, from the leader, and this server's Lease.
pub(crate) async fn keep(registry: Arc<Registry>, members: Members, own: Own, stop: CancellationToken) {
    let mut renew = tokio::time::Instant::now();
    let mut told = false;
    loop {
        if renew <= tokio::time::Instant::now() {
            match say(&registry, members.me(), &own).await {
                Ok(()) => renew += RENEW,
                Err(error) => tracing::info!(%error, "this server's lease could not be renewed"),
            }
        }
        let alone = members.count() < 2;
        if members.leader() == Some(members.me()) && !(alone && told) {
            match correct(&registry, &members).await {
                Ok(()) => told = alone,
                Err(error) => {
                    tracing::info!(%error, "the endpoints of the API server could not be corrected");
                }
            }
        }
        let pause = if alone && told { LOOK_ALONE } else { LOOK };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, role: Role, healthy: bool) -> MemberStatus {
        MemberStatus {
            id: MemberId(id),
            name: format!("m{id}"),
            addresses: Vec::new(),
            role,
            leader: false,
            matched: None,
            lag: 0,
            healthy,
        }
    }

    #[test]
    fn clients_are_led_to_those_who_are_alive_and_never_to_nobody() {
        let known: BTreeMap<MemberId, SocketAddr> =
            (1..=4).map(|id| (MemberId(id), SocketAddr::from(([10, 0, 0, id as u8], 6443)))).collect();
        let at = |ids: &[u8]| -> Vec<SocketAddr> {
            ids.iter().map(|id| SocketAddr::from(([10, 0, 0, *id], 6443))).collect()
        };
        let mut members = vec![
            member(2, Role::Voter, true),
            member(1, Role::Voter, true),
            member(3, Role::Voter, false),
            member(4, Role::Learner, true),
            member(5, Role::Voter, true),
        ];
        assert_eq!(living(&members, &known), at(&[1, 2]));
        members.iter_mut().for_each(|member| member.healthy = false);
        assert_eq!(living(&members, &known), at(&[1, 2, 3]));
    }
}
