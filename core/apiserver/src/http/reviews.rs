//! Kinds that are asked and not stored: who am I, may I.

use axum::body::Body;
use axum::response::Response;
use http::{Request, StatusCode};
use keelson_api::{Object, ResourceInfo, Status};
use serde_json::{Value, json};

use super::{ApiState, body, json as answer, method_not_allowed};
use crate::authorization::Decision;
use crate::identity::Identity;
use crate::request_info::RequestInfo;

/// Answers a review.
pub(super) async fn serve(
    state: &ApiState,
    identity: &Identity,
    info: &RequestInfo,
    resource: &ResourceInfo,
    request: Request<Body>,
) -> Result<Response, Status> {
    if info.verb != "create" || info.name.is_some() {
        return Err(method_not_allowed(resource, request.method()));
    }
    let (parts, content) = request.into_parts();
    let raw = body::read(content).await?;
    let mut review = body::object(body::value(&parts.headers, &raw)?, &resource.gvk())?;
    let status = match resource.kind.as_str() {
        "SelfSubjectReview" => json!({"userInfo": user_info(identity)}),
        "SelfSubjectAccessReview" => decide(state, identity, &review, info).await?,
        "SubjectAccessReview" | "LocalSubjectAccessReview" => {
            let whom = subject(&review)?;
            decide(state, &whom, &review, info).await?
        }
        "TokenReview" => super::tokens::review(state, &review),
        "SelfSubjectRulesReview" => {
            let namespace = review.get_str(&["spec", "namespace"]).filter(|namespace| !namespace.is_empty());
            let namespace = namespace.ok_or_else(|| Status::bad_request("no namespace on request"))?;
            rules(state, identity, namespace)
        }
        _ => return Err(method_not_allowed(resource, &http::Method::POST)),
    };
    review.set(&["status"], status);
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
    if who.is_in(crate::identity::MASTERS) {
        resources.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        paths.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
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
    // The node authorizer grants by object, which no list of rules can say.
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": who.node().is_some()})
}

fn subject(review: &Object) -> Result<Identity, Status> {
    let username = review.get_str(&["spec", "user"]).unwrap_or_default().to_owned();
    let groups: Vec<String> = review
        .get(&["spec", "groups"])
        .and_then(Value::as_array)
        .map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        .unwrap_or_default();
    if username.is_empty() && groups.is_empty() {
        return Err(Status::bad_request(
            "spec.user: Invalid value: \"\": at least one of user or group must be specified",
        ));
    }
    Ok(Identity { username, groups, ..Identity::default() })
}

async fn decide(
    state: &ApiState,
    whom: &Identity,
    review: &Object,
    request: &RequestInfo,
) -> Result<Value, Status> {
    let asked = attributes(review)?;
    if let Some(own) = &request.namespace
        && asked.namespace.as_ref() != Some(own)
    {
        return Err(Status::bad_request(
            "spec.resourceAttributes.namespace: Invalid value: must match metadata.namespace",
        ));
    }
    Ok(match state.authorizer.authorize(whom, &asked).await {
        Decision::Allow => json!({"allowed": true}),
        Decision::Deny { reason } => json!({"allowed": false, "denied": true, "reason": reason}),
        Decision::NoOpinion => json!({"allowed": false}),
    })
}

fn attributes(review: &Object) -> Result<RequestInfo, Status> {
    let text =
        |section: &str, field: &str| review.get_str(&["spec", section, field]).unwrap_or_default().to_owned();
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    let resource = review.get(&["spec", "resourceAttributes"]).is_some();
    let path = review.get(&["spec", "nonResourceAttributes"]).is_some();
    if resource == path {
        return Err(Status::bad_request(
            "spec: Invalid value: exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ));
    }
    if path {
        return Ok(RequestInfo {
            verb: text("nonResourceAttributes", "verb"),
            path: text("nonResourceAttributes", "path"),
            ..RequestInfo::default()
        });
    }
    let of = |field: &str| text("resourceAttributes", field);
    Ok(RequestInfo {
        verb: of("verb"),
        group: of("group"),
        version: of("version"),
        resource: of("resource"),
        subresource: of("subresource"),
        namespace: some(of("namespace")),
        name: some(of("name")),
        is_resource: true,
        ..RequestInfo::default()
    })
}
