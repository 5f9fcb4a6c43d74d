//! The certificates that this server shows: its own, which renews itself, or those of an administrator's files, which are
//! read again when they change.
//!
//! As kube-apiserver: a pair of files takes the place of the own certificate; further pairs are shown to who asks for
//! one of their names. Who asks for none, as who connects to an address does, gets the first.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ring::digest::{Digest, SHA256, digest};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::pki::renewal::certified;
use crate::pki::{Credential, PkiError, Renewed};

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(60);

/// A certificate and its key in files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPairFiles {
    /// The chain, in PEM.
    pub certificate: PathBuf,
    /// The private key, in PEM.
    pub key: PathBuf,
    /// For which names it is shown, as `www.example.com` or `*.example.com`; those that it is for itself if none is given.
    pub names: Vec<String>,
}

/// Which certificates an administrator has given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServingOptions {
    /// In place of the server's own.
    pub default: Option<KeyPairFiles>,
    /// For clients that ask for a name of theirs. The first that fits is shown.
    pub by_name: Vec<KeyPairFiles>,
}

/// A pair as it was read.
struct Pair {
    files: KeyPairFiles,
    /// Of both files.
    digest: Digest,
    key: Arc<CertifiedKey>,
    names: Vec<String>,
}

/// What TLS asks for a certificate.
pub(super) struct Serving {
    own: Arc<Renewed>,
    default: Option<ArcSwap<Pair>>,
    by_name: Vec<ArcSwap<Pair>>,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serving").field("own", &self.own).finish_non_exhaustive()
    }
}

fn read(path: &PathBuf) -> Result<String, PkiError> {
    let io = |source| PkiError::Io { action: "read", path: path.clone(), source };
    std::fs::read_to_string(path).map_err(io)
}

fn read_both(files: &KeyPairFiles) -> Result<(Credential, Digest), PkiError> {
    let credential = Credential { certificate: read(&files.certificate)?, key: read(&files.key)? };
    let whole = format!("{}\n{}", credential.certificate, credential.key);
    Ok((credential, digest(&SHA256, whole.as_bytes())))
}

impl Pair {
    fn open(files: &KeyPairFiles) -> Result<Self, PkiError> {
        let (credential, digest) = read_both(files)?;
        let key = certified(&files.certificate.display().to_string(), &credential)?;
        let names = match files.names.as_slice() {
            [] => key.cert.first().map(names_of).unwrap_or_default(),
            names => names.to_vec(),
        };
        let names = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        Ok(Pair { files: files.clone(), digest, key: Arc::new(key), names })
    }

    fn is_for(&self, name: &str) -> bool {
        // Clients ask in lower case, and without a dot at the end.
        self.names.iter().any(|own| match own.strip_prefix("*.") {
            Some(domain) => name.split_once('.').is_some_and(|(_, rest)| rest == domain),
            None => own == name,
        })
    }
}

/// The names of hosts that a certificate is for.
fn names_of(leaf: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, leaf)) = X509Certificate::from_der(leaf) else { return Vec::new() };
    let alternatives = leaf.subject_alternative_name().ok().flatten();
    let general = alternatives.into_iter().flat_map(|found| &found.value.general_names);
    general
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        })
        .collect()
}

impl Serving {
    /// Reads the files.
    pub(super) fn new(own: Arc<Renewed>, options: &ServingOptions) -> Result<Arc<Self>, PkiError> {
        let open = |files| Pair::open(files).map(ArcSwap::from_pointee);
        Ok(Arc::new(Serving {
            own,
            default: options.default.as_ref().map(open).transpose()?,
            by_name: options.by_name.iter().map(open).collect::<Result<_, _>>()?,
        }))
    }

    fn choose(&self, name: Option<&str>) -> Arc<CertifiedKey> {
        let mut pairs = self.by_name.iter();
        let named = name.and_then(|name| pairs.find(|pair| pair.load().is_for(name)));
        match named.or(self.default.as_ref()) {
            Some(pair) => Arc::clone(&pair.load().key),
            None => self.own.current(),
        }
    }

