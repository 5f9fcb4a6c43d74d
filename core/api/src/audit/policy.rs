//! An audit policy: its first rule that fits a request says how much of it is recorded.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::document;
use crate::names;
use crate::validation::FieldError;

#[cfg(test)]
mod tests;

const LEVELS: [&str; 4] = ["None", "Metadata", "Request", "RequestResponse"];
const STAGES: [&str; 4] = ["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"];

/// How much of a request is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing.
    #[default]
    None,
    /// Who, what, when, and the outcome.
    Metadata,
    /// The request's object too.
    Request,
    /// The answered object too.
    RequestResponse,
}

/// A moment of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It has come.
    RequestReceived,
    /// The head of an answer that lasts has been sent.
    ResponseStarted,
    /// All has been answered.
    ResponseComplete,
    /// Its handler has failed beyond an answer.
    Panic,
}

/// A set of stages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages(u8);

/// What a policy says of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// How much is recorded.
    pub level: Level,
    /// At which stages nothing is.
    pub omitted: Stages,
    /// Whether recorded objects come without `metadata.managedFields`.
    pub omit_managed_fields: bool,
    /// Whether the request is about credentials and nothing of their content is recorded, not even in a message.
    pub is_guarded: bool,
}

/// What a policy goes by.
#[derive(Clone, Copy, Debug, Default)]
pub struct Subject<'a> {
    /// The caller's name and groups; none if nobody is known.
    pub user: Option<(&'a str, &'a [String])>,
    /// The verb, as authorization knows it.
    pub verb: &'a str,
    /// Whether a resource is asked for.
    pub is_resource: bool,
    /// The path.
    pub path: &'a str,
    /// The resource's group; empty for core.
    pub group: &'a str,
    /// The resource.
    pub resource: &'a str,
    /// The subresource; empty for none.
    pub subresource: &'a str,
    /// The namespace; empty for none.
    pub namespace: &'a str,
    /// The object's name; empty for none.
    pub name: &'a str,
}

/// Why a policy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It is no YAML, or has unknown fields.
    #[error("the policy cannot be decoded: {0}")]
    Decode(#[from] serde_yaml_ng::Error),
    /// It is of another kind.
    #[error("the policy is a {0}, not a Policy of audit.k8s.io/v1")]
    Kind(String),
    /// It has no rules.
    #[error("the policy has no rules")]
    Empty,
    /// Its fields are wrong.
    #[error("the policy is wrong: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Invalid(Vec<FieldError>),
}

/// A valid policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<(Rule, Verdict)>,
    otherwise: Verdict,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default, rename = "metadata")]
    _metadata: serde_json::Value,
    #[serde(default, deserialize_with = "or_empty")]
    rules: Vec<Rule>,
    #[serde(default, deserialize_with = "or_empty")]
    omit_stages: Vec<String>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    #[serde(default)]
    level: String,
    #[serde(default, deserialize_with = "or_empty")]
    users: Vec<String>,
    #[serde(default, deserialize_with = "or_empty")]
    user_groups: Vec<String>,
    #[serde(default, deserialize_with = "or_empty")]
    verbs: Vec<String>,
    #[serde(default, deserialize_with = "or_empty")]
    resources: Vec<Resources>,
    #[serde(default, deserialize_with = "or_empty")]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs", deserialize_with = "or_empty")]
    urls: Vec<String>,
    #[serde(default, deserialize_with = "or_empty")]
    omit_stages: Vec<String>,
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resources {
    #[serde(default)]
    group: String,
    #[serde(default, deserialize_with = "or_empty")]
    resources: Vec<String>,
    #[serde(default, deserialize_with = "or_empty")]
    resource_names: Vec<String>,
}

/// A list that may be null.
fn or_empty<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl Level {
    fn named(name: &str) -> Option<Self> {
        let levels = [Self::None, Self::Metadata, Self::Request, Self::RequestResponse];
        levels.into_iter().find(|level| level.name() == name)
    }

    /// As events name it.
    pub fn name(self) -> &'static str {
        LEVELS[self as usize]
    }
}

