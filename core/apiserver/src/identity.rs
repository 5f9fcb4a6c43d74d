//! Who makes a request.

use std::collections::BTreeMap;

/// An authenticated caller, as `authentication.k8s.io` `UserInfo`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The user's name, such as `system:kube-scheduler`.
    pub username: String,
    /// A unique value that tells users of the same name apart over time.
    pub uid: Option<String>,
    /// The groups that the user is in.
    pub groups: Vec<String>,
    /// What else the authenticator said.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The group whose members may do everything.
pub const MASTERS: &str = "system:masters";
/// The group of everybody who was authenticated.
pub const AUTHENTICATED: &str = "system:authenticated";

/// The group of kubelets.
pub const NODES: &str = "system:nodes";

impl Identity {
    /// A user in some groups, and in [`AUTHENTICATED`].
    pub fn user(username: impl Into<String>, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Identity { username: username.into(), uid: None, groups, extra: BTreeMap::new() }
    }

    /// A service account, in the groups of all accounts and of those of its namespace.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        let own = format!("system:serviceaccounts:{namespace}");
        Identity::user(format!("system:serviceaccount:{namespace}:{name}"), &["system:serviceaccounts", &own])
    }

    /// The caller of a request that carries no credentials.
    pub fn anonymous() -> Self {
        Identity {
            username: "system:anonymous".to_owned(),
            groups: vec!["system:unauthenticated".to_owned()],
            ..Identity::default()
        }
    }

    /// Whether the caller is in a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// The node whose kubelet this is.
    pub fn node(&self) -> Option<&str> {
        let name = self.username.strip_prefix("system:node:").filter(|name| !name.is_empty());
        name.filter(|_| self.is_in(NODES))
    }

    /// Whether this is a kubelet, perhaps one without a name.
    pub fn is_node(&self) -> bool {
        self.username.starts_with("system:node:") && self.is_in(NODES)
    }

    /// Namespace and name of the service account that this is.
    pub fn as_service_account(&self) -> Option<(&str, &str)> {
        self.username.strip_prefix("system:serviceaccount:")?.split_once(':')
    }
}
