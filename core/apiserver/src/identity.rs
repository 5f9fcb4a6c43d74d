//! Who sent a request.

use std::collections::BTreeMap;

/// The group of cluster administrators, to whom everything is allowed.
pub const MASTERS: &str = "system:masters";
/// The group of everyone who was authenticated.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of everyone who was not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The name of everyone who was not authenticated.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group of kubelets.
pub const NODES: &str = "system:nodes";
/// The group of all service accounts; with `:NAMESPACE` appended, those of a namespace.
pub const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";

/// An authenticated user, as `UserInfo` of `authentication.k8s.io/v1`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Identity {
    /// The name.
    pub username: String,
    /// The unique id, where the authenticator knows one.
    pub uid: Option<String>,
    /// Groups.
    pub groups: Vec<String>,
    /// What else the authenticator knows.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Identity {
    /// A user in these groups and in `system:authenticated`.
    pub fn user(username: &str, groups: &[&str]) -> Self {
        let mut identity = Self {
            username: username.to_owned(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            ..Self::default()
        };
        identity.add_group(AUTHENTICATED);
        identity
    }

    /// A service account, with its groups.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        let of_namespace = format!("{SERVICE_ACCOUNTS}:{namespace}");
        Self::user(&format!("system:serviceaccount:{namespace}:{name}"), &[SERVICE_ACCOUNTS, &of_namespace])
    }

    /// Nobody in particular.
    pub fn anonymous() -> Self {
        Self { username: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..Self::default() }
    }

    /// Adds a group unless it is there.
    pub fn add_group(&mut self, group: &str) {
        if !self.is_in(group) {
            self.groups.push(group.to_owned());
        }
    }

    /// Whether the user is in the group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|member| member == group)
    }

    /// The node whose kubelet this is.
    pub fn node(&self) -> Option<&str> {
        if !self.is_in(NODES) {
            return None;
        }
        self.username.strip_prefix("system:node:").filter(|name| !name.is_empty())
    }

    /// Namespace and name of the service account that this is.
    pub fn as_service_account(&self) -> Option<(&str, &str)> {
        self.username.strip_prefix("system:serviceaccount:")?.split_once(':')
    }
}
