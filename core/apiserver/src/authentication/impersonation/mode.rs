//! The ways to act for somebody, and what each of them takes (pure).

use std::collections::BTreeMap;

use keelson_api::names::{dns1123_label, dns1123_subdomain};

use super::{Identity, NODES, RequestInfo, with_default_group};
use crate::identity::MASTERS;

const AUTHENTICATION: &str = "authentication.k8s.io";
/// From so many checks on a single one is tried before, for everything at once.
const MANY: usize = 4;

/// A way to act for somebody. In all but the last, what may be done is limited, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// A pod's account is the node that the pod runs on.
    AssociatedNode,
    /// Any node.
    ArbitraryNode,
    /// A service account.
    ServiceAccount,
    /// A user who is neither.
    UserInfo,
    /// Anybody, for everything.
    Legacy,
}

/// What a mode takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// The caller may do this.
    May(RequestInfo),
    /// It may do each of these, or all of them by one right.
    MayAll {
        /// The one right, where it is worth asking for.
        at_once: Option<RequestInfo>,
        /// The others.
        each: Vec<RequestInfo>,
    },
    /// Nobody may.
    Never {
        /// What nobody may.
        info: RequestInfo,
        /// Why.
        reason: String,
    },
}

/// The node of a user's name.
fn node(username: &str) -> Option<&str> {
    username.strip_prefix("system:node:").filter(|name| dns1123_subdomain(name).is_empty())
}

/// The namespace and name of a service account's user.
fn account(user: &Identity) -> Option<(&str, &str)> {
    user.as_service_account()
        .filter(|(namespace, name)| dns1123_label(namespace).is_empty() && dns1123_subdomain(name).is_empty())
}

fn is_name_alone(user: &Identity) -> bool {
    user.uid.is_none() && user.groups.is_empty() && user.extra.is_empty()
}

/// What is wrong with what is to be said of a user.
fn fault_of_extra(extra: &BTreeMap<String, Vec<String>>) -> Option<String> {
    for (key, values) in extra {
        if key.is_empty() {
            return Some("impersonating the empty string key in extra is not allowed".to_owned());
        }
        let is_path = |path: &str| {
            !path.is_empty()
                && path.bytes().all(|it| it.is_ascii_alphanumeric() || b"/%-._~!$&'()*+,;=:".contains(&it))
        };
        let parts = key.split_once('/');
        if !parts.is_some_and(|(domain, path)| dns1123_subdomain(domain).is_empty() && is_path(path)) {
            return Some(format!(
                "impersonating an invalid key in extra is not allowed: extra.key: Invalid value: {key:?}: must be a domain-prefixed path (such as \"acme.io/foo\")"
            ));
        }
        if *key != key.to_lowercase() {
            return Some(format!("impersonating a non-lowercase key in extra is not allowed: {key:?}"));
        }
        if values.iter().any(String::is_empty) {
            return Some("impersonating the empty string value in extra is not allowed".to_owned());
        }
    }
    None
}

impl Mode {
    /// All of them, in the order in which they are tried.
    pub(super) const ALL: [Mode; 5] =
        [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::ServiceAccount, Mode::UserInfo, Mode::Legacy];

