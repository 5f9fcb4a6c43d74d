//! The cluster's certificates, kept as files below one folder.
//!
//! Keys are ECDSA P-256, files with a key have mode 0600, and what is there is used again: the authority lives for
//! ten years, what it signs for one, and a serving certificate is made anew when it nears its end or its names
//! have changed.

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

pub mod renewal;
pub mod request;
pub mod shared;

pub use renewal::Renewed;

use request::SignError;

use crate::identity::MASTERS;

const AUTHORITY_DAYS: u64 = 3650;
const LEAF_DAYS: u64 = 365;
const LEAF_LIFETIME: Duration = Duration::from_secs(LEAF_DAYS * 86_400);
/// A serving certificate is replaced when less is left.
const RENEW_DAYS: i64 = 90;

/// Why certificates cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read or written.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A certificate could not be made or read.
    #[error("make the certificate of {subject}")]
    Certificate {
        /// Whose.
        subject: String,
        /// Why it failed.
        source: rcgen::Error,
    },
    /// A certificate could not be signed.
    #[error("sign the certificate of {subject}")]
    Sign {
        /// Whose.
        subject: String,
        /// Why it failed.
        source: SignError,
    },
    /// A certificate cannot be shown, or its key does not fit it.
    #[error("use the certificate of {subject}")]
    Unusable {
        /// Whose.
        subject: String,
        /// Why not.
        source: rustls::Error,
    },
    /// A file holds no certificate or key.
    #[error("{} holds no usable certificate or key; remove it to have a new one made", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
    },
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Credential {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

/// The cluster's authority.
pub struct Pki {
    dir: PathBuf,
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

fn made(subject: &str) -> impl FnOnce(rcgen::Error) -> PkiError + use<> {
    let subject = subject.to_owned();
    |source| PkiError::Certificate { subject, source }
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let partial = path.with_extension("tmp");
    // One left by a process that was killed may have another mode.
    let removed = match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    };
    let file =
        removed.and_then(|()| fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&partial));
    file.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    })
    .and_then(|()| fs::rename(&partial, path))
    .map_err(|source| PkiError::Io { action: "write", path: path.to_owned(), source })
}

fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::Io { action: "read", path: path.to_owned(), source }),
    }
}

fn validity(params: &mut CertificateParams, days: u64) {
    // A clock that is a little behind must not refuse a new certificate.
    params.not_before = (SystemTime::now() - Duration::from_secs(300)).into();
    params.not_after = (SystemTime::now() + Duration::from_secs(days * 86_400)).into();
}

