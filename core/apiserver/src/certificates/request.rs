//! What a request for a certificate (PKCS#10) says.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A request whose signature is good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The request in DER.
    pub der: Vec<u8>,
    /// For whom.
    pub common_name: Option<String>,
    /// In which groups.
    pub organizations: Vec<String>,
    /// Which kinds of alternative names it asks for.
    pub names: Names,
    /// The names of hosts among them.
    pub dns_names: Vec<String>,
    /// The addresses of hosts among them.
    pub ip_addresses: Vec<IpAddr>,
}

/// Which kinds of alternative names there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Names of hosts.
    pub dns: bool,
    /// Addresses of hosts.
    pub ip: bool,
    /// Addresses of mail.
    pub email: bool,
    /// URIs.
    pub uri: bool,
}

impl Request {
    /// Reads the base64 of a PEM text, as `spec.request` is. Says what is wrong with it.
    pub fn from_base64(text: &str) -> Result<Self, String> {
        let pem = STANDARD.decode(text).map_err(|error| format!("illegal base64: {error}"))?;
        let (_, pem) = parse_x509_pem(&pem)
            .ok()
            .filter(|(_, pem)| pem.label == "CERTIFICATE REQUEST")
            .ok_or("PEM block type must be CERTIFICATE REQUEST")?;
        Self::from_der(pem.contents)
    }

    fn from_der(der: Vec<u8>) -> Result<Self, String> {
        let (rest, request) = X509CertificationRequest::from_der(&der)
            .map_err(|error| format!("it cannot be read: {error}"))?;
        if !rest.is_empty() {
            return Err("trailing data after the request".to_owned());
        }
        request.verify_signature().map_err(|_| "its signature is not of its own key")?;
        let subject = &request.certification_request_info.subject;
        let text =
            |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().ok().map(str::to_owned);
        let (mut dns_names, mut ip_addresses) = (Vec::new(), Vec::new());
        let mut names = Names::default();
        for extension in request.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(alternatives) = extension else { continue };
            for name in &alternatives.general_names {
                match name {
                    GeneralName::DNSName(name) => {
                        names.dns = true;
                        dns_names.push((*name).to_owned());
                    }
                    GeneralName::IPAddress(bytes) => {
                        names.ip = true;
                        ip_addresses.push(address(bytes)?);
                    }
                    GeneralName::RFC822Name(_) => names.email = true,
                    GeneralName::URI(_) => names.uri = true,
                    _ => return Err("it asks for an alternative name of an unknown kind".to_owned()),
                }
            }
        }
        if subject.iter_common_name().count() > 1 {
            // Of several names readers take this one or that, and would not mean the same user.
            return Err("its subject has more than one common name".to_owned());
        }
        Ok(Request {
            common_name: subject.iter_common_name().last().and_then(text),
            organizations: subject.iter_organization().filter_map(text).collect(),
            names,
            dns_names,
            ip_addresses,
            der: der.clone(),
        })
    }
}

fn address(bytes: &[u8]) -> Result<IpAddr, String> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let address = four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from));
    address.map_err(|_| "it asks for an address of an unknown kind".to_owned())
}

/// When the certificate in the base64 of a PEM text ends, in seconds since 1970.
pub fn end(text: &str) -> Option<i64> {
    let pem = STANDARD.decode(text).ok()?;
    let (_, pem) = parse_x509_pem(&pem).ok()?;
    let (_, certificate) = X509Certificate::from_der(&pem.contents).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `O=system:nodes, CN=system:kube-controller-manager, CN=system:node:me`.
    const TWO_NAMES: &str = "-----BEGIN CERTIFICATE REQUEST-----
MIIBFTCBuwIBADBZMRUwEwYDVQQKDAxzeXN0ZW06bm9kZXMxJzAlBgNVBAMMHnN5
c3RlbTprdWJlLWNvbnRyb2xsZXItbWFuYWdlcjEXMBUGA1UEAwwOc3lzdGVtOm5v
ZGU6bWUwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAATXdARuXgXVTEkaAfuCK+HF
Yx4KeMSADE56TuSiJ+xy8IKHcY4pqiFQ2P1Pe3MWmCvBUEyKo0ar4Sz3wxky0fdM
oAAwCgYIKoZIzj0EAwIDSQAwRgIhANMlNg/TWQzJks8ZLvd18mUW2oaYXP8h9AMs
Ic7ru3DgAiEAvWgeu8MUw+1VqaNZfWmQm2PbBHXnVdQu5A3Z9uQ2/sc=
-----END CERTIFICATE REQUEST-----
";

    #[test]
    fn a_request_with_two_names_is_refused_as_readers_would_differ_about_the_user() {
        let refused = Request::from_base64(&STANDARD.encode(TWO_NAMES)).map(drop);
        assert_eq!(refused, Err("its subject has more than one common name".to_owned()));
    }
}
