//! Who sends a request: a client certificate, a service-account token, or nobody; and for whom they act.

use std::sync::Arc;

use http::{HeaderMap, header};
use keelson_api::{GroupResource, Status};

use crate::authorization::{Authorizer, Decision};
use crate::cache::{self, ResourceCache, WatchCache};
use crate::identity::{AUTHENTICATED, Identity};
use crate::request_info::RequestInfo;

pub mod token;

use token::{Claims, ISSUER, Reference, Signer};

/// Paths that need no credentials.
const OPEN: [&str; 4] = ["/healthz", "/livez", "/readyz", "/version"];

/// The authenticator of requests that come over the network.
pub struct Authenticator {
    signer: Arc<Signer>,
    accounts: Arc<ResourceCache>,
    pods: Arc<ResourceCache>,
    secrets: Arc<ResourceCache>,
    nodes: Arc<ResourceCache>,
}

fn is_live(cache: &ResourceCache, key: &str, uid: &str) -> bool {
    let object = cache.get(key).and_then(|found| cache::decode(&found.bytes).ok());
    object.is_some_and(|object| object.uid() == Some(uid))
}

impl Authenticator {
    /// Verifies tokens of `signer`, whose accounts, pods, secrets and nodes are in the cache.
    pub fn new(signer: Arc<Signer>, cache: &WatchCache) -> Self {
        let of = |resource: &str| cache.resource(&GroupResource::new("", resource));
        Authenticator {
            signer,
            accounts: of("serviceaccounts"),
            pods: of("pods"),
            secrets: of("secrets"),
            nodes: of("nodes"),
        }
    }

    /// The signer.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// The account of a token for one of the audiences. What it is bound to must still be there.
    pub fn token(&self, token: &str, audiences: &[&str]) -> Option<(Identity, Claims)> {
        let claims = self.signer.verify(token, audiences)?;
        let bound = &claims.kubernetes;
        let namespace = &bound.namespace;
        let here = |reference: &Reference| format!("{namespace}/{}", reference.name);
        let live = |cache: &ResourceCache, reference: &Option<Reference>| {
            reference.as_ref().is_none_or(|it| is_live(cache, &here(it), &it.uid))
        };
        // A pod's token ends with its pod; the node in it only tells where that is.
        let node = bound.pod.is_some()
            || bound.node.as_ref().is_none_or(|node| is_live(&self.nodes, &node.name, &node.uid));
        let account = &bound.serviceaccount;
        let is_current = is_live(&self.accounts, &here(account), &account.uid)
            && live(&self.pods, &bound.pod)
            && live(&self.secrets, &bound.secret)
            && node;
        if !is_current {
            return None;
        }
        let mut identity = Identity::service_account(namespace, &account.name);
        if claims.sub != identity.username {
            return None;
        }
        identity.uid = Some(account.uid.clone());
        let mut tell = |key: &str, value: String| {
            identity.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
        };
        tell("credential-id", format!("JTI={}", claims.jti));
        for (kind, reference) in [("pod", &bound.pod), ("node", &bound.node)] {
            if let Some(reference) = reference {
                tell(&format!("{kind}-name"), reference.name.clone());
                tell(&format!("{kind}-uid"), reference.uid.clone());
            }
        }
        Some((identity, claims))
    }

    /// Who sends a request: the certificate's user, else the token's. A request without either may only ask
    /// for the server's health and version.
    pub fn request(
        &self,
        peer: Option<Identity>,
        headers: &HeaderMap,
        path: &str,
    ) -> Result<Identity, Status> {
        if let Some(peer) = peer {
            return Ok(peer);
        }
        if let Some(value) = headers.get(header::AUTHORIZATION) {
            let token = value.to_str().ok().and_then(|value| value.split_once(' '));
            let token = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
            let token = token.map(|(_, token)| token.trim()).ok_or_else(Status::unauthorized)?;
            let found = self.token(token, &[ISSUER]);
            return found.map(|(identity, _)| identity).ok_or_else(Status::unauthorized);
        }
        if OPEN.contains(&path.trim_end_matches('/')) {
            return Ok(Identity::anonymous());
        }
        Err(Status::unauthorized())
    }
}

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
        asks.push(ask(authentication, "userextras", key, None, value));
        wanted.extra.entry(key.to_owned()).or_default().push(value.to_owned());
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
