//! A server outside that knows the holders of tokens: TokenReview by POST.

use std::time::Duration;

use async_trait::async_trait;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use super::{Authenticated, TokenAuthenticator, known_audiences};
use crate::expiring_cache::ExpiringCache;
use crate::identity::{AUTHENTICATED, Identity};
use crate::remote::Remote;

/// The longest answer, in bytes.
const ANSWER: usize = 1 << 20;
const REMEMBERED: usize = 4096;

/// The authenticator.
pub(super) struct Webhook {
    remote: Remote,
    ttl: Duration,
    audiences: Vec<String>,
    answers: ExpiringCache<[u8; 32], Option<Authenticated>>,
}

/// Who a `UserInfo` is.
fn identity(user: &Value) -> Option<Identity> {
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let username = user["username"].as_str().filter(|name| !name.is_empty())?.to_owned();
    let mut groups = texts(&user["groups"]);
    if !groups.iter().any(|group| group == AUTHENTICATED) {
        groups.push(AUTHENTICATED.to_owned());
    }
    let extra = user["extra"].as_object().into_iter().flatten();
    let extra = extra.map(|(key, values)| (key.to_ascii_lowercase(), texts(values))).collect();
    let uid = user["uid"].as_str().filter(|uid| !uid.is_empty()).map(str::to_owned);
    Some(Identity { username, uid, groups, extra })
}

/// What the server says of a token that was asked about for some audiences.
fn answer(document: &Value, own: &[String], asked: &[&str]) -> Result<Option<Authenticated>, String> {
    let status = &document["status"];
    if status["authenticated"] != true {
        return match status["error"].as_str().filter(|text| !text.is_empty()) {
            Some(text) => Err(text.to_owned()),
            None => Ok(None),
        };
    }
    let said = status["audiences"].as_array().map(Vec::as_slice).unwrap_or_default();
    let audiences = if said.is_empty() {
        // A server that knows nothing of audiences speaks for this one.
        known_audiences(own, asked)
    } else {
        let said: Vec<String> = said.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        known_audiences(&said, asked)
    };
    let Some(audiences) = audiences else { return Ok(None) };
    Ok(identity(&status["user"]).map(|identity| Authenticated { identity, audiences }))
}

impl Webhook {
    pub(super) fn new(remote: Remote, ttl: Duration, audiences: Vec<String>) -> Self {
        Webhook { remote, ttl, audiences, answers: ExpiringCache::new(REMEMBERED) }
    }
}

#[async_trait]
impl TokenAuthenticator for Webhook {
    async fn authenticate(&self, token: &str, audiences: &[&str]) -> Result<Option<Authenticated>, String> {
        let mut key = [0; 32];
        let whole = format!("{token}\n{}", audiences.join("\n"));
        key.copy_from_slice(digest(&SHA256, whole.as_bytes()).as_ref());
        if let Some(found) = self.answers.get(&key) {
            return Ok(found);
        }
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token, "audiences": audiences}});
        let document = self.remote.post_json("", &review, ANSWER).await.map_err(|error| error.to_string())?;
        let found = answer(&document, &self.audiences, audiences)?;
        self.answers.put(key, found.clone(), self.ttl);
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_a_user_for_the_audiences_asked_for() {
        let own = ["api".to_owned()];
        let said = |status: Value| answer(&json!({"status": status}), &own, &["api"]);
        let ann = json!({"username": "ann", "groups": ["dev"]});
        let found = said(json!({"authenticated": true, "user": ann})).unwrap().unwrap();
        assert_eq!(
            (found.identity.groups.as_slice(), found.audiences),
            (&["dev".to_owned(), AUTHENTICATED.to_owned()][..], own.to_vec())
        );
        assert_eq!(said(json!({"authenticated": true, "user": ann, "audiences": ["vault"]})), Ok(None));
        assert_eq!(said(json!({})), Ok(None));
        assert_eq!(said(json!({"error": "no"})), Err("no".to_owned()));
    }
}
