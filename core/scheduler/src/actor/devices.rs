//! Writes pods' places in claims to devices (client).

use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::{Actor, text};
use crate::device::Reservation;
use crate::names::ObjectName;
use crate::pod::PodInfo;
use crate::scheduler::BindFailure;

/// Keeps a claim as long as devices are its own.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// How often a claim is written that others write too.
const TRIES: usize = 5;

/// Why a claim was not written.
enum Failed {
    /// Somebody else was first.
    Conflict,
    /// It cannot be; the text is for people.
    Refused(String),
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

/// Tells a conflict from other failures, of which it says what was tried.
fn failed(what: &str) -> impl FnOnce(kube::Error) -> Failed {
    move |error| match is_conflict(&error) {
        true => Failed::Conflict,
        false => Failed::Refused(format!("{what}: {}", text(&error))),
    }
}

impl Actor {
    fn claims(&self, name: &ObjectName) -> Api<ResourceClaim> {
        Api::namespaced(self.client.clone(), name.namespace.as_str())
    }

    /// Writes a pod's places in its claims, and devices at those that have none. `written` are the claims as they are then.
    pub(super) async fn reserve_devices(
        &self,
        pod: &PodInfo,
        reservations: &[Reservation],
        written: &mut Vec<ResourceClaim>,
    ) -> Result<(), BindFailure> {
        for one in reservations {
            let mut tries = 0;
            let claim = loop {
                tries += 1;
                match self.reserve_claim(pod, one).await {
                    Ok(claim) => break claim,
                    Err(Failed::Conflict) if tries < TRIES => {}
                    Err(Failed::Conflict) => {
                        let told =
                            format!("add reservation to claim {}: it is changed all the time", one.claim);
                        return Err(BindFailure::Refused(told));
                    }
                    Err(Failed::Refused(told)) => return Err(BindFailure::Refused(told)),
                }
            };
            written.push(claim);
        }
        Ok(())
    }

    async fn reserve_claim(&self, pod: &PodInfo, one: &Reservation) -> Result<ResourceClaim, Failed> {
        let (name, api, params) = (&one.claim, self.claims(&one.claim), PatchParams::default());
        let found = api.get(&name.name).await;
        let mut claim = found.map_err(failed(&format!("get updated claim {name} after conflict")))?;
        if claim.metadata.deletion_timestamp.is_some() || claim.metadata.uid.as_deref() != Some(&one.uid) {
            return Err(Failed::Refused(format!("claim {name} got deleted in the meantime")));
        }
        let status = claim.status.clone().unwrap_or_default();
        let mut body = json!({"status": {}});
        if let Some(allocation) = &one.allocation {
            if status.allocation.is_some() {
                return Err(Failed::Refused(format!("claim {name} got allocated elsewhere in the meantime")));
            }
            let mut finalizers = claim.metadata.finalizers.clone().unwrap_or_default();
            if !finalizers.iter().any(|it| it == FINALIZER) {
                finalizers.push(FINALIZER.to_owned());
                let revision = &claim.metadata.resource_version;
                let body = json!({"metadata": {"resourceVersion": revision, "finalizers": finalizers}});
                let patched = api.patch(&name.name, &params, &Patch::Merge(body)).await;
                claim = patched.map_err(failed(&format!("add finalizer to claim {name}")))?;
            }
            body["status"]["allocation"] = json!(allocation);
        } else if status.allocation.is_none() {
            return Err(Failed::Refused(format!("claim {name} got deallocated in the meantime")));
        }
        let mut users = status.reserved_for.unwrap_or_default();
        if users.iter().any(|user| user.uid == pod.uid.as_str()) {
            return Ok(claim);
        }
        users.push(ResourceClaimConsumerReference {
            api_group: None,
            resource: "pods".to_owned(),
            name: pod.name.name.to_string(),
            uid: pod.uid.to_string(),
        });
        body["status"]["reservedFor"] = json!(users);
        body["metadata"] = json!({"resourceVersion": claim.metadata.resource_version});
        let what = if one.allocation.is_some() { "allocation and reservation" } else { "reservation" };
        let patched = api.patch_status(&name.name, &params, &Patch::Merge(body)).await;
        patched.map_err(failed(&format!("add {what} to claim {name}")))
    }

    /// Gives back the places of a pod that is not bound. Who comes next uses the devices, or frees them.
    pub(super) async fn give_back(&self, pod: &PodInfo, written: &mut [ResourceClaim]) {
        for claim in written {
            let meta = &claim.metadata;
            let (Some(namespace), Some(name)) = (&meta.namespace, &meta.name) else { continue };
            let users = claim.status.as_ref().and_then(|status| status.reserved_for.as_ref());
            let users = users.into_iter().flatten().filter(|user| user.uid != pod.uid.as_str());
            let users: Vec<&ResourceClaimConsumerReference> = users.collect();
            let users = if users.is_empty() { Value::Null } else { json!(users) };
            let body = json!({
                "metadata": {"resourceVersion": meta.resource_version},
                "status": {"reservedFor": users},
            });
            let name = ObjectName::new(namespace, name);
            let api = self.claims(&name);
            match api.patch_status(&name.name, &PatchParams::default(), &Patch::Merge(body)).await {
                Ok(now) => *claim = now,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(object = %pod.name, claim = %name, error, "a pod's place in a claim is not given back");
                }
            }
        }
    }

    /// Takes the devices from a claim, unless it has changed.
    pub(super) async fn free(&self, name: &ObjectName, revision: u64) {
        let body = json!({
            "metadata": {"resourceVersion": revision.to_string()},
            "status": {"allocation": null, "reservedFor": null},
        });
        let patch = Patch::Merge(body);
        match self.claims(name).patch_status(&name.name, &PatchParams::default(), &patch).await {
            Ok(_) => {}
            Err(error) if is_conflict(&error) => {}
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(claim = %name, error, "a claim that nobody uses is not deallocated");
            }
        }
    }
}
