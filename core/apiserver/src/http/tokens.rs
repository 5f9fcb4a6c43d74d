//! Tokens given out (`serviceaccounts/token`) and looked at (`TokenReview`).

use jiff::Timestamp;
use keelson_api::validation::FieldError;
use keelson_api::{GroupResource, Object, Status};
use serde_json::{Value, json};

use super::ApiState;
use super::reviews::user_info;
use crate::authentication::token::{Bindings, Claims, Reference};
use crate::authorization::Decision;
use crate::cache;
use crate::identity::Identity;
use crate::request_info::RequestInfo;

/// Upstream's limits, in seconds.
const SHORTEST: i64 = 600;
/// The life that the admission plugin asks for: who asks for it may not know that tokens end.
const INJECTED: i64 = 3607;
/// How long such a token holds all the same, for those who do not read it again.
const EXTENDED: i64 = 365 * 24 * HOUR;
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
    let version = request.get_str(&["spec", "boundObjectRef", "apiVersion"]).unwrap_or_default();
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let (resource, namespace) = match (group, kind) {
        ("", "Pod") => ("pods", Some(bound.namespace.as_str())),
        ("", "Secret") => ("secrets", Some(bound.namespace.as_str())),
        ("", "Node") => ("nodes", None),
        (_, other) => {
            let text = format!("cannot bind token to object of type {group}/{version}, Kind={other}");
            return Err(Status::bad_request(text));
        }
    };
    let object = find(state, resource, namespace, name)?;
    let found = reference(&object);
    if let Some(asked) = asked
        && asked != found.uid
    {
        let detail = format!(
            "the UID in the bound object reference ({asked}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict(&GroupResource::new("", kind), name, &detail));
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
            // The pod's node is told also where nothing else is known of it.
            bound.node = node.map(|name| match find(state, "nodes", None, name) {
                Ok(node) => reference(&node),
                Err(_) => Reference { name: name.to_owned(), uid: String::new() },
            });
            bound.pod = Some(found);
        }
        "Secret" => bound.secret = Some(found),
        _ => bound.node = Some(found),
    }
    Ok(())
}

/// A kubelet gets tokens for pods that run on its node alone, which end with the pod.
fn restrict(node: &str, request: &Object, bound: &Bindings) -> Result<(), String> {
    let is_v1 = request.get_str(&["spec", "boundObjectRef", "apiVersion"]) == Some("v1");
    if bound.pod.is_none() || !is_v1 {
        return Err("node requested token not bound to a pod".to_owned());
    }
    if request.get_str(&["spec", "boundObjectRef", "uid"]).is_none_or(str::is_empty) {
        return Err("node requested token with a pod binding without a uid".to_owned());
    }
    match &bound.node {
        Some(own) if own.name == node => Ok(()),
        Some(_) | None => Err("node requested token bound to a pod scheduled on a different node".to_owned()),
    }
}

/// Whether a pod mounts a token for the audience itself.
fn projects(pod: &Object, audience: &str) -> bool {
    let volumes = pod.get(&["spec", "volumes"]).and_then(Value::as_array).into_iter().flatten();
    let sources = volumes.filter_map(|volume| volume.pointer("/projected/sources")?.as_array()).flatten();
    let mut tokens = sources.filter_map(|source| source.get("serviceAccountToken"));
    tokens.any(|token| token.get("audience").and_then(Value::as_str).unwrap_or_default() == audience)
}

/// The drivers that mount the pod's volumes.
fn drivers(state: &ApiState, pod: &Object, namespace: &str) -> Vec<String> {
    let text = |value: &Value, pointer: &str| value.pointer(pointer)?.as_str().map(str::to_owned);
    let volumes = pod.get(&["spec", "volumes"]).and_then(Value::as_array).into_iter().flatten();
    let claimed = |volume: &Value| {
        let of_pod = || Some(format!("{}-{}", pod.name()?, volume.get("name")?.as_str()?));
        let claim = match volume.get("ephemeral").filter(|it| !it.is_null()) {
            Some(_) => of_pod()?,
            None => text(volume, "/persistentVolumeClaim/claimName")?,
        };
        let claim = find(state, "persistentvolumeclaims", Some(namespace), &claim).ok()?;
        let volume = find(state, "persistentvolumes", None, claim.get_str(&["spec", "volumeName"])?).ok()?;
        volume.get_str(&["spec", "csi", "driver"]).map(str::to_owned)
    };
    volumes.filter_map(|volume| text(volume, "/csi/driver").or_else(|| claimed(volume))).collect()
}

