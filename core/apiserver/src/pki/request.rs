//! Certificates for requests of others (PKCS#10), signed by the cluster's authority.

use std::time::{Duration, SystemTime};

use rcgen::{PublicKeyData, SigningKey};
use x509_cert::Certificate;
use x509_cert::attr::{AttributeTypeAndValue, AttributeValue};
use x509_cert::certificate::{TbsCertificate, Version};
use x509_cert::der::asn1::{Any, BitString, Null, ObjectIdentifier, Utf8StringRef};
use x509_cert::der::oid::AssociatedOid;
use x509_cert::der::pem::LineEnding;
use x509_cert::der::{Decode, DecodePem, Encode, EncodePem};
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName,
    SubjectKeyIdentifier,
};
use x509_cert::ext::{AsExtension, Extension};
use x509_cert::name::{Name, RdnSequence, RelativeDistinguishedName};
use x509_cert::request::{CertReq, ExtensionReq};
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::time::{Time, Validity};

use super::Pki;

/// Why a request is not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// Something cannot be read or written in DER.
    #[error("encode or decode a certificate: {0}")]
    Der(x509_cert::der::Error),
    /// The authority's key is of a kind that signs nothing here.
    #[error("the authority's key is none of P-256, P-384 and RSA")]
    Key,
    /// A usage that has no place in a certificate.
    #[error("unrecognized usage value: {0:?}")]
    Usage(String),
    /// The key did not sign.
    #[error("sign the certificate")]
    Sign(#[source] rcgen::Error),
}

impl From<x509_cert::der::Error> for SignError {
    fn from(error: x509_cert::der::Error) -> Self {
        SignError::Der(error)
    }
}

