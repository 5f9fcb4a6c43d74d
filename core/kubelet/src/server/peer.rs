//! Who is at the other end of a connection.

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// As whom the API server comes to kubelets.
const API_SERVER: &str = "kube-apiserver-kubelet-client";
/// The group of administrators.
const MASTERS: &str = "system:masters";

/// The subject of a verified client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) user: String,
    groups: Vec<String>,
}

impl Peer {
    /// `None` for a certificate without a name.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let subject = certificate.subject();
        // The last name counts, as for the API server.
        let user = subject.iter_common_name().last().and_then(|name| name.as_str().ok());
        let groups = subject.iter_organization().filter_map(|name| name.as_str().ok());
        let user = user.filter(|user| !user.is_empty())?.to_owned();
        Some(Peer { user, groups: groups.map(str::to_owned).collect() })
    }

    /// Whether it may ask a kubelet for anything. The API server has authorized its own clients.
    pub(super) fn may_ask(&self) -> bool {
        self.user == API_SERVER || self.groups.iter().any(|group| group == MASTERS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_api_server_and_administrators_may_ask() {
        let may = |user: &str, groups: &[&str]| {
            let groups = groups.iter().map(|group| (*group).to_owned()).collect();
            Peer { user: user.to_owned(), groups }.may_ask()
        };
        assert!(may("kube-apiserver-kubelet-client", &[]));
        assert!(may("kubernetes-admin", &["system:masters"]));
        assert!(!may("system:node:node-1", &["system:nodes"]));
        assert!(!may("system:masters", &[]));
    }
}