/// A kubelet gets tokens for the audiences that its pod asks for, by its volumes or their drivers, and for those that
/// it was allowed.
async fn restrict_audiences(
    state: &ApiState,
    who: &Identity,
    info: &RequestInfo,
    audiences: &[String],
    bound: &Bindings,
) -> Result<(), Status> {
    let (Some(node), Some(pod)) = (who.node(), &bound.pod) else { return Ok(()) };
    let pod = find(state, "pods", Some(&bound.namespace), &pod.name)?;
    let none = [String::new()];
    for audience in if audiences.is_empty() { &none } else { audiences } {
        if projects(&pod, audience) {
            continue;
        }
        let drivers = drivers(state, &pod, &bound.namespace);
        let csi = state.registry.resource(&GroupResource::new("storage.k8s.io", "csidrivers"));
        let asks = |name: &String| {
            let driver = csi.get(name).and_then(|driver| cache::decode(&driver.bytes).ok());
            let requests =
                driver.and_then(|driver| driver.get(&["spec", "tokenRequests"])?.as_array().cloned());
            requests.into_iter().flatten().any(|it| it["audience"].as_str().unwrap_or_default() == audience)
        };
        if drivers.iter().any(asks) {
            continue;
        }
        let asked = RequestInfo {
            verb: "request-serviceaccounts-token-audience".to_owned(),
            version: "v1".to_owned(),
            resource: audience.clone(),
            namespace: info.namespace.clone(),
            name: info.name.clone(),
            is_resource: true,
            ..RequestInfo::default()
        };
        let allowed =
            !audience.is_empty() && state.authorizer.authorize(who, &asked).await == Decision::Allow;
        if !allowed {
            let detail = format!(
                "audience {audience:?} not found in pod spec volume, system:node:{node} is not authorized to request tokens for this audience"
            );
            let name = info.name.as_deref().unwrap_or_default();
            return Err(Status::forbidden(&GroupResource::new("", "serviceaccounts"), name, &detail));
        }
    }
    Ok(())
}

fn faults(request: &Object, lifetime: i64) -> Vec<FieldError> {
    let path = "spec.expirationSeconds";
    let mut faults = Vec::new();
    if lifetime < SHORTEST {
        faults.push(FieldError::invalid(path, lifetime, "may not specify a duration less than 10 minutes"));
    }
    if lifetime > LONGEST {
        faults.push(FieldError::invalid(
            path,
            lifetime,
            "may not specify a duration larger than 2^32 seconds",
        ));
    }
    let seconds = request.get(&["spec", "expirationSeconds"]);
    if seconds.is_some_and(|seconds| !seconds.is_null() && !seconds.is_i64()) {
        faults.push(FieldError::invalid(path, seconds.cloned().unwrap_or_default(), "must be a number"));
    }
    faults
}

/// The account must be the one that the request means.
fn check_uid(request: &Object, account: &Reference) -> Result<(), Status> {
    match request.uid().filter(|uid| !uid.is_empty() && *uid != account.uid) {
        Some(asked) => {
            let detail = format!(
                "the UID in the token request ({asked}) does not match the UID of the service account ({})",
                account.uid
            );
            Err(Status::conflict(&GroupResource::new("", "serviceaccounts"), &account.name, &detail))
        }
        None => Ok(()),
    }
}

/// The name and namespace in the request, if there are any, must be those of the path.
fn check_names(request: &Object, namespace: &str, name: &str) -> Result<(), Status> {
    let fields = [
        ("metadata.name", request.name(), name, "must match the service account name if specified"),
        (
            "metadata.namespace",
            request.namespace(),
            namespace,
            "must match the service account namespace if specified",
        ),
    ];
    for (path, given, own, detail) in fields {
        if let Some(given) = given.filter(|given| !given.is_empty() && *given != own) {
            let fault = FieldError::invalid(path, given, detail);
            return Err(Status::invalid(&request.gvk(), name, &[fault]));
        }
    }
    Ok(())
}

