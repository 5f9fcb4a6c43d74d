//! Keys that sign and verify tokens.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use rcgen::PublicKeyData;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey as Parsed;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::TokenError;

/// A key that verifies.
pub(super) struct PublicKey {
    /// As tokens name it: the digest of the key's DER form.
    pub(super) id: String,
    pub(super) algorithm: Algorithm,
    pub(super) decoding: DecodingKey,
    /// As it is published.
    pub(super) jwk: Value,
}

/// The key that signs, with its public half.
pub(super) struct PrivateKey {
    pub(super) encoding: EncodingKey,
    pub(super) public: PublicKey,
}

fn base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Without the zeros in front that DER puts before a large number.
fn unsigned(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    &bytes[zeros..]
}

impl PublicKey {
    /// Takes a key in the form `SubjectPublicKeyInfo`: RSA, or a point on P-256 or P-384.
    fn from_der(der: &[u8]) -> Result<Self, TokenError> {
        let (_, info) = SubjectPublicKeyInfo::from_der(der).map_err(|_| TokenError::Form)?;
        let id = base64(digest(&SHA256, der).as_ref());
        let unusable = TokenError::Sign;
        match info.parsed().map_err(|_| TokenError::Form)? {
            Parsed::RSA(key) => {
                let (n, e) = (base64(unsigned(key.modulus)), base64(unsigned(key.exponent)));
                let decoding = DecodingKey::from_rsa_components(&n, &e).map_err(unusable)?;
                let jwk = json!({"use": "sig", "kty": "RSA", "kid": id, "alg": "RS256", "n": n, "e": e});
                Ok(PublicKey { id, algorithm: Algorithm::RS256, decoding, jwk })
            }
            Parsed::EC(point) => {
                let data = point.data();
                let (curve, name, algorithm) = match data.len() {
                    65 => ("P-256", "ES256", Algorithm::ES256),
                    97 => ("P-384", "ES384", Algorithm::ES384),
                    _ => return Err(TokenError::Form),
                };
                let half = data.len() / 2;
                let (x, y) = (base64(&data[1..=half]), base64(&data[half + 1..]));
                let decoding = DecodingKey::from_ec_components(&x, &y).map_err(unusable)?;
                let jwk =
                    json!({"use": "sig", "kty": "EC", "kid": id, "crv": curve, "alg": name, "x": x, "y": y});
                Ok(PublicKey { id, algorithm, decoding, jwk })
            }
            _ => Err(TokenError::Form),
        }
    }

    /// All keys of a PEM text, public ones or private ones in the form PKCS#8.
    pub(super) fn all_from_pem(text: &str) -> Result<Vec<Self>, TokenError> {
        let blocks = text.split_inclusive("-----END").collect::<Vec<_>>();
        // The end of each block stands in the piece behind it.
        let pieces = blocks.windows(2).map(|pair| {
            let start = pair[0].find("-----BEGIN").unwrap_or(0);
            let end = pair[1].find('\n').unwrap_or(pair[1].len());
            format!("{}{}", &pair[0][start..], &pair[1][..end])
        });
        let keys: Result<Vec<Self>, TokenError> = pieces.map(|pem| Self::from_pem(&pem)).collect();
        keys.and_then(|keys| if keys.is_empty() { Err(TokenError::Form) } else { Ok(keys) })
    }

    fn from_pem(pem: &str) -> Result<Self, TokenError> {
        if pem.starts_with("-----BEGIN PUBLIC KEY") {
            let key = rcgen::SubjectPublicKeyInfo::from_pem(pem).map_err(TokenError::Key)?;
            return Self::from_der(&key.subject_public_key_info());
        }
        let key = rcgen::KeyPair::from_pem(pem).map_err(TokenError::Key)?;
        Self::from_der(&key.subject_public_key_info())
    }
}

impl PrivateKey {
    /// Takes a key in PKCS#8 PEM: RSA, P-256 or P-384.
    pub(super) fn from_pem(pem: &str) -> Result<Self, TokenError> {
        let key = rcgen::KeyPair::from_pem(pem).map_err(TokenError::Key)?;
        let public = PublicKey::from_der(&key.subject_public_key_info())?;
        let pem = key.serialize_pem();
        let encoding = match public.algorithm {
            Algorithm::RS256 => EncodingKey::from_rsa_pem(pem.as_bytes()),
            _ => EncodingKey::from_ec_pem(pem.as_bytes()),
        };
        Ok(PrivateKey { encoding: encoding.map_err(TokenError::Sign)?, public })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_hold_several_public_and_private_keys() {
        let keys: Vec<_> = (0..3).map(|_| rcgen::KeyPair::generate().unwrap()).collect();
        let text = format!(
            "# old\n{}\n{}{}",
            keys[0].public_key_pem(),
            keys[1].serialize_pem(),
            keys[2].public_key_pem()
        );
        let read = PublicKey::all_from_pem(&text).unwrap();
        let ids: Vec<String> =
            keys.iter().map(|key| base64(digest(&SHA256, &key.subject_public_key_info()).as_ref())).collect();
        assert_eq!(read.into_iter().map(|key| key.id).collect::<Vec<_>>(), ids);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert!(PublicKey::all_from_pem("").is_err());
        assert!(
            PublicKey::all_from_pem("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n").is_err()
        );
    }
}
