//! Who asks.

use std::collections::BTreeMap;

use k8s_openapi::api::authentication::v1::UserInfo;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// As whom the API server comes to kubelets.
const API_SERVER: &str = "kube-apiserver-kubelet-client";
/// The group of administrators.
const MASTERS: &str = "system:masters";
/// The group of everybody who is known.
const AUTHENTICATED: &str = "system:authenticated";

/// A user who has shown to be the one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Peer {
    pub(super) user: String,
    pub(super) uid: Option<String>,
    pub(super) groups: Vec<String>,
    pub(super) extra: BTreeMap<String, Vec<String>>,
    /// By a certificate of the cluster's authority, and not by a token.
    is_certified: bool,
}

impl Peer {
    /// The subject of a verified client certificate; `None` for one without a name.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let subject = certificate.subject();
        // The last name counts, as for the API server.
        let user = subject.iter_common_name().last().and_then(|name| name.as_str().ok());
        let groups = subject.iter_organization().filter_map(|name| name.as_str().ok());
        let user = user.filter(|user| !user.is_empty())?;
        Some(Peer::certified(user, groups))
    }

    fn certified<'a>(user: &str, groups: impl Iterator<Item = &'a str>) -> Self {
        let groups = groups.chain([AUTHENTICATED]).map(str::to_owned).collect();
        Peer { user: user.to_owned(), uid: None, groups, extra: BTreeMap::new(), is_certified: true }
    }

    /// Whom a token belongs to; `None` for somebody without a name.
    pub(super) fn reviewed(user: UserInfo) -> Option<Self> {
        Some(Peer {
            user: user.username.filter(|name| !name.is_empty())?,
            uid: user.uid.filter(|uid| !uid.is_empty()),
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
            is_certified: false,
        })
    }

    /// Whether nobody has to be asked: the API server has authorized its own clients, and nothing is refused to
    /// administrators. So logs and commands go on while nobody can be asked.
    pub(super) fn may_all(&self) -> bool {
        self.is_certified && (self.user == API_SERVER || self.groups.iter().any(|group| group == MASTERS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_asked_about_certificates_of_the_api_server_and_of_administrators() {
        let may = |user: &str, groups: &[&str]| Peer::certified(user, groups.iter().copied()).may_all();
        assert!(may("kube-apiserver-kubelet-client", &[]));
        assert!(may("kubernetes-admin", &["system:masters"]));
        assert!(!may("system:node:node-1", &["system:nodes"]));
        assert!(!may("system:masters", &[]));
    }

    #[test]
    fn a_token_alone_makes_nobody_the_api_server() {
        let username = Some("kube-apiserver-kubelet-client".to_owned());
        let peer = Peer::reviewed(UserInfo { username, ..UserInfo::default() }).unwrap();
        assert!(!peer.may_all());
        assert_eq!(Peer::reviewed(UserInfo::default()), None);
    }
}
