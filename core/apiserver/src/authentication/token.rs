//! Service-account tokens: JWTs signed by the cluster's key, bound to a pod, a secret or a node.

use std::collections::BTreeSet;
use std::time::Duration;

use jsonwebtoken::{Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

mod keys;

use keys::{PrivateKey, PublicKey};

/// The issuer if none is configured, and then the audience of tokens for this server.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Something that a token is bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// Its name.
    pub name: String,
    /// Its UID.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// What Kubernetes adds to a token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bindings {
    /// The account's namespace.
    pub namespace: String,
    /// The account.
    pub serviceaccount: Reference,
    /// The pod that it ends with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    /// The secret that it ends with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    /// The node that it ends with, or on which its pod runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    /// From when on the holder should have a newer one, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// The claims of a token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Audiences.
    pub aud: Vec<String>,
    /// End, in seconds since 1970.
    pub exp: i64,
    /// Issued at, likewise.
    pub iat: i64,
    /// Issuer.
    pub iss: String,
    /// Unique id of the token.
    pub jti: String,
    /// Not before, likewise.
    pub nbf: i64,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub sub: String,
    /// What it is bound to.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Bindings,
}

/// The longest token that is looked at, in bytes.
pub const MAX_TOKEN_BYTES: usize = 64 << 10;
/// How far clocks may be apart, in seconds.
const LEEWAY: i64 = 10;

impl Claims {
    /// The audiences among those that are asked for which the token has; why it is of no use otherwise.
    pub fn check(&self, audiences: &[&str], now: i64) -> Result<Vec<String>, &'static str> {
        if self.exp + LEEWAY < now {
            return Err("service account token has expired");
        }
        if self.nbf > now + LEEWAY {
            return Err("service account token is not valid yet");
        }
        let both: Vec<String> =
            self.aud.iter().filter(|own| audiences.contains(&own.as_str())).cloned().collect();
        if both.is_empty() {
            return Err("token audiences do not match the target audiences");
        }
        Ok(both)
    }
}