impl Stage {
    /// As events name it.
    pub fn name(self) -> &'static str {
        STAGES[self as usize]
    }
}

impl Serialize for Level {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}

impl Serialize for Stage {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}

impl Stages {
    fn named(names: &[String]) -> Self {
        let known = |name: &String| STAGES.iter().position(|stage| stage == name);
        Stages(names.iter().filter_map(known).fold(0, |all, at| all | 1 << at))
    }

    /// Whether a stage is one of them.
    pub fn contains(self, stage: Stage) -> bool {
        self.0 & 1 << stage as u8 != 0
    }
}

impl Policy {
    /// Reads a policy in YAML or JSON.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let value = document::read(serde_yaml_ng::Deserializer::from_str(text))?;
        let read: Document = serde_yaml_ng::from_value(serde_yaml_ng::to_value(value)?)?;
        if (read.api_version.as_str(), read.kind.as_str()) != ("audit.k8s.io/v1", "Policy") {
            return Err(PolicyError::Kind(format!("{}, Kind={}", read.api_version, read.kind)));
        }
        let mut errors = Vec::new();
        validate_stages(&read.omit_stages, "omitStages", &mut errors);
        for (at, rule) in read.rules.iter().enumerate() {
            rule.validate(&format!("rules[{at}]"), &mut errors);
        }
        if !errors.is_empty() {
            return Err(PolicyError::Invalid(errors));
        }
        if read.rules.is_empty() {
            return Err(PolicyError::Empty);
        }
        let everywhere = Stages::named(&read.omit_stages);
        let verdict = |rule: Rule| {
            let verdict = Verdict {
                level: Level::named(&rule.level).unwrap_or_default(),
                omitted: Stages(everywhere.0 | Stages::named(&rule.omit_stages).0),
                omit_managed_fields: rule.omit_managed_fields.unwrap_or(read.omit_managed_fields),
                is_guarded: false,
            };
            (rule, verdict)
        };
        let otherwise = Verdict {
            level: Level::None,
            omitted: everywhere,
            omit_managed_fields: read.omit_managed_fields,
            is_guarded: false,
        };
        Ok(Policy { rules: read.rules.into_iter().map(verdict).collect(), otherwise })
    }

    /// What holds for a request: what its first fitting rule says, and nothing is recorded if none fits.
    ///
    /// A rule that speaks of everything does not mean what is secret: of [credentials](Subject::is_secret) the content
    /// is recorded by a rule alone that names their resource itself, without a `*`.
    pub fn verdict(&self, of: &Subject<'_>) -> Verdict {
        let Some((rule, verdict)) = self.rules.iter().find(|(rule, _)| rule.fits(of)) else {
            return self.otherwise;
        };
        if !of.is_secret() || (verdict.level > Level::Metadata && rule.names(of)) {
            return *verdict;
        }
        Verdict { level: verdict.level.min(Level::Metadata), is_guarded: true, ..*verdict }
    }
}

impl Subject<'_> {
    /// Whether the request or its answer carries credentials: Secrets, TokenReviews, and tokens of service accounts.
    pub fn is_secret(&self) -> bool {
        let named = (self.group, self.resource, self.subresource);
        self.is_resource
            && matches!(
                named,
                ("", "secrets", _)
                    | ("authentication.k8s.io", "tokenreviews", _)
                    | ("", "serviceaccounts", "token")
            )
    }
}

