//! CertificateSigningRequests: nodes' own are approved, what is approved is signed, what is old goes.
//!
//! This is a task of the server, since it signs with the cluster's key, which leaves the process in no form. It acts as
//! upstream's controller does, `system:serviceaccount:kube-system:certificate-controller`, and asks the authorizer as
//! anybody else would be asked about.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use keelson_api::{GroupResource, Object, Status};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::authorization::{Authorizer, Decision};
use crate::cache;
use crate::identity::Identity;
use crate::pki::Pki;
use crate::registry::delete::DeleteOptions;
use crate::registry::{Record, Registry, Target, WriteOptions};
use crate::request_info::RequestInfo;

pub mod request;
pub mod signer;

use request::Request;

/// The group of the resource.
pub const GROUP: &str = "certificates.k8s.io";
/// The resource.
pub const PLURAL: &str = "certificatesigningrequests";
/// How often old requests are looked for.
const CLEANING: Duration = Duration::from_secs(600);
/// The life of a certificate whose request says nothing of it, and of any other the longest.
const LIFETIME: i64 = 365 * 86_400;

/// The task's parts.
pub struct Certificates {
    /// Where requests are.
    pub registry: Arc<Registry>,
    /// Who may have its own request approved.
    pub authorizer: Arc<dyn Authorizer>,
    /// The authority.
    pub pki: Arc<Pki>,
}

/// Whether the request has a condition.
pub fn has_condition(object: &Object, kind: &str) -> bool {
    let conditions = object.get(&["status", "conditions"]).and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| condition["type"] == kind)
}

fn condition(object: &mut Object, kind: &str, reason: &str, message: &str) {
    let now = keelson_api::object::format_time(Timestamp::now());
    let mut all =
        object.get(&["status", "conditions"]).and_then(Value::as_array).cloned().unwrap_or_default();
    all.push(json!({"type": kind, "status": "True", "reason": reason, "message": message,
        "lastUpdateTime": now, "lastTransitionTime": now}));
    object.set(&["status", "conditions"], all.into());
}

