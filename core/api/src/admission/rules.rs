//! Which requests a webhook or policy is about.

use serde_json::{Map, Value};

use crate::selector::{LabelSelector, SelectorError};

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// An object is created.
    Create,
    /// An object is changed.
    Update,
    /// An object is deleted.
    Delete,
    /// A connection to an object is opened.
    Connect,
}

impl Operation {
    /// The word of rules and reviews.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// A resource in one version, through which a request may be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject<'a> {
    /// API group.
    pub group: &'a str,
    /// API version.
    pub version: &'a str,
    /// Plural name.
    pub resource: &'a str,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// What is done.
    pub operation: Operation,
    /// To which resource.
    pub subject: Subject<'a>,
    /// Through which subresource; empty for none.
    pub subresource: &'a str,
    /// In which namespace. That of a Namespace is itself.
    pub namespace: Option<&'a str>,
    /// The object's name.
    pub name: &'a str,
}

/// A rule of a webhook or policy.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    /// Resource and subresource.
    resources: Vec<(String, String)>,
    scope: Scope,
    /// The only names that it is about; empty for all.
    names: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default)]
enum Scope {
    #[default]
    All,
    Cluster,
    Namespaced,
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn has(list: &[String], text: &str) -> bool {
    list.iter().any(|item| item == "*" || item == text)
}

impl Rule {
    /// Reads a `RuleWithOperations`, or one with `resourceNames`.
    pub fn read(value: &Value) -> Self {
        let resources = texts(&value["resources"]).into_iter().map(|text| match text.split_once('/') {
            Some((resource, subresource)) => (resource.to_owned(), subresource.to_owned()),
            None => (text, String::new()),
        });
        Rule {
            operations: texts(&value["operations"]),
            groups: texts(&value["apiGroups"]),
            versions: texts(&value["apiVersions"]),
            resources: resources.collect(),
            scope: match value["scope"].as_str() {
                Some("Cluster") => Scope::Cluster,
                Some("Namespaced") => Scope::Namespaced,
                _ => Scope::All,
            },
            names: texts(&value["resourceNames"]),
        }
    }

    /// Whether the rule is about a request, seen through a subject.
    pub fn matches(&self, asked: &Asked<'_>, subject: &Subject<'_>) -> bool {
        let is_namespace = subject.group.is_empty() && subject.resource == "namespaces";
        let in_namespace = !is_namespace && asked.namespace.is_some_and(|namespace| !namespace.is_empty());
        let in_scope = match self.scope {
            Scope::All => true,
            Scope::Namespaced => in_namespace,
            Scope::Cluster => !in_namespace,
        };
        let fits = |wanted: &str, own: &str| wanted == "*" || wanted == own;
        in_scope
            && has(&self.operations, asked.operation.as_str())
            && has(&self.groups, subject.group)
            && has(&self.versions, subject.version)
            && self
                .resources
                .iter()
                .any(|(of, sub)| fits(of, subject.resource) && fits(sub, asked.subresource))
            && (self.names.is_empty() || self.names.iter().any(|name| name == asked.name))
    }
}

/// The requests that a webhook or policy is about.
#[derive(Clone, Debug)]
pub struct MatchResources {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    /// Whether a request counts through any version of its resource.
    equivalent: bool,
    /// `None` for every namespace.
    namespaces: Option<LabelSelector>,
    /// `None` for every object.
    objects: Option<LabelSelector>,
}

fn rules(value: &Value) -> Vec<Rule> {
    value.as_array().into_iter().flatten().map(Rule::read).collect()
}

/// A selector; `None` where it selects everything.
fn selector(value: &Value) -> Result<Option<LabelSelector>, SelectorError> {
    if value.is_null() {
        return Ok(None);
    }
    let selector = LabelSelector::from_value(value)?;
    Ok(Some(selector).filter(|selector| !selector.matches_everything()))
}

impl MatchResources {
    /// Reads a webhook with its `rules`, or a policy's `matchConstraints` with its `resourceRules`.
    pub fn read(value: &Value) -> Result<Self, SelectorError> {
        let own = if value["resourceRules"].is_null() { &value["rules"] } else { &value["resourceRules"] };
        Ok(MatchResources {
            rules: rules(own),
            excluded: rules(&value["excludeResourceRules"]),
            equivalent: value["matchPolicy"].as_str() != Some("Exact"),
            namespaces: selector(&value["namespaceSelector"])?,
            objects: selector(&value["objectSelector"])?,
        })
    }

    /// Whether there are rules at all.
    pub fn has_rules(&self) -> bool {
        !self.rules.is_empty()
    }

    /// Whether a request is excluded.
    pub fn excludes(&self, asked: &Asked<'_>, equivalents: &[Subject<'_>]) -> bool {
        find(&self.excluded, self.equivalent, asked, equivalents).is_some()
    }

