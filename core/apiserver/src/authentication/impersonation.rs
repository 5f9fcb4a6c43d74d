//! For whom a caller acts: the `Impersonate-*` headers.

use http::HeaderMap;
use keelson_api::Status;

use crate::authorization::{Authorizer, Decision};
use crate::identity::{AUTHENTICATED, Identity};
use crate::request_info::RequestInfo;

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Status> {
    let read = |value: &'a http::HeaderValue| value.to_str();
    let value = headers.get(name).map(read).transpose();
    value.map_err(|_| Status::bad_request(format!("the header {name} is no text")))
}

/// The identity in whose place a request is to be served, as its `Impersonate-*` headers say and the authorizer allows.
pub async fn impersonate(
    authorizer: &dyn Authorizer,
    who: Identity,
    headers: &HeaderMap,
) -> Result<Identity, Status> {
    let Some(user) = text(headers, "impersonate-user")?.filter(|user| !user.is_empty()) else {
        if headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
            return Err(Status::internal("requested to impersonate without impersonating a user"));
        }
        return Ok(who);
    };
    let mut wanted = Identity { username: user.to_owned(), ..Identity::default() };
    let mut asks = Vec::new();
    let ask =
        |group: &str, resource: &str, subresource: &str, namespace: Option<&str>, name: &str| RequestInfo {
            verb: "impersonate".to_owned(),
            group: group.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            namespace: namespace.map(str::to_owned),
            name: Some(name.to_owned()),
            is_resource: true,
            ..RequestInfo::default()
        };
    match wanted.as_service_account() {
        Some((namespace, name)) => asks.push(ask("", "serviceaccounts", "", Some(namespace), name)),
        None => asks.push(ask("", "users", "", None, user)),
    }
    let authentication = "authentication.k8s.io";
    for group in headers.get_all("impersonate-group") {
        let group = group.to_str().map_err(|_| Status::bad_request("Impersonate-Group is no text"))?;
        asks.push(ask("", "groups", "", None, group));
        wanted.groups.push(group.to_owned());
    }
    if let Some(uid) = text(headers, "impersonate-uid")? {
        asks.push(ask(authentication, "uids", "", None, uid));
        wanted.uid = Some(uid.to_owned());
    }
    for (name, value) in headers {
        let Some(key) = name.as_str().strip_prefix("impersonate-extra-") else { continue };
        let value = value.to_str().map_err(|_| Status::bad_request("Impersonate-Extra is no text"))?;
        let key = super::unescape(key);
        asks.push(ask(authentication, "userextras", &key, None, value));
        wanted.extra.entry(key).or_default().push(value.to_owned());
    }
    for info in asks {
        match authorizer.authorize(&who, &info).await {
            Decision::Allow => {}
            Decision::Deny { reason } => return Err(crate::http::forbidden(&who, &info, &reason)),
            Decision::NoOpinion => return Err(crate::http::forbidden(&who, &info, "")),
        }
    }
    if wanted.groups.is_empty()
        && let Some((namespace, name)) = wanted.as_service_account()
    {
        wanted.groups = Identity::service_account(namespace, name).groups;
    }
    let anonymous = Identity::anonymous();
    let default = if wanted.username == anonymous.username { &anonymous.groups[0] } else { AUTHENTICATED };
    if !wanted.is_in(default) {
        wanted.groups.push(default.to_owned());
    }
    Ok(wanted)
}
