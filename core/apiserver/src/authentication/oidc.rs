//! Tokens of issuers outside (OpenID Connect): signed by keys that the issuer publishes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use serde_json::{Map, Value};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::token::MAX_TOKEN_BYTES;
use super::{Authenticated, TokenAuthenticator, known_audiences};
use crate::identity::Identity;
use crate::remote::{Remote, RemoteConfig, ServiceResolver, Target};

/// The longest document of an issuer, in bytes.
const DOCUMENT: usize = 1 << 20;
/// Keys are not asked for more often, whatever tokens name.
const PAUSE: Duration = Duration::from_secs(10);
/// How far clocks may be apart, in seconds.
const LEEWAY: u64 = 10;

/// A claim that becomes part of an identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// Which claim.
    pub claim: String,
    /// What is put before its values.
    pub prefix: String,
}

/// An issuer whose tokens are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerConfig {
    /// Its URL, as tokens name it.
    pub url: String,
    /// Where its discovery document is, if not below the URL.
    pub discovery_url: Option<String>,
    /// The authorities that vouch for its server, in PEM; those of the system if none are given.
    pub ca_bundle: Option<String>,
    /// A token must be for one of these.
    pub audiences: Vec<String>,
    /// The algorithms that it may sign with.
    pub algorithms: Vec<Algorithm>,
    /// The user's name.
    pub username: Mapping,
    /// The user's groups.
    pub groups: Option<Mapping>,
    /// The claim with the user's UID.
    pub uid: Option<String>,
    /// Claims that must have a value.
    pub required: BTreeMap<String, String>,
}

/// All algorithms with a public key.
pub const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

#[derive(Default)]
struct Keys {
    set: Option<Arc<JwkSet>>,
    asked: Option<Instant>,
}

/// The authenticator.
pub(super) struct Oidc {
    config: IssuerConfig,
    resolver: Arc<ServiceResolver>,
    audiences: Vec<String>,
    keys: Mutex<Keys>,
}

/// A claim's texts: one, or a list.
fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

/// Who the claims say that the holder is (pure).
fn identity(config: &IssuerConfig, claims: &Map<String, Value>) -> Result<Identity, String> {
    for (claim, value) in &config.required {
        match claims.get(claim) {
            Some(Value::String(own)) if own == value => {}
            Some(_) => return Err(format!("oidc: required claim {claim} value does not match")),
            None => return Err(format!("oidc: required claim {claim} not present in ID token")),
        }
    }
    let claim = &config.username.claim;
    let name = claims.get(claim).and_then(Value::as_str).filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| format!("oidc: parse username claims {claim:?}: claim not present"))?;
    if claim == "email" && claims.get("email_verified").is_some_and(|verified| verified != true) {
        return Err("oidc: email not verified".to_owned());
    }
    let mut groups = Vec::new();
    if let Some(mapping) = &config.groups
        && let Some(value) = claims.get(&mapping.claim).filter(|value| !value.is_null())
    {
        let own = texts(value).ok_or_else(|| format!("oidc: parse groups claim {:?}", mapping.claim))?;
        groups.extend(own.into_iter().map(|group| format!("{}{group}", mapping.prefix)));
    }
    let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
    let mut identity = Identity::user(format!("{}{name}", config.username.prefix), &groups);
    let uid = config.uid.as_ref().and_then(|claim| claims.get(claim)?.as_str());
    identity.uid = uid.map(str::to_owned);
    if let Some(id) = claims.get("jti").and_then(Value::as_str) {
        let key = "authentication.kubernetes.io/credential-id".to_owned();
        identity.extra.insert(key, vec![format!("JTI={id}")]);
    }
    Ok(identity)
}

impl Oidc {
    pub(super) fn new(config: IssuerConfig, resolver: Arc<ServiceResolver>, audiences: Vec<String>) -> Self {
        Oidc { config, resolver, audiences, keys: Mutex::default() }
    }

    async fn get(&self, url: &str) -> Result<Bytes, String> {
        let ca_bundle = self.config.ca_bundle.clone().map(String::into_bytes);
        let remote = RemoteConfig { ca_bundle, ..RemoteConfig::new(Target::Url(url.to_owned())) };
        let remote = Remote::new(remote, &self.resolver).map_err(|error| error.to_string())?;
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.uri_mut() = http::Uri::from_static("/");
        let response = remote.send(request).await.map_err(|error| error.to_string())?;
        if response.status() != http::StatusCode::OK {
            return Err(format!("{url}: {}", response.status()));
        }
        let body = Limited::new(response.into_body(), DOCUMENT).collect();
        let body = tokio::time::timeout(PAUSE, body).await.map_err(|_| format!("{url}: it does not end"))?;
        Ok(body.map_err(|error| format!("{url}: {error}"))?.to_bytes())
    }

    async fn fetch(&self) -> Result<JwkSet, String> {
        let issuer = &self.config.url;
        let below = || format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let url = self.config.discovery_url.clone().unwrap_or_else(below);
        let read = |bytes: &Bytes| serde_json::from_slice::<Value>(bytes).map_err(|error| error.to_string());
        let document = read(&self.get(&url).await?)?;
        if document["issuer"] != issuer.as_str() {
            return Err(format!(
                "oidc: issuer did not match the issuer returned by provider, expected {issuer:?} got {}",
                document["issuer"]
            ));
        }
        let keys = document["jwks_uri"].as_str().ok_or("oidc: the provider names no jwks_uri")?;
        serde_json::from_slice(&self.get(keys).await?).map_err(|error| format!("{keys}: {error}"))
    }

