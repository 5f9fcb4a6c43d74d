//! `admission.k8s.io` `AdmissionReview`: what a webhook is sent, and what its answer says.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::rules::Asked;
use crate::kinds::GroupVersionKind;
use crate::status::Status;

/// The version of the review that is spoken with a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReviewVersion {
    /// `admission.k8s.io/v1`.
    V1,
    /// `admission.k8s.io/v1beta1`: answers are checked less.
    V1Beta1,
}

impl ReviewVersion {
    /// The first of a webhook's versions that is spoken here.
    pub fn choose<'a>(versions: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        versions.into_iter().find_map(|version| match version {
            "v1" => Some(ReviewVersion::V1),
            "v1beta1" => Some(ReviewVersion::V1Beta1),
            _ => None,
        })
    }

    fn api_version(self) -> &'static str {
        match self {
            ReviewVersion::V1 => "admission.k8s.io/v1",
            ReviewVersion::V1Beta1 => "admission.k8s.io/v1beta1",
        }
    }
}

/// What a webhook is asked.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The review's own name.
    pub uid: &'a str,
    /// The request as it came in.
    pub asked: &'a Asked<'a>,
    /// Its kind as it came in.
    pub asked_kind: &'a GroupVersionKind,
    /// The resource and kind in the version that the webhook wants.
    pub subject: super::Subject<'a>,
    /// The kind in the version that the webhook wants.
    pub kind: &'a GroupVersionKind,
    /// `authentication.k8s.io/v1` `UserInfo`.
    pub user: &'a Value,
    /// The new state; null for a deletion.
    pub object: &'a Value,
    /// The old state; null where there is none.
    pub old: &'a Value,
    /// `meta.k8s.io/v1` options of the operation; null for a connection.
    pub options: &'a Value,
    /// Whether nothing is stored.
    pub dry_run: bool,
}

fn kind(kind: &GroupVersionKind) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
}

fn resource(subject: &super::Subject<'_>) -> Value {
    json!({"group": subject.group, "version": subject.version, "resource": subject.resource})
}

impl Request<'_> {
    /// The `request` alone, as expressions of policies and match conditions see it.
    pub fn document(&self) -> Map<String, Value> {
        let asked = self.asked;
        let mut request = Map::new();
        let mut put = |field: &str, value: Value| drop(request.insert(field.to_owned(), value));
        put("uid", self.uid.into());
        put("kind", kind(self.kind));
        put("resource", resource(&self.subject));
        put("requestKind", kind(self.asked_kind));
        put("requestResource", resource(&asked.subject));
        if !asked.subresource.is_empty() {
            put("subResource", asked.subresource.into());
            put("requestSubResource", asked.subresource.into());
        }
        if !asked.name.is_empty() {
            put("name", asked.name.into());
        }
        if let Some(namespace) = asked.namespace.filter(|namespace| !namespace.is_empty()) {
            put("namespace", namespace.into());
        }
        put("operation", asked.operation.as_str().into());
        put("userInfo", self.user.clone());
        put("dryRun", self.dry_run.into());
        put("options", self.options.clone());
        request
    }

    /// The whole review.
    pub fn review(&self, version: ReviewVersion) -> Value {
        let mut request = self.document();
        request.insert("object".to_owned(), self.object.clone());
        request.insert("oldObject".to_owned(), self.old.clone());
        json!({"kind": "AdmissionReview", "apiVersion": version.api_version(), "request": request})
    }
}

/// What a webhook has answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Whether the request may go on.
    pub allowed: bool,
    /// A list of JSON patch operations; `None` for no change.
    pub patch: Option<Value>,
    /// Texts for the client.
    pub warnings: Vec<String>,
    /// Annotations for the audit log, without the webhook's name.
    pub annotations: BTreeMap<String, String>,
    /// A `Status`; null where there is none.
    result: Value,
}

impl Answer {
    /// Reads the answer to a review; the text says what is wrong with it.
    pub fn read(review: &Value, uid: &str, version: ReviewVersion, mutating: bool) -> Result<Self, String> {
        let Some(response) = review.get("response").filter(|response| response.is_object()) else {
            return Err("webhook response was absent".to_owned());
        };
        let text = |field: &str| response[field].as_str().unwrap_or_default();
        let (mut patch, mut patch_type) = (text("patch"), response["patchType"].as_str());
        match version {
            ReviewVersion::V1 => {
                check(review, text("uid"), uid)?;
                check_patch(patch, patch_type, mutating)?;
            }
            ReviewVersion::V1Beta1 if mutating => patch_type = Some("JSONPatch"),
            ReviewVersion::V1Beta1 => patch = "",
        }
        let texts = response["warnings"].as_array().into_iter().flatten();
        let annotations = response["auditAnnotations"].as_object().into_iter().flatten();
        Ok(Answer {
            allowed: response["allowed"] == Value::Bool(true),
            patch: if patch.is_empty() { None } else { Some(decode(patch, patch_type)?) },
            warnings: texts.filter_map(Value::as_str).map(str::to_owned).collect(),
            annotations: annotations
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect(),
            result: response.get("status").cloned().unwrap_or_default(),
        })
    }

