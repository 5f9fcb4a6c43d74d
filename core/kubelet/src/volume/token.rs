//! Tokens of service accounts for pods: asked for once, kept, and asked for anew before they end.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use parking_lot::Mutex;

/// No token is used longer.
const MAX_AGE: SignedDuration = SignedDuration::from_hours(24);
/// How long after a failure a token that is still good is asked for again.
const RETRY: SignedDuration = SignedDuration::from_secs(30);

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
#[error("failed to fetch token: {0}")]
pub(crate) struct TokenError(String);

/// A token that a volume wants.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Wish {
    pub(crate) namespace: String,
    pub(crate) account: String,
    /// The API server, if `None`.
    pub(crate) audience: Option<String>,
    pub(crate) seconds: i64,
    /// Name of the pod that it is bound to.
    pub(crate) pod: String,
    /// UID of the pod that it is bound to.
    pub(crate) uid: String,
}

/// A token, and until when it is good.
#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) ends: Timestamp,
    begins: Timestamp,
    refresh: Timestamp,
}

/// Clocks differ by so much without anybody having set one back.
const DRIFT: SignedDuration = SignedDuration::from_secs(30);

impl Token {
    /// From when on it has to be asked for anew: at once if the clock was set back so far that it is not good yet (pure).
    fn due(&self, now: Timestamp) -> Timestamp {
        if self.begins.duration_since(now) > DRIFT { now } else { self.refresh }
    }
}

/// The tokens of this node's pods. They are nowhere but in memory and in the pods' volumes.
pub(crate) struct Tokens {
    client: kube::Client,
    kept: Mutex<HashMap<Wish, Token>>,
}

/// When to ask anew: when a fifth of the time is left, or after a day (pure).
fn refresh_at(ends: Timestamp, seconds: i64) -> Timestamp {
    let life = SignedDuration::from_secs(seconds.max(1));
    let begins = ends.saturating_sub(life).unwrap_or(ends);
    let wait = (life / 5 * 4).min(MAX_AGE);
    begins.saturating_add(wait).unwrap_or(ends)
}

impl Tokens {
    pub(crate) fn new(client: kube::Client) -> Self {
        Tokens { client, kept: Mutex::default() }
    }

    /// A token that is good for a while yet.
    pub(crate) async fn token(&self, wish: Wish) -> Result<Token, TokenError> {
        let now = Timestamp::now();
        let known = self.kept.lock().get(&wish).cloned();
        if let Some(known) = known.as_ref().filter(|known| now < known.due(now)) {
            return Ok(known.clone());
        }
        match self.request(&wish).await {
            Ok(token) => {
                self.kept.lock().insert(wish, token.clone());
                Ok(token)
            }
            Err(error) => match known.filter(|known| now < known.ends) {
                Some(mut known) => {
                    let (namespace, account) = (&wish.namespace, &wish.account);
                    tracing::warn!(namespace, account, %error, "a token cannot be had anew; the old one is still good");
                    known.refresh = now.saturating_add(RETRY).unwrap_or(known.ends);
                    self.kept.lock().insert(wish, known.clone());
                    Ok(known)
                }
                None => {
                    self.kept.lock().remove(&wish);
                    Err(error)
                }
            },
        }
    }

    async fn request(&self, wish: &Wish) -> Result<Token, TokenError> {
        let bound = BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(wish.pod.clone()),
            uid: Some(wish.uid.clone()),
        };
        let spec = TokenRequestSpec {
            audiences: wish.audience.clone().map(|audience| vec![audience]),
            bound_object_ref: Some(bound),
            expiration_seconds: Some(wish.seconds),
        };
        let request = TokenRequest { metadata: ObjectMeta::default(), spec: Some(spec), status: None };
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &wish.namespace);
        let answer = api.create_token_request(&wish.account, &PostParams::default(), &request).await;
        let answer = answer.map_err(|error| match error {
            kube::Error::Api(status) => TokenError(status.message.clone()),
            other => TokenError(other.to_string()),
        })?;
        let status = answer.status.unwrap_or_default();
        let text = status.token.filter(|token| !token.is_empty());
        let (Some(text), Some(ends)) = (text, status.expiration_timestamp) else {
            return Err(TokenError("the answer has no token".to_owned()));
        };
        let ends = ends.0;
        // The server may have given another time than was asked for.
        let seconds = ends.duration_since(Timestamp::now()).as_secs().clamp(1, wish.seconds.max(1));
        Ok(Token { text, ends, begins: Timestamp::now(), refresh: refresh_at(ends, seconds) })
    }

    /// When the next token has to be asked for anew.
    pub(super) fn next_refresh(&self, now: Timestamp) -> Option<Timestamp> {
        self.kept.lock().values().map(|token| token.due(now)).min()
    }

    /// Forgets a pod's tokens.
    pub(crate) fn forget(&self, uid: &str) {
        self.kept.lock().retain(|wish, _| wish.uid != uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_asked_for_anew_after_four_fifths_of_its_life_and_daily_at_least() {
        let ends = Timestamp::from_second(1_000_000).unwrap();
        assert_eq!(refresh_at(ends, 3600).as_second(), 1_000_000 - 720);
        let week = 7 * 24 * 3600;
        assert_eq!(refresh_at(ends, week).as_second(), 1_000_000 - week + 24 * 3600);
        assert!(refresh_at(ends, 0) < ends);
    }

    #[test]
    fn a_token_that_is_not_good_yet_is_asked_for_anew_at_once() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let token = Token { text: String::new(), ends: at(4600), begins: at(1000), refresh: at(3880) };
        for (now, due) in [(1000, 3880), (990, 3880), (2000, 3880), (900, 900)] {
            assert_eq!(token.due(at(now)), at(due), "at {now}");
        }
    }
}