fn texts(object: &Object, path: &[&str]) -> Vec<String> {
    let items = object.get(path).and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Who made a request.
fn requester(object: &Object) -> Identity {
    let extra = object.get(&["spec", "extra"]).and_then(Value::as_object).into_iter().flatten();
    let list = |value: &Value| {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    Identity {
        username: object.get_str(&["spec", "username"]).unwrap_or_default().to_owned(),
        uid: object.get_str(&["spec", "uid"]).filter(|uid| !uid.is_empty()).map(str::to_owned),
        groups: texts(object, &["spec", "groups"]),
        extra: extra.map(|(key, value)| (key.clone(), list(value))).collect(),
    }
}

/// Why a request has outlived its use; `None` for one that has not.
fn outlived(object: &Object, now: Timestamp) -> Option<&'static str> {
    const HOUR: i64 = 3600;
    let age = |time: &str| time.parse::<Timestamp>().map_or(0, |time| now.as_second() - time.as_second());
    let conditions = object.get(&["status", "conditions"]).and_then(Value::as_array);
    let since = |kind: &str| {
        let mut all = conditions.into_iter().flatten();
        let found = all.find(|condition| condition["type"] == kind)?;
        Some(age(found["lastUpdateTime"].as_str().unwrap_or_default()))
    };
    let certificate = object.get_str(&["status", "certificate"]).filter(|it| !it.is_empty());
    if certificate.and_then(request::end).is_some_and(|end| end < now.as_second()) {
        return Some("its certificate has ended");
    }
    if certificate.is_some() && since("Approved").is_some_and(|age| age > HOUR) {
        return Some("it was approved and signed an hour ago");
    }
    if since("Denied").or_else(|| since("Failed")).is_some_and(|age| age > HOUR) {
        return Some("it was denied or failed an hour ago");
    }
    let made = object.get_str(&["metadata", "creationTimestamp"]).map_or(0, age);
    let waits = conditions.is_none_or(Vec::is_empty) || certificate.is_none();
    (waits && made > 24 * HOUR).then_some("it has waited for a day")
}

impl Certificates {
    fn options() -> WriteOptions {
        WriteOptions {
            identity: Identity::service_account("kube-system", "certificate-controller"),
            manager: "kube-controller-manager".to_owned(),
            served: None,
            record: Record::Track,
            dry_run: false,
            admitted: false,
            remarks: Arc::default(),
        }
    }

    fn target(&self, name: &str, subresource: &str) -> Option<Target> {
        let resource = Arc::clone(self.registry.catalog().find(GROUP, "v1", PLURAL)?);
        Some(Target { resource, namespace: None, name: name.to_owned(), subresource: subresource.to_owned() })
    }

    /// Looks after requests until it is told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let cache = self.registry.resource(&GroupResource::new(GROUP, PLURAL));
        let mut newest = cache.follow();
        let mut cleaning = tokio::time::interval(CLEANING);
        loop {
            newest.borrow_and_update();
            for object in cache.list().objects.values() {
                let outcome = match cache::decode(&object.bytes) {
                    Ok(object) => self.settle(&object).await,
                    Err(status) => Err(status),
                };
                if let Err(error) = outcome
                    && !matches!(error.code, 404 | 409)
                {
                    tracing::warn!(%error, object = %object.name, "a certificate signing request could not be settled");
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = newest.changed() => if changed.is_err() { return },
                _ = cleaning.tick() => {}
            }
        }
    }

    async fn settle(&self, object: &Object) -> Result<(), Status> {
        let name = object.name().unwrap_or_default();
        if let Some(reason) = outlived(object, Timestamp::now()) {
            tracing::info!(object = name, reason, "a certificate signing request is removed");
            let Some(target) = self.target(name, "") else { return Ok(()) };
            return self
                .registry
                .delete(&target, &DeleteOptions::default(), &Self::options())
                .await
                .map(drop);
        }
        let signed = object.get_str(&["status", "certificate"]).is_some_and(|it| !it.is_empty());
        if signed || has_condition(object, "Denied") || has_condition(object, "Failed") {
            return Ok(());
        }
        if has_condition(object, "Approved") { self.sign(object).await } else { self.approve(object).await }
    }

    /// Approves a node's own request, if whoever made it may ask for such certificates.
    async fn approve(&self, object: &Object) -> Result<(), Status> {
        let signer = object.get_str(&["spec", "signerName"]).unwrap_or_default();
        if signer != signer::KUBELET_CLIENT {
            return Ok(());
        }
        let text = object.get_str(&["spec", "request"]).unwrap_or_default();
        let Ok(request) = Request::from_base64(text) else { return Ok(()) };
        let usages = texts(object, &["spec", "usages"]);
        if signer::refusal(signer, &request, &usages).is_some() {
            return Ok(());
        }
        let who = requester(object);
        let own =
            ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.");
        let first = ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.");
        let own = (request.common_name.as_deref() == Some(who.username.as_str())).then_some(own);
        for (subresource, message) in own.into_iter().chain([first]) {
            let asked = RequestInfo {
                verb: "create".to_owned(),
                group: GROUP.to_owned(),
                version: "*".to_owned(),
                resource: PLURAL.to_owned(),
                subresource: subresource.to_owned(),
                is_resource: true,
                ..RequestInfo::default()
            };
            if self.authorizer.authorize(&who, &asked).await == Decision::Allow {
                return self
                    .write(object, "approval", |live| condition(live, "Approved", "AutoApproved", message))
                    .await;
            }
        }
        Ok(())
    }

    /// Signs an approved request of one of the built-in signers.
    async fn sign(&self, object: &Object) -> Result<(), Status> {
        let signer = object.get_str(&["spec", "signerName"]).unwrap_or_default();
        if !signer::BUILT_IN.contains(&signer) {
            return Ok(());
        }
        let text = object.get_str(&["spec", "request"]).unwrap_or_default();
        let usages = texts(object, &["spec", "usages"]);
        let asked = object.get(&["spec", "expirationSeconds"]).and_then(Value::as_i64);
        let lifetime = Duration::from_secs(asked.unwrap_or(LIFETIME).clamp(600, LIFETIME).cast_unsigned());
        let outcome = Request::from_base64(text).and_then(|request| {
            if let Some(refusal) = signer::refusal(signer, &request, &usages) {
                return Err(refusal);
            }
            let names: Vec<&str> = usages.iter().map(String::as_str).collect();
            let signed = self.pki.sign_request(&request.der, &names, lifetime, SystemTime::now());
            signed.map_err(|error| error.to_string())
        });
        match outcome {
            Ok(certificate) => {
                let encoded = STANDARD.encode(certificate);
                self.write(object, "status", |live| {
                    live.set(&["status", "certificate"], encoded.as_str().into());
                })
                .await
            }
            Err(refusal) => {
                self.write(object, "status", |live| {
                    condition(live, "Failed", "SignerValidationFailure", &refusal);
                })
                .await
            }
        }
    }

    async fn write(
        &self,
        seen: &Object,
        subresource: &str,
        change: impl Fn(&mut Object) + Send + Sync,
    ) -> Result<(), Status> {
        let Some(target) = self.target(seen.name().unwrap_or_default(), subresource) else { return Ok(()) };
        let options = Self::options();
        let written = self.registry.update(&target, &options, |_| {
            // What was decided on is what is written: a newer state is decided on anew.
            let mut object = seen.clone();
            change(&mut object);
            Ok(object)
        });
        written.await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_goes_when_it_has_served_or_waited_long_enough() {
        let now: Timestamp = "2026-01-03T12:00:00Z".parse().unwrap();
        let made = |status: Value, created: &str| {
            let document = json!({"metadata": {"creationTimestamp": created}, "status": status});
            outlived(&Object::from_value(document).unwrap(), now).is_some()
        };
        let condition =
            |kind: &str, time: &str| json!({"conditions": [{"type": kind, "lastUpdateTime": time}]});
        assert!(!made(json!({}), "2026-01-03T00:00:00Z"));
        assert!(made(json!({}), "2026-01-02T00:00:00Z"));
        assert!(made(condition("Denied", "2026-01-03T10:00:00Z"), "2026-01-03T10:00:00Z"));
        assert!(!made(condition("Denied", "2026-01-03T11:30:00Z"), "2026-01-03T10:00:00Z"));
        let mut signed = condition("Approved", "2026-01-03T10:00:00Z");
        assert!(!made(signed.clone(), "2026-01-03T10:00:00Z"));
        signed["certificate"] = "AAAA".into();
        assert!(made(signed, "2026-01-03T10:00:00Z"));
    }
}
