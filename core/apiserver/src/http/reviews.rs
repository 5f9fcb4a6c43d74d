//! Kinds that are asked and not stored: who am I, may I.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use http::{Request, StatusCode};
use keelson_api::{ResourceInfo, Status};
use serde_json::{Value, json};

use super::field_validation::{self, Text};
use super::{ApiState, body, json as answer, method_not_allowed};
use crate::admission::Remarks;
use crate::identity::Identity;
use crate::request_info::RequestInfo;

mod access;

/// Answers a review.
pub(super) async fn serve(
    state: &ApiState,
    identity: &Identity,
    info: &RequestInfo,
    resource: &ResourceInfo,
    request: Request<Body>,
) -> Result<Response, Status> {
    if info.verb != "create" || info.name.is_some() {
        return Err(method_not_allowed(resource, info));
    }
    let (parts, content) = request.into_parts();
    let raw = body::read(content).await?;
    let mut review = body::object(body::value(&parts.headers, &raw)?, &resource.gvk())?;
    let remarks: Arc<Remarks> = parts.extensions.get().cloned().unwrap_or_default();
    let text = Text::of(&parts.headers, &raw);
    field_validation::check(info, &mut review, text, resource, &remarks)?;
    let status = match resource.kind.as_str() {
        "SelfSubjectReview" => json!({"userInfo": user_info(identity)}),
        "SelfSubjectAccessReview" | "SubjectAccessReview" | "LocalSubjectAccessReview" => {
            access::review(state.authorizer.as_ref(), identity, &mut review, info.namespace.as_deref())
                .await?
        }
        "TokenReview" => super::tokens::review(state, &review).await?,
        "SelfSubjectRulesReview" => {
            let namespace = review.get_str(&["spec", "namespace"]).filter(|namespace| !namespace.is_empty());
            let namespace = namespace.ok_or_else(|| Status::bad_request("no namespace on request"))?;
            rules(state, identity, namespace)
        }
        _ => return Err(method_not_allowed(resource, info)),
    };
    review.set(&["status"], status);
    if resource.kind == "SelfSubjectReview" {
        let now = keelson_api::object::format_time(jiff::Timestamp::now());
        review.set(&["metadata", "creationTimestamp"], now.into());
    } else if review.get(&["metadata"]).is_none() {
        review.set(&["metadata"], json!({}));
    }
    Ok(answer(StatusCode::CREATED, &review.into_value()))
}

pub(super) fn user_info(identity: &Identity) -> Value {
    let mut info = json!({"username": identity.username, "groups": identity.groups});
    if let Some(uid) = &identity.uid {
        info["uid"] = uid.as_str().into();
    }
    if !identity.extra.is_empty() {
        info["extra"] = json!(identity.extra);
    }
    info
}

/// What a user may do in a namespace, as far as roles say so.
fn rules(state: &ApiState, who: &Identity, namespace: &str) -> Value {
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    for rule in state.rbac.rules_for(who, Some(namespace)) {
        if !rule.non_resource_urls.is_empty() {
            paths.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls}));
        }
        if rule.resources.is_empty() {
            continue;
        }
        let mut document =
            json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources});
        if !rule.resource_names.is_empty() {
            document["resourceNames"] = json!(rule.resource_names);
        }
        resources.push(document);
    }
    let mut status = json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false});
    // Some authorizers grant by what no list of rules can say.
    let gaps = state.authorizer.gaps(who);
    if !gaps.is_empty() {
        status["incomplete"] = true.into();
        status["evaluationError"] = gaps.join(", ").into();
    }
    status
}
