//! Flags of how much the API server takes on at once, and how long it waits.

use clap::Args;
use jiff::SignedDuration;
use keelson_apiserver::server::{Config, Limits};

#[derive(Clone, Debug, Args)]
pub(crate) struct LimitOptions {
    /// How long a request may take that is no watch, log or stream.
    #[arg(long, default_value = "60s")]
    pub(crate) request_timeout: SignedDuration,
    /// Requests at once that change nothing. The sum of this and the next is what priority and fairness shares out.
    #[arg(long, default_value_t = 400)]
    pub(crate) max_requests_inflight: u32,
    /// Requests at once that change something.
    #[arg(long, default_value_t = 200)]
    pub(crate) max_mutating_requests_inflight: u32,
    /// Queue requests by FlowSchemas and PriorityLevelConfigurations; otherwise those beyond the limits are refused.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) enable_priority_and_fairness: bool,
    /// How long the server goes on to serve after it was told to end and says that it is not ready.
    #[arg(long, default_value = "0s")]
    pub(crate) shutdown_delay_duration: SignedDuration,
    /// The probability, from 0 to 0.02, with which a request makes its HTTP/2 connection end after it.
    #[arg(long, default_value_t = 0.0)]
    pub(crate) goaway_chance: f64,
    /// Requests at once on one HTTP/2 connection.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) http2_max_streams_per_connection: u32,
}

impl LimitOptions {
    /// Sets what the flags say.
    pub(crate) fn apply(&self, config: &mut Config) -> anyhow::Result<()> {
        let request_timeout = super::duration("--request-timeout", self.request_timeout)?;
        anyhow::ensure!(!request_timeout.is_zero(), "--request-timeout is zero: give a duration such as 60s");
        anyhow::ensure!(
            (0.0..=0.02).contains(&self.goaway_chance),
            "--goaway-chance is {}: give a number from 0 to 0.02",
            self.goaway_chance
        );
        anyhow::ensure!(
            self.max_requests_inflight.saturating_add(self.max_mutating_requests_inflight) > 0,
            "--max-requests-inflight and --max-mutating-requests-inflight are both 0: give one of them a place"
        );
        config.limits = Limits {
            request_timeout,
            max_requests_inflight: self.max_requests_inflight,
            max_mutating_requests_inflight: self.max_mutating_requests_inflight,
            enable_priority_and_fairness: self.enable_priority_and_fairness,
            shutdown_delay_duration: super::duration(
                "--shutdown-delay-duration",
                self.shutdown_delay_duration,
            )?,
            goaway_chance: self.goaway_chance,
            http2_max_streams_per_connection: self.http2_max_streams_per_connection,
        };
        Ok(())
    }
}
