//! Prepares the claims of pods, and takes that back.
//!
//! ```text
//! record (pod, drivers), NodePrepareResources of each driver, record (devices)
//! NodeUnprepareResources of each driver when the last pod goes, the record
//! ```

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::ResourceClaim;
use keelson_dra::v1;
use kube::{Api, ResourceExt as _};

use super::state::{Claim, ClaimName};
use super::{Dra, DraError};

fn refused<T>(text: String) -> Result<T, DraError> {
    Err(DraError::Refused(text))
}

/// The name of a pod's claim; `None` where it needs none. It is the pod's own where it was made of a template.
fn claim_name(pod: &Pod, claim: &PodResourceClaim) -> Result<Option<String>, DraError> {
    if let Some(name) = &claim.resource_claim_name {
        return Ok(Some(name.clone()));
    }
    let statuses = pod.status.as_ref().and_then(|status| status.resource_claim_statuses.as_ref());
    match statuses.into_iter().flatten().find(|status| status.name == claim.name) {
        Some(status) => Ok(status.resource_claim_name.clone()),
        None => {
            let namespace = pod.namespace().unwrap_or_default();
            refused(format!("pod \"{namespace}/{}\": ResourceClaim not created yet", pod.name_any()))
        }
    }
}

/// Whether a pod may have a claim, and the drivers of its devices (pure).
fn drivers(pod: &Pod, own: bool, claim: &ResourceClaim) -> Result<BTreeSet<String>, DraError> {
    let (uid, name) = (pod.uid().unwrap_or_default(), claim.name_any());
    let is_owned = claim.owner_references().iter().any(|it| it.controller == Some(true) && it.uid == uid);
    if own && !is_owned {
        let namespace = pod.namespace().unwrap_or_default();
        return refused(format!(
            "ResourceClaim {namespace}/{name} was not created for pod {namespace}/{} (pod is not owner)",
            pod.name_any()
        ));
    }
    let status = claim.status.clone().unwrap_or_default();
    if !status.reserved_for.iter().flatten().any(|user| user.uid == uid) {
        return refused(format!(
            "pod {} ({uid}) is not allowed to use ResourceClaim {name} ({})",
            pod.name_any(),
            claim.uid().unwrap_or_default()
        ));
    }
    let Some(allocation) = status.allocation else {
        return refused(format!("ResourceClaim {name}: not allocated"));
    };
    let results = allocation.devices.into_iter().flat_map(|devices| devices.results.unwrap_or_default());
    Ok(results.map(|result| result.driver).collect())
}

fn message(claim: &Claim) -> v1::Claim {
    v1::Claim { namespace: claim.namespace.clone(), uid: claim.uid.clone(), name: claim.name.clone() }
}

/// What a container asks for of a claim.
pub(super) struct Wanted {
    /// What the pod calls the claim.
    pub(super) name: String,
    /// What the claim is called.
    pub(super) claim: ClaimName,
    /// A part of it; all where none is named.
    pub(super) request: Option<String>,
}

impl Dra {
    /// Prepares the claims of a pod that has nothing running; what was prepared in this run is left as it is.
    pub(crate) async fn prepare(&self, pod: &Pod) -> Result<(), DraError> {
        self.prepare_all(pod, |claim| claim.prepared && claim.asked).await
    }

    /// The same for a pod that runs: what was prepared in an earlier run is left as it is too.
    pub(crate) async fn keep_prepared(&self, pod: &Pod) -> Result<(), DraError> {
        self.prepare_all(pod, |claim| claim.prepared).await
    }

