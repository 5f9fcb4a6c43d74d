//! Certificates of members, and whose they are.

use std::sync::Arc;

use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::server::{ClientHello, ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SignatureScheme};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

/// The DNS name that each member's certificate has besides the member's own. It shows that the certificate is one of
/// a member before its name is known: when a new member asks an address to join.
pub const MEMBER_DNS_NAME: &str = "member.store.keelson.io";

/// What members speak over TLS.
const PROTOCOL: &[u8] = b"h2";

/// A member's certificate. It is asked for in every handshake, so that it may be replaced while the member runs.
pub trait PeerCertificate: Send + Sync {
    /// The certificate that is shown now, with its key; with none, nobody can be reached.
    fn current(&self) -> Option<Arc<CertifiedKey>>;
}

/// The certificates by which members know each other.
///
/// A member's certificate is for client and server authentication, is signed by the authority, and has two DNS names:
/// the member's own and [`MEMBER_DNS_NAME`].
#[derive(Clone)]
pub struct PeerTls {
    /// The authority of the members, and of nobody else, in PEM.
    pub authority: Vec<u8>,
    /// This member's certificate.
    pub certificate: Arc<dyn PeerCertificate>,
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// What is no PEM.
    #[error("read a certificate or a key of a member")]
    Pem(#[from] pem::Error),
    /// The authority's certificate is none, or the member's does not fit its key.
    #[error("use a certificate of a member")]
    Certificate(#[from] rustls::Error),
    /// The authority cannot verify anybody.
    #[error("verify members by their authority")]
    Verifier(#[from] VerifierBuilderError),
}

/// A certificate that stays.
struct Fixed(Option<Arc<CertifiedKey>>);

impl PeerCertificate for Fixed {
    fn current(&self) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }
}

/// Hands a member's certificate to TLS.
struct Shown(Arc<dyn PeerCertificate>);

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shown")
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.current()
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.current()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl std::fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PeerTls")
    }
}

/// A certificate, with those that signed it behind it, and its key, from PEM.
pub fn certified(certificate: &[u8], key: &[u8]) -> Result<CertifiedKey, TlsError> {
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key)?;
    Ok(CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider())?)
}

impl PeerTls {
    /// With a certificate that stays; everything in PEM.
    pub fn fixed(authority: Vec<u8>, certificate: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let certificate = Fixed(Some(Arc::new(certified(certificate, key)?)));
        Ok(PeerTls { authority, certificate: Arc::new(certificate) })
    }

    /// For a member that speaks to nobody over TLS.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn none() -> Self {
        PeerTls { authority: Vec::new(), certificate: Arc::new(Fixed(None)) }
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&self.authority) {
            roots.add(certificate?)?;
        }
        Ok(Arc::new(roots))
    }

    fn shown(&self) -> Arc<Shown> {
        Arc::new(Shown(Arc::clone(&self.certificate)))
    }

    /// What a member demands of those who connect.
    pub(crate) fn server(&self) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(self.roots()?, Arc::clone(&provider)).build()?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(self.shown());
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(config)
    }

    /// What a member demands of the one it connects to.
    pub(crate) fn client(&self) -> Result<ClientConfig, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(self.roots()?, Arc::clone(&provider)).build()?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_webpki_verifier(verifier)
            .with_client_cert_resolver(self.shown());
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(config)
    }
}

/// Whether a certificate is that of the member with this name.
pub(crate) fn is_of(certificate: &[u8], name: &str) -> bool {
    let Ok((_, certificate)) = x509_parser::certificate::X509Certificate::from_der(certificate) else {
        return false;
    };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return false };
    let has = |wanted: &str| {
        names
            .value
            .general_names
            .iter()
            .any(|found| matches!(found, GeneralName::DNSName(found) if *found == wanted))
    };
    has(name) && has(MEMBER_DNS_NAME)
}

/// Lets rustls use ring, if nobody has chosen for the process.
pub(crate) fn choose_cryptography() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Another thread may have been faster.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}