impl Pki {
    /// Opens the authority of a folder, or makes one.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, PkiError> {
        Self::open_as(dir.into(), "kubernetes-ca")
    }

    /// The authority of this server's own identity before extension API servers. It signs nothing else: who has a
    /// certificate of it may speak for any user there.
    pub fn front_proxy(&self) -> Result<Self, PkiError> {
        Self::open_as(self.dir.join("front-proxy"), "front-proxy-ca")
    }

    /// The authority by which the servers of the cluster know each other as members of its store. It signs nothing else:
    /// who has a certificate of it takes part in every write.
    pub fn members(&self) -> Result<Self, PkiError> {
        Self::open_as(self.dir.join("members"), "keelson-members-ca")
    }

    fn open_as(dir: PathBuf, subject: &str) -> Result<Self, PkiError> {
        let io = |action| {
            let path = dir.clone();
            move |source| PkiError::Io { action, path, source }
        };
        fs::create_dir_all(&dir).map_err(io("create"))?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).map_err(io("protect"))?;
        let (certificate_path, key_path) = (dir.join("ca.crt"), dir.join("ca.key"));
        let (certificate, key) = match (read(&certificate_path)?, read(&key_path)?) {
            (Some(certificate), Some(key)) => (certificate, key),
            _ => {
                let made = authority(subject)?;
                write(&key_path, &made.key, 0o600)?;
                write(&certificate_path, &made.certificate, 0o644)?;
                (made.certificate, made.key)
            }
        };
        let key = KeyPair::from_pem(&key).map_err(|_| PkiError::Unreadable { path: key_path })?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key)
            .map_err(|_| PkiError::Unreadable { path: certificate_path })?;
        Ok(Pki { dir, certificate, issuer })
    }

    /// The authority's certificate, in PEM.
    pub fn authority(&self) -> &str {
        &self.certificate
    }

    /// The private key of service-account tokens, in PEM, from its file or new.
    pub fn service_account_key(&self) -> Result<String, PkiError> {
        let path = self.dir.join("sa.key");
        if let Some(key) = read(&path)? {
            return Ok(key);
        }
        let key = KeyPair::generate().map_err(made("service accounts"))?.serialize_pem();
        write(&path, &key, 0o600)?;
        Ok(key)
    }

    /// A certificate for a user in some groups: its organizations, each of which counts.
    pub fn issue_client(&self, user: &str, groups: &[&str]) -> Result<Credential, PkiError> {
        let key = KeyPair::generate().map_err(made(user))?;
        let signed = self.sign_client(&key, user, groups, LEAF_LIFETIME, SystemTime::now());
        let certificate = signed.map_err(|source| PkiError::Sign { subject: user.to_owned(), source })?;
        Ok(Credential { certificate, key: key.serialize_pem() })
    }

    /// The certificate of a server, from its files or new.
    pub fn serving(
        &self,
        file: &str,
        names: &[String],
        addresses: &[IpAddr],
    ) -> Result<Credential, PkiError> {
        self.kept(file, names, addresses, &[ExtendedKeyUsagePurpose::ServerAuth])
    }

    /// The certificate of one that is server and client to others of its kind, from its files or new.
    pub fn peer(&self, file: &str, names: &[String]) -> Result<Credential, PkiError> {
        let both = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.kept(file, names, &[], &both)
    }

    fn kept(
        &self,
        file: &str,
        names: &[String],
        addresses: &[IpAddr],
        usages: &[ExtendedKeyUsagePurpose],
    ) -> Result<Credential, PkiError> {
        let (certificate_path, key_path) =
            (self.dir.join(format!("{file}.crt")), self.dir.join(format!("{file}.key")));
        if let (Some(certificate), Some(key)) = (read(&certificate_path)?, read(&key_path)?)
            && is_current(&certificate, names, addresses)
        {
            let found = Credential { certificate, key };
            // A renewal that was cut short has left the new key beside the old certificate.
            if renewal::certified(file, &found).is_ok() {
                return Ok(found);
            }
        }
        self.made(file, names, addresses, usages)
    }

    /// A new certificate of a server, which takes the place of the one in its files.
    pub fn new_serving(
        &self,
        file: &str,
        names: &[String],
        addresses: &[IpAddr],
    ) -> Result<Credential, PkiError> {
        self.made(file, names, addresses, &[ExtendedKeyUsagePurpose::ServerAuth])
    }

    /// The same for one that is server and client to others of its kind.
    pub fn new_peer(&self, file: &str, names: &[String]) -> Result<Credential, PkiError> {
        let both = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.made(file, names, &[], &both)
    }

    fn made(
        &self,
        file: &str,
        names: &[String],
        addresses: &[IpAddr],
        usages: &[ExtendedKeyUsagePurpose],
    ) -> Result<Credential, PkiError> {
        let (certificate_path, key_path) =
            (self.dir.join(format!("{file}.crt")), self.dir.join(format!("{file}.key")));
        let mut params = CertificateParams::new(names.to_vec()).map_err(made(file))?;
        params.subject_alt_names.extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
        params.distinguished_name.push(DnType::CommonName, file);
        params.extended_key_usages = usages.to_vec();
        let credential = self.sign(params, file)?;
        write(&key_path, &credential.key, 0o600)?;
        write(&certificate_path, &credential.certificate, 0o644)?;
        Ok(credential)
    }

    fn sign(&self, mut params: CertificateParams, subject: &str) -> Result<Credential, PkiError> {
        validity(&mut params, LEAF_DAYS);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().map_err(made(subject))?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(made(subject))?;
        Ok(Credential { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// A kubeconfig for a user, who gets a certificate of its own.
    pub fn kubeconfig(&self, server: &str, user: &str, groups: &[&str]) -> Result<String, PkiError> {
        let credential = self.issue_client(user, groups)?;
        Ok(format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: keelson\n  cluster:\n    server: {server}\n    certificate-authority-data: {}\nusers:\n- name: {user}\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\ncontexts:\n- name: keelson\n  context:\n    cluster: keelson\n    user: {user}\ncurrent-context: keelson\n",
            STANDARD.encode(&self.certificate),
            STANDARD.encode(credential.certificate),
            STANDARD.encode(credential.key),
        ))
    }

    /// Writes the administrator's kubeconfig, with a new certificate.
    pub(crate) fn write_administrator(&self, path: &Path, server: &str) -> Result<(), PkiError> {
        self.write_kubeconfig(path, &self.kubeconfig(server, "kubernetes-admin", &[MASTERS])?)
    }

    /// Writes a kubeconfig that only its owner may read.
    pub fn write_kubeconfig(&self, path: &Path, text: &str) -> Result<(), PkiError> {
        write(path, text, 0o600)
    }
}

fn authority(subject: &str) -> Result<Credential, PkiError> {
    let mut params = CertificateParams::default();
    validity(&mut params, AUTHORITY_DAYS);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().map_err(made(subject))?;
    let certificate = params.self_signed(&key).map_err(made(subject))?;
    Ok(Credential { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// Whether a certificate carries all the names and has time left.
fn is_current(pem: &str, names: &[String], addresses: &[IpAddr]) -> bool {
    use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
    let Ok(der) = CertificateDer::from_pem_slice(pem.as_bytes()) else { return false };
    let Ok((_, certificate)) = X509Certificate::from_der(&der) else { return false };
    let left = certificate.validity().not_after.timestamp() - jiff::Timestamp::now().as_second();
    let Ok(Some(alternatives)) = certificate.subject_alternative_name() else { return false };
    let has = |wanted: &GeneralName<'_>| alternatives.value.general_names.contains(wanted);
    left > RENEW_DAYS * 86_400
        && names.iter().all(|name| has(&GeneralName::DNSName(name)))
        && addresses.iter().all(|address| match address {
            IpAddr::V4(address) => has(&GeneralName::IPAddress(&address.octets())),
            IpAddr::V6(address) => has(&GeneralName::IPAddress(&address.octets())),
        })
}

impl Credential {
    /// The certificate chain and key, as rustls takes them.
    pub fn to_der(&self) -> Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let chain =
            CertificateDer::pem_slice_iter(self.certificate.as_bytes()).collect::<Result<_, _>>().ok()?;
        Some((chain, PrivateKeyDer::from_pem_slice(self.key.as_bytes()).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_and_a_serving_certificate_are_kept_until_the_names_change() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path()).unwrap();
        let address: IpAddr = "127.0.0.1".parse().unwrap();
        let first = pki.serving("apiserver", &["localhost".into()], &[address]).unwrap();
        let again = Pki::open(dir.path()).unwrap();
        assert_eq!(again.authority(), pki.authority());
        let same = again.serving("apiserver", &["localhost".into()], &[address]).unwrap();
        assert_eq!(same.certificate, first.certificate);
        let other = again.serving("apiserver", &["elsewhere".into()], &[address]).unwrap();
        assert_ne!(other.certificate, first.certificate);
    }

    #[test]
    fn a_client_is_in_all_groups_of_its_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let own = Pki::open(dir.path()).unwrap().issue_client("ann", &["dev", "ops", "dev"]).unwrap();
        let (chain, _) = own.to_der().unwrap();
        let who = crate::authentication::certificate::identity(&chain[0]).unwrap();
        assert_eq!(who.username, "ann");
        assert_eq!(who.groups, ["dev", "ops", "dev", "system:authenticated"]);
    }

    #[test]
    fn keys_are_for_their_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        Pki::open(dir.path()).unwrap();
        let mode = fs::metadata(dir.path().join("ca.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