    /// The refusal, as the client is told.
    pub fn denied(&self, webhook: &str) -> Status {
        let text = |field: &str| self.result[field].as_str().unwrap_or_default();
        let by = format!("admission webhook {webhook:?} denied the request");
        let message = match (text("message"), text("reason")) {
            ("", "") => format!("{by} without explanation"),
            ("", reason) => format!("{by}: {reason}"),
            (message, _) => format!("{by}: {message}"),
        };
        let code = self.result["code"].as_u64().and_then(|code| u16::try_from(code).ok());
        let code = code.filter(|code| (400..600).contains(code)).unwrap_or(400);
        let mut status = Status::new(code, text("reason"), message);
        status.details = self.result["details"].clone();
        status
    }
}

fn check(review: &Value, own: &str, uid: &str) -> Result<(), String> {
    if own != uid {
        return Err(format!("expected response.uid={uid:?}, got {own:?}"));
    }
    let text = |field: &str| review[field].as_str().unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    if api_version != ReviewVersion::V1.api_version() || kind != "AdmissionReview" {
        return Err(format!(
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {api_version}, Kind={kind}"
        ));
    }
    Ok(())
}

fn check_patch(patch: &str, patch_type: Option<&str>, mutating: bool) -> Result<(), String> {
    let fault = match (mutating, patch.is_empty(), patch_type) {
        (true, false, None) => "webhook returned response.patch but not response.patchType",
        (true, true, Some(_)) => "webhook returned response.patchType but not response.patch",
        (true, _, Some("")) => "webhook returned invalid response.patchType of \"\"",
        (false, false, _) => "validating webhook may not return response.patch",
        (false, true, Some(_)) => "validating webhook may not return response.patchType",
        (true, _, _) | (false, true, None) => return Ok(()),
    };
    Err(fault.to_owned())
}

fn decode(patch: &str, patch_type: Option<&str>) -> Result<Value, String> {
    if let Some(other) = patch_type.filter(|it| *it != "JSONPatch") {
        return Err(format!("unsupported patch type {other:?}"));
    }
    let bytes = STANDARD.decode(patch).map_err(|error| format!("response.patch is not base64: {error}"))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| format!("received undecodable patch in webhook response: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(response: Value, mutating: bool) -> Result<Answer, String> {
        let review =
            json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response});
        Answer::read(&review, "1", ReviewVersion::V1, mutating)
    }

    #[test]
    fn a_patch_comes_with_its_type_and_from_mutating_webhooks_alone() {
        let patch = STANDARD.encode("[]");
        let whole = json!({"uid": "1", "allowed": true, "patch": patch, "patchType": "JSONPatch"});
        assert_eq!(read(whole.clone(), true).unwrap().patch, Some(json!([])));
        assert_eq!(read(whole, false).unwrap_err(), "validating webhook may not return response.patch");
        let error = read(json!({"uid": "1", "patch": patch}), true).unwrap_err();
        assert_eq!(error, "webhook returned response.patch but not response.patchType");
        let error = read(json!({"uid": "2"}), true).unwrap_err();
        assert_eq!(error, "expected response.uid=\"1\", got \"2\"");
        let error = Answer::read(&json!({}), "1", ReviewVersion::V1, true).unwrap_err();
        assert_eq!(error, "webhook response was absent");
    }

    #[test]
    fn a_refusal_names_the_webhook_and_is_never_a_success() {
        let denied = |status: Value| {
            read(json!({"uid": "1", "allowed": false, "status": status}), false).unwrap().denied("a.b.c")
        };
        let status = denied(json!({"message": "no", "code": 200, "status": "Success"}));
        let text = "admission webhook \"a.b.c\" denied the request";
        assert_eq!((status.code, status.message), (400, format!("{text}: no")));
        assert_eq!(denied(Value::Null).message, format!("{text} without explanation"));
        let status = denied(json!({"code": 403, "reason": "Forbidden"}));
        assert_eq!((status.code, status.reason.as_str()), (403, "Forbidden"));
    }
}
