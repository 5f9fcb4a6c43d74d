//! Certificates of members, and whose they are.

use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

/// The DNS name that each member's certificate has besides the member's own. It shows that the certificate is one of
/// a member before its name is known: when a new member asks an address to join.
pub const MEMBER_DNS_NAME: &str = "member.store.keelson.io";

/// The certificates by which members know each other, in PEM.
///
/// A member's certificate is for client and server authentication, is signed by the authority, and has two DNS names:
/// the member's own and [`MEMBER_DNS_NAME`].
#[derive(Clone)]
pub struct PeerTls {
    /// The authority of the members, and of nobody else.
    pub authority: Vec<u8>,
    /// This member's certificate.
    pub certificate: Vec<u8>,
    /// Its private key.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PeerTls")
    }
}

impl PeerTls {
    fn identity(&self) -> Identity {
        Identity::from_pem(&self.certificate, &self.key)
    }

    /// What a member demands of those who connect.
    pub(crate) fn server(&self) -> ServerTlsConfig {
        ServerTlsConfig::new()
            .identity(self.identity())
            .client_ca_root(Certificate::from_pem(&self.authority))
    }

    /// What a member demands of the one it connects to.
    pub(crate) fn client(&self, name: &str) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .identity(self.identity())
            .ca_certificate(Certificate::from_pem(&self.authority))
            .domain_name(name)
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
