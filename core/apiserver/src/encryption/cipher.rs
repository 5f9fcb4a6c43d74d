//! Keys and algorithms.

use crypto_secretbox::aead::Aead;
use crypto_secretbox::{KeyInit, Nonce as BoxNonce, XSalsa20Poly1305};
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

use super::EncryptionError;

const GCM_NONCE: usize = 12;
const BOX_NONCE: usize = 24;

/// A key that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected one of {}, got {got}", wanted(.expected))]
pub struct KeyLength {
    /// Lengths that fit, in bytes.
    pub expected: &'static [usize],
    /// The length that it has, in bytes.
    pub got: usize,
}

fn wanted(lengths: &[usize]) -> String {
    format!("{lengths:?}").replace(',', "")
}

/// A key with its algorithm and name.
pub struct Cipher {
    name: String,
    key: Key,
}

enum Key {
    AesGcm(Box<LessSafeKey>),
    Secretbox(Box<XSalsa20Poly1305>),
}

impl std::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cipher").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Cipher {
    /// AES in Galois/Counter mode with a random nonce. A key must not seal more than some 2^32 values.
    pub fn aes_gcm(name: &str, secret: &[u8]) -> Result<Self, KeyLength> {
        let wrong = || KeyLength { expected: &[16, 32], got: secret.len() };
        let algorithm = match secret.len() {
            16 => &AES_128_GCM,
            32 => &AES_256_GCM,
            _ => return Err(wrong()),
        };
        let key = UnboundKey::new(algorithm, secret).map_err(|_| wrong())?;
        Ok(Cipher { name: format!("aesgcm:v1:{name}"), key: Key::AesGcm(Box::new(LessSafeKey::new(key))) })
    }

    /// XSalsa20 and Poly1305 with a random nonce.
    pub fn secretbox(name: &str, secret: &[u8]) -> Result<Self, KeyLength> {
        let key = XSalsa20Poly1305::new_from_slice(secret)
            .map_err(|_| KeyLength { expected: &[32], got: secret.len() })?;
        Ok(Cipher { name: format!("secretbox:v1:{name}"), key: Key::Secretbox(Box::new(key)) })
    }

    /// Algorithm, version and key, such as `aesgcm:v1:key1`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Seals a value; `place` must be given to open it.
    pub(super) fn seal(&self, mut plain: Vec<u8>, place: &[u8]) -> Result<Vec<u8>, EncryptionError> {
        let random = SystemRandom::new();
        match &self.key {
            Key::AesGcm(key) => {
                let mut nonce = [0; GCM_NONCE];
                random.fill(&mut nonce).map_err(|_| EncryptionError::Random)?;
                key.seal_in_place_append_tag(
                    Nonce::assume_unique_for_key(nonce),
                    Aad::from(place),
                    &mut plain,
                )
                .map_err(|_| EncryptionError::Random)?;
                Ok([nonce.as_slice(), &plain].concat())
            }
            Key::Secretbox(key) => {
                let mut nonce = [0; BOX_NONCE];
                random.fill(&mut nonce).map_err(|_| EncryptionError::Random)?;
                // This algorithm authenticates nothing beside its text: the place is a part of that.
                let text = with_place(&plain, place);
                let sealed = key
                    .encrypt(&BoxNonce::from(nonce), text.as_slice())
                    .map_err(|_| EncryptionError::Random)?;
                Ok([nonce.as_slice(), &sealed].concat())
            }
        }
    }

    /// Opens what it has sealed for the same place.
    pub(super) fn open(&self, sealed: &[u8], place: &[u8]) -> Result<Vec<u8>, EncryptionError> {
        let damaged = EncryptionError::Damaged;
        match &self.key {
            Key::AesGcm(key) => {
                let (nonce, text) = sealed.split_first_chunk::<GCM_NONCE>().ok_or(damaged.clone())?;
                let mut text = text.to_vec();
                let nonce = Nonce::assume_unique_for_key(*nonce);
                let length =
                    key.open_in_place(nonce, Aad::from(place), &mut text).map_err(|_| damaged)?.len();
                text.truncate(length);
                Ok(text)
            }
            Key::Secretbox(key) => {
                let (nonce, text) = sealed.split_first_chunk::<BOX_NONCE>().ok_or(damaged.clone())?;
                let text = key.decrypt(&BoxNonce::from(*nonce), text).map_err(|_| damaged.clone())?;
                without_place(&text, place).map(<[u8]>::to_vec).ok_or(damaged)
            }
        }
    }
}

fn with_place(plain: &[u8], place: &[u8]) -> Vec<u8> {
    [&(place.len() as u64).to_be_bytes()[..], place, plain].concat()
}

fn without_place<'a>(text: &'a [u8], place: &[u8]) -> Option<&'a [u8]> {
    let (length, rest) = text.split_first_chunk::<8>()?;
    let length = usize::try_from(u64::from_be_bytes(*length)).ok()?;
    let (own, plain) = rest.split_at_checked(length)?;
    (own == place).then_some(plain)
}
