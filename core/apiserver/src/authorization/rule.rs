//! A rule of RBAC: verbs on resources, or on paths.

use serde::{Deserialize, Serialize};

use crate::request_info::RequestInfo;

/// `PolicyRule` of `rbac.authorization.k8s.io/v1`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// Verbs; `*` for all.
    pub verbs: Vec<String>,
    /// Groups; `*` for all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// Resources, `RESOURCE/SUBRESOURCE`, `*/SUBRESOURCE` or `*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Names; empty for all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// Paths; a `*` at the end stands for any rest.
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

fn any(values: &[String], wanted: &str) -> bool {
    values.iter().any(|value| value == "*" || value == wanted)
}

fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    match rule.split_once('/') {
        None => subresource.is_empty() && rule == resource,
        Some((of, sub)) => !subresource.is_empty() && sub == subresource && (of == "*" || of == resource),
    }
}

fn path_matches(rule: &str, path: &str) -> bool {
    match rule.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => rule == path,
    }
}

impl Rule {
    /// Whether the rule allows the request.
    pub fn allows(&self, info: &RequestInfo) -> bool {
        if !any(&self.verbs, &info.verb) {
            return false;
        }
        if !info.is_resource {
            return self.non_resource_urls.iter().any(|rule| path_matches(rule, &info.path));
        }
        any(&self.api_groups, &info.group)
            && self.resources.iter().any(|rule| resource_matches(rule, &info.resource, &info.subresource))
            && (self.resource_names.is_empty()
                || info.name.as_ref().is_some_and(|name| self.resource_names.contains(name)))
    }

    /// Splits the rule into rules of one verb on one thing.
    fn atoms(&self) -> Vec<Self> {
        let mut atoms = Vec::new();
        for verb in &self.verbs {
            let verbs = vec![verb.clone()];
            for url in &self.non_resource_urls {
                atoms.push(Self {
                    verbs: verbs.clone(),
                    non_resource_urls: vec![url.clone()],
                    ..Self::default()
                });
            }
            for group in &self.api_groups {
                for resource in &self.resources {
                    let base = Self {
                        verbs: verbs.clone(),
                        api_groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        ..Self::default()
                    };
                    if self.resource_names.is_empty() {
                        atoms.push(base);
                        continue;
                    }
                    for name in &self.resource_names {
                        atoms.push(Self { resource_names: vec![name.clone()], ..base.clone() });
                    }
                }
            }
        }
        atoms
    }

    /// Whether this rule alone allows all that the atom allows.
    fn covers(&self, atom: &Self) -> bool {
        let verb = |verb: &String| any(&self.verbs, verb);
        let path = |url: &String| self.non_resource_urls.iter().any(|rule| path_matches(rule, url));
        let resource = |wanted: &String| {
            self.resources.iter().any(|rule| {
                rule == "*"
                    || rule == wanted
                    || wanted
                        .split_once('/')
                        .is_some_and(|(of, sub)| rule.strip_prefix("*/") == Some(sub) && of != "*")
            })
        };
        atom.verbs.iter().all(verb)
            && atom.non_resource_urls.iter().all(path)
            && atom.api_groups.iter().all(|group| any(&self.api_groups, group))
            && atom.resources.iter().all(resource)
            && (self.resource_names.is_empty()
                || (!atom.resource_names.is_empty()
                    && atom.resource_names.iter().all(|name| self.resource_names.contains(name))))
    }

    /// As errors show a rule.
    pub fn describe(&self) -> String {
        let mut parts = Vec::new();
        for (label, values) in [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("ResourceNames", &self.resource_names),
            ("NonResourceURLs", &self.non_resource_urls),
            ("Verbs", &self.verbs),
        ] {
            if !values.is_empty() {
                let quoted: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
                parts.push(format!("{label}:[{}]", quoted.join(" ")));
            }
        }
        format!("{{{}}}", parts.join(", "))
    }
}

/// What of `wanted` the rules of `owned` do not allow.
pub fn missing(owned: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let atoms = wanted.iter().flat_map(Rule::atoms);
    atoms.filter(|atom| !owned.iter().any(|rule| rule.covers(atom))).collect()
}