    async fn prepare_all(&self, pod: &Pod, is_done: fn(&Claim) -> bool) -> Result<(), DraError> {
        for claim in pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten()) {
            let Some(name) = claim_name(pod, claim)? else { continue };
            let own = claim.resource_claim_name.is_none();
            let name = (pod.namespace().unwrap_or_default(), name);
            self.prepare_claim(pod, name, own, is_done).await?;
        }
        Ok(())
    }

    async fn prepare_claim(
        &self,
        pod: &Pod,
        name: ClaimName,
        own: bool,
        is_done: fn(&Claim) -> bool,
    ) -> Result<(), DraError> {
        let turn = self.turn(&name);
        let _turn = turn.lock().await;
        let uid = pod.uid().unwrap_or_default();
        let known = self.state.get(&name);
        if known.as_ref().is_some_and(|known| is_done(known) && known.pods.contains(&uid)) {
            return Ok(());
        }
        let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), &name.0);
        let found = api.get(&name.1).await;
        let found =
            found.map_err(|error| DraError::Fetch { claim: name.1.clone(), source: Box::new(error) })?;
        let drivers = drivers(pod, own, &found)?;
        let claim_uid = found.uid().unwrap_or_default();
        let mut claim = known.unwrap_or_else(|| Claim {
            namespace: name.0.clone(),
            name: name.1.clone(),
            uid: claim_uid.clone(),
            ..Claim::default()
        });
        if claim.uid != claim_uid {
            return refused(format!(
                "old ResourceClaim with same name {} and different UID {} still exists (previous pod force-deleted?!)",
                name.1, claim.uid
            ));
        }
        claim.pods.insert(uid);
        if is_done(&claim) {
            return Ok(self.state.put(&name, Some(claim)).await?);
        }
        let mut callable = Vec::new();
        for driver in drivers {
            callable.push((self.driver(&driver)?, driver.clone()));
            claim.drivers.entry(driver).or_default();
        }
        self.state.put(&name, Some(claim.clone())).await?;
        for (driver, driver_name) in callable {
            let devices = driver.prepare(message(&claim)).await?;
            claim.drivers.insert(driver_name, devices);
        }
        (claim.prepared, claim.asked) = (true, true);
        Ok(self.state.put(&name, Some(claim)).await?)
    }

    /// What a container asks for of the pod's claims. A claim that the pod does not need is none.
    pub(super) fn of_container(pod: &Pod, container: &Container) -> Result<Vec<Wanted>, DraError> {
        let claims = pod.spec.as_ref().and_then(|spec| spec.resource_claims.as_ref());
        let wanted = container.resources.as_ref().and_then(|resources| resources.claims.as_ref());
        let mut found = Vec::new();
        for wanted in wanted.into_iter().flatten() {
            let Some(claim) = claims.into_iter().flatten().find(|claim| claim.name == wanted.name) else {
                continue;
            };
            if let Some(name) = claim_name(pod, claim)? {
                found.push(Wanted {
                    name: wanted.name.clone(),
                    claim: (pod.namespace().unwrap_or_default(), name),
                    request: wanted.request.clone().filter(|request| !request.is_empty()),
                });
            }
        }
        Ok(found)
    }

    /// The names by which the runtime finds a container's devices. They are prepared before.
    pub(crate) fn devices(&self, pod: &Pod, container: &Container) -> Result<Vec<String>, DraError> {
        let mut found: Vec<String> = Vec::new();
        for Wanted { claim: key, request, .. } in Self::of_container(pod, container)? {
            let Some(claim) = self.state.get(&key).filter(|claim| claim.prepared) else {
                return refused(format!(
                    "internal error: unable to get claim info for ResourceClaim {} in namespace {}",
                    key.1, key.0
                ));
            };
            for device in claim.cdi_devices(request.as_deref()) {
                if !found.contains(&device) {
                    found.push(device);
                }
            }
        }
        Ok(found)
    }

    /// The claims of a container as they are prepared, each once; none where one of them is not known yet.
    pub(crate) fn claims(&self, pod: &Pod, container: &Container) -> Vec<Claim> {
        let names: BTreeSet<ClaimName> = match Self::of_container(pod, container) {
            Ok(found) => found.into_iter().map(|wanted| wanted.claim).collect(),
            Err(error) => {
                tracing::debug!(container = container.name, %error, "a container's claims are not known");
                return Vec::new();
            }
        };
        let known: Option<Vec<Claim>> = names.iter().map(|name| self.state.get(name)).collect();
        known.unwrap_or_default()
    }

    /// Takes back what a pod had that has ended.
    pub(crate) async fn unprepare(&self, uid: &str) -> Result<(), DraError> {
        let names = self.state.of_pod(uid);
        for name in names {
            let turn = self.turn(&name);
            let _turn = turn.lock().await;
            let Some(mut claim) = self.state.get(&name) else { continue };
            if !claim.pods.contains(uid) {
                continue;
            }
            if claim.pods.len() > 1 {
                claim.pods.remove(uid);
                self.state.put(&name, Some(claim)).await?;
                continue;
            }
            for driver in claim.drivers.keys() {
                self.driver(driver)?.unprepare(message(&claim)).await?;
            }
            self.state.put(&name, None).await?;
        }
        Ok(())
    }

    /// Only these pods are still there: what others had is taken back.
    pub(crate) fn retain(&self, is_there: impl Fn(&str) -> bool) {
        let gone: Vec<String> = self.state.pods().into_iter().filter(|uid| !is_there(uid)).collect();
        if !gone.is_empty() {
            let mut forgotten = self.forgotten.lock();
            forgotten.extend(gone);
            forgotten.sort_unstable();
            forgotten.dedup();
            drop(forgotten);
            self.changed.notify_one();
        }
    }

    /// Takes back what forgotten pods had; whether nothing is left of them.
    pub(super) async fn take_back(&self) -> bool {
        let gone: Vec<String> = std::mem::take(&mut *self.forgotten.lock());
        for uid in gone {
            if let Err(error) = self.unprepare(&uid).await {
                tracing::warn!(pod = uid, %error, "what a pod had that is gone is not taken back");
                self.forgotten.lock().push(uid);
            }
        }
        self.forgotten.lock().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn a_pod_has_those_claims_that_are_reserved_for_it_and_its_own() {
        let pod: Pod = from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}})).unwrap();
        let claim = |owner: &str, user: &str| -> ResourceClaim {
            let owner =
                json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true});
            let results = json!([{"request": "r", "driver": "d", "pool": "p", "device": "x"}]);
            from_value(json!({
                "metadata": {"name": "c", "namespace": "n", "uid": "cu", "ownerReferences": [owner]}, "spec": {},
                "status": {"reservedFor": [{"resource": "pods", "name": "p", "uid": user}],
                    "allocation": {"devices": {"results": results}}},
            }))
            .unwrap()
        };
        assert_eq!(drivers(&pod, true, &claim("u", "u")).unwrap(), BTreeSet::from(["d".to_owned()]));
        assert!(drivers(&pod, false, &claim("x", "u")).is_ok());
        assert_eq!(
            drivers(&pod, true, &claim("x", "u")).unwrap_err().to_string(),
            "ResourceClaim n/c was not created for pod n/p (pod is not owner)"
        );
        assert_eq!(
            drivers(&pod, false, &claim("x", "y")).unwrap_err().to_string(),
            "pod p (u) is not allowed to use ResourceClaim c (cu)"
        );
    }

    #[test]
    fn a_claim_that_is_not_there_is_told_in_the_words_of_the_api() {
        let text = r#"{"status":"Failure","message":"resourceclaims.resource.k8s.io \"c\" not found","reason":"NotFound","code":404}"#;
        let source = Box::new(kube::Error::Api(serde_json::from_str(text).unwrap()));
        let error = DraError::Fetch { claim: "c".to_owned(), source };
        assert_eq!(
            error.to_string(),
            "fetch ResourceClaim c: resourceclaims.resource.k8s.io \"c\" not found"
        );
    }

    #[test]
    fn claims_of_templates_are_called_as_the_pods_status_says() {
        let pod = |status: serde_json::Value| -> Pod {
            let claims = json!([{"name": "a", "resourceClaimTemplateName": "t"}]);
            from_value(json!({"metadata": {"name": "p", "namespace": "n"},
                "spec": {"containers": [], "resourceClaims": claims}, "status": {"resourceClaimStatuses": status}}))
            .unwrap()
        };
        let name =
            |pod: &Pod| claim_name(pod, &pod.spec.as_ref().unwrap().resource_claims.as_ref().unwrap()[0]);
        assert_eq!(
            name(&pod(json!([{"name": "a", "resourceClaimName": "p-a-x"}]))).unwrap().as_deref(),
            Some("p-a-x")
        );
        assert_eq!(name(&pod(json!([{"name": "a"}]))).unwrap(), None);
        assert_eq!(
            name(&pod(json!([]))).unwrap_err().to_string(),
            "pod \"n/p\": ResourceClaim not created yet"
        );
    }
}
