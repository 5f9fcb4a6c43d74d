//! Acting as somebody else: the `Impersonate-*` headers, each of which the caller must be allowed to send.

use http::HeaderMap;
use keelson_api::Status;

use super::{ApiState, authorize};
use crate::identity::{AUTHENTICATED, Identity};
use crate::request_info::RequestInfo;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// What the caller must be allowed to do: to impersonate this resource with this name.
fn asked(group: &str, resource: &str, subresource: &str, namespace: Option<&str>, name: &str) -> RequestInfo {
    RequestInfo {
        verb: "impersonate".to_owned(),
        group: group.to_owned(),
        version: "v1".to_owned(),
        resource: resource.to_owned(),
        subresource: subresource.to_owned(),
        namespace: namespace.map(str::to_owned),
        name: Some(name.to_owned()),
        is_resource: true,
        ..RequestInfo::default()
    }
}

fn text(value: &http::HeaderValue) -> Result<&str, Status> {
    value.to_str().map_err(|_| Status::bad_request("an impersonation header is not plain text"))
}

/// The identity that the request is to be served with.
pub(super) async fn identity(
    state: &ApiState,
    caller: Identity,
    headers: &HeaderMap,
) -> Result<Identity, Status> {
    if !headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
        return Ok(caller);
    }
    let user = headers.get(USER).map(text).transpose()?.filter(|user| !user.is_empty());
    let Some(user) = user else {
        return Err(Status::bad_request("groups, uid or extra are impersonated without a user"));
    };
    let mut other = Identity { username: user.to_owned(), ..Identity::default() };
    let mut checks = Vec::new();
    let account = user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    checks.push(match account {
        Some((namespace, name)) => asked("", "serviceaccounts", "", Some(namespace), name),
        None => asked("", "users", "", None, user),
    });
    for value in headers.get_all(GROUP) {
        let group = text(value)?;
        checks.push(asked("", "groups", "", None, group));
        other.groups.push(group.to_owned());
    }
    if let Some(value) = headers.get(UID) {
        let uid = text(value)?;
        checks.push(asked("authentication.k8s.io", "uids", "", None, uid));
        other.uid = Some(uid.to_owned());
    }
    for (name, value) in headers {
        let Some(key) = name.as_str().strip_prefix(EXTRA) else { continue };
        let value = text(value)?;
        checks.push(asked("authentication.k8s.io", "userextras", key, None, value));
        other.extra.entry(key.to_owned()).or_default().push(value.to_owned());
    }
    for check in &checks {
        authorize(state, &caller, check).await?;
    }
    if let (Some((namespace, name)), true) = (account, other.groups.is_empty()) {
        other.groups = Identity::service_account(namespace, name).groups;
    }
    if user != "system:anonymous" && !other.is_in(AUTHENTICATED) {
        other.groups.push(AUTHENTICATED.to_owned());
    }
    Ok(other)
}
