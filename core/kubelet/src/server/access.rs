//! Who is let in, and what they may do here: the API server says both.
//!
//! A request is authenticated by a client certificate of the cluster's authority, which TLS has verified, or by a bearer token
//! of which a TokenReview says whose it is. Then a SubjectAccessReview says whether that user may do this on the subresource of
//! this node that stands for the path ([`subresources`]). Answers hold for as long as other kubelets' do.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, header};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;
use ring::digest;
use tokio::sync::Semaphore;

use super::failure::Failure;
use super::peer::Peer;
use super::recent::Recent;
use crate::configuration::KubeletConfiguration;

/// Answers that are remembered, of each kind.
const KNOWN: usize = 1024;
/// Questions at once: strangers cannot keep the API server busy by way of this server.
const QUESTIONS: usize = 16;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Tokens are shorter.
const LONGEST_TOKEN: usize = 32 << 10;

/// What is asked of the authorizer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Question {
    peer: Peer,
    verb: &'static str,
    subresource: &'static str,
}

/// Asks, and remembers.
pub(super) struct Access {
    node: String,
    tokens: Api<TokenReview>,
    rights: Api<SubjectAccessReview>,
    takes_tokens: bool,
    /// How long it holds whose a token is, that somebody may do something, and that somebody may not.
    holds: [Duration; 3],
    /// By the token's digest.
    users: Recent<Vec<u8>, Arc<Peer>>,
    strangers: Recent<Vec<u8>, ()>,
    verdicts: Recent<Question, bool>,
    places: Semaphore,
}

/// Whether a path is another one or below it.
fn is_below(path: &str, parent: &str) -> bool {
    path.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The subresources of `nodes` of which any one opens a path (pure).
fn subresources(path: &str) -> &'static [&'static str] {
    const TABLE: [(&str, &[&str]); 10] = [
        ("/stats", &["stats"]),
        ("/metrics", &["metrics"]),
        ("/logs", &["log"]),
        ("/checkpoint", &["checkpoint"]),
        ("/statusz", &["statusz"]),
        ("/flagz", &["configz"]),
        ("/pods", &["pods", "proxy"]),
        ("/runningpods", &["pods", "proxy"]),
        ("/healthz", &["healthz", "proxy"]),
        ("/configz", &["configz", "proxy"]),
    ];
    let found = TABLE.iter().find(|(parent, _)| is_below(path, parent));
    found.map_or(&["proxy"], |(_, subresources)| *subresources)
}

/// The API's verb; empty for methods that it has not.
fn verb(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "get",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "",
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn unauthorized() -> Failure {
    Failure::new(StatusCode::UNAUTHORIZED, "Unauthorized")
}

impl Access {
    /// `client` is the API as this node, which may ask both.
    pub(super) fn new(client: kube::Client, node: &str, settings: &KubeletConfiguration) -> Self {
        let (authentication, authorization) =
            (&settings.authentication.webhook, &settings.authorization.webhook);
        let (allowed, denied) = (authorization.cache_authorized_ttl, authorization.cache_unauthorized_ttl);
        Access {
            node: node.to_owned(),
            takes_tokens: authentication.enabled,
            tokens: Api::all(client.clone()),
            rights: Api::all(client),
            holds: [authentication.cache_ttl, allowed, denied],
            users: Recent::new(KNOWN),
            strangers: Recent::new(KNOWN),
            verdicts: Recent::new(KNOWN),
            places: Semaphore::new(QUESTIONS),
        }
    }

    /// Who asks: whom the connection's certificate names, or else the token of the request.
    pub(super) async fn authenticate(
        &self,
        peer: Option<&Arc<Peer>>,
        headers: &HeaderMap,
    ) -> Result<Arc<Peer>, Failure> {
        if let Some(peer) = peer {
            return Ok(Arc::clone(peer));
        }
        let token = bearer(headers).filter(|token| self.takes_tokens && token.len() <= LONGEST_TOKEN);
        let token = token.ok_or_else(unauthorized)?;
        let key = digest::digest(&digest::SHA256, token.as_bytes()).as_ref().to_vec();
        if let Some(known) = self.users.get(&key) {
            return Ok(known);
        }
        if self.strangers.get(&key).is_some() {
            return Err(unauthorized());
        }
        let [holds, ..] = self.holds;
        match self.review(token).await {
            Ok(Some(peer)) => {
                let peer = Arc::new(peer);
                self.users.put(key, Arc::clone(&peer), holds);
                Ok(peer)
            }
            Ok(None) => {
                self.strangers.put(key, (), holds);
                Err(unauthorized())
            }
            Err(error) => {
                tracing::warn!(error, "nobody says whose a token is");
                Err(unauthorized())
            }
        }
    }

    async fn review(&self, token: &str) -> Result<Option<Peer>, String> {
        let spec = TokenReviewSpec { token: token.to_owned(), audiences: None };
        let review = TokenReview { spec, ..TokenReview::default() };
        let status = self.ask(&self.tokens, &review).await?.status.unwrap_or_default();
        let user = status.user.filter(|_| status.authenticated == Some(true));
        Ok(user.and_then(Peer::reviewed))
    }

    /// Nothing, if the peer may do this.
    pub(super) async fn authorize(&self, peer: &Peer, method: &Method, path: &str) -> Result<(), Failure> {
        if peer.may_all() {
            return Ok(());
        }
        let (verb, subresources, user) = (verb(method), subresources(path), &peer.user);
        for subresource in subresources {
            match self.may(Question { peer: peer.clone(), verb, subresource }).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(user, verb, subresource, error, "nobody says what somebody may do");
                    return Err(Failure::internal(format!(
                        "Authorization error (user={user}, verb={verb}, resource=nodes, subresource={subresource})"
                    )));
                }
            }
        }
        let subresources = subresources.join(" ");
        let text = format!(
            "Forbidden (user={user}, verb={verb}, resource=nodes, subresource(s)=[{subresources}])\n"
        );
        Err(Failure::new(StatusCode::FORBIDDEN, text))
    }

    async fn may(&self, question: Question) -> Result<bool, String> {
        if let Some(known) = self.verdicts.get(&question) {
            return Ok(known);
        }
        let Question { peer, verb, subresource } = &question;
        let spec = SubjectAccessReviewSpec {
            user: Some(peer.user.clone()),
            uid: peer.uid.clone(),
            groups: Some(peer.groups.clone()),
            extra: (!peer.extra.is_empty()).then(|| peer.extra.clone()),
            resource_attributes: Some(ResourceAttributes {
                verb: Some((*verb).to_owned()),
                version: Some("v1".to_owned()),
                resource: Some("nodes".to_owned()),
                subresource: Some((*subresource).to_owned()),
                name: Some(self.node.clone()),
                ..ResourceAttributes::default()
            }),
            non_resource_attributes: None,
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let status = self.ask(&self.rights, &review).await?.status.unwrap_or_default();
        let [_, allowed, denied] = self.holds;
        let holds = if status.allowed { allowed } else { denied };
        self.verdicts.put(question, status.allowed, holds);
        Ok(status.allowed)
    }

    async fn ask<K>(&self, api: &Api<K>, review: &K) -> Result<K, String>
    where
        K: Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
    {
        let asked = async {
            let _place = self.places.acquire().await;
            api.create(&PostParams::default(), review).await
        };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(late) => Err(late.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
