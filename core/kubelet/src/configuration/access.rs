//! Settings of who may ask the kubelet's server for what.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::InvalidSetting;

/// How it is found out who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Authentication {
    /// Those without credentials; nobody else is ever let in.
    pub anonymous: Anonymous,
    /// Bearer tokens.
    pub webhook: AuthenticationWebhook,
}

/// Who has no credentials.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Anonymous {
    /// Has to be false.
    pub enabled: bool,
}

/// The API server says whose a token is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AuthenticationWebhook {
    /// Whether tokens are taken at all.
    pub enabled: bool,
    /// How long an answer holds.
    #[serde(rename = "cacheTTL", with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub cache_ttl: Duration,
}

impl Default for AuthenticationWebhook {
    fn default() -> Self {
        AuthenticationWebhook { enabled: true, cache_ttl: Duration::from_secs(120) }
    }
}

/// How it is found out what somebody may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum AuthorizationMode {
    /// The API server says it; the only mode.
    #[default]
    Webhook,
}

/// What somebody may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Authorization {
    /// `Webhook`.
    pub mode: AuthorizationMode,
    /// The API server's answers.
    pub webhook: AuthorizationWebhook,
}

/// How long the API server's answers hold.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AuthorizationWebhook {
    /// That somebody may do something.
    #[serde(
        rename = "cacheAuthorizedTTL",
        with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required"
    )]
    pub cache_authorized_ttl: Duration,
    /// That somebody may not.
    #[serde(
        rename = "cacheUnauthorizedTTL",
        with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required"
    )]
    pub cache_unauthorized_ttl: Duration,
}

impl Default for AuthorizationWebhook {
    fn default() -> Self {
        AuthorizationWebhook {
            cache_authorized_ttl: Duration::from_secs(300),
            cache_unauthorized_ttl: Duration::from_secs(30),
        }
    }
}

impl Authentication {
    pub(super) fn validate(&self) -> Result<(), InvalidSetting> {
        if self.anonymous.enabled {
            return Err(InvalidSetting {
                field: "authentication.anonymous.enabled",
                value: "true".to_owned(),
                reason: "nobody is let in without credentials",
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::KubeletConfiguration;

    #[test]
    fn what_kubeadm_writes_is_understood_and_nobody_is_let_in_without_credentials() {
        let text = r#"{"authentication": {"anonymous": {"enabled": false}, "webhook": {"cacheTTL": "1m0s", "enabled": true}},
            "authorization": {"mode": "Webhook", "webhook": {"cacheAuthorizedTTL": "10s", "cacheUnauthorizedTTL": "0s"}}}"#;
        let mut found: KubeletConfiguration = serde_json::from_str(text).unwrap();
        assert_eq!(found.authentication.webhook.cache_ttl, Duration::from_secs(60));
        assert_eq!(found.authorization.webhook.cache_unauthorized_ttl, Duration::ZERO);
        assert_eq!(found.validate(), Ok(()));
        found.authentication.anonymous.enabled = true;
        assert!(found.validate().is_err());
        let open = r#"{"authorization": {"mode": "AlwaysAllow"}}"#;
        serde_json::from_str::<KubeletConfiguration>(open).unwrap_err();
    }
}