    /// Reads files again that have changed. One that cannot be used leaves the one of before in its place.
    fn read_again(&self) {
        for slot in self.default.iter().chain(&self.by_name) {
            let known = slot.load();
            let is_same =
                read_both(&known.files).is_ok_and(|(_, digest)| digest.as_ref() == known.digest.as_ref());
            if is_same {
                continue;
            }
            let path = known.files.certificate.display();
            match Pair::open(&known.files) {
                Ok(pair) => {
                    tracing::info!(%path, "a serving certificate was read again");
                    slot.store(Arc::new(pair));
                }
                Err(error) => tracing::error!(
                    %path,
                    error = &error as &dyn std::error::Error,
                    "a serving certificate cannot be used: the one of before is shown"
                ),
            }
        }
    }

    /// Renews and reads again what is shown until it is told to stop.
    pub(super) async fn keep(self: Arc<Self>, stop: CancellationToken) {
        let renewed = Arc::clone(&self.own).keep(stop.clone());
        if self.default.is_none() && self.by_name.is_empty() {
            return renewed.await;
        }
        let files = async {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(LOOK) => self.read_again(),
                }
            }
        };
        tokio::join!(renewed, files);
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.choose(hello.server_name()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::pki::Pki;

    fn write(dir: &Path, pki: &Pki, name: &str, host: &str) -> KeyPairFiles {
        let made = pki.new_serving(name, &[host.to_owned()], &[]).unwrap();
        let path = |kind: &str| dir.join(format!("{name}.{kind}"));
        std::fs::write(path("crt"), made.certificate).unwrap();
        std::fs::write(path("key"), made.key).unwrap();
        KeyPairFiles { certificate: path("crt"), key: path("key"), names: Vec::new() }
    }

    #[test]
    fn a_name_chooses_the_certificate_and_changed_files_are_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Arc::new(Pki::open(dir.path().join("pki")).unwrap());
        let own = Renewed::serving(&pki, "own", &["localhost".to_owned()], &[]).unwrap();
        let options = ServingOptions {
            default: Some(write(dir.path(), &pki, "default", "api.example.com")),
            by_name: vec![write(dir.path(), &pki, "wild", "*.example.org")],
        };
        let serving = Serving::new(own, &options).unwrap();
        let names = |key: Arc<CertifiedKey>| names_of(&key.cert[0]);
        assert_eq!(names(serving.choose(Some("a.example.org"))), ["*.example.org"]);
        for name in [None, Some("a.b.example.org"), Some("example.org"), Some("localhost")] {
            assert_eq!(names(serving.choose(name)), ["api.example.com"], "{name:?}");
        }
        write(dir.path(), &pki, "default", "new.example.com");
        serving.read_again();
        assert_eq!(names(serving.choose(None)), ["new.example.com"]);
        std::fs::write(dir.path().join("default.key"), "nothing").unwrap();
        serving.read_again();
        assert_eq!(names(serving.choose(None)), ["new.example.com"]);
    }

    #[test]
    fn without_files_the_own_certificate_is_shown_and_files_must_fit_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Arc::new(Pki::open(dir.path().join("pki")).unwrap());
        let own = Renewed::serving(&pki, "own", &["localhost".to_owned()], &[]).unwrap();
        let plain = Serving::new(Arc::clone(&own), &ServingOptions::default()).unwrap();
        assert!(Arc::ptr_eq(&plain.choose(Some("any")), &own.current()));
        let (one, other) = (write(dir.path(), &pki, "a", "a"), write(dir.path(), &pki, "b", "b"));
        let mixed = KeyPairFiles { key: other.key, ..one };
        assert!(Serving::new(own, &ServingOptions { default: Some(mixed), by_name: vec![] }).is_err());
    }
}