/// Why a key cannot be used, or a token not be signed.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The key cannot be read.
    #[error(
        "read a key of service-account tokens: it must be a public key, or a private one in the form PKCS#8"
    )]
    Key(#[source] rcgen::Error),
    /// Signing failed.
    #[error("sign a service-account token")]
    Sign(#[source] jsonwebtoken::errors::Error),
    /// The key has another form.
    #[error("a key of service-account tokens is none of RSA, P-256 and P-384")]
    Form,
    /// A file cannot be read.
    #[error("read {}", path.display())]
    File {
        /// Which one.
        path: std::path::PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The issuer is no URL.
    #[error("--service-account-issuer {0:?} is neither a URL nor free of colons")]
    Issuer(String),
    /// Tokens could not live long enough to be renewed.
    #[error("--service-account-max-token-expiration is below one hour or beyond 2^32 seconds")]
    MaxExpiration,
}

/// How tokens are issued.
#[derive(Clone, Debug)]
pub struct Issuance {
    /// Who issues: the first in new tokens, all of them in those that are accepted. [`ISSUER`] if there is none.
    pub issuers: Vec<String>,
    /// What this server is called as an audience; the issuers if there is none.
    pub audiences: Vec<String>,
    /// Where relying parties find the keys; below the issuer if it is not said.
    pub jwks_uri: Option<String>,
    /// The longest life of a token that is asked for.
    pub max_expiration: Option<Duration>,
    /// Whether the token that a pod finds mounted holds longer than it says, for programs that read it only once.
    pub extend_expiration: bool,
}

impl Default for Issuance {
    fn default() -> Self {
        Issuance {
            issuers: Vec::new(),
            audiences: Vec::new(),
            jwks_uri: None,
            max_expiration: None,
            extend_expiration: true,
        }
    }
}

/// Signs and verifies tokens.
pub struct Signer {
    key: PrivateKey,
    /// Those of former keys.
    others: Vec<PublicKey>,
    issuance: Issuance,
}

impl Signer {
    /// Signs with a private key in PKCS#8 PEM, and accepts what was signed with the keys in other PEM texts too.
    pub fn new(pem: &str, others: &[String], mut issuance: Issuance) -> Result<Self, TokenError> {
        if issuance.issuers.is_empty() {
            issuance.issuers.push(ISSUER.to_owned());
        }
        if issuance.audiences.is_empty() {
            issuance.audiences.clone_from(&issuance.issuers);
        }
        for issuer in &issuance.issuers {
            // As StringOrURI of RFC 7519.
            if issuer.contains(':') && issuer.parse::<http::Uri>().is_err() || issuer.is_empty() {
                return Err(TokenError::Issuer(issuer.clone()));
            }
        }
        let limits = Duration::from_secs(3600)..=Duration::from_secs(1 << 32);
        if issuance.max_expiration.is_some_and(|most| !limits.contains(&most)) {
            return Err(TokenError::MaxExpiration);
        }
        let key = PrivateKey::from_pem(pem)?;
        let mut former = Vec::new();
        for text in others {
            former.extend(PublicKey::all_from_pem(text)?.into_iter().filter(|it| it.id != key.public.id));
        }
        Ok(Signer { key, others: former, issuance })
    }

    /// Takes a private key in PKCS#8 PEM, with the usual issuer.
    pub fn from_pem(pem: &str) -> Result<Self, TokenError> {
        Signer::new(pem, &[], Issuance::default())
    }

    /// How it issues.
    pub fn issuance(&self) -> &Issuance {
        &self.issuance
    }

    /// Who issues new tokens.
    pub fn issuer(&self) -> &str {
        self.issuance.issuers.first().map_or(ISSUER, String::as_str)
    }

    /// The audiences that mean this server.
    pub fn audiences(&self) -> Vec<&str> {
        self.issuance.audiences.iter().map(String::as_str).collect()
    }

    /// A token with these claims.
    pub fn sign(&self, claims: &Claims) -> Result<String, TokenError> {
        let mut header = Header::new(self.key.public.algorithm);
        header.typ = None;
        header.kid = Some(self.key.public.id.clone());
        jsonwebtoken::encode(&header, claims, &self.key.encoding).map_err(TokenError::Sign)
    }

    fn keys(&self) -> impl Iterator<Item = &PublicKey> {
        std::iter::once(&self.key.public).chain(&self.others)
    }

    /// Whether a token says that it is of this issuer. It may lie.
    pub fn is_addressed(&self, token: &str) -> bool {
        #[derive(Deserialize)]
        struct Issued {
            iss: String,
        }
        if token.len() > MAX_TOKEN_BYTES || token.split('.').count() != 3 {
            return false;
        }
        let issued = jsonwebtoken::dangerous::insecure_decode::<Issued>(token);
        issued.is_ok_and(|token| self.issuance.issuers.contains(&token.claims.iss))
    }

    /// The claims of a token that a key of this cluster has signed. Whether they hold now is for [`Claims::check`] to say.
    pub fn verify(&self, token: &str) -> Option<Claims> {
        if token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let header = jsonwebtoken::decode_header(token).ok()?;
        // What a key signs with is not for the token to choose.
        let fitting = || self.keys().filter(|key| key.algorithm == header.alg);
        let named = |key: &&PublicKey| header.kid.as_ref() == Some(&key.id);
        let mut candidates: Vec<&PublicKey> = fitting().filter(named).collect();
        if candidates.is_empty() {
            candidates = fitting().collect();
        }
        candidates.into_iter().find_map(|key| {
            let mut validation = Validation::new(key.algorithm);
            validation.validate_exp = false;
            validation.validate_aud = false;
            validation.set_issuer(&self.issuance.issuers);
            validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
            let read = jsonwebtoken::decode::<Claims>(token, &key.decoding, &validation);
            read.ok().map(|token| token.claims)
        })
    }

    /// `/openid/v1/jwks`.
    pub fn key_set(&self) -> Value {
        json!({"keys": self.keys().map(|key| &key.jwk).collect::<Vec<_>>()})
    }

    /// `/.well-known/openid-configuration`.
    pub fn discovery(&self) -> Value {
        let issuer = self.issuer();
        let below = || format!("{}/openid/v1/jwks", issuer.trim_end_matches('/'));
        let algorithms: BTreeSet<&str> = self.keys().filter_map(|key| key.jwk["alg"].as_str()).collect();
        json!({
            "issuer": issuer, "jwks_uri": self.issuance.jwks_uri.clone().unwrap_or_else(below),
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
        })
    }
}

#[cfg(test)]
mod tests;
