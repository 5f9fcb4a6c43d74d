//! The Pod Security Standards: what a pod may ask for at a level and version.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use crate::object::Object;
use crate::selector::LabelSet;
use crate::validation::FieldError;

mod baseline;
mod restricted;

/// Labels of a namespace with this prefix say its policy.
const PREFIX: &str = "pod-security.kubernetes.io/";

/// How strict a policy is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything is allowed.
    #[default]
    Privileged,
    /// What is known to give a pod its node is forbidden.
    Baseline,
    /// What hardens pods is required.
    Restricted,
}

impl Level {
    /// Reads `privileged`, `baseline` or `restricted`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "privileged" => Some(Level::Privileged),
            "baseline" => Some(Level::Baseline),
            "restricted" => Some(Level::Restricted),
            _ => None,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        })
    }
}

/// A level as it was at a version of Kubernetes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LevelVersion {
    /// The level.
    pub level: Level,
    /// The minor version; `None` for the latest.
    pub minor: Option<u32>,
}

impl LevelVersion {
    /// Reads `latest` or `v1.N`: outside `None` for what is neither.
    pub fn parse_version(text: &str) -> Option<Option<u32>> {
        if text == "latest" {
            return Some(None);
        }
        let number = text.strip_prefix("v1.")?;
        let plain = number == "0" || !number.starts_with('0');
        let plain = plain && number.bytes().all(|byte| byte.is_ascii_digit());
        number.parse().ok().filter(|_| plain).map(Some)
    }

    fn at_least(self, minor: u32) -> bool {
        self.minor.is_none_or(|own| own >= minor)
    }
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.minor {
            None => write!(f, "{}:latest", self.level),
            Some(minor) => write!(f, "{}:v1.{minor}", self.level),
        }
    }
}

/// What is refused, written to the audit log, and warned about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Refused.
    pub enforce: LevelVersion,
    /// Written to the audit log.
    pub audit: LevelVersion,
    /// Warned about.
    pub warn: LevelVersion,
}

impl Policy {
    /// The policy of a namespace with these labels, and what is wrong with them.
    pub fn of(labels: Option<&impl LabelSet>, defaults: &Policy) -> (Policy, Vec<FieldError>) {
        let (mut policy, mut faults) = (*defaults, Vec::new());
        let Some(labels) = labels else { return (policy, faults) };
        let mut level = |mode: &str, at: &mut LevelVersion, otherwise: Level| {
            let mut fault = |label: &str, value: &str, text: &str| {
                faults.push(FieldError::invalid(format!("metadata.labels[{label}]"), value, text));
            };
            let mut has_level = false;
            let label = format!("{PREFIX}{mode}");
            if let Some(text) = labels.label(&label) {
                let read = Level::parse(text);
                has_level = read.is_some();
                at.level = read.unwrap_or_else(|| {
                    fault(&label, text, "must be one of privileged, baseline, restricted");
                    otherwise
                });
            }
            let label = format!("{PREFIX}{mode}-version");
            if let Some(text) = labels.label(&label) {
                at.minor = LevelVersion::parse_version(text).unwrap_or_else(|| {
                    fault(&label, text, "must be \"latest\" or \"v1.x\"");
                    None
                });
            }
            has_level
        };
        let enforces = level("enforce", &mut policy.enforce, Level::Restricted);
        level("audit", &mut policy.audit, Level::Privileged);
        let warns = level("warn", &mut policy.warn, Level::Privileged);
        // Who only enforces is told of workloads whose pods will be refused.
        if enforces && !warns && policy.enforce.level > policy.warn.level {
            policy.warn = policy.enforce;
        }
        (policy, faults)
    }
}

/// What a pod does that a policy forbids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// In a few words.
    pub reason: String,
    /// Who does it how.
    pub detail: String,
}

/// All reasons with their details.
pub fn details(violations: &[Violation]) -> String {
    let texts: Vec<String> =
        violations
            .iter()
            .map(|it| {
                if it.detail.is_empty() {
                    it.reason.clone()
                } else {
                    format!("{} ({})", it.reason, it.detail)
                }
            })
            .collect();
    texts.join(", ")
}

/// All reasons.
pub fn reasons(violations: &[Violation]) -> String {
    let texts: Vec<&str> = violations.iter().map(|it| it.reason.as_str()).collect();
    texts.join(", ")
}

/// What a pod, or the template of one, does against a policy.
pub fn evaluate(policy: LevelVersion, pod: &Object) -> Vec<Violation> {
    match policy.level {
        Level::Privileged => Vec::new(),
        Level::Baseline => baseline::evaluate(policy, pod),
        Level::Restricted => {
            let mut found = baseline::evaluate(policy, pod);
            found.extend(restricted::evaluate(policy, pod));
            found
        }
    }
}

/// The containers of a pod of all kinds.
fn all(pod: &Object) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|field| pod.get(&["spec", field]).and_then(Value::as_array).into_iter().flatten())
}

fn name(container: &Value) -> &str {
    container["name"].as_str().unwrap_or_default()
}

/// A field of a container's security context, if it is set.
fn context<'a>(container: &'a Value, path: &str) -> Option<&'a Value> {
    container.get("securityContext")?.pointer(path).filter(|value| !value.is_null())
}

/// A field of the pod's security context, if it is set.
fn pod_context<'a>(pod: &'a Object, path: &str) -> Option<&'a Value> {
    pod.get(&["spec", "securityContext"])?.pointer(path).filter(|value| !value.is_null())
}

/// Whether the pod's root is nobody's root outside.
fn has_own_users(pod: &Object) -> bool {
    pod.get(&["spec", "hostUsers"]) == Some(&Value::Bool(false))
}

fn is_windows(pod: &Object) -> bool {
    pod.get_str(&["spec", "os", "name"]) == Some("windows")
}

fn quoted<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| format!("\"{}\"", item.as_ref())).collect();
    items.join(", ")
}

fn plural(one: &'static str, many: &'static str, count: usize) -> &'static str {
    if count == 1 { one } else { many }
}

/// `container "a"` or `containers "a", "b"`.
fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

/// `pod and container "a"`; nothing where it is neither.
fn setters(pod: bool, names: &[&str]) -> Option<String> {
    match (pod, names) {
        (false, []) => None,
        (false, names) => Some(containers(names)),
        (true, []) => Some("pod".to_owned()),
        (true, names) => Some(format!("pod and {}", containers(names))),
    }
}

fn violation(reason: impl Into<String>, detail: impl Into<String>) -> Option<Violation> {
    Some(Violation { reason: reason.into(), detail: detail.into() })
}

/// Containers that do something, and with which values.
struct Bad<'a> {
    names: Vec<&'a str>,
    values: BTreeSet<String>,
}

/// Asks each container for the values that are forbidden.
fn bad<'a>(pod: &'a Object, values: impl Fn(&'a Value) -> Vec<String>) -> Bad<'a> {
    let mut found = Bad { names: Vec::new(), values: BTreeSet::new() };
    for container in all(pod) {
        let own = values(container);
        if !own.is_empty() {
            found.names.push(name(container));
            found.values.extend(own);
        }
    }
    found
}

/// The names of the containers of which something holds.
fn those<'a>(pod: &'a Object, holds: impl Fn(&'a Value) -> bool) -> Vec<&'a str> {
    all(pod).filter(|container| holds(container)).map(name).collect()
}

#[cfg(test)]
mod tests;
