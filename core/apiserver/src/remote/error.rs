//! Why a server cannot be called, in the words that clients of Kubernetes know.

use std::error::Error;
use std::fmt::Display;
use std::io;
use std::path::PathBuf;

use http::Method;

use super::service::ServiceError;

/// A configuration with which no server can be called.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The URL cannot be read.
    #[error("unparsable URL {url:?}")]
    Url {
        /// The URL.
        url: String,
        /// Why.
        source: http::uri::InvalidUri,
    },
    /// The URL names no server, or another protocol.
    #[error("the URL {url:?} is not of the form http[s]://host[:port]/path")]
    NoHost {
        /// The URL.
        url: String,
    },
    /// The name for the certificate is none.
    #[error("{name:?} is not the name of a server")]
    ServerName {
        /// The name.
        name: String,
    },
    /// The bundle of authorities holds no certificate.
    #[error("unable to load root certificates: unable to parse bytes as PEM block")]
    Roots,
    /// TLS.
    #[error("set up TLS")]
    Tls(#[source] rustls::Error),
    /// The client's certificate or key cannot be read.
    #[error("the client certificate or its key is not PEM")]
    ClientCertificate,
    /// A file cannot be read.
    #[error("read {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A kubeconfig that cannot be used.
    #[error("the kubeconfig {}: {detail}", path.display())]
    Kubeconfig {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
}

/// A call that gave nothing; shown as `Post "URL": CAUSE`.
#[derive(Debug, thiserror::Error)]
#[error("{}{cause}", self.place())]
pub struct RemoteError {
    method: String,
    url: String,
    /// What went wrong.
    pub cause: Cause,
}

/// What went wrong in a call. The texts are whole: they are shown to clients.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The time was over.
    #[error("context deadline exceeded")]
    Timeout,
    /// The Service leads nowhere.
    #[error("{0}")]
    Service(ServiceError),
    /// No connection, or no trust in the server, or it broke.
    #[error("{0}")]
    Broken(String),
    /// The answer is a refusal.
    #[error("{}", refusal(*code, text))]
    Refused {
        /// The HTTP code.
        code: u16,
        /// The beginning of its text.
        text: String,
    },
    /// The answer is larger than allowed.
    #[error("the answer is larger than {limit} bytes")]
    TooLarge {
        /// So much is allowed.
        limit: usize,
    },
    /// The answer is no JSON.
    #[error("couldn't get version/kind; json parse error: {0}")]
    Unreadable(serde_json::Error),
}

impl RemoteError {
    /// An answer is told by itself; only where there is none it matters who was called.
    fn place(&self) -> String {
        match self.cause {
            Cause::Refused { .. } | Cause::Unreadable(_) => String::new(),
            Cause::Timeout | Cause::Service(_) | Cause::Broken(_) | Cause::TooLarge { .. } => {
                format!("{} {:?}: ", self.method, self.url)
            }
        }
    }

    pub(super) fn new(method: &Method, url: &str, cause: Cause) -> Self {
        let lower = method.as_str().to_ascii_lowercase();
        let method = lower.get(..1).map(str::to_ascii_uppercase).unwrap_or_default();
        let method = method + lower.get(1..).unwrap_or_default();
        RemoteError { method, url: url.to_owned(), cause }
    }
}

impl Cause {
    pub(super) fn other(error: impl Display) -> Self {
        Cause::Broken(error.to_string())
    }

    /// The innermost failure that says more than its wrapping.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        let mut deepest = error;
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref::<ServiceError>() {
                return Cause::Service(found.clone());
            }
            if let Some(found) = tls(error) {
                return Cause::Broken(found);
            }
            deepest = error;
            next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        Cause::Broken(deepest.to_string())
    }

    pub(super) fn of_body(error: &(dyn Error + 'static), limit: usize) -> Self {
        if error.is::<http_body_util::LengthLimitError>() {
            Cause::TooLarge { limit }
        } else {
            Cause::of(error)
        }
    }
}

fn refusal(code: u16, text: &str) -> String {
    match code {
        400 => "the server rejected our request for an unknown reason".to_owned(),
        401 => "the server has asked for the client to provide credentials".to_owned(),
        403 => format!("forbidden: {text}"),
        404 => "the server could not find the requested resource".to_owned(),
        405 => "the server does not allow this method on the requested resource".to_owned(),
        413 => "Request entity too large".to_owned(),
        429 => "the server has received too many requests and has asked us to try again later".to_owned(),
        500.. => {
            let text = if text.is_empty() { "unknown" } else { text };
            format!("an error on the server ({text:?}) has prevented the request from succeeding")
        }
        _ => format!("the server responded with the status code {code} but did not return more information"),
    }
}

fn tls(error: &(dyn Error + 'static)) -> Option<String> {
    use rustls::CertificateError;
    let detail = match error.downcast_ref::<rustls::Error>()? {
        // Another authority of the same name has signed it.
        rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => "x509: certificate signed by unknown authority".to_owned(),
        rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => "x509: certificate has expired or is not yet valid".to_owned(),
        rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            expected,
            presented,
        }) => {
            let expected = expected.to_str();
            if presented.is_empty() {
                format!("x509: certificate is not valid for any names, but wanted to match {expected}")
            } else {
                format!("x509: certificate is valid for {}, not {expected}", names(presented))
            }
        }
        rustls::Error::InvalidCertificate(other) => format!("x509: {other}"),
        other => return Some(format!("remote error: tls: {other}")),
    };
    Some(format!("tls: failed to verify certificate: {detail}"))
}

/// Names of a certificate without the kinds that are told with them: `DnsName("a")` is `a`.
fn names(presented: &[String]) -> String {
    let plain = |name: &String| match name.split_once('(') {
        Some((_, inner)) => inner.trim_end_matches(')').trim_matches('"').to_owned(),
        None => name.clone(),
    };
    presented.iter().map(plain).collect::<Vec<_>>().join(", ")
}
