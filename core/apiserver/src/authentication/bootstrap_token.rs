//! Bootstrap tokens: Secrets in `kube-system` with which new nodes introduce themselves.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use keelson_api::{GroupResource, Object};

use super::{Authenticated, TokenAuthenticator, known_audiences};
use crate::cache::{self, ResourceCache, WatchCache};
use crate::identity::Identity;

const GROUP: &str = "system:bootstrappers";

/// The authenticator.
pub(super) struct BootstrapTokens {
    secrets: Arc<ResourceCache>,
    audiences: Vec<String>,
}

/// The two parts of a token `ID.SECRET`.
fn split(token: &str) -> Option<(&str, &str)> {
    let is = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
    };
    token.split_once('.').filter(|(id, secret)| is(id, 6) && is(secret, 16))
}

/// Whether a group may be given by a token.
fn is_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix("system:bootstrappers:") else { return false };
    let last = rest.bytes().last();
    rest.len() <= 256
        && rest
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase() || b":-".contains(&byte))
        && last.is_some_and(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
}

fn data(secret: &Object, key: &str) -> Option<String> {
    let text = secret.get_str(&["data", key])?;
    String::from_utf8(STANDARD.decode(text).ok()?).ok()
}

/// Who a token of the Secret is, if it is one that may be used now.
fn holder(secret: &Object, id: &str, given: &str, now: Timestamp) -> Option<Identity> {
    let is_one = secret.get_str(&["type"]) == Some("bootstrap.kubernetes.io/token");
    if !is_one || secret.deletion_timestamp().is_some() {
        return None;
    }
    let own = data(secret, "token-secret")?;
    // In constant time: it is a secret.
    let same = own.len() == given.len()
        && own.bytes().zip(given.bytes()).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0;
    if !same || data(secret, "token-id").as_deref() != Some(id) {
        return None;
    }
    if let Some(end) = data(secret, "expiration").filter(|end| !end.is_empty()) {
        // One that cannot be read has passed.
        let end: Timestamp = end.parse().ok()?;
        if end < now {
            return None;
        }
    }
    if data(secret, "usage-bootstrap-authentication").as_deref() != Some("true") {
        return None;
    }
    let extra = data(secret, "auth-extra-groups").unwrap_or_default();
    let mut groups = vec![GROUP];
    for group in extra.split(',').map(str::trim).filter(|group| !group.is_empty()) {
        if !is_group(group) {
            tracing::warn!(
                token = id,
                group,
                "a bootstrap token names a group that it may not give: it is not used"
            );
            return None;
        }
        groups.push(group);
    }
    Some(Identity::user(format!("system:bootstrap:{id}"), &groups))
}

impl BootstrapTokens {
    pub(super) fn new(cache: &WatchCache, audiences: Vec<String>) -> Self {
        BootstrapTokens { secrets: cache.resource(&GroupResource::new("", "secrets")), audiences }
    }
}

#[async_trait]
impl TokenAuthenticator for BootstrapTokens {
    async fn authenticate(&self, token: &str, audiences: &[&str]) -> Result<Option<Authenticated>, String> {
        let Some((id, secret)) = split(token) else { return Ok(None) };
        let Some(found) = self.secrets.get(&format!("kube-system/bootstrap-token-{id}")) else {
            return Ok(None);
        };
        let Ok(object) = cache::decode(&found.bytes) else { return Ok(None) };
        let Some(identity) = holder(&object, id, secret, Timestamp::now()) else { return Ok(None) };
        let audiences = known_audiences(&self.audiences, audiences);
        Ok(audiences.map(|audiences| Authenticated { identity, audiences }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn secret(change: impl FnOnce(&mut Value)) -> Object {
        let encode = |text: &str| Value::String(STANDARD.encode(text));
        let mut document = json!({"type": "bootstrap.kubernetes.io/token", "metadata": {}, "data": {
            "token-id": encode("abcdef"), "token-secret": encode("0123456789abcdef"),
            "expiration": encode("2026-02-01T00:00:00Z"), "usage-bootstrap-authentication": encode("true"),
            "auth-extra-groups": encode("system:bootstrappers:workers"),
        }});
        change(&mut document);
        Object::from_value(document).unwrap()
    }

    fn whose(secret: &Object, given: &str) -> Option<Identity> {
        holder(secret, "abcdef", given, "2026-01-01T00:00:00Z".parse().unwrap())
    }

    #[test]
    fn a_token_that_may_be_used_is_a_bootstrapper() {
        let who = whose(&secret(|_| {}), "0123456789abcdef").unwrap();
        assert_eq!(who.username, "system:bootstrap:abcdef");
        assert!(who.is_in(GROUP) && who.is_in("system:bootstrappers:workers"));
    }

    #[test]
    fn a_token_that_has_ended_or_is_for_something_else_is_nobody() {
        let encode = |text: &str| Value::String(STANDARD.encode(text));
        let good = "0123456789abcdef";
        assert!(whose(&secret(|_| {}), "0123456789abcdee").is_none());
        let spoilt: [(&str, Value); 4] = [
            ("expiration", encode("2025-01-01T00:00:00Z")),
            ("expiration", encode("soon")),
            ("usage-bootstrap-authentication", encode("false")),
            ("auth-extra-groups", encode("system:masters")),
        ];
        for (key, value) in spoilt {
            assert!(whose(&secret(|it| it["data"][key] = value), good).is_none(), "{key}");
        }
        assert!(whose(&secret(|it| it["type"] = "Opaque".into()), good).is_none());
        let deleted = secret(|it| it["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into());
        assert!(whose(&deleted, good).is_none());
    }

    #[test]
    fn only_its_own_form_is_a_token() {
        assert_eq!(split("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        for text in ["abcde.0123456789abcdef", "ABCDEF.0123456789abcdef", "abcdef.0123", "abcdef", ""] {
            assert_eq!(split(text), None);
        }
        assert!(is_group("system:bootstrappers:a:b-c") && !is_group("system:bootstrappers:a-"));
        assert!(!is_group("system:bootstrappers") && !is_group("system:bootstrappers:"));
    }
}