    /// The issuer's keys; anew where none of those that are known fits.
    async fn keys(&self, header: &Header) -> Result<Arc<JwkSet>, String> {
        let fits = |set: &Arc<JwkSet>| match &header.kid {
            Some(kid) => set.find(kid).is_some(),
            None => !set.keys.is_empty(),
        };
        // One asks, the others wait for the answer.
        let mut keys = self.keys.lock().await;
        if let Some(set) = keys.set.as_ref().filter(|set| fits(set)) {
            return Ok(Arc::clone(set));
        }
        if keys.asked.is_some_and(|asked| asked.elapsed() < PAUSE) {
            return keys.set.clone().ok_or_else(|| "oidc: authenticator not initialized".to_owned());
        }
        keys.asked = Some(Instant::now());
        let set = Arc::new(self.fetch().await.inspect_err(|error| {
            tracing::warn!(issuer = %self.config.url, error, "an issuer's keys could not be had");
        })?);
        keys.set = Some(Arc::clone(&set));
        Ok(set)
    }

    fn verify(&self, token: &str, header: &Header, keys: &JwkSet) -> Result<Map<String, Value>, String> {
        let mut validation = Validation::new(header.alg);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.config.url]);
        validation.set_audience(&self.config.audiences);
        validation.set_required_spec_claims(&["exp", "aud", "iss"]);
        let named = |kid: &String| keys.find(kid).into_iter().collect::<Vec<_>>();
        let candidates = header.kid.as_ref().map_or_else(|| keys.keys.iter().collect(), named);
        let mut fault = "oidc: no key of the issuer fits".to_owned();
        for jwk in candidates {
            // A key that says for which algorithm it is, is for no other.
            let own = jwk.common.key_algorithm;
            if own.is_some_and(|own| own.to_string() != format!("{:?}", header.alg)) {
                continue;
            }
            let Ok(key) = DecodingKey::from_jwk(jwk) else { continue };
            match jsonwebtoken::decode::<Map<String, Value>>(token, &key, &validation) {
                Ok(data) => return Ok(data.claims),
                Err(error) => fault = format!("oidc: verify token: {error}"),
            }
        }
        Err(fault)
    }
}

#[async_trait]
impl TokenAuthenticator for Oidc {
    async fn authenticate(&self, token: &str, audiences: &[&str]) -> Result<Option<Authenticated>, String> {
        if token.len() > MAX_TOKEN_BYTES {
            return Ok(None);
        }
        let Ok(unverified) = jsonwebtoken::dangerous::insecure_decode::<Map<String, Value>>(token) else {
            return Ok(None);
        };
        if unverified.claims.get("iss").and_then(Value::as_str) != Some(self.config.url.as_str()) {
            return Ok(None);
        }
        let header = unverified.header;
        if !self.config.algorithms.contains(&header.alg) {
            return Err(format!("oidc: verify token: unexpected signature algorithm {:?}", header.alg));
        }
        let keys = self.keys(&header).await?;
        let claims = self.verify(token, &header, &keys)?;
        let identity = identity(&self.config, &claims)?;
        let audiences = known_audiences(&self.audiences, audiences);
        Ok(audiences.map(|audiences| Authenticated { identity, audiences }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config() -> IssuerConfig {
        IssuerConfig {
            url: "https://issuer".into(),
            discovery_url: None,
            ca_bundle: None,
            audiences: vec!["kube".into()],
            algorithms: ALGORITHMS.to_vec(),
            username: Mapping { claim: "email".into(), prefix: "oidc:".into() },
            groups: Some(Mapping { claim: "roles".into(), prefix: "oidc:".into() }),
            uid: Some("sub".into()),
            required: [("hd".to_owned(), "example.com".to_owned())].into(),
        }
    }

    fn who(claims: Value) -> Result<Identity, String> {
        identity(&config(), claims.as_object().unwrap())
    }

    #[test]
    fn claims_become_an_identity_with_prefixes() {
        let ann =
            who(json!({"email": "ann@x", "hd": "example.com", "roles": ["a", "b"], "sub": "7"})).unwrap();
        assert_eq!((ann.username.as_str(), ann.uid.as_deref()), ("oidc:ann@x", Some("7")));
        assert_eq!(ann.groups, ["oidc:a", "oidc:b", "system:authenticated"]);
        let one = who(json!({"email": "ann@x", "hd": "example.com", "roles": "a"})).unwrap();
        assert!(one.is_in("oidc:a"));
    }

    #[test]
    fn claims_that_are_missing_or_wrong_are_refused() {
        for claims in [
            json!({"hd": "example.com"}),
            json!({"email": "a", "hd": "other"}),
            json!({"email": "a"}),
            json!({"email": "a", "hd": "example.com", "email_verified": false}),
            json!({"email": "a", "hd": "example.com", "roles": [1]}),
            json!({"email": 1, "hd": "example.com"}),
        ] {
            assert!(who(claims.clone()).is_err(), "{claims}");
        }
    }
}