/// The two ways in which Kubernetes' names of usages are written into certificates.
enum Usage {
    Key(KeyUsages),
    Extended(&'static str),
}

fn usage(name: &str) -> Option<Usage> {
    Some(match name {
        "signing" | "digital signature" => Usage::Key(KeyUsages::DigitalSignature),
        "content commitment" => Usage::Key(KeyUsages::NonRepudiation),
        "key encipherment" => Usage::Key(KeyUsages::KeyEncipherment),
        "key agreement" => Usage::Key(KeyUsages::KeyAgreement),
        "data encipherment" => Usage::Key(KeyUsages::DataEncipherment),
        "cert sign" => Usage::Key(KeyUsages::KeyCertSign),
        "crl sign" => Usage::Key(KeyUsages::CRLSign),
        "encipher only" => Usage::Key(KeyUsages::EncipherOnly),
        "decipher only" => Usage::Key(KeyUsages::DecipherOnly),
        "any" => Usage::Extended("2.5.29.37.0"),
        "server auth" => Usage::Extended("1.3.6.1.5.5.7.3.1"),
        "client auth" => Usage::Extended("1.3.6.1.5.5.7.3.2"),
        "code signing" => Usage::Extended("1.3.6.1.5.5.7.3.3"),
        "email protection" | "s/mime" => Usage::Extended("1.3.6.1.5.5.7.3.4"),
        "ipsec end system" => Usage::Extended("1.3.6.1.5.5.7.3.5"),
        "ipsec tunnel" => Usage::Extended("1.3.6.1.5.5.7.3.6"),
        "ipsec user" => Usage::Extended("1.3.6.1.5.5.7.3.7"),
        "timestamping" => Usage::Extended("1.3.6.1.5.5.7.3.8"),
        "ocsp signing" => Usage::Extended("1.3.6.1.5.5.7.3.9"),
        "microsoft sgc" => Usage::Extended("1.3.6.1.4.1.311.10.3.3"),
        "netscape sgc" => Usage::Extended("2.16.840.1.113730.4.1"),
        _ => return None,
    })
}

/// Whether Kubernetes knows a usage of this name.
pub fn is_usage(name: &str) -> bool {
    usage(name).is_some()
}

fn algorithm(key: &rcgen::KeyPair) -> Result<AlgorithmIdentifierOwned, SignError> {
    let known = [
        (&rcgen::PKCS_ECDSA_P256_SHA256, "1.2.840.10045.4.3.2", false),
        (&rcgen::PKCS_ECDSA_P384_SHA384, "1.2.840.10045.4.3.3", false),
        (&rcgen::PKCS_RSA_SHA256, "1.2.840.113549.1.1.11", true),
    ];
    let found = known.into_iter().find(|(known, ..)| key.algorithm() == *known);
    let (_, oid, has_null) = found.ok_or(SignError::Key)?;
    let oid = ObjectIdentifier::new(oid).map_err(|_| SignError::Key)?;
    let parameters = if has_null { Some(Any::encode_from(&Null)?) } else { None };
    Ok(AlgorithmIdentifierOwned { oid, parameters })
}

/// The alternative names that a request asks for.
fn alternative_names(request: &CertReq) -> Result<Option<Extension>, SignError> {
    for attribute in request.info.attributes.iter() {
        if attribute.oid != ExtensionReq::OID {
            continue;
        }
        for value in attribute.values.iter() {
            let value: &AttributeValue = value;
            let extensions = ExtensionReq::from_der(&value.to_der()?)?;
            let found = extensions.0.into_iter().find(|it| it.extn_id == SubjectAltName::OID);
            if found.is_some() {
                return Ok(found);
            }
        }
    }
    Ok(None)
}

/// What is certified: whose key it is, and which other names it has.
struct Leaf {
    subject: Name,
    key: SubjectPublicKeyInfoOwned,
    alternatives: Option<Extension>,
}

/// The name of a user and its groups. Each group is an attribute of its own: readers take them all.
fn name(user: &str, groups: &[&str]) -> Result<Name, SignError> {
    const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
    const ORGANIZATION: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.10");
    let attribute = |oid, text: &str| -> Result<RelativeDistinguishedName, SignError> {
        let value = Any::encode_from(&Utf8StringRef::new(text)?)?;
        Ok(RelativeDistinguishedName::try_from(vec![AttributeTypeAndValue { oid, value }])?)
    };
    let mut parts = Vec::with_capacity(groups.len() + 1);
    for group in groups {
        parts.push(attribute(ORGANIZATION, group)?);
    }
    parts.push(attribute(COMMON_NAME, user)?);
    Ok(RdnSequence(parts))
}

impl Pki {
    /// Signs a request in DER for some usages, as Kubernetes names them, and at most for so long; not longer than the
    /// authority itself lives. Gives the certificate in PEM.
    pub fn sign_request(
        &self,
        request: &[u8],
        usages: &[&str],
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<String, SignError> {
        let request = CertReq::from_der(request)?;
        let alternatives = alternative_names(&request)?;
        let leaf = Leaf { subject: request.info.subject, key: request.info.public_key, alternatives };
        self.sign_leaf(leaf, usages, lifetime, now)
    }

    /// The certificate, in PEM, of a user in some groups who holds the key.
    pub(super) fn sign_client(
        &self,
        key: &rcgen::KeyPair,
        user: &str,
        groups: &[&str],
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<String, SignError> {
        let key = SubjectPublicKeyInfoOwned::from_der(&key.subject_public_key_info())?;
        let leaf = Leaf { subject: name(user, groups)?, key, alternatives: None };
        self.sign_leaf(leaf, &["digital signature", "client auth"], lifetime, now)
    }

    fn sign_leaf(
        &self,
        leaf: Leaf,
        usages: &[&str],
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<String, SignError> {
        let authority = Certificate::from_pem(self.authority())?.tbs_certificate;
        let key = self.issuer.key();
        let (mut simple, mut extended) = (Vec::new(), Vec::new());
        for name in usages {
            match usage(name).ok_or_else(|| SignError::Usage((*name).to_owned()))? {
                Usage::Key(usage) => simple.push(usage),
                Usage::Extended(oid) => extended.push(ObjectIdentifier::new_unwrap(oid)),
            }
        }
        let Leaf { subject, key: public, alternatives } = leaf;
        let mut extensions: Vec<Extension> = Vec::new();
        let bits = simple.into_iter().fold(None, |all: Option<_>, one| match all {
            Some(all) => Some(all | one),
            None => Some(one.into()),
        });
        if let Some(bits) = bits {
            extensions.push(KeyUsage(bits).to_extension(&subject, &extensions)?);
        }
        if !extended.is_empty() {
            extensions.push(ExtendedKeyUsage(extended).to_extension(&subject, &extensions)?);
        }
        let leaf = BasicConstraints { ca: false, path_len_constraint: None };
        extensions.push(leaf.to_extension(&subject, &extensions)?);
        if let Some((_, id)) = authority.get::<SubjectKeyIdentifier>()? {
            let id = AuthorityKeyIdentifier { key_identifier: Some(id.0), ..Default::default() };
            extensions.push(id.to_extension(&subject, &extensions)?);
        }
        extensions.extend(alternatives);
        let mut serial: [u8; 16] = rand::random();
        serial[0] = serial[0] & 0x7f | 0x40;
        let end = authority.validity.not_after.to_system_time();
        let validity = Validity {
            // A clock that is a little behind must not refuse a new certificate.
            not_before: Time::try_from(now - Duration::from_secs(300))?,
            not_after: Time::try_from((now + lifetime).min(end))?,
        };
        let algorithm = algorithm(key)?;
        let tbs_certificate = TbsCertificate {
            version: Version::V3,
            serial_number: SerialNumber::new(&serial)?,
            signature: algorithm.clone(),
            issuer: authority.subject,
            validity,
            subject,
            subject_public_key_info: public,
            issuer_unique_id: None,
            subject_unique_id: None,
            extensions: Some(extensions),
        };
        let signature = key.sign(&tbs_certificate.to_der()?).map_err(SignError::Sign)?;
        let certificate = Certificate {
            tbs_certificate,
            signature_algorithm: algorithm,
            signature: BitString::from_bytes(&signature)?,
        };
        Ok(certificate.to_pem(LineEnding::LF)?)
    }
}
