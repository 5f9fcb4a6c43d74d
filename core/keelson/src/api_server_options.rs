//! Flags of the API server, the same for every command that starts one; named as kube-apiserver's.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use jiff::SignedDuration;
use keelson_apiserver::server::Config;

use crate::etcd_options::EtcdOptions;
use crate::store_options::StoreOptions;

mod audit;
mod authentication;
mod authorization;
mod limits;
mod serving;

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "API server")]
pub(crate) struct ApiServerOptions {
    /// How long an Event is kept after its last change, such as `1h` or `30m`.
    #[arg(long, default_value = "1h")]
    pub(crate) event_ttl: SignedDuration,
    /// An EncryptionConfiguration: what is encrypted in the store, and by which keys.
    #[arg(long, value_name = "FILE")]
    pub(crate) encryption_provider_config: Option<PathBuf>,
    /// Read that file again when it changes.
    #[arg(long, requires = "encryption_provider_config")]
    pub(crate) encryption_provider_config_automatic_reload: bool,
    /// Admission plugins that run beside those that do by default.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub(crate) enable_admission_plugins: Vec<String>,
    /// Admission plugins that do not run although they do by default.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub(crate) disable_admission_plugins: Vec<String>,
    /// A file with the configuration of admission plugins: `AdmissionConfiguration`.
    #[arg(long, value_name = "FILE")]
    pub(crate) admission_control_config_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) serving: serving::ServingFlags,
    #[command(flatten)]
    pub(crate) limits: limits::LimitOptions,
    #[command(flatten)]
    pub(crate) store: StoreOptions,
    #[command(flatten)]
    pub(crate) etcd: EtcdOptions,
    #[command(flatten)]
    pub(crate) audit: audit::AuditFlags,
    #[command(flatten)]
    pub(crate) authentication: authentication::AuthenticationFlags,
    #[command(flatten)]
    pub(crate) authorization: authorization::AuthorizationFlags,
}

impl ApiServerOptions {
    /// Sets what the flags say.
    pub(crate) fn apply(&self, config: &mut Config) -> anyhow::Result<()> {
        config.encryption = keelson_apiserver::encryption::Config {
            file: self.encryption_provider_config.clone(),
            reload: self.encryption_provider_config_automatic_reload,
        };
        config.event_ttl = duration("--event-ttl", self.event_ttl)?;
        config.admission = keelson_apiserver::admission::Config {
            enable: self.enable_admission_plugins.clone(),
            disable: self.disable_admission_plugins.clone(),
            control_file: self.admission_control_config_file.clone(),
        };
        config.serving = self.serving.options()?;
        config.audit = self.audit.options()?;
        config.authentication = self.authentication.options()?;
        config.authorization = self.authorization.options()?;
        self.store.apply(config)?;
        config.etcd = self.etcd.config(config.compaction_interval)?;
        self.limits.apply(config)
    }
}

pub(crate) fn duration(flag: &str, value: SignedDuration) -> anyhow::Result<Duration> {
    Duration::try_from(value).with_context(|| format!("{flag} is negative: give a duration such as 1h"))
}
