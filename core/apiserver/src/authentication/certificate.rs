//! Client certificates: whose they are, and which authority vouches for them.

use std::sync::Arc;

use ring::digest::{SHA256, digest};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::der_parser::oid;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::identity::Identity;

/// Who is at the other end of a connection, by its certificate.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// The user, if an authority of clients vouches for it.
    pub client: Option<Identity>,
    /// The name of a proxy, if an authority of proxies vouches for it.
    pub proxy: Option<String>,
    /// When the certificate ends, in seconds since 1970.
    pub until: Option<i64>,
}

impl Peer {
    /// Whether its certificate has ended since the connection was opened.
    pub fn is_over(&self, now: i64) -> bool {
        self.until.is_some_and(|until| until < now)
    }
}

/// The authorities whose certificates are taken.
pub struct Authorities {
    clients: Arc<dyn ClientCertVerifier>,
    proxies: Option<Arc<dyn ClientCertVerifier>>,
    all: Arc<dyn ClientCertVerifier>,
}

fn add(roots: &mut RootCertStore, pem: &str) -> Result<(), rustls::Error> {
    let mut found = false;
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| rustls::Error::General(error.to_string()))?;
        roots.add(certificate)?;
        found = true;
    }
    if found { Ok(()) } else { Err(rustls::Error::General("a bundle holds no certificate".to_owned())) }
}

fn verifier(roots: RootCertStore) -> Result<Arc<dyn ClientCertVerifier>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let built = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .allow_unauthenticated()
        .build();
    built
        .map(|verifier| -> Arc<dyn ClientCertVerifier> { verifier })
        .map_err(|error| rustls::Error::General(error.to_string()))
}

impl Authorities {
    /// Takes the bundles, in PEM, of clients' authorities and of proxies'.
    pub fn new(clients: &[&str], proxies: Option<&str>) -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        for bundle in clients {
            add(&mut roots, bundle)?;
        }
        let mut all = roots.clone();
        let proxies = match proxies {
            Some(bundle) => {
                let mut own = RootCertStore::empty();
                add(&mut own, bundle)?;
                add(&mut all, bundle)?;
                Some(verifier(own)?)
            }
            None => None,
        };
        Ok(Authorities { clients: verifier(roots)?, proxies, all: verifier(all)? })
    }

    /// What TLS asks of clients.
    pub fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.all)
    }

    /// Whose certificate a connection was opened with.
    pub fn peer(&self, chain: Option<&[CertificateDer<'static>]>) -> Peer {
        let Some([certificate, rest @ ..]) = chain else { return Peer::default() };
        let read = X509Certificate::from_der(certificate).ok();
        let until = read.map(|(_, certificate)| certificate.validity().not_after.timestamp());
        let Some(proxies) = &self.proxies else {
            return Peer { client: identity(certificate), proxy: None, until };
        };
        // TLS has verified that one of them vouches for it, but not which.
        let now = UnixTime::now();
        let is_of = |verifier: &Arc<dyn ClientCertVerifier>| {
            verifier.verify_client_cert(certificate, rest, now).is_ok()
        };
        Peer {
            client: is_of(&self.clients).then(|| identity(certificate)).flatten(),
            proxy: is_of(proxies).then(|| common_name(certificate)).flatten(),
            until,
        }
    }
}

/// The common name that counts: the last, as in Go.
fn user<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a str> {
    let name = certificate.subject().iter_common_name().last()?;
    name.as_str().ok().filter(|name| !name.is_empty())
}

fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    user(&certificate).map(str::to_owned)
}

/// The user and groups that a verified certificate names.
pub fn identity(der: &CertificateDer<'_>) -> Option<Identity> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let user = user(&certificate)?;
    let groups: Vec<&str> = subject.iter_organization().filter_map(|name| name.as_str().ok()).collect();
    let mut identity = Identity::user(user, &groups);
    // Kubernetes' own attribute for the user's UID.
    let uid = subject.iter_by_oid(&oid!(1.3.6.1.4.1.57683.2)).find_map(|uid| uid.as_str().ok());
    identity.uid = uid.map(str::to_owned);
    let id = format!("X509SHA256={}", hex::encode(digest(&SHA256, der)));
    identity.extra.insert("authentication.kubernetes.io/credential-id".to_owned(), vec![id]);
    Some(identity)
}
