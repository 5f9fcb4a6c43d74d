//! CertificateSigningRequests: who asks is written by the server; who approves and signs must be allowed to, signer by
//! signer.

use std::sync::Arc;

use async_trait::async_trait;
use keelson_api::validation::{ErrorKind, FieldError};
use keelson_api::{Object, Status};
use serde_json::{Value, json};

use super::{Admission, Attributes, Operation};
use crate::authorization::{Authorizer, Decision};
use crate::certificates::request::Request;
use crate::certificates::{GROUP, PLURAL, has_condition, signer};
use crate::identity::{Identity, MASTERS};
use crate::pki::request::is_usage;
use crate::registry::Registry;
use crate::request_info::RequestInfo;

/// Whether somebody may approve or sign for a signer, or for all of its domain.
async fn may(authorizer: &dyn Authorizer, who: &Identity, verb: &str, signer: &str) -> bool {
    let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
    for name in [signer.to_owned(), format!("{domain}/*")] {
        let asked = RequestInfo {
            verb: verb.to_owned(),
            group: GROUP.to_owned(),
            version: "*".to_owned(),
            resource: "signers".to_owned(),
            name: Some(name),
            is_resource: true,
            ..RequestInfo::default()
        };
        if authorizer.authorize(who, &asked).await == Decision::Allow {
            return true;
        }
    }
    false
}

fn signer_of(object: &Object) -> &str {
    object.get_str(&["spec", "signerName"]).unwrap_or_default()
}

/// Approving needs the right to approve for the signer.
pub struct CertificateApproval(pub Arc<dyn Authorizer>);

/// Signing needs the right to sign for the signer.
pub struct CertificateSigning(pub Arc<dyn Authorizer>);

/// Nobody gets a certificate of the administrators' group by a request.
pub struct CertificateSubjectRestriction;

/// What upstream's registry does: it writes down who asks, and validates.
pub struct CertificateRequests;

#[async_trait]
impl Admission for CertificateApproval {
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.is_of(GROUP, PLURAL) && attributes.subresource == "approval" && attributes.is_write()
    }

    async fn validate(
        &self,
        _registry: &Registry,
        attributes: &Attributes<'_>,
        _object: Option<&Object>,
    ) -> Result<(), Status> {
        let signer = attributes.old.map(signer_of).unwrap_or_default();
        if may(self.0.as_ref(), attributes.identity, "approve", signer).await {
            return Ok(());
        }
        Err(attributes
            .forbidden(&format!("user not permitted to approve requests with signerName {signer:?}")))
    }
}

#[async_trait]
impl Admission for CertificateSigning {
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.is_of(GROUP, PLURAL) && attributes.subresource == "status" && attributes.is_write()
    }

    async fn validate(
        &self,
        _registry: &Registry,
        attributes: &Attributes<'_>,
        object: Option<&Object>,
    ) -> Result<(), Status> {
        let (Some(old), Some(new)) = (attributes.old, object) else { return Ok(()) };
        let certificate = |object: &Object| object.get(&["status", "certificate"]).cloned();
        // Everybody else may write what else a status holds.
        if certificate(old) == certificate(new)
            && has_condition(old, "Failed") == has_condition(new, "Failed")
        {
            return Ok(());
        }
        let signer = signer_of(old);
        if may(self.0.as_ref(), attributes.identity, "sign", signer).await {
            return Ok(());
        }
        Err(attributes.forbidden(&format!("user not permitted to sign requests with signerName {signer:?}")))
    }
}

#[async_trait]
impl Admission for CertificateSubjectRestriction {
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.is(GROUP, PLURAL) && attributes.operation == Operation::Create
    }

    async fn validate(
        &self,
        _registry: &Registry,
        attributes: &Attributes<'_>,
        object: Option<&Object>,
    ) -> Result<(), Status> {
        let Some(object) = object.filter(|object| signer_of(object) == signer::CLIENT) else { return Ok(()) };
        let text = object.get_str(&["spec", "request"]).unwrap_or_default();
        let Ok(request) = Request::from_base64(text) else { return Ok(()) };
        if request.organizations.iter().any(|group| group == MASTERS) {
            let detail = format!("use of {} signer with {MASTERS} group is not allowed", signer::CLIENT);
            return Err(attributes.forbidden(&detail));
        }
        Ok(())
    }
}

#[async_trait]
impl Admission for CertificateRequests {
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.is_of(GROUP, PLURAL) && attributes.is_write()
    }

    async fn mutate(
        &self,
        _registry: &Registry,
        attributes: &Attributes<'_>,
        object: &mut Object,
    ) -> Result<(), Status> {
        if attributes.operation == Operation::Create {
            let who = attributes.identity;
            object.set(&["spec", "username"], who.username.as_str().into());
            object.set(&["spec", "groups"], json!(who.groups));
            for field in ["uid", "extra"] {
                object.remove(&["spec", field]);
            }
            if let Some(uid) = &who.uid {
                object.set(&["spec", "uid"], uid.as_str().into());
            }
            if !who.extra.is_empty() {
                object.set(&["spec", "extra"], json!(who.extra));
            }
        } else {
            date(object, jiff::Timestamp::now());
        }
        Ok(())
    }

    async fn validate(
        &self,
        _registry: &Registry,
        attributes: &Attributes<'_>,
        object: Option<&Object>,
    ) -> Result<(), Status> {
        let Some(object) = object else { return Ok(()) };
        let faults = match attributes.old {
            None => new_faults(object),
            Some(old) => change_faults(attributes.subresource, object, old),
        };
        if faults.is_empty() { Ok(()) } else { Err(Status::invalid(&object.gvk(), attributes.name, &faults)) }
    }
}

