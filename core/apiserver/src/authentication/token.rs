//! Service-account tokens: JWTs signed with ES256 by the cluster's key, bound to a pod, a secret or a node.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The issuer, and the audience of tokens for this server.
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

/// Why a key cannot be used, or a token not be signed.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The key is no P-256 key.
    #[error("read the key of service-account tokens")]
    Key(#[source] rcgen::Error),
    /// Signing failed.
    #[error("sign a service-account token")]
    Sign(#[source] jsonwebtoken::errors::Error),
    /// The key has another form.
    #[error("the key of service-account tokens is no P-256 key")]
    Form,
}

/// Signs and verifies tokens.
pub struct Signer {
    encoding: EncodingKey,
    decoding: DecodingKey,
    key_id: String,
    jwk: Value,
}

impl Signer {
    /// Takes a P-256 key in PKCS#8 PEM.
    pub fn from_pem(pem: &str) -> Result<Self, TokenError> {
        let key = rcgen::KeyPair::from_pem(pem).map_err(TokenError::Key)?;
        let (x, y) = match key.public_key_raw() {
            [4, point @ ..] if point.len() == 64 => point.split_at(32),
            _ => return Err(TokenError::Form),
        };
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let key_id = URL_SAFE_NO_PAD.encode(digest(&SHA256, key.public_key_raw()));
        let jwk =
            json!({"use": "sig", "kty": "EC", "kid": key_id, "crv": "P-256", "alg": "ES256", "x": x, "y": y});
        Ok(Signer {
            encoding: EncodingKey::from_ec_pem(key.serialize_pem().as_bytes()).map_err(TokenError::Sign)?,
            decoding: DecodingKey::from_ec_components(&x, &y).map_err(TokenError::Sign)?,
            key_id,
            jwk,
        })
    }

    /// A token with these claims.
    pub fn sign(&self, claims: &Claims) -> Result<String, TokenError> {
        let mut header = Header::new(Algorithm::ES256);
        header.typ = None;
        header.kid = Some(self.key_id.clone());
        jsonwebtoken::encode(&header, claims, &self.encoding).map_err(TokenError::Sign)
    }

    /// The claims of a token of this cluster which is for one of the audiences and has not ended.
    pub fn verify(&self, token: &str, audiences: &[&str]) -> Option<Claims> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.leeway = 10;
        validation.validate_nbf = true;
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(audiences);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        jsonwebtoken::decode::<Claims>(token, &self.decoding, &validation).ok().map(|token| token.claims)
    }

    /// `/openid/v1/jwks`.
    pub fn key_set(&self) -> Value {
        json!({"keys": [self.jwk]})
    }

    /// `/.well-known/openid-configuration`.
    pub fn discovery(&self) -> Value {
        json!({
            "issuer": ISSUER, "jwks_uri": format!("{ISSUER}/openid/v1/jwks"), "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer() -> Signer {
        Signer::from_pem(&rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap()
    }

    fn claims(lifetime: i64) -> Claims {
        let now = jiff::Timestamp::now().as_second();
        Claims {
            aud: vec![ISSUER.to_owned()],
            iat: now,
            nbf: now,
            exp: now + lifetime,
            iss: ISSUER.to_owned(),
            sub: "system:serviceaccount:a:b".to_owned(),
            ..Claims::default()
        }
    }

    #[test]
    fn a_token_carries_its_claims() {
        let (signer, claims) = (signer(), claims(600));
        assert_eq!(signer.verify(&signer.sign(&claims).unwrap(), &[ISSUER]), Some(claims));
    }

    #[test]
    fn a_token_that_has_ended_or_is_for_others_or_of_another_key_is_refused() {
        let signer = signer();
        assert_eq!(signer.verify(&signer.sign(&claims(-60)).unwrap(), &[ISSUER]), None);
        assert_eq!(signer.verify(&signer.sign(&claims(600)).unwrap(), &["vault"]), None);
        assert_eq!(self::signer().verify(&signer.sign(&claims(600)).unwrap(), &[ISSUER]), None);
    }
}
