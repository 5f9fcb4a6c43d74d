//! What a machine joins a cluster with: `ID.SECRET@sha256:DIGEST`, a bootstrap token and the digest of the public key of
//! the cluster's authority, by which the machine knows the cluster before it says anything.

use std::fmt;
use std::str::FromStr;

use anyhow::Context;
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Where tokens are kept.
pub(crate) const NAMESPACE: &str = "kube-system";
/// The type of their Secrets.
pub(crate) const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
const ALGORITHM: &str = "sha256:";

/// The digest of a public key, as `kubeadm` and `openssl` know it: SHA-256 of its SubjectPublicKeyInfo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyDigest([u8; digest::SHA256_OUTPUT_LEN]);

impl KeyDigest {
    /// Of the key that a certificate is about.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> anyhow::Result<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).context("read a certificate")?;
        let digest = digest::digest(&digest::SHA256, parsed.public_key().raw);
        Ok(KeyDigest(digest.as_ref().try_into()?))
    }
}

impl fmt::Display for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ALGORITHM}{}", hex::encode(self.0))
    }
}

impl FromStr for KeyDigest {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix(ALGORITHM).ok_or(InvalidToken::Digest)?;
        let bytes = hex::decode(digits).map_err(|_| InvalidToken::Digest)?;
        bytes.try_into().map(KeyDigest).map_err(|_| InvalidToken::Digest)
    }
}

/// Why a text is no token to join with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidToken {
    #[error(
        "a token to join with is ID.SECRET@sha256:DIGEST: make one with `keelson token create` on a server"
    )]
    Shape,
    #[error("the part before @ is six characters, a dot and sixteen characters, of a-z and 0-9")]
    Secret,
    #[error("the part after @ is sha256: and 64 hexadecimal digits")]
    Digest,
}

/// The secret half of it: a bootstrap token.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct BootstrapToken {
    /// Six characters, which name it.
    pub(crate) id: String,
    secret: String,
}

impl BootstrapToken {
    /// A new one.
    pub(crate) fn random() -> anyhow::Result<Self> {
        let characters = |count: usize| -> anyhow::Result<String> {
            let mut text = String::new();
            while text.len() < count {
                let mut byte = [0];
                SystemRandom::new().fill(&mut byte).map_err(|_| anyhow::anyhow!("no randomness"))?;
                // The largest multiple of 36 in a byte: so that each is as likely.
                if byte[0] < 252 {
                    text.push(char::from(ALPHABET[usize::from(byte[0]) % ALPHABET.len()]));
                }
            }
            Ok(text)
        };
        Ok(BootstrapToken { id: characters(6)?, secret: characters(16)? })
    }

    /// As it is sent: `ID.SECRET`.
    pub(crate) fn reveal(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }

    /// The secret part alone.
    pub(crate) fn secret(&self) -> &str {
        &self.secret
    }
}

impl fmt::Debug for BootstrapToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BootstrapToken").field("id", &self.id).finish_non_exhaustive()
    }
}

impl FromStr for BootstrapToken {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is =
            |part: &str, length| part.len() == length && part.bytes().all(|byte| ALPHABET.contains(&byte));
        let parts = text.split_once('.').filter(|(id, secret)| is(id, 6) && is(secret, 16));
        let (id, secret) = parts.ok_or(InvalidToken::Secret)?;
        Ok(BootstrapToken { id: id.to_owned(), secret: secret.to_owned() })
    }
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JoinToken {
    /// Who asks.
    pub(crate) bootstrap: BootstrapToken,
    /// Who is asked.
    pub(crate) authority: KeyDigest,
}

impl JoinToken {
    /// As it is given to a machine. It is a secret.
    pub(crate) fn reveal(&self) -> String {
        format!("{}@{}", self.bootstrap.reveal(), self.authority)
    }
}

impl FromStr for JoinToken {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (bootstrap, authority) = text.trim().split_once('@').ok_or(InvalidToken::Shape)?;
        Ok(JoinToken { bootstrap: bootstrap.parse()?, authority: authority.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_written_and_keeps_its_secret() {
        let token = JoinToken { bootstrap: BootstrapToken::random().unwrap(), authority: KeyDigest([7; 32]) };
        assert_eq!(token.reveal().parse(), Ok(token.clone()));
        assert!(!format!("{token:?}").contains(token.bootstrap.secret()));
    }

    #[test]
    fn what_is_no_token_is_told_why() {
        let digest = "ab".repeat(32);
        for (text, why) in [
            ("abcdef.0123456789abcdef", InvalidToken::Shape),
            ("abcdef.0123@sha256:00", InvalidToken::Secret),
            ("ABCDEF.0123456789abcdef@sha256:00", InvalidToken::Secret),
            ("abcdef.0123456789abcdef@sha256:00", InvalidToken::Digest),
            (&format!("abcdef.0123456789abcdef@{digest}"), InvalidToken::Digest),
        ] {
            assert_eq!(text.parse::<JoinToken>(), Err(why), "{text}");
        }
        assert!(format!("abcdef.0123456789abcdef@sha256:{digest}").parse::<JoinToken>().is_ok());
    }
}
