//! How callers are known: what an administrator configures.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::configuration::{self, Configuration};
use super::oidc::IssuerConfig;
use super::request_header::RequestHeader;
use super::token::{Issuance, Signer, TokenError};
use super::token_file::{TokenFile, TokenFileError};
use crate::reload::WatchedFile;
use crate::remote::{Remote, RemoteConfig, ServiceResolver, SetupError};

/// How callers are known, beside by certificates of the cluster's own authority and service-account tokens.
#[derive(Clone, Debug)]
pub struct AuthenticationOptions {
    /// Bundles of further authorities whose certificates name users.
    pub client_ca_files: Vec<PathBuf>,
    /// How service-account tokens are issued.
    pub issuance: Issuance,
    /// The key that signs service-account tokens; the cluster's own if none is given.
    pub signing_key_file: Option<PathBuf>,
    /// Files with keys whose service-account tokens are accepted too, public or private.
    pub key_files: Vec<PathBuf>,
    /// A file with tokens of users.
    pub token_file: Option<PathBuf>,
    /// Whether bootstrap tokens are accepted.
    pub bootstrap_tokens: bool,
    /// Proxies that vouch for their clients.
    pub request_header: Option<RequestHeader>,
    /// A file of kind AuthenticationConfiguration.
    pub config_file: Option<PathBuf>,
    /// An issuer of tokens, in place of such a file.
    pub issuer: Option<IssuerConfig>,
    /// The kubeconfig of a server that knows the holders of tokens.
    pub webhook_file: Option<PathBuf>,
    /// How long its answers hold.
    pub webhook_ttl: Duration,
}

impl Default for AuthenticationOptions {
    fn default() -> Self {
        AuthenticationOptions {
            client_ca_files: Vec::new(),
            issuance: Issuance::default(),
            signing_key_file: None,
            key_files: Vec::new(),
            token_file: None,
            bootstrap_tokens: true,
            request_header: None,
            config_file: None,
            issuer: None,
            webhook_file: None,
            webhook_ttl: Duration::from_secs(120),
        }
    }
}

/// Why callers cannot be known as configured.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// A file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The keys of service-account tokens.
    #[error("open the keys of service-account tokens")]
    Keys(#[from] TokenError),
    /// The file of tokens.
    #[error("read the tokens in {}", path.display())]
    Tokens {
        /// Which one.
        path: PathBuf,
        /// What is wrong.
        source: TokenFileError,
    },
    /// The configuration file.
    #[error("{}: {fault}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What is wrong.
        fault: String,
    },
    /// Both ways to name issuers.
    #[error("--authentication-config excludes the flags --oidc-*")]
    Both,
    /// A server that is asked about tokens.
    #[error("use the webhook of {}", path.display())]
    Webhook {
        /// Its kubeconfig.
        path: PathBuf,
        /// What is wrong.
        source: SetupError,
    },
    /// A bundle of certificates.
    #[error("use the certificates in {}", path.display())]
    Bundle {
        /// Which one.
        path: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
}

/// A server that is asked about tokens.
pub(super) fn webhook(path: &Path, resolver: &Arc<ServiceResolver>) -> Result<Remote, OptionsError> {
    let wrong = |source| OptionsError::Webhook { path: path.to_owned(), source };
    let config = RemoteConfig::from_kubeconfig(path).map_err(wrong)?;
    Remote::new(config, resolver).map_err(wrong)
}

/// A file's text.
pub fn read(path: &Path) -> Result<String, OptionsError> {
    std::fs::read_to_string(path).map_err(|source| OptionsError::Read { path: path.to_owned(), source })
}

/// What a configuration file says.
pub(super) fn parsed(path: &Path, text: &str, own: &[String]) -> Result<Configuration, OptionsError> {
    configuration::parse(text, own).map_err(|fault| OptionsError::File { path: path.to_owned(), fault })
}

pub(super) fn token_file(path: &Path, audiences: Vec<String>) -> Result<TokenFile, OptionsError> {
    let tokens = |source| OptionsError::Tokens { path: path.to_owned(), source };
    TokenFile::parse(&read(path)?, audiences).map_err(tokens)
}

impl AuthenticationOptions {
    /// Issuers outside, and paths that need no credentials; and the file that says so, if it does. `own` are this
    /// server's issuers.
    pub(super) fn configuration(
        &self,
        own: &[String],
    ) -> Result<(Configuration, Option<WatchedFile>), OptionsError> {
        let Some(path) = &self.config_file else {
            let issuers = self.issuer.clone().into_iter().collect();
            return Ok((Configuration { issuers, open: None }, None));
        };
        if self.issuer.is_some() {
            return Err(OptionsError::Both);
        }
        let text = read(path)?;
        let file = WatchedFile::new(path, text.as_bytes());
        Ok((parsed(path, &text, own)?, Some(file)))
    }

    /// The signer of service-account tokens; `own` is the cluster's key.
    pub fn signer(&self, own: &str) -> Result<Signer, OptionsError> {
        let key = self.signing_key_file.as_deref().map(read).transpose()?;
        let mut others = Vec::new();
        for path in &self.key_files {
            others.push(read(path)?);
        }
        // What the cluster's own key has signed before another was given still holds.
        if key.is_some() {
            others.push(own.to_owned());
        }
        Ok(Signer::new(key.as_deref().unwrap_or(own), &others, self.issuance.clone())?)
    }
}