/// How long a token holds that is asked for with a life, and after how long its holder should have a newer one.
fn life(state: &ApiState, bound: &Bindings, audiences: &[String], asked: i64) -> (i64, Option<i64>) {
    let signer = state.authenticator.signer();
    let own = signer.audiences();
    let is_own = audiences.iter().all(|audience| own.contains(&audience.as_str()));
    let extends = signer.issuance().extend_expiration && bound.pod.is_some() && asked == INJECTED && is_own;
    if extends { (EXTENDED, Some(asked)) } else { (asked, None) }
}

/// Gives out a token: `request` is a `TokenRequest`, and is answered with its status filled in, and with warnings.
pub(super) async fn create(
    state: &ApiState,
    who: &Identity,
    info: &RequestInfo,
    mut request: Object,
) -> Result<(Value, Vec<String>), Status> {
    let namespace = info.namespace.clone().unwrap_or_default();
    let name = info.name.as_deref().unwrap_or_default();
    check_names(&request, &namespace, name)?;
    let account = reference(&find(state, "serviceaccounts", Some(&namespace), name)?);
    check_uid(&request, &account)?;
    let mut lifetime = request.get(&["spec", "expirationSeconds"]).and_then(Value::as_i64).unwrap_or(HOUR);
    let faults = faults(&request, lifetime);
    if !faults.is_empty() {
        return Err(Status::invalid(&request.gvk(), "", &faults));
    }
    let asked = list(&request, &["spec", "audiences"]);
    let mut bound = Bindings { namespace, serviceaccount: account, ..Bindings::default() };
    bind(state, &request, name, &mut bound)?;
    if let Some(node) = who.node() {
        restrict(node, &request, &bound)
            .map_err(|detail| Status::forbidden(&GroupResource::new("", "serviceaccounts"), name, &detail))?;
        restrict_audiences(state, who, info, &asked, &bound).await?;
    }
    let signer = state.authenticator.signer();
    let own = || signer.audiences().into_iter().map(str::to_owned).collect();
    let audiences: Vec<String> = if asked.is_empty() { own() } else { asked };
    let mut warnings = Vec::new();
    let most = signer.issuance().max_expiration.map(|most| most.as_secs().cast_signed());
    if let Some(most) = most.filter(|most| *most < lifetime) {
        warnings.push(format!("requested expiration of {lifetime} seconds shortened to {most} seconds"));
        lifetime = most;
    }
    let now = Timestamp::now().as_second();
    let (life, warn_after) = life(state, &bound, &audiences, lifetime);
    bound.warnafter = warn_after.map(|after| now + after);
    let claims = Claims {
        aud: audiences.clone(),
        exp: now + life,
        iat: now,
        iss: signer.issuer().to_owned(),
        jti: uuid::Uuid::new_v4().to_string(),
        nbf: now,
        sub: format!("system:serviceaccount:{}:{name}", bound.namespace),
        kubernetes: bound,
    };
    let token = signer.sign(&claims).map_err(Status::internal)?;
    let time = |seconds| Timestamp::from_second(seconds).map_err(Status::internal);
    // Who asks is told of the life that it asked for.
    let end = time(now + lifetime)?;
    request.set(&["metadata", "creationTimestamp"], keelson_api::object::format_time(time(now)?).into());
    request.set(&["metadata", "name"], name.into());
    request.set(&["metadata", "namespace"], info.namespace.as_deref().unwrap_or_default().into());
    request.set(&["spec", "audiences"], json!(audiences));
    request.set(&["spec", "expirationSeconds"], lifetime.into());
    request.set(
        &["status"],
        json!({"token": token, "expirationTimestamp": keelson_api::object::format_time(end)}),
    );
    Ok((request.into_value(), warnings))
}

/// The status of a `TokenReview`.
pub(super) async fn review(state: &ApiState, review: &Object) -> Result<Value, Status> {
    let token = review.get_str(&["spec", "token"]).unwrap_or_default();
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let wanted = list(review, &["spec", "audiences"]);
    let wanted: Vec<&str> = match wanted.as_slice() {
        [] => state.authenticator.signer().audiences(),
        wanted => wanted.iter().map(String::as_str).collect(),
    };
    Ok(match state.authenticator.token(token, &wanted).await {
        Ok(found) => {
            json!({"authenticated": true, "user": user_info(&found.identity), "audiences": found.audiences})
        }
        Err(faults) => {
            let error = match faults.as_slice() {
                [] => "invalid bearer token".to_owned(),
                [fault] => fault.clone(),
                faults => format!("[{}]", faults.join(", ")),
            };
            json!({"user": {}, "error": error})
        }
    })
}
