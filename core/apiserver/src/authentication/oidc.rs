//! Tokens of issuers outside (OpenID Connect): signed by keys that the issuer publishes.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation, errors::ErrorKind};
use serde_json::{Map, Value};

use super::claims::{self, Rule, Source};
use super::token::MAX_TOKEN_BYTES;
use super::{Authenticated, TokenAuthenticator, known_audiences};
use crate::expression::Expression;
use crate::remote::ServiceResolver;

mod keys;

use keys::{Keys, Publisher};

/// How far clocks may be apart, in seconds.
const LEEWAY: u64 = 10;

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
    pub username: Source,
    /// The user's groups.
    pub groups: Option<Source>,
    /// The user's UID.
    pub uid: Option<Source>,
    /// What else is told of the user: keys, and the expressions of their values.
    pub extra: Vec<(String, Expression)>,
    /// Claims that must have a value.
    pub required: BTreeMap<String, String>,
    /// What must hold of the claims.
    pub claim_rules: Vec<Rule>,
    /// What must hold of the user.
    pub user_rules: Vec<Rule>,
}

impl IssuerConfig {
    /// An issuer that says no more of users than their names, and whose tokens are for nobody yet.
    pub fn named_by(username: Source) -> Self {
        IssuerConfig {
            url: String::new(),
            discovery_url: None,
            ca_bundle: None,
            audiences: Vec::new(),
            algorithms: ALGORITHMS.to_vec(),
            username,
            groups: None,
            uid: None,
            extra: Vec::new(),
            required: BTreeMap::new(),
            claim_rules: Vec::new(),
            user_rules: Vec::new(),
        }
    }
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

/// Why a token is not believed.
enum Fault {
    /// No key that is known has signed it.
    Key(String),
    /// It says something that is not believed.
    Token(String),
}

impl Fault {
    fn text(self) -> String {
        match self {
            Fault::Key(text) | Fault::Token(text) => text,
        }
    }
}

/// The authenticator.
pub(super) struct Oidc {
    config: IssuerConfig,
    audiences: Vec<String>,
    keys: Keys,
}

impl Oidc {
    pub(super) fn new(config: IssuerConfig, resolver: Arc<ServiceResolver>, audiences: Vec<String>) -> Self {
        let below = || format!("{}/.well-known/openid-configuration", config.url.trim_end_matches('/'));
        let keys = Keys::new(Publisher {
            issuer: config.url.clone(),
            document: config.discovery_url.clone().unwrap_or_else(below),
            ca_bundle: config.ca_bundle.clone(),
            resolver,
        });
        Oidc { config, audiences, keys }
    }

    /// What it believes of the issuer.
    pub(super) fn config(&self) -> &IssuerConfig {
        &self.config
    }

    fn verify(&self, token: &str, header: &Header, keys: &JwkSet) -> Result<Map<String, Value>, Fault> {
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
                Err(error) => {
                    let text = format!("oidc: verify token: {error}");
                    match error.kind() {
                        // Of another kind, or not the one that has signed it: the next one may have.
                        ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm => fault = text,
                        _ => return Err(Fault::Token(text)),
                    }
                }
            }
        }
        Err(Fault::Key(fault))
    }

    /// The claims of a token that one of the issuer's keys has signed. Newer keys are waited for only where those that are
    /// known have not.
    async fn claims(&self, token: &str, header: &Header) -> Result<Map<String, Value>, String> {
        let known = self.keys.known();
        let fault = match known.as_ref().map(|keys| self.verify(token, header, keys)) {
            Some(Ok(claims)) => return Ok(claims),
            Some(Err(Fault::Token(fault))) => return Err(fault),
            Some(Err(Fault::Key(fault))) => fault,
            None => String::new(),
        };
        match self.keys.newer(known.as_ref()).await? {
            Some(newer) => self.verify(token, header, &newer).map_err(Fault::text),
            None => Err(fault),
        }
    }

    /// Whose token it is.
    pub(super) async fn holder(
        &self,
        token: &str,
        header: &Header,
        audiences: &[&str],
    ) -> Result<Option<Authenticated>, String> {
        if !self.config.algorithms.contains(&header.alg) {
            return Err(format!("oidc: verify token: unexpected signature algorithm {:?}", header.alg));
        }
        let claims = Value::Object(self.claims(token, header).await?);
        let identity = claims::identity(&self.config, &claims)?;
        let audiences = known_audiences(&self.audiences, audiences);
        Ok(audiences.map(|audiences| Authenticated { identity, audiences }))
    }
}

/// All issuers that are believed now.
pub(super) struct Issuers {
    resolver: Arc<ServiceResolver>,
    audiences: Vec<String>,
    current: ArcSwap<Vec<Arc<Oidc>>>,
}

impl Issuers {
    /// These issuers. `audiences` are those of this server.
    pub(super) fn new(
        configs: Vec<IssuerConfig>,
        resolver: Arc<ServiceResolver>,
        audiences: Vec<String>,
    ) -> Self {
        let issuers = Issuers { resolver, audiences, current: ArcSwap::default() };
        issuers.replace(configs);
        issuers
    }

    /// Believes these from now on. One that stays as it was keeps its keys.
    pub(super) fn replace(&self, configs: Vec<IssuerConfig>) {
        let before = self.current.load_full();
        let now = configs.into_iter().map(|config| match before.iter().find(|it| *it.config() == config) {
            Some(same) => Arc::clone(same),
            None => Arc::new(Oidc::new(config, Arc::clone(&self.resolver), self.audiences.clone())),
        });
        self.current.store(Arc::new(now.collect()));
    }
}

#[async_trait]
impl TokenAuthenticator for Issuers {
    async fn authenticate(&self, token: &str, audiences: &[&str]) -> Result<Option<Authenticated>, String> {
        let issuers = self.current.load_full();
        if issuers.is_empty() || token.len() > MAX_TOKEN_BYTES {
            return Ok(None);
        }
        let Ok(unverified) = jsonwebtoken::dangerous::insecure_decode::<Map<String, Value>>(token) else {
            return Ok(None);
        };
        let named = unverified.claims.get("iss").and_then(Value::as_str);
        match issuers.iter().find(|it| Some(it.config().url.as_str()) == named) {
            Some(issuer) => issuer.holder(token, &unverified.header, audiences).await,
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests;
