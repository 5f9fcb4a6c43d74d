//! Which authorizers decide, in which order: by flags, or by a file of kind AuthorizationConfiguration.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::abac::{Abac, AbacError};
use super::conditions::Conditions;
use super::configured::Configured;
use super::webhook::{FailurePolicy, Webhook, WebhookConfig};
use super::{Always, Authorizer, Union, node::NodeAuthorizer, rbac::Rbac};
use crate::remote::{Remote, RemoteConfig, ServiceResolver, SetupError};

/// A kind of authorizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Mode {
    /// Kubelets, by what their pods need.
    Node,
    /// Roles and bindings.
    #[serde(rename = "RBAC")]
    Rbac,
    /// A policy file.
    #[serde(rename = "ABAC")]
    Abac,
    /// A server outside.
    Webhook,
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "Node" => Ok(Mode::Node),
            "RBAC" => Ok(Mode::Rbac),
            "ABAC" => Ok(Mode::Abac),
            "Webhook" => Ok(Mode::Webhook),
            "AlwaysAllow" => Err("this server has no mode that allows everything: use RBAC".to_owned()),
            "AlwaysDeny" => {
                Err("AlwaysDeny is not supported: a request that no authorizer allows is refused".to_owned())
            }
            other => Err(format!("{other:?} is not a valid mode: choose among Node, RBAC, ABAC, Webhook")),
        }
    }
}

/// Which authorizers decide.
#[derive(Clone, Debug)]
pub struct AuthorizationOptions {
    /// Their order.
    pub modes: Vec<Mode>,
    /// The file of [`Mode::Abac`].
    pub policy_file: Option<PathBuf>,
    /// The kubeconfig of [`Mode::Webhook`].
    pub webhook_file: Option<PathBuf>,
    /// How long the webhook's yes holds.
    pub authorized_ttl: Duration,
    /// How long anything else that it says holds.
    pub unauthorized_ttl: Duration,
    /// A file that says all of it in place of the others.
    pub config_file: Option<PathBuf>,
}

impl Default for AuthorizationOptions {
    fn default() -> Self {
        AuthorizationOptions {
            modes: vec![Mode::Node, Mode::Rbac],
            policy_file: None,
            webhook_file: None,
            authorized_ttl: Duration::from_secs(300),
            unauthorized_ttl: Duration::from_secs(30),
            config_file: None,
        }
    }
}