/// Writes into conditions without times the time at which they came.
fn date(object: &mut Object, now: jiff::Timestamp) {
    let now = keelson_api::object::format_time(now);
    let Some(mut conditions) = object.get(&["status", "conditions"]).and_then(Value::as_array).cloned()
    else {
        return;
    };
    for condition in &mut conditions {
        if condition["lastUpdateTime"].is_null() {
            condition["lastUpdateTime"] = now.as_str().into();
        }
        if condition["lastTransitionTime"].is_null() {
            condition["lastTransitionTime"] = now.as_str().into();
        }
    }
    object.set(&["status", "conditions"], conditions.into());
}

fn new_faults(object: &Object) -> Vec<FieldError> {
    let mut faults = Vec::new();
    let request = object.get_str(&["spec", "request"]).unwrap_or_default();
    if let Err(fault) = Request::from_base64(request) {
        faults.push(FieldError::invalid("spec.request", request, fault));
    }
    let usages = object.get(&["spec", "usages"]).and_then(Value::as_array).cloned().unwrap_or_default();
    if usages.is_empty() {
        faults.push(FieldError::required("spec.usages", ""));
    }
    for (place, usage) in usages.iter().enumerate() {
        let (path, name) = (format!("spec.usages[{place}]"), usage.as_str().unwrap_or_default());
        if !is_usage(name) {
            faults.push(FieldError { kind: ErrorKind::NotSupported, ..FieldError::invalid(path, name, "") });
        } else if usages[..place].contains(usage) {
            faults.push(FieldError::duplicate(path, name));
        }
    }
    let signer = signer_of(object);
    let parts = signer.split_once('/');
    let is_name = parts.is_some_and(|(domain, path)| domain.contains('.') && !path.is_empty());
    if signer.is_empty() {
        faults.push(FieldError::required("spec.signerName", ""));
    } else if signer == signer::LEGACY {
        let detail = "the legacy signerName is not allowed via this API version";
        faults.push(FieldError::invalid("spec.signerName", signer, detail));
    } else if !is_name {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        faults.push(FieldError::invalid("spec.signerName", signer, detail));
    }
    let seconds = object.get(&["spec", "expirationSeconds"]).and_then(Value::as_i64);
    if let Some(seconds) = seconds.filter(|seconds| *seconds < 600) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        faults.push(FieldError::invalid("spec.expirationSeconds", seconds, detail));
    }
    faults
}

fn change_faults(subresource: &str, new: &Object, old: &Object) -> Vec<FieldError> {
    let mut faults = Vec::new();
    if old.get(&["spec"]) != new.get(&["spec"]) {
        faults.push(FieldError::forbidden("spec", "updates may not change the request"));
    }
    let certificate = |object: &Object| {
        object.get_str(&["status", "certificate"]).filter(|it| !it.is_empty()).map(str::to_owned)
    };
    if subresource == "status" && certificate(old).is_some() && certificate(old) != certificate(new) {
        let detail = "updates may not modify existing certificate content";
        faults.push(FieldError::forbidden("status.certificate", detail));
    }
    for kind in ["Approved", "Denied", "Failed"] {
        let (was, is) = (has_condition(old, kind), has_condition(new, kind));
        if was && !is {
            let detail = format!("updates may not remove a condition of type {kind:?}");
            faults.push(FieldError::forbidden("status.conditions", detail));
        }
        let is_verdict = kind != "Failed";
        if is && !was && is_verdict && subresource != "approval" {
            let detail = format!("updates may not add a condition of type {kind:?}");
            faults.push(FieldError::forbidden("status.conditions", detail));
        }
    }
    let conditions =
        new.get(&["status", "conditions"]).and_then(Value::as_array).cloned().unwrap_or_default();
    for (place, condition) in conditions.iter().enumerate() {
        let path = format!("status.conditions[{place}]");
        let kind = condition["type"].as_str().unwrap_or_default();
        if kind.is_empty() {
            faults.push(FieldError::required(format!("{path}.type"), ""));
        }
        let status = condition["status"].as_str().unwrap_or_default();
        if matches!(kind, "Approved" | "Denied" | "Failed") && status != "True" {
            faults.push(FieldError::not_supported(format!("{path}.status"), status, &["True"]));
        }
        if conditions[..place].iter().any(|other| other["type"] == kind) {
            faults.push(FieldError::duplicate(format!("{path}.type"), kind));
        }
    }
    if has_condition(new, "Approved") && has_condition(new, "Denied") {
        let detail = "Approved and Denied conditions are mutually exclusive";
        faults.push(FieldError::invalid("status.conditions", Value::Null, detail));
    }
    faults
}
