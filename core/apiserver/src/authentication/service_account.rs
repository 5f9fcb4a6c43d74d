//! Who holds a service-account token. What it is bound to must still be there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use keelson_api::GroupResource;
use ring::digest::{SHA256, digest};
use serde::Deserialize;

use super::legacy_tokens::{INVALID_SINCE, LAST_USED, Notes, TYPE};
use super::token::{Claims, Reference, Signer};
use super::{Authenticated, TokenAuthenticator};
use crate::cache::{ResourceCache, WatchCache};
use crate::expiring_cache::ExpiringCache;
use crate::identity::Identity;

const GONE: &str = "service account token has been invalidated";
/// How long after the end of what it is bound to a token still holds, in seconds.
const GRACE: i64 = 60;
/// Signatures that are remembered.
const REMEMBERED: usize = 4096;
const REMEMBER: Duration = Duration::from_secs(600);

#[derive(Default, Deserialize)]
#[serde(default)]
struct Bound {
    metadata: Metadata,
}

/// What of a Secret says whether a token that is bound to it is still taken.
#[derive(Default, Deserialize)]
#[serde(default)]
struct BoundSecret {
    #[serde(rename = "type")]
    kind: String,
    metadata: Labelled,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Labelled {
    labels: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    uid: String,
    deletion_timestamp: Option<Timestamp>,
}

impl Metadata {
    fn is_live(&self, uid: &str, now: Timestamp) -> bool {
        let ended = self.deletion_timestamp.is_some_and(|end| end.as_second() + GRACE < now.as_second());
        self.uid == uid && !ended
    }
}

fn is_live(cache: &ResourceCache, key: &str, uid: &str, now: Timestamp) -> bool {
    let bound = cache.get(key).and_then(|found| serde_json::from_slice::<Bound>(&found.bytes).ok());
    bound.is_some_and(|bound| bound.metadata.is_live(uid, now))
}

/// The authenticator.
pub(super) struct ServiceAccounts {
    pub(super) signer: Arc<Signer>,
    accounts: Arc<ResourceCache>,
    pods: Arc<ResourceCache>,
    secrets: Arc<ResourceCache>,
    nodes: Arc<ResourceCache>,
    notes: Notes,
    /// The claims of tokens whose signature was found to be good.
    verified: ExpiringCache<[u8; 32], Arc<Claims>>,
}

impl ServiceAccounts {
    pub(super) fn new(signer: Arc<Signer>, cache: &WatchCache, notes: Notes) -> Self {
        let of = |resource: &str| cache.resource(&GroupResource::new("", resource));
        ServiceAccounts {
            signer,
            accounts: of("serviceaccounts"),
            pods: of("pods"),
            secrets: of("secrets"),
            nodes: of("nodes"),
            notes,
            verified: ExpiringCache::new(REMEMBERED),
        }
    }

    fn verify(&self, token: &str) -> Option<Arc<Claims>> {
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        if let Some(claims) = self.verified.get(&key) {
            return Some(claims);
        }
        let claims = Arc::new(self.signer.verify(token)?);
        self.verified.put(key, Arc::clone(&claims), REMEMBER);
        Some(claims)
    }

    /// Whether a token that lies in a Secret is still taken; its use is noted.
    fn check_secret(&self, claims: &Claims, now: Timestamp) -> Result<(), String> {
        let bound = &claims.kubernetes;
        let Some(reference) = &bound.secret else { return Ok(()) };
        let (namespace, name) = (&bound.namespace, &reference.name);
        let found = self.secrets.get(&format!("{namespace}/{name}"));
        let secret = found.and_then(|found| serde_json::from_slice::<BoundSecret>(&found.bytes).ok());
        let Some(secret) = secret.filter(|secret| secret.kind == TYPE) else { return Ok(()) };
        let label = |key: &str| secret.metadata.labels.get(key).map(String::as_str);
        self.notes.take(namespace, name, &reference.uid, label(LAST_USED), now);
        match label(INVALID_SINCE).filter(|since| !since.is_empty()) {
            None => Ok(()),
            Some(_) => Err(format!(
                "the token in secret {namespace}/{name} for service account {namespace}/{} has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '{INVALID_SINCE}' label from the secret to temporarily allow use of this token",
                bound.serviceaccount.name
            )),
        }
    }

    /// Whether the account and what the token is bound to are still the same.
    fn is_current(&self, claims: &Claims, now: Timestamp) -> bool {
        let bound = &claims.kubernetes;
        let here = |reference: &Reference| format!("{}/{}", bound.namespace, reference.name);
        let live = |cache: &ResourceCache, reference: &Option<Reference>| {
            reference.as_ref().is_none_or(|it| is_live(cache, &here(it), &it.uid, now))
        };
        // A pod's token ends with its pod; the node in it only tells where that is.
        let node = bound.pod.is_some()
            || bound.node.as_ref().is_none_or(|node| is_live(&self.nodes, &node.name, &node.uid, now));
        let account = &bound.serviceaccount;
        is_live(&self.accounts, &here(account), &account.uid, now)
            && live(&self.pods, &bound.pod)
            && live(&self.secrets, &bound.secret)
            && node
    }
}

fn identity(claims: &Claims) -> Identity {
    let bound = &claims.kubernetes;
    let mut identity = Identity::service_account(&bound.namespace, &bound.serviceaccount.name);
    identity.uid = Some(bound.serviceaccount.uid.clone());
    let mut tell = |key: &str, value: String| {
        identity.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
    };
    tell("credential-id", format!("JTI={}", claims.jti));
    for (kind, reference) in [("pod", &bound.pod), ("node", &bound.node)] {
        if let Some(reference) = reference {
            tell(&format!("{kind}-name"), reference.name.clone());
            if !reference.uid.is_empty() {
                tell(&format!("{kind}-uid"), reference.uid.clone());
            }
        }
    }
    identity
}

#[async_trait]
impl TokenAuthenticator for ServiceAccounts {
    async fn authenticate(&self, token: &str, audiences: &[&str]) -> Result<Option<Authenticated>, String> {
        let Some(claims) = self.verify(token) else {
            let is_addressed = self.signer.is_addressed(token);
            return if is_addressed { Err("invalid bearer token".to_owned()) } else { Ok(None) };
        };
        let now = Timestamp::now();
        let audiences = claims.check(audiences, now.as_second())?;
        let identity = identity(&claims);
        if claims.sub != identity.username || !self.is_current(&claims, now) {
            return Err(GONE.to_owned());
        }
        self.check_secret(&claims, now)?;
        Ok(Some(Authenticated { identity, audiences }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_holds_a_minute_longer_than_what_it_is_bound_to() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let bound = |end: Option<&str>| Metadata {
            uid: "u".to_owned(),
            deletion_timestamp: end.map(|end| end.parse().unwrap()),
        };
        assert!(bound(None).is_live("u", now) && !bound(None).is_live("v", now));
        assert!(bound(Some("2026-01-01T12:00:30Z")).is_live("u", now));
        assert!(bound(Some("2026-01-01T11:59:30Z")).is_live("u", now));
        assert!(!bound(Some("2026-01-01T11:58:30Z")).is_live("u", now));
    }
}