/// Why requests cannot be authorized as configured.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// A file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A policy file.
    #[error("use the policies in {}", path.display())]
    Policy {
        /// Which one.
        path: PathBuf,
        /// What is wrong.
        source: AbacError,
    },
    /// A server to be asked.
    #[error("use the webhook of {}", path.display())]
    Webhook {
        /// Its kubeconfig.
        path: PathBuf,
        /// What is wrong.
        source: SetupError,
    },
    /// The configuration file.
    #[error("{}: {fault}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What is wrong.
        fault: String,
    },
    /// Options that do not go together.
    #[error("{0}")]
    Flags(&'static str),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    authorizers: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    r#type: String,
    name: String,
    webhook: Option<Section>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Section {
    #[serde(rename = "authorizedTTL")]
    authorized_ttl: Option<String>,
    #[serde(rename = "unauthorizedTTL")]
    unauthorized_ttl: Option<String>,
    #[serde(default = "yes")]
    cache_authorized_requests: bool,
    #[serde(default = "yes")]
    cache_unauthorized_requests: bool,
    timeout: String,
    subject_access_review_version: String,
    #[serde(default)]
    match_condition_subject_access_review_version: String,
    failure_policy: FailurePolicy,
    connection_info: ConnectionInfo,
    #[serde(default)]
    match_conditions: Vec<MatchCondition>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MatchCondition {
    #[serde(default)]
    expression: String,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ConnectionInfo {
    r#type: String,
    kube_config_file: Option<PathBuf>,
}

/// One authorizer as it is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Plan {
    Node,
    Rbac,
    Webhook { kubeconfig: PathBuf, timeout: Duration, config: WebhookConfig },
}

/// A time as Go writes it: `30s`, `5m`, `1h30m`.
fn time(text: &str, field: &str) -> Result<Duration, String> {
    let read = text.parse::<jiff::SignedDuration>().ok().and_then(|time| Duration::try_from(time).ok());
    read.ok_or_else(|| format!("{field}: Invalid value: {text:?}: must be a duration such as 30s"))
}

fn webhook(name: &str, section: Section, at: &str) -> Result<Plan, String> {
    let sources: Vec<String> = section.match_conditions.into_iter().map(|it| it.expression).collect();
    let conditions = Conditions::compile(&sources, &format!("{at}.matchConditions"))?;
    let version = section.match_condition_subject_access_review_version.as_str();
    if !sources.is_empty() && version.is_empty() {
        return Err(format!(
            "{at}.matchConditionSubjectAccessReviewVersion: Required value: required if match conditions are specified"
        ));
    }
    let at = format!("{at}.webhook");
    if section.subject_access_review_version != "v1" {
        return Err(format!("{at}.subjectAccessReviewVersion: Unsupported value: supported values: \"v1\""));
    }
    if !matches!(version, "" | "v1") {
        return Err(format!(
            "{at}.matchConditionSubjectAccessReviewVersion: Unsupported value: supported values: \"v1\""
        ));
    }
    let timeout = time(&section.timeout, &format!("{at}.timeout"))?;
    if timeout.is_zero() || timeout > Duration::from_secs(30) {
        return Err(format!("{at}.timeout: Invalid value: {:?}: must be > 0s and <= 30s", section.timeout));
    }
    let ttl = |text: &Option<String>, field: &str, default: u64, cached: bool| match text {
        _ if !cached => Ok(Duration::ZERO),
        Some(text) => time(text, &format!("{at}.{field}")),
        None => Ok(Duration::from_secs(default)),
    };
    let config = WebhookConfig {
        name: name.to_owned(),
        authorized_ttl: ttl(
            &section.authorized_ttl,
            "authorizedTTL",
            300,
            section.cache_authorized_requests,
        )?,
        unauthorized_ttl: ttl(
            &section.unauthorized_ttl,
            "unauthorizedTTL",
            30,
            section.cache_unauthorized_requests,
        )?,
        failure_policy: section.failure_policy,
        conditions,
    };
    match (section.connection_info.r#type.as_str(), section.connection_info.kube_config_file) {
        ("KubeConfigFile", Some(kubeconfig)) => Ok(Plan::Webhook { kubeconfig, timeout, config }),
        ("KubeConfigFile", None) => Err(format!("{at}.connectionInfo.kubeConfigFile: Required value")),
        (other, _) => Err(format!(
            "{at}.connectionInfo.type: Unsupported value: {other:?}: supported values: \"KubeConfigFile\""
        )),
    }
}

/// Reads an AuthorizationConfiguration (pure).
fn plan(text: &str) -> Result<Vec<Plan>, String> {
    let file: File = serde_yaml_ng::from_str(text).map_err(|error| error.to_string())?;
    let versions = ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1"];
    if !versions.contains(&file.api_version.as_str()) || file.kind != "AuthorizationConfiguration" {
        return Err("it is no AuthorizationConfiguration of apiserver.config.k8s.io/v1".to_owned());
    }
    if file.authorizers.is_empty() {
        return Err("authorizers: Required value: at least one authorization mode must be defined".to_owned());
    }
    let mut plans = Vec::new();
    let mut names: Vec<String> = Vec::new();
    for (place, entry) in file.authorizers.into_iter().enumerate() {
        let at = format!("authorizers[{place}]");
        if entry.name.is_empty() {
            return Err(format!("{at}.name: Required value"));
        }
        if names.contains(&entry.name) {
            return Err(format!("{at}.name: Duplicate value: {:?}", entry.name));
        }
        let mode: Mode = entry.r#type.parse().map_err(|fault| format!("{at}.type: {fault}"))?;
        let made = match (mode, entry.webhook) {
            (Mode::Webhook, Some(section)) => webhook(&entry.name, section, &at)?,
            (Mode::Webhook, None) => return Err(format!("{at}.webhook: Required value")),
            (_, Some(_)) => return Err(format!("{at}.webhook: Forbidden: only of the type Webhook")),
            (Mode::Node, None) => Plan::Node,
            (Mode::Rbac, None) => Plan::Rbac,
            (Mode::Abac, None) => return Err(format!("{at}.type: ABAC is set by flags alone")),
        };
        if matches!(made, Plan::Node | Plan::Rbac) && plans.contains(&made) {
            return Err(format!("{at}.type: Duplicate value: {:?}", entry.r#type));
        }
        names.push(entry.name);
        plans.push(made);
    }
    Ok(plans)
}

/// What authorizers are made from.
#[derive(Clone)]
pub struct Parts {
    /// Kubelets'.
    pub nodes: Arc<NodeAuthorizer>,
    /// Roles'.
    pub rbac: Arc<Rbac>,
    /// Where Services are.
    pub resolver: Arc<ServiceResolver>,
}

fn read(path: &Path) -> Result<String, OptionsError> {
    std::fs::read_to_string(path).map_err(|source| OptionsError::Read { path: path.to_owned(), source })
}

impl Parts {
    fn webhook(
        &self,
        path: &Path,
        timeout: Duration,
        config: WebhookConfig,
    ) -> Result<Webhook, OptionsError> {
        let wrong = |source| OptionsError::Webhook { path: path.to_owned(), source };
        let remote = RemoteConfig { timeout, ..RemoteConfig::from_kubeconfig(path).map_err(wrong)? };
        Ok(Webhook::new(Remote::new(remote, &self.resolver).map_err(wrong)?, config))
    }

    /// The authorizers of a file, and which of those that are no webhooks it names.
    pub(super) fn of_file(&self, path: &Path, text: &str) -> Result<(Union, Vec<Mode>), OptionsError> {
        let plans = plan(text).map_err(|fault| OptionsError::File { path: path.to_owned(), fault })?;
        let mut all: Vec<Arc<dyn Authorizer>> = vec![Arc::new(Always)];
        let mut own = Vec::new();
        for plan in plans {
            all.push(match plan {
                Plan::Node => {
                    own.push(Mode::Node);
                    self.nodes.clone()
                }
                Plan::Rbac => {
                    own.push(Mode::Rbac);
                    self.rbac.clone()
                }
                Plan::Webhook { kubeconfig, timeout, config } => {
                    Arc::new(self.webhook(&kubeconfig, timeout, config)?)
                }
            });
        }
        own.sort_unstable();
        Ok((Union(all), own))
    }
}

impl AuthorizationOptions {
    /// Makes the authorizers. Administrators and questions of health are always allowed. Must be called in a tokio
    /// runtime.
    pub(crate) fn build(&self, parts: &Parts) -> Result<Configured, OptionsError> {
        if let Some(path) = &self.config_file {
            if self.policy_file.is_some() || self.webhook_file.is_some() {
                return Err(OptionsError::Flags(
                    "--authorization-config excludes --authorization-policy-file and --authorization-webhook-config-file",
                ));
            }
            return Configured::by_file(parts, path, &read(path)?);
        }
        let mut all: Vec<Arc<dyn Authorizer>> = vec![Arc::new(Always)];
        for mode in &self.modes {
            all.push(match mode {
                Mode::Node => parts.nodes.clone(),
                Mode::Rbac => parts.rbac.clone(),
                Mode::Abac => {
                    let path = self.policy_file.as_deref();
                    let path =
                        path.ok_or(OptionsError::Flags("the mode ABAC needs --authorization-policy-file"))?;
                    let wrong = |source| OptionsError::Policy { path: path.to_owned(), source };
                    Arc::new(Abac::parse(&read(path)?).map_err(wrong)?)
                }
                Mode::Webhook => {
                    let path = self.webhook_file.as_deref();
                    let path = path.ok_or(OptionsError::Flags(
                        "the mode Webhook needs --authorization-webhook-config-file",
                    ))?;
                    let config = WebhookConfig {
                        name: "webhook".to_owned(),
                        authorized_ttl: self.authorized_ttl,
                        unauthorized_ttl: self.unauthorized_ttl,
                        failure_policy: FailurePolicy::NoOpinion,
                        conditions: Conditions::default(),
                    };
                    Arc::new(parts.webhook(path, Duration::from_secs(30), config)?)
                }
            });
        }
        Ok(Configured::fixed(Union(all)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_the_order() {
        let text = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n- {type: Node, name: node}\n- type: Webhook\n  name: opa\n  webhook: {timeout: 3s, subjectAccessReviewVersion: v1, failurePolicy: Deny, unauthorizedTTL: 1m,\n    connectionInfo: {type: KubeConfigFile, kubeConfigFile: /etc/opa}}\n- {type: RBAC, name: rbac}\n";
        let plans = plan(text).unwrap();
        let Plan::Webhook { timeout, config, .. } = &plans[1] else { panic!("{plans:?}") };
        assert_eq!((*timeout, config.failure_policy), (Duration::from_secs(3), FailurePolicy::Deny));
        assert_eq!((config.authorized_ttl.as_secs(), config.unauthorized_ttl.as_secs()), (300, 60));
        assert_eq!((&plans[0], &plans[2]), (&Plan::Node, &Plan::Rbac));
    }

    #[test]
    fn what_allows_everything_or_cannot_be_done_is_refused() {
        let file = |entries: &str| {
            plan(&format!("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers: [{entries}]"))
                .unwrap_err()
        };
        assert!(file("{type: AlwaysAllow, name: a}").contains("no mode that allows everything"));
        assert!(file("").contains("at least one"));
        assert!(file("{type: RBAC, name: a}, {type: RBAC, name: b}").contains("Duplicate"));
        assert!(file("{type: Webhook, name: a}").contains("webhook: Required value"));
        let conditions = "{type: Webhook, name: a, webhook: {timeout: 3s, subjectAccessReviewVersion: v1, failurePolicy: Deny, connectionInfo: {type: KubeConfigFile, kubeConfigFile: /x}, matchConditions: [{expression: 'true'}]}}";
        assert!(file(conditions).contains("matchConditionSubjectAccessReviewVersion: Required value"));
        let faulty = conditions.replace("'true'", "'request.user'");
        assert!(file(&faulty).contains("authorizers[0].matchConditions[0].expression: Invalid value"));
        assert!(file("{type: RBAC, name: a, extra: 1}").contains("extra"));
    }
}
