//! The answer to a request that failed, or that has no object to return: `v1` `Status`.

use serde_json::{Value, json};

use crate::kinds::{GroupResource, GroupVersionKind};
use crate::validation::FieldError;

/// A `Status` with its HTTP code.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason, such as `NotFound`; empty for none.
    pub reason: String,
    /// Text for people.
    pub message: String,
    /// `details`, an object, or null.
    pub details: Value,
    /// `metadata.continue`: how a list that cannot go on as it began can go on; empty for none.
    pub continue_token: String,
}

impl Status {
    /// A failure.
    pub fn new(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.to_owned(),
            message: message.into(),
            details: Value::Null,
            continue_token: String::new(),
        }
    }

    fn about(mut self, resource: &GroupResource, name: &str) -> Self {
        let mut details = serde_json::Map::new();
        if !name.is_empty() {
            details.insert("name".into(), name.into());
        }
        if !resource.group.is_empty() {
            details.insert("group".into(), resource.group.as_str().into());
        }
        if !resource.resource.is_empty() {
            details.insert("kind".into(), resource.resource.as_str().into());
        }
        self.details = Value::Object(details);
        self
    }

    /// 404 `pods "x" not found`.
    pub fn not_found(resource: &GroupResource, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{resource} {name:?} not found")).about(resource, name)
    }
    /// 404 for a path that is not served.
    pub fn path_not_found() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }
    /// 409 on create.
    pub fn already_exists(resource: &GroupResource, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{resource} {name:?} already exists")).about(resource, name)
    }
    /// 409 `Operation cannot be fulfilled on ...: DETAIL`.
    pub fn conflict(resource: &GroupResource, name: &str, detail: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {resource} {name:?}: {detail}");
        Self::new(409, "Conflict", message).about(resource, name)
    }
    /// 409 when the object's revision is not the expected one.
    pub fn modified(resource: &GroupResource, name: &str) -> Self {
        const DETAIL: &str =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, DETAIL)
    }
    /// 403 by a rule of the server.
    pub fn forbidden(resource: &GroupResource, name: &str, detail: &str) -> Self {
        let message = match (resource.resource.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {detail}"),
            (false, true) => format!("{resource} is forbidden: {detail}"),
            (false, false) => format!("{resource} {name:?} is forbidden: {detail}"),
        };
        Self::new(403, "Forbidden", message).about(resource, name)
    }
    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }
    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }
    /// 405 of a path that is served, for other methods.
    pub fn method_not_allowed() -> Self {
        let text = "the server does not allow this method on the requested resource";
        let mut status = Self::new(405, "MethodNotAllowed", text);
        status.details = json!({});
        status
    }
    /// 405 of a resource that has fewer verbs.
    pub fn method_not_supported(resource: &GroupResource, action: &str) -> Self {
        let message = format!("{action} is not supported on resources of kind {:?}", resource.to_string());
        Self::new(405, "MethodNotAllowed", message).about(resource, "")
    }
    /// 406.
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::new(406, "NotAcceptable", message)
    }
    /// 415.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(415, "UnsupportedMediaType", message)
    }
    /// 410 with reason `Expired`: the resource version or continue token is too old.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }
    /// 413.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(413, "RequestEntityTooLarge", message)
    }
    /// 429 with a delay in seconds.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let mut status = Self::new(429, "TooManyRequests", message);
        status.details = json!({ "retryAfterSeconds": retry_after_seconds });
        status
    }
    /// 500.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        let mut status = Self::new(500, "InternalError", format!("Internal error occurred: {message}"));
        status.details = json!({ "causes": [{ "message": message.to_string() }] });
        status
    }
    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }
    /// 504.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(504, "Timeout", message)
    }

    /// 504 for a revision that has not been reached.
    pub fn too_large_resource_version(asked: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        let mut status = Self::timeout(message);
        status.details = json!({
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        });
        status
    }

    /// 422 from all of an object's field errors.
    pub fn invalid(gvk: &GroupVersionKind, name: &str, errors: &[FieldError]) -> Self {
        let kind = GroupResource::new(&gvk.group, &gvk.kind);
        let list = match errors {
            [] => "<nil>".to_owned(),
            [one] => one.to_string(),
            many => {
                let mut texts: Vec<String> = Vec::with_capacity(many.len());
                for error in many {
                    let text = error.to_string();
                    if !texts.contains(&text) {
                        texts.push(text);
                    }
                }
                if texts.len() == 1 { texts.swap_remove(0) } else { format!("[{}]", texts.join(", ")) }
            }
        };
        let mut status =
            Self::new(422, "Invalid", format!("{kind} {name:?} is invalid: {list}")).about(&kind, name);
        let causes: Vec<Value> = errors
            .iter()
            .map(|error| json!({"reason": error.kind.reason(), "message": error.body(), "field": error.path}))
            .collect();
        if let Value::Object(details) = &mut status.details {
            details.insert("causes".into(), causes.into());
        }
        status
    }

    /// 200 after a deletion.
    pub fn deleted(resource: &GroupResource, name: &str, uid: &str) -> Self {
        let mut status = Self::new(200, "", "").about(resource, name);
        if let Value::Object(details) = &mut status.details {
            details.insert("uid".into(), uid.into());
        }
        status
    }

    /// The document.
    pub fn to_value(&self) -> Value {
        let word = if self.code < 400 { "Success" } else { "Failure" };
        let mut document = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": word});
        if let Value::Object(fields) = &mut document {
            if !self.message.is_empty() {
                fields.insert("message".into(), self.message.as_str().into());
            }
            if !self.reason.is_empty() {
                fields.insert("reason".into(), self.reason.as_str().into());
            }
            if !self.continue_token.is_empty() {
                fields.insert("metadata".into(), json!({"continue": self.continue_token}));
            }
            if !self.details.is_null() {
                fields.insert("details".into(), self.details.clone());
            }
            if self.code >= 400 {
                fields.insert("code".into(), self.code.into());
            }
        }
        document
    }
}
