//! Flags about the certificates that the API server shows; named as kube-apiserver's.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use keelson_apiserver::server::{KeyPairFiles, ServingOptions};

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Certificates")]
pub(crate) struct ServingFlags {
    /// The certificate to serve with, in place of the server's own. The file is read again when it changes.
    #[arg(long, value_name = "FILE", requires = "tls_private_key_file")]
    pub(crate) tls_cert_file: Option<PathBuf>,
    /// The private key of that certificate.
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    pub(crate) tls_private_key_file: Option<PathBuf>,
    /// A certificate and its key for clients that ask for one of its names, or of those given behind a colon:
    /// `foo.crt,foo.key` or `foo.crt,foo.key:*.foo.com,foo.com`.
    #[arg(long, value_name = "CERT,KEY[:NAMES]")]
    pub(crate) tls_sni_cert_key: Vec<String>,
}

/// Reads `CERT,KEY` or `CERT,KEY:NAME,NAME`.
fn pair(text: &str) -> anyhow::Result<KeyPairFiles> {
    let wrong = || format!("--tls-sni-cert-key {text:?} is no CERT,KEY or CERT,KEY:NAMES");
    let (files, names) = match text.rsplit_once(':') {
        Some((files, names)) => (files, names.split(',').map(str::to_owned).collect()),
        None => (text, Vec::new()),
    };
    let (certificate, key) = files.split_once(',').with_context(wrong)?;
    if certificate.is_empty() || key.is_empty() || key.contains(',') || names.iter().any(String::is_empty) {
        bail!(wrong());
    }
    Ok(KeyPairFiles { certificate: certificate.into(), key: key.into(), names })
}

impl ServingFlags {
    /// What the flags say.
    pub(crate) fn options(&self) -> anyhow::Result<ServingOptions> {
        let both = self.tls_cert_file.clone().zip(self.tls_private_key_file.clone());
        Ok(ServingOptions {
            default: both.map(|(certificate, key)| KeyPairFiles { certificate, key, names: Vec::new() }),
            by_name: self.tls_sni_cert_key.iter().map(|text| pair(text)).collect::<anyhow::Result<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_for_names_is_two_files_and_perhaps_names() {
        let files = |names: &[&str]| KeyPairFiles {
            certificate: "a.crt".into(),
            key: "a.key".into(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        assert_eq!(pair("a.crt,a.key").unwrap(), files(&[]));
        assert_eq!(pair("a.crt,a.key:*.foo.com,foo.com").unwrap(), files(&["*.foo.com", "foo.com"]));
        for text in ["a.crt", "a.crt,", ",a.key", "a.crt,a.key:", "a.crt,a.key,b"] {
            assert!(pair(text).is_err(), "{text}");
        }
    }
}
