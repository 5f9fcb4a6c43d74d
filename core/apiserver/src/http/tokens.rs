//! Tokens given out (`serviceaccounts/token`) and looked at (`TokenReview`).

use jiff::Timestamp;
use keelson_api::{GroupResource, Object, Status};
use serde_json::{Value, json};

use super::ApiState;
use super::reviews::user_info;
use crate::authentication::token::{Bindings, Claims, ISSUER, Reference};
use crate::cache;
use crate::identity::Identity;
use crate::request_info::RequestInfo;

/// Upstream's limits, in seconds.
const SHORTEST: i64 = 600;
const LONGEST: i64 = 1 << 32;
const HOUR: i64 = 3600;

fn list(object: &Object, path: &[&str]) -> Vec<String> {
    let items = object.get(path).and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn find(state: &ApiState, resource: &str, namespace: Option<&str>, name: &str) -> Result<Object, Status> {
    let resource = GroupResource::new("", resource);
    let key = namespace.map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"));
    match state.registry.resource(&resource).get(&key) {
        Some(found) => cache::decode(&found.bytes),
        None => Err(Status::not_found(&resource, name)),
    }
}

fn reference(object: &Object) -> Reference {
    Reference {
        name: object.name().unwrap_or_default().to_owned(),
        uid: object.uid().unwrap_or_default().to_owned(),
    }
}

/// Binds the token to what the request names, which must be there and have the UID that it gives.
fn bind(state: &ApiState, request: &Object, account: &str, bound: &mut Bindings) -> Result<(), Status> {
    let Some(kind) = request.get_str(&["spec", "boundObjectRef", "kind"]) else { return Ok(()) };
    let name = request.get_str(&["spec", "boundObjectRef", "name"]).unwrap_or_default();
    let asked = request.get_str(&["spec", "boundObjectRef", "uid"]).filter(|uid| !uid.is_empty());
    let (resource, namespace) = match kind {
        "Pod" => ("pods", Some(bound.namespace.as_str())),
        "Secret" => ("secrets", Some(bound.namespace.as_str())),
        "Node" => ("nodes", None),
        other => {
            let text = format!("cannot bind token for serviceaccount to object of type {other:?}");
            return Err(Status::bad_request(text));
        }
    };
    let object = find(state, resource, namespace, name)?;
    let found = reference(&object);
    if let Some(asked) = asked
        && asked != found.uid
    {
        let detail = format!(
            "the UID in the bound object reference ({asked}) does not match the UID in record ({}).",
            found.uid
        );
        return Err(Status::conflict(&GroupResource::new("", resource), name, &detail));
    }
    match kind {
        "Pod" => {
            let own = object.get_str(&["spec", "serviceAccountName"]).unwrap_or_default();
            if own != account {
                let text = format!(
                    "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
                );
                return Err(Status::bad_request(text));
            }
            let node = object.get_str(&["spec", "nodeName"]).filter(|node| !node.is_empty());
            bound.node = node.and_then(|node| find(state, "nodes", None, node).ok()).as_ref().map(reference);
            bound.pod = Some(found);
        }
        "Secret" => bound.secret = Some(found),
        _ => bound.node = Some(found),
    }
    Ok(())
}

/// A kubelet gets tokens for pods that run on its node alone, which end with the pod.
fn restrict(node: &str, request: &Object, bound: &Bindings) -> Result<(), String> {
    if bound.pod.is_none() {
        return Err(format!("node {node:?} requested token not bound to a pod"));
    }
    if request.get_str(&["spec", "boundObjectRef", "uid"]).is_none_or(str::is_empty) {
        return Err(format!("node {node:?} requested token with a pod binding without a uid"));
    }
    match &bound.node {
        Some(own) if own.name == node => Ok(()),
        Some(_) | None => {
            Err(format!("node {node:?} requested token bound to a pod scheduled on a different node"))
        }
    }
}

/// Gives out a token: `request` is a `TokenRequest`, and is answered with its status filled in.
pub(super) fn create(
    state: &ApiState,
    who: &Identity,
    info: &RequestInfo,
    mut request: Object,
) -> Result<Value, Status> {
    let namespace = info.namespace.clone().unwrap_or_default();
    let name = info.name.as_deref().unwrap_or_default();
    let account = find(state, "serviceaccounts", Some(&namespace), name)?;
    let lifetime = request.get(&["spec", "expirationSeconds"]).and_then(Value::as_i64).unwrap_or(HOUR);
    if !(SHORTEST..=LONGEST).contains(&lifetime) {
        let text = "spec.expirationSeconds: Invalid value: may not specify a duration less than 10 minutes or larger than 2^32 seconds";
        return Err(Status::new(422, "Invalid", text));
    }
    let mut audiences = list(&request, &["spec", "audiences"]);
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    let mut bound = Bindings { namespace, serviceaccount: reference(&account), ..Bindings::default() };
    bind(state, &request, name, &mut bound)?;
    if let Some(node) = who.node() {
        restrict(node, &request, &bound)
            .map_err(|detail| Status::forbidden(&GroupResource::new("", "serviceaccounts"), name, &detail))?;
    }
    let now = Timestamp::now().as_second();
    let claims = Claims {
        aud: audiences.clone(),
        exp: now + lifetime,
        iat: now,
        iss: ISSUER.to_owned(),
        jti: uuid::Uuid::new_v4().to_string(),
        nbf: now,
        sub: format!("system:serviceaccount:{}:{name}", bound.namespace),
        kubernetes: bound,
    };
    let token = state.authenticator.signer().sign(&claims).map_err(Status::internal)?;
    let end = Timestamp::from_second(claims.exp).map_err(Status::internal)?;
    request.set(&["spec", "audiences"], json!(audiences));
    request.set(&["spec", "expirationSeconds"], lifetime.into());
    request.set(
        &["status"],
        json!({"token": token, "expirationTimestamp": keelson_api::object::format_time(end)}),
    );
    Ok(request.into_value())
}

/// The status of a `TokenReview`.
pub(super) fn review(state: &ApiState, review: &Object) -> Value {
    let wanted = list(review, &["spec", "audiences"]);
    let wanted: Vec<&str> =
        if wanted.is_empty() { vec![ISSUER] } else { wanted.iter().map(String::as_str).collect() };
    let token = review.get_str(&["spec", "token"]).unwrap_or_default();
    match state.authenticator.token(token, &wanted) {
        Some((identity, claims)) => {
            let both: Vec<&String> = claims.aud.iter().filter(|own| wanted.contains(&own.as_str())).collect();
            json!({"authenticated": true, "user": user_info(&identity), "audiences": both})
        }
        None => {
            json!({"user": {}, "error": "the token is not one of this cluster, has ended, or is bound to something that is gone"})
        }
    }
}
