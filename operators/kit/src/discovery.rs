//! Which resources the API serves (client).

use std::fmt;

use kube::Client;
use kube::core::discovery::v2::{APIGroupDiscovery, APIGroupDiscoveryList};
use kube::discovery::ApiResource;

/// A resource that can be listed, in the version that the server prefers among those that have it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Served {
    /// Group, version, kind and plural name.
    pub resource: ApiResource,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
    /// What can be done with its objects.
    pub verbs: Vec<String>,
}

impl Served {
    /// Whether its objects can be asked for `verb`.
    pub fn supports(&self, verb: &str) -> bool {
        self.verbs.iter().any(|own| own == verb)
    }
}

impl fmt::Display for Served {
    /// `plural.group`, as in conditions and errors.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.resource.plural, self.resource.group)
    }
}

/// What is served, and what should be but cannot be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovered {
    /// The resources, each once.
    pub resources: Vec<Served>,
    /// Groups and versions whose server does not answer: what they hold is unknown.
    pub stale: Vec<String>,
}

/// Asks what is served, in two requests.
pub async fn discover(client: &Client) -> Result<Discovered, kube::Error> {
    let (core, groups) =
        futures::try_join!(client.list_core_api_versions_aggregated(), client.list_api_groups_aggregated())?;
    Ok(read([core, groups]))
}

fn read(lists: impl IntoIterator<Item = APIGroupDiscoveryList>) -> Discovered {
    let mut found = Discovered::default();
    for group in lists.into_iter().flat_map(|list| list.items) {
        read_group(group, &mut found);
    }
    found
}

fn read_group(group: APIGroupDiscovery, found: &mut Discovered) {
    let name = group.metadata.and_then(|metadata| metadata.name).unwrap_or_default();
    let first = found.resources.len();
    for version in group.versions {
        let number = version.version.unwrap_or_default();
        let api_version = if name.is_empty() { number.clone() } else { format!("{name}/{number}") };
        if version.freshness.as_deref() == Some("Stale") {
            found.stale.push(api_version.clone());
        }
        for entry in version.resources {
            let (Some(plural), Some(kind)) = (entry.resource, entry.response_kind.and_then(|it| it.kind))
            else {
                continue;
            };
            // Versions come in the order of preference.
            if found.resources[first..].iter().any(|other| other.resource.plural == plural) {
                continue;
            }
            let resource = ApiResource {
                group: name.clone(),
                version: number.clone(),
                api_version: api_version.clone(),
                kind,
                plural,
            };
            let namespaced = entry.scope.as_deref() == Some("Namespaced");
            found.resources.push(Served { resource, namespaced, verbs: entry.verbs });
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_resource_of_two_versions_is_told_once_in_the_preferred_one() {
        let resource = |version: &str| {
            json!({"version": version, "freshness": "Current", "resources": [{"resource": "things", "scope": "Namespaced",
                "responseKind": {"group": "a.b", "version": version, "kind": "Thing"}, "verbs": ["list", "delete"]}]})
        };
        let list = json!({"items": [{"metadata": {"name": "a.b"}, "versions": [resource("v1"), resource("v1beta1")]},
            {"metadata": {"name": "gone"}, "versions": [{"version": "v1", "freshness": "Stale"}]}]});
        let found = read([serde_json::from_value(list).unwrap()]);
        assert_eq!(found.stale, ["gone/v1"]);
        assert_eq!(found.resources.len(), 1);
        assert_eq!(found.resources[0].resource.api_version, "a.b/v1");
        assert_eq!(found.resources[0].to_string(), "things.a.b");
        assert!(found.resources[0].namespaced && found.resources[0].supports("list"));
    }
}