impl Rule {
    fn fits(&self, of: &Subject<'_>) -> bool {
        let any = |list: &[String], text: &str| list.iter().any(|it| it == text);
        if !self.users.is_empty() && !of.user.is_some_and(|(name, _)| any(&self.users, name)) {
            return false;
        }
        let in_group = |groups: &[String]| groups.iter().any(|group| any(&self.user_groups, group));
        if !self.user_groups.is_empty() && !of.user.is_some_and(|(_, groups)| in_group(groups)) {
            return false;
        }
        if !self.verbs.is_empty() && !any(&self.verbs, of.verb) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return of.is_resource
                && (self.namespaces.is_empty() || any(&self.namespaces, of.namespace))
                && (self.resources.is_empty() || self.resources.iter().any(|it| it.fit(of)));
        }
        self.urls.is_empty() || !of.is_resource && self.urls.iter().any(|url| is_path(url, of.path))
    }

    /// Whether the rule names the resource that is asked for as such.
    fn names(&self, of: &Subject<'_>) -> bool {
        let is_it = |named: &String| match named.split_once('/') {
            None => named == of.resource && of.subresource.is_empty(),
            Some((resource, subresource)) => resource == of.resource && subresource == of.subresource,
        };
        self.resources.iter().any(|it| it.fit(of) && it.resources.iter().any(is_it))
    }

    fn validate(&self, path: &str, errors: &mut Vec<FieldError>) {
        if self.level.is_empty() {
            errors.push(FieldError::required(format!("{path}.level"), ""));
        } else if Level::named(&self.level).is_none() {
            errors.push(FieldError::not_supported(format!("{path}.level"), self.level.as_str(), &LEVELS));
        }
        for (at, url) in self.urls.iter().enumerate().filter(|(_, url)| *url != "*") {
            let mut wrong = |detail: &str| {
                errors.push(FieldError::invalid(
                    format!("{path}.nonResourceURLs[{at}]"),
                    url.as_str(),
                    detail,
                ));
            };
            if !url.starts_with('/') {
                wrong("non-resource URL rules must begin with a '/' character");
            }
            if url.find('*').is_some_and(|star| star + 1 < url.len()) {
                wrong("non-resource URL wildcards '*' must be the final character of the rule");
            }
        }
        for resources in &self.resources {
            let faults = names::dns1123_subdomain(&resources.group);
            if !resources.group.is_empty() && !faults.is_empty() {
                let at = format!("{path}.resources.group");
                errors.push(FieldError::invalid(at, resources.group.as_str(), faults.join(",")));
            }
            if !resources.resource_names.is_empty() && resources.resources.is_empty() {
                let at = format!("{path}.resources.resourceNames");
                let detail = "using resourceNames requires at least one resource";
                errors.push(FieldError::invalid(at, resources.resource_names.clone(), detail));
            }
        }
        validate_stages(&self.omit_stages, &format!("{path}.omitStages"), errors);
        let is_of_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        if is_of_resources && !self.urls.is_empty() {
            let detail = "rules cannot apply to both regular resources and non-resource URLs";
            errors.push(FieldError::invalid(format!("{path}.nonResourceURLs"), self.urls.clone(), detail));
        }
    }
}

impl Resources {
    fn fit(&self, of: &Subject<'_>) -> bool {
        if self.group != of.group {
            return false;
        }
        let named = self.resource_names.is_empty() || self.resource_names.iter().any(|it| it == of.name);
        self.resources.is_empty() || named && self.resources.iter().any(|it| is_resource(it, of))
    }
}

/// Whether a rule's resource, such as `pods`, `pods/log`, `pods/*`, `*/scale` or `*`, is the one asked for.
fn is_resource(rule: &str, of: &Subject<'_>) -> bool {
    match rule.split_once('/') {
        None => rule == "*" || rule == of.resource && of.subresource.is_empty(),
        Some((resource, "*")) if resource == of.resource => true,
        Some(("*", subresource)) if !of.subresource.is_empty() => subresource == of.subresource,
        Some((resource, subresource)) => resource == of.resource && subresource == of.subresource,
    }
}

/// Whether a rule's path, such as `/healthz*` or `*`, is the one asked for.
fn is_path(rule: &str, path: &str) -> bool {
    rule == path || rule.ends_with('*') && path.starts_with(rule.trim_end_matches('*'))
}

fn validate_stages(stages: &[String], path: &str, errors: &mut Vec<FieldError>) {
    for (at, stage) in stages.iter().enumerate().filter(|(_, it)| !STAGES.contains(&it.as_str())) {
        let detail = format!("allowed stages are {}", STAGES.join(","));
        errors.push(FieldError::invalid(format!("{path}[{at}]"), stage.as_str(), detail));
    }
}