    /// The subject through which a request is meant: its own, or an equivalent one. Exclusions count first.
    pub fn subject<'a>(&self, asked: &Asked<'a>, equivalents: &[Subject<'a>]) -> Option<Subject<'a>> {
        if find(&self.excluded, self.equivalent, asked, equivalents).is_some() {
            return None;
        }
        find(&self.rules, self.equivalent, asked, equivalents)
    }

    /// Whether the namespace of a request counts. `labels` are asked for only if something depends on them.
    pub fn selects_namespace<E>(
        &self,
        labels: impl FnOnce() -> Result<Option<Map<String, Value>>, E>,
    ) -> Result<bool, E> {
        match &self.namespaces {
            None => Ok(true),
            Some(selector) => Ok(selector.matches(labels()?.as_ref())),
        }
    }

    /// Whether an object counts by the labels of its new or its old state. Each is `None` where there is no such
    /// object, or one without metadata.
    pub fn selects_object(
        &self,
        new: Option<Option<&Map<String, Value>>>,
        old: Option<Option<&Map<String, Value>>>,
    ) -> bool {
        match &self.objects {
            None => true,
            Some(selector) => [new, old].into_iter().flatten().any(|labels| selector.matches(labels)),
        }
    }
}

fn find<'a>(
    rules: &[Rule],
    equivalent: bool,
    asked: &Asked<'a>,
    equivalents: &[Subject<'a>],
) -> Option<Subject<'a>> {
    if rules.iter().any(|rule| rule.matches(asked, &asked.subject)) {
        return Some(asked.subject);
    }
    if !equivalent {
        return None;
    }
    // The order of the rules goes before that of the versions.
    let others = || equivalents.iter().filter(|subject| **subject != asked.subject);
    rules.iter().find_map(|rule| others().find(|subject| rule.matches(asked, subject)).copied())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PODS: Subject<'_> = Subject { group: "", version: "v1", resource: "pods" };

    fn asked<'a>(subject: Subject<'a>, subresource: &'a str, namespace: Option<&'a str>) -> Asked<'a> {
        Asked { operation: Operation::Create, subject, subresource, namespace, name: "a" }
    }

    fn found(hook: Value, asked: &Asked<'_>, equivalents: &[Subject<'_>]) -> Option<String> {
        let found = MatchResources::read(&hook).unwrap();
        found.subject(asked, equivalents).map(|subject| subject.version.to_owned())
    }

    fn rule(group: &str, version: &str, resource: &str) -> Value {
        json!({"operations": ["CREATE"], "apiGroups": [group], "apiVersions": [version], "resources": [resource]})
    }

    #[test]
    fn a_resource_without_a_subresource_is_the_object_alone() {
        let hook = |resource: &str| json!({"rules": [rule("", "v1", resource)]});
        for (resource, subresource, expected) in [
            ("pods", "", true),
            ("pods", "status", false),
            ("pods/status", "status", true),
            ("pods/*", "", true),
            ("*", "", true),
            ("*", "status", false),
            ("*/status", "status", true),
            ("*/*", "status", true),
            ("services", "", false),
        ] {
            let matches = found(hook(resource), &asked(PODS, subresource, Some("n")), &[]).is_some();
            assert_eq!(matches, expected, "{resource} {subresource}");
        }
    }

    #[test]
    fn a_namespace_is_of_the_clusters_scope() {
        let namespaces = Subject { group: "", version: "v1", resource: "namespaces" };
        let hook = |scope: &str| {
            let mut rule = rule("*", "*", "*");
            rule["scope"] = scope.into();
            json!({"rules": [rule]})
        };
        let of_itself = asked(namespaces, "", Some("a"));
        assert!(found(hook("Namespaced"), &of_itself, &[]).is_none());
        assert!(found(hook("Cluster"), &of_itself, &[]).is_some());
        assert!(found(hook("Namespaced"), &asked(PODS, "", Some("a")), &[]).is_some());
        assert!(found(hook("Cluster"), &asked(PODS, "", Some("a")), &[]).is_none());
    }

    #[test]
    fn a_request_counts_through_another_version_unless_the_match_is_exact() {
        let of = |version| Subject { group: "x.io", version, resource: "foos" };
        let hook = json!({"rules": [rule("x.io", "v2", "foos")]});
        let request = asked(of("v1"), "", Some("n"));
        assert_eq!(found(hook.clone(), &request, &[of("v1"), of("v2")]).as_deref(), Some("v2"));
        let mut exact = hook;
        exact["matchPolicy"] = "Exact".into();
        assert_eq!(found(exact, &request, &[of("v1"), of("v2")]), None);
    }

    #[test]
    fn selectors_see_new_and_old_labels() {
        let hook = MatchResources::read(&json!({"objectSelector": {"matchLabels": {"a": "b"}}})).unwrap();
        let labels = json!({"a": "b"});
        let labels = labels.as_object();
        assert!(hook.selects_object(Some(None), Some(labels)));
        assert!(!hook.selects_object(Some(None), None));
        assert!(!hook.selects_object(None, None));
    }
}