    /// What it is called in verbs; `None` for the one without limits.
    fn name(self) -> Option<&'static str> {
        match self {
            Mode::AssociatedNode => Some("associated-node"),
            Mode::ArbitraryNode => Some("arbitrary-node"),
            Mode::ServiceAccount => Some("serviceaccount"),
            Mode::UserInfo => Some("user-info"),
            Mode::Legacy => None,
        }
    }

    /// The verb by which somebody may act for somebody else.
    pub(super) fn verb(self) -> String {
        self.name().map_or_else(|| "impersonate".to_owned(), |mode| format!("impersonate:{mode}"))
    }

    /// Whether it is a way for this caller to be that user.
    pub(super) fn applies(self, who: &Identity, wanted: &Identity) -> bool {
        match self {
            Mode::AssociatedNode => {
                let own = who.extra.get("authentication.kubernetes.io/node-name").map(Vec::as_slice);
                let is_own = node(&wanted.username).is_some_and(|name| own == Some(&[name.to_owned()]));
                is_name_alone(wanted) && account(who).is_some() && is_own
            }
            Mode::ArbitraryNode => is_name_alone(wanted) && node(&wanted.username).is_some(),
            Mode::ServiceAccount => is_name_alone(wanted) && account(wanted).is_some(),
            Mode::UserInfo => node(&wanted.username).is_none() && account(wanted).is_none(),
            Mode::Legacy => true,
        }
    }

    /// As whom the caller is asked about. That an account may be its own node does not depend on which node that is.
    pub(super) fn asker(self, who: &Identity) -> Identity {
        let mut who = who.clone();
        if self == Mode::AssociatedNode {
            let keys = std::mem::take(&mut who.extra).into_keys().collect();
            who.extra.insert("authentication.kubernetes.io/associated-node-keys".to_owned(), keys);
        }
        who
    }

    fn ask(self, group: &str, resource: &str, subresource: &str, name: &str) -> RequestInfo {
        RequestInfo {
            verb: self.verb(),
            group: group.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            name: Some(name.to_owned()),
            is_resource: true,
            ..RequestInfo::default()
        }
    }

    /// The group of users' and groups' resources.
    fn group(self) -> &'static str {
        if self == Mode::Legacy { "" } else { AUTHENTICATION }
    }

    fn user(self, wanted: &Identity) -> RequestInfo {
        let named = |resource: &str, name: &str| self.ask(self.group(), resource, "", name);
        match (self, node(&wanted.username), account(wanted)) {
            (Mode::AssociatedNode, ..) => named("nodes", "*"),
            (Mode::ArbitraryNode, Some(node), _) => named("nodes", node),
            (_, _, Some((namespace, name))) => {
                RequestInfo { namespace: Some(namespace.to_owned()), ..named("serviceaccounts", name) }
            }
            (_, _, None) => named("users", &wanted.username),
        }
    }

    fn groups(self, wanted: &Identity) -> Option<Check> {
        let ask = |name: &str| self.ask(self.group(), "groups", "", name);
        let groups = &wanted.groups;
        if groups.is_empty() {
            return None;
        }
        let is_limited = self != Mode::Legacy;
        let never = |info: RequestInfo, reason: &str| Some(Check::Never { info, reason: reason.to_owned() });
        if is_limited && groups.iter().any(String::is_empty) {
            return never(ask(""), "impersonating the empty string group is not allowed");
        }
        if is_limited && wanted.is_in(MASTERS) {
            return never(ask(MASTERS), "impersonating the system:masters group is not allowed");
        }
        let at_once = (is_limited && groups.len() >= MANY).then(|| ask("*"));
        Some(Check::MayAll { at_once, each: groups.iter().map(|group| ask(group)).collect() })
    }

    fn extra(self, wanted: &Identity) -> Option<Check> {
        let ask = |key: &str, value: &str| self.ask(AUTHENTICATION, "userextras", key, value);
        if wanted.extra.is_empty() {
            return None;
        }
        let is_limited = self != Mode::Legacy;
        if is_limited && let Some(reason) = fault_of_extra(&wanted.extra) {
            return Some(Check::Never { info: ask("", ""), reason });
        }
        let pairs = wanted.extra.iter().flat_map(|(key, values)| values.iter().map(move |it| (key, it)));
        let each: Vec<RequestInfo> = pairs.map(|(key, value)| ask(key, value)).collect();
        let at_once = (is_limited && each.len() >= MANY).then(|| ask("*", "*"));
        Some(Check::MayAll { at_once, each })
    }

    /// What the caller must be allowed in order to be that user for what it asks for, in this order.
    pub(super) fn checks(self, wanted: &Identity, info: &RequestInfo) -> Vec<Check> {
        let on = self.name().map(|mode| {
            Check::May(RequestInfo {
                verb: format!("impersonate-on:{mode}:{}", info.verb),
                name: info.object_name().map(std::borrow::Cow::into_owned),
                ..info.clone()
            })
        });
        let uid = wanted.uid.as_ref().map(|uid| Check::May(self.ask(AUTHENTICATION, "uids", "", uid)));
        let user = Some(Check::May(self.user(wanted)));
        [on, user, uid, self.groups(wanted), self.extra(wanted)].into_iter().flatten().collect()
    }

    /// The user with the groups that its name brings along.
    pub(super) fn becomes(self, mut wanted: Identity) -> Identity {
        if wanted.groups.is_empty() {
            if let Some((namespace, name)) = account(&wanted) {
                wanted.groups = Identity::service_account(namespace, name).groups;
            } else if matches!(self, Mode::AssociatedNode | Mode::ArbitraryNode) {
                wanted.groups.push(NODES.to_owned());
            }
        }
        with_default_group(wanted)
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn user(name: &str) -> Identity {
        Identity { username: name.to_owned(), ..Identity::default() }
    }

    fn modes(who: &Identity, wanted: &Identity) -> Vec<Mode> {
        Mode::ALL.into_iter().filter(|mode| mode.applies(who, wanted)).collect()
    }

    #[test]
    fn each_kind_of_user_has_its_modes() {
        let ann = Identity::user("ann", &[]);
        assert_eq!(modes(&ann, &user("bob")), [Mode::UserInfo, Mode::Legacy]);
        assert_eq!(modes(&ann, &user("system:node:one")), [Mode::ArbitraryNode, Mode::Legacy]);
        assert_eq!(modes(&ann, &user("system:node:One")), [Mode::UserInfo, Mode::Legacy]);
        let account = user("system:serviceaccount:ns:a");
        assert_eq!(modes(&ann, &account), [Mode::ServiceAccount, Mode::Legacy]);
        let grouped = Identity { groups: vec!["g".to_owned()], ..account };
        assert_eq!(modes(&ann, &grouped), [Mode::Legacy]);
        let mut agent = Identity::service_account("ns", "agent");
        let key = "authentication.kubernetes.io/node-name".to_owned();
        agent.extra.insert(key, vec!["one".to_owned()]);
        let own = [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::Legacy];
        assert_eq!(modes(&agent, &user("system:node:one")), own);
        assert_eq!(modes(&agent, &user("system:node:two")), own[1..]);
    }

    #[test]
    fn a_limited_mode_asks_for_the_request_first_and_then_for_the_user() {
        let info = RequestInfo::parse(&Method::GET, "/api/v1/namespaces/a/pods", None);
        let wanted = Identity { uid: Some("7".to_owned()), groups: vec!["g".to_owned()], ..user("bob") };
        let told: Vec<String> = Mode::UserInfo
            .checks(&wanted, &info)
            .into_iter()
            .flat_map(|check| match check {
                Check::May(info) => vec![info],
                Check::MayAll { each, .. } => each,
                Check::Never { .. } => vec![],
            })
            .map(|info| format!("{} {}/{}", info.verb, info.group, info.resource))
            .collect();
        assert_eq!(
            told,
            [
                "impersonate-on:user-info:list /pods",
                "impersonate:user-info authentication.k8s.io/users",
                "impersonate:user-info authentication.k8s.io/uids",
                "impersonate:user-info authentication.k8s.io/groups",
            ]
        );
        let legacy = Mode::Legacy.checks(&user("bob"), &info);
        assert_eq!(legacy, [Check::May(Mode::Legacy.ask("", "users", "", "bob"))]);
    }

    #[test]
    fn nobody_becomes_a_master_by_limited_rights() {
        let wanted = Identity { groups: vec![MASTERS.to_owned()], ..user("bob") };
        assert!(matches!(Mode::UserInfo.groups(&wanted), Some(Check::Never { .. })));
        assert!(matches!(Mode::Legacy.groups(&wanted), Some(Check::MayAll { .. })));
        for (key, is_good) in [("acme.io/foo", true), ("foo", false), ("acme.io/", false), ("/x", false)] {
            let extra = BTreeMap::from([(key.to_owned(), vec!["v".to_owned()])]);
            assert_eq!(fault_of_extra(&extra).is_none(), is_good, "{key}");
        }
    }

    #[test]
    fn a_name_brings_its_groups_along() {
        assert_eq!(
            Mode::ArbitraryNode.becomes(user("system:node:one")).groups,
            [NODES, "system:authenticated"]
        );
        assert_eq!(Mode::Legacy.becomes(user("system:node:one")).groups, ["system:authenticated"]);
        let account = Mode::ServiceAccount.becomes(user("system:serviceaccount:ns:a"));
        assert_eq!(account.groups[..2], ["system:serviceaccounts", "system:serviceaccounts:ns"]);
        assert_eq!(Mode::UserInfo.becomes(user("system:anonymous")).groups, ["system:unauthenticated"]);
    }
}
