//! CertificateSigningRequests: nodes' own are approved, what is approved is signed, what is old goes.
//!
//! A kubelet's certificate for serving is approved where [`serving`] finds nothing against it. Whoever comes with a token
//! does not get the certificate of a node that is at work.
//!
//! This is a task of the server, since it signs with the cluster's key, which leaves the process in no form. It acts as
//! upstream's controller does, `system:serviceaccount:kube-system:certificate-controller`, and asks the authorizer as
//! anybody else would be asked about.

use std::collections::BTreeSet;
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
pub mod serving;
pub mod signer;

use request::Request;
use serving::Known;

/// The group of the resource.
pub const GROUP: &str = "certificates.k8s.io";
/// The resource.
pub const PLURAL: &str = "certificatesigningrequests";
/// The Service of the API servers, and its slice of endpoints: namespace and name.
const SERVERS: &str = "default/kubernetes";
/// How often old requests are looked for.
const CLEANING: Duration = Duration::from_secs(600);
/// The life of a certificate whose request says nothing of it, and of any other the longest.
const LIFETIME: i64 = 365 * 86_400;
/// How long a node's Lease lasts that does not say so, in seconds.
const LEASE: i64 = 40;

/// The task's parts.
pub struct Certificates {
    /// Where requests are.
    pub registry: Arc<Registry>,
    /// Who may have its own request approved.
    pub authorizer: Arc<dyn Authorizer>,
    /// The authority.
    pub pki: Arc<Pki>,
    /// Names of API servers beside the usual ones: no node gets a certificate for them.
    pub server_names: Vec<String>,
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

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn texts(object: &Object, path: &[&str]) -> Vec<String> {
    object.get(path).map(strings).unwrap_or_default()
}

/// Who made a request.
fn requester(object: &Object) -> Identity {
    let extra = object.get(&["spec", "extra"]).and_then(Value::as_object).into_iter().flatten();
    Identity {
        username: object.get_str(&["spec", "username"]).unwrap_or_default().to_owned(),
        uid: object.get_str(&["spec", "uid"]).filter(|uid| !uid.is_empty()).map(str::to_owned),
        groups: texts(object, &["spec", "groups"]),
        extra: extra.map(|(key, value)| (key.clone(), strings(value))).collect(),
    }
}

/// Whether a node's Lease says that its kubelet is at work.
fn is_alive(lease: &Object, now: Timestamp) -> bool {
    let renewed = lease.get_str(&["spec", "renewTime"]).and_then(|time| time.parse::<Timestamp>().ok());
    let lasts = lease.get(&["spec", "leaseDurationSeconds"]).and_then(Value::as_i64).unwrap_or(LEASE);
    renewed.is_some_and(|renewed| now.as_second() - renewed.as_second() <= lasts)
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
        // Requests that wait for somebody, of which it is told once why.
        let mut told: BTreeSet<String> = BTreeSet::new();
        loop {
            newest.borrow_and_update();
            told.retain(|name| cache.get(name).is_some());
            for object in cache.list().objects.values() {
                let outcome = match cache::decode(&object.bytes) {
                    Ok(object) => self.settle(&object, &mut told).await,
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

    async fn settle(&self, object: &Object, told: &mut BTreeSet<String>) -> Result<(), Status> {
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
        if has_condition(object, "Approved") {
            self.sign(object).await
        } else {
            self.approve(object, told).await
        }
    }

    /// An object that is there, if it can be read.
    fn find(&self, group: &str, resource: &str, key: &str) -> Option<Object> {
        let found = self.registry.resource(&GroupResource::new(group, resource)).get(key)?;
        cache::decode(&found.bytes).ok()
    }

    /// What counts for or against a node's certificate for serving.
    fn known(&self, node: &str) -> Known {
        let nodes = self.registry.resource(&GroupResource::new("", "nodes")).list();
        let others = nodes.objects.values().filter(|other| &*other.name != node);
        let others = others.filter_map(|other| cache::decode(&other.bytes).ok()).flat_map(|other| {
            let own = serving::addresses(&other).map(|(_, address)| address.to_owned());
            own.chain(other.name().map(str::to_owned)).collect::<Vec<_>>()
        });
        let slice = self.find("discovery.k8s.io", "endpointslices", SERVERS);
        let endpoints = slice.as_ref().and_then(|slice| slice.get(&["endpoints"])?.as_array());
        let mut servers: Vec<String> =
            endpoints.into_iter().flatten().flat_map(|it| strings(&it["addresses"])).collect();
        let service = self.find("", "services", SERVERS);
        servers.extend(service.iter().flat_map(|service| texts(service, &["spec", "clusterIPs"])));
        Known {
            node: self.find("", "nodes", node),
            others: others.collect(),
            servers: servers.iter().filter_map(|address| address.parse().ok()).collect(),
            server_names: self.server_names.clone(),
        }
    }

    /// Approves a kubelet's request for a certificate for serving, if nothing speaks against it. Otherwise it waits for
    /// somebody who knows better.
    async fn approve_serving(
        &self,
        object: &Object,
        request: &Request,
        told: &mut BTreeSet<String>,
    ) -> Result<(), Status> {
        let who = requester(object);
        let known = self.known(who.node().unwrap_or_default());
        if let Some(reason) = serving::refusal(request, &who, &known) {
            let name = object.name().unwrap_or_default();
            if told.insert(name.to_owned()) {
                tracing::warn!(
                    object = name,
                    reason,
                    "a request for a serving certificate is not approved by itself"
                );
            }
            return Ok(());
        }
        let message = "Auto approving kubelet serving certificate: all its names are the node's.";
        self.write(object, "approval", |live| condition(live, "Approved", "AutoApproved", message)).await
    }

    /// Approves a node's own request, if whoever made it may ask for such certificates.
    async fn approve(&self, object: &Object, told: &mut BTreeSet<String>) -> Result<(), Status> {
        let signer = object.get_str(&["spec", "signerName"]).unwrap_or_default();
        if ![signer::KUBELET_CLIENT, signer::KUBELET_SERVING].contains(&signer) {
            return Ok(());
        }
        let text = object.get_str(&["spec", "request"]).unwrap_or_default();
        let Ok(request) = Request::from_base64(text) else { return Ok(()) };
        let usages = texts(object, &["spec", "usages"]);
        if signer::refusal(signer, &request, &usages).is_some() {
            return Ok(());
        }
        if signer == signer::KUBELET_SERVING {
            return self.approve_serving(object, &request, told).await;
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
                if own.is_none()
                    && let Some(message) = self.taken(&request)
                {
                    return self
                        .write(object, "approval", |live| condition(live, "Denied", "NodeIsAlive", &message))
                        .await;
                }
                return self
                    .write(object, "approval", |live| condition(live, "Approved", "AutoApproved", message))
                    .await;
            }
        }
        Ok(())
    }

    /// Why nobody but the node itself gets a certificate in its name: it is at work.
    fn taken(&self, request: &Request) -> Option<String> {
        let name = request.common_name.as_deref()?.strip_prefix("system:node:")?;
        self.find("", "nodes", name)?;
        let lease = self.find("coordination.k8s.io", "leases", &format!("kube-node-lease/{name}"))?;
        is_alive(&lease, Timestamp::now()).then(|| {
            format!(
                "there is a node {name} that is at work: choose another name with --node-name. If this machine was that node \
                 before, delete it first with `kubectl delete node {name}`"
            )
        })
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
    fn a_node_is_at_work_while_its_lease_lasts() {
        let lease = |renewed: &str| {
            let spec = json!({"renewTime": renewed, "leaseDurationSeconds": 40});
            Object::from_value(json!({"spec": spec})).unwrap()
        };
        let now: Timestamp = "2026-01-03T12:00:00Z".parse().unwrap();
        assert!(is_alive(&lease("2026-01-03T11:59:20.000001Z"), now));
        assert!(!is_alive(&lease("2026-01-03T11:59:19Z"), now));
        assert!(!is_alive(&Object::from_value(json!({})).unwrap(), now));
    }

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
