//! Flags of the API server, the same for every command that starts one; named as kube-apiserver's.

use std::time::Duration;

use anyhow::Context;
use clap::Args;
use jiff::SignedDuration;
use keelson_apiserver::server::Config;

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "API server")]
pub(crate) struct ApiServerOptions {
    /// How long an Event is kept after its last change, such as `1h` or `30m`.
    #[arg(long, default_value = "1h")]
    pub(crate) event_ttl: SignedDuration,
}

impl ApiServerOptions {
    /// Sets what the flags say.
    pub(crate) fn apply(&self, config: &mut Config) -> anyhow::Result<()> {
        config.event_ttl = duration("--event-ttl", self.event_ttl)?;
        Ok(())
    }
}

fn duration(flag: &str, value: SignedDuration) -> anyhow::Result<Duration> {
    Duration::try_from(value).with_context(|| format!("{flag} is negative: give a duration such as 1h"))
}
