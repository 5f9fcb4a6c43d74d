//! Flags about who may do what; named as kube-apiserver's.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use jiff::SignedDuration;
use keelson_apiserver::authorization::options::{AuthorizationOptions, Mode};

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Authorization")]
pub(crate) struct AuthorizationFlags {
    /// Who decides, in this order: Node, RBAC, ABAC, Webhook.
    #[arg(long, value_delimiter = ',', default_value = "Node,RBAC", value_name = "MODES")]
    pub(crate) authorization_mode: Vec<Mode>,
    /// The policies of the mode ABAC, one JSON document on each line.
    #[arg(long, value_name = "FILE")]
    pub(crate) authorization_policy_file: Option<PathBuf>,
    /// The kubeconfig of the server that the mode Webhook asks.
    #[arg(long, value_name = "FILE")]
    pub(crate) authorization_webhook_config_file: Option<PathBuf>,
    /// How long the webhook's yes holds.
    #[arg(long, default_value = "5m", value_name = "DURATION")]
    pub(crate) authorization_webhook_cache_authorized_ttl: SignedDuration,
    /// How long anything else that it says holds.
    #[arg(long, default_value = "30s", value_name = "DURATION")]
    pub(crate) authorization_webhook_cache_unauthorized_ttl: SignedDuration,
    /// A file of kind AuthorizationConfiguration, in place of the modes.
    #[arg(long, value_name = "FILE", conflicts_with = "authorization_mode")]
    pub(crate) authorization_config: Option<PathBuf>,
}

impl AuthorizationFlags {
    /// What the flags say.
    pub(crate) fn options(&self) -> anyhow::Result<AuthorizationOptions> {
        let time = |time: SignedDuration| {
            Duration::try_from(time).context("a time of --authorization-webhook-cache-* is negative")
        };
        Ok(AuthorizationOptions {
            modes: self.authorization_mode.clone(),
            policy_file: self.authorization_policy_file.clone(),
            webhook_file: self.authorization_webhook_config_file.clone(),
            authorized_ttl: time(self.authorization_webhook_cache_authorized_ttl)?,
            unauthorized_ttl: time(self.authorization_webhook_cache_unauthorized_ttl)?,
            config_file: self.authorization_config.clone(),
        })
    }
}
