//! Flags about what is recorded of requests; named as kube-apiserver's.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use clap::{ArgAction, Args};
use jiff::SignedDuration;
use keelson_apiserver::audit::options::{
    AuditOptions, BatchOptions, DeliveryOptions, LogFormat, LogOptions, Mode, Rotation, Throttle, Truncate,
    WebhookOptions,
};

/// The only version in which events are written.
const VERSION: &str = "audit.k8s.io/v1";

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Auditing")]
pub(crate) struct AuditFlags {
    /// A Policy of audit.k8s.io/v1: which requests are recorded, and how much of them. Without it nothing is.
    #[arg(long, value_name = "FILE")]
    pub(crate) audit_policy_file: Option<PathBuf>,
    /// The log that requests are recorded in; `-` is the standard output.
    #[arg(long, value_name = "FILE")]
    pub(crate) audit_log_path: Option<PathBuf>,
    /// Days for which old logs are kept; 0 for ever.
    #[arg(long, default_value_t = 0, value_name = "DAYS")]
    pub(crate) audit_log_maxage: u32,
    /// How many old logs are kept; 0 for all.
    #[arg(long, default_value_t = 0, value_name = "FILES")]
    pub(crate) audit_log_maxbackup: usize,
    /// The size in megabytes beyond which a log is put aside; 0 means 100.
    #[arg(long, default_value_t = 100, value_name = "MEGABYTES")]
    pub(crate) audit_log_maxsize: u32,
    /// Compress old logs with gzip.
    #[arg(long)]
    pub(crate) audit_log_compress: bool,
    /// How a request is written: json, or legacy (a line for people with less in it).
    #[arg(long, default_value = "json", value_name = "FORMAT")]
    pub(crate) audit_log_format: LogFormat,
    /// Who waits for the log: batch (nobody), blocking (the request), blocking-strict (the request, which is refused
    /// when it cannot be recorded).
    #[arg(long, default_value = "blocking", value_name = "MODE")]
    pub(crate) audit_log_mode: Mode,
    /// Events that may wait for the log in batch mode; further ones are dropped and counted.
    #[arg(long, default_value_t = 10_000, value_name = "EVENTS")]
    pub(crate) audit_log_batch_buffer_size: usize,
    /// Events that are written to the log at once in batch mode.
    #[arg(long, default_value_t = 1, value_name = "EVENTS")]
    pub(crate) audit_log_batch_max_size: usize,
    /// How long events wait for others in batch mode; 0s for as long as it takes.
    #[arg(long, default_value = "0s", value_name = "DURATION")]
    pub(crate) audit_log_batch_max_wait: SignedDuration,
    /// Limit how often the log is written in batch mode.
    #[arg(long)]
    pub(crate) audit_log_batch_throttle_enable: bool,
    /// Batches per second.
    #[arg(long, default_value_t = 0.0, value_name = "NUMBER")]
    pub(crate) audit_log_batch_throttle_qps: f32,
    /// Batches at once after a pause.
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    pub(crate) audit_log_batch_throttle_burst: u32,
    /// Cut large events, and divide large batches.
    #[arg(long)]
    pub(crate) audit_log_truncate_enabled: bool,
    /// Bytes of a batch.
    #[arg(long, default_value_t = 10 << 20, value_name = "BYTES")]
    pub(crate) audit_log_truncate_max_batch_size: usize,
    /// Bytes of an event; a larger one loses its objects, or is dropped.
    #[arg(long, default_value_t = 100 << 10, value_name = "BYTES")]
    pub(crate) audit_log_truncate_max_event_size: usize,
    /// The version in which events are written to the log.
    #[arg(long, default_value = VERSION, value_parser = [VERSION])]
    pub(crate) audit_log_version: String,
    /// The kubeconfig of a server that records are sent to.
    #[arg(long, value_name = "FILE")]
    pub(crate) audit_webhook_config_file: Option<PathBuf>,
    /// How long after a first failure the server is tried again.
    #[arg(long, default_value = "10s", value_name = "DURATION")]
    pub(crate) audit_webhook_initial_backoff: SignedDuration,
    /// Who waits for the server: batch, blocking, blocking-strict.
    #[arg(long, default_value = "batch", value_name = "MODE")]
    pub(crate) audit_webhook_mode: Mode,
    /// Events that may wait for the server in batch mode; further ones are dropped and counted.
    #[arg(long, default_value_t = 10_000, value_name = "EVENTS")]
    pub(crate) audit_webhook_batch_buffer_size: usize,
    /// Events that are sent at once in batch mode.
    #[arg(long, default_value_t = 400, value_name = "EVENTS")]
    pub(crate) audit_webhook_batch_max_size: usize,
    /// How long events wait for others in batch mode; 0s for as long as it takes.
    #[arg(long, default_value = "30s", value_name = "DURATION")]
    pub(crate) audit_webhook_batch_max_wait: SignedDuration,
    /// Limit how often the server is called in batch mode.
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) audit_webhook_batch_throttle_enable: bool,
    /// Batches per second.
    #[arg(long, default_value_t = 10.0, value_name = "NUMBER")]
    pub(crate) audit_webhook_batch_throttle_qps: f32,
    /// Batches at once after a pause.
    #[arg(long, default_value_t = 15, value_name = "NUMBER")]
    pub(crate) audit_webhook_batch_throttle_burst: u32,
    /// Cut large events, and divide large batches.
    #[arg(long)]
    pub(crate) audit_webhook_truncate_enabled: bool,
    /// Bytes of a batch.
    #[arg(long, default_value_t = 10 << 20, value_name = "BYTES")]
    pub(crate) audit_webhook_truncate_max_batch_size: usize,
    /// Bytes of an event; a larger one loses its objects, or is dropped.
    #[arg(long, default_value_t = 100 << 10, value_name = "BYTES")]
    pub(crate) audit_webhook_truncate_max_event_size: usize,
    /// The version in which events are sent.
    #[arg(long, default_value = VERSION, value_parser = [VERSION])]
    pub(crate) audit_webhook_version: String,
}

/// What the flags of a log or a webhook say, before it is looked at.
struct Raw {
    /// `log` or `webhook`.
    plugin: &'static str,
    mode: Mode,
    buffer_size: usize,
    max_size: usize,
    max_wait: SignedDuration,
    throttle: Option<Throttle>,
    truncate: Option<Truncate>,
}

impl Raw {
    fn delivery(self) -> anyhow::Result<DeliveryOptions> {
        let plugin = self.plugin;
        if self.mode == Mode::Batch {
            ensure!(self.buffer_size > 0, "--audit-{plugin}-batch-buffer-size is 0: give a positive number");
            ensure!(self.max_size > 0, "--audit-{plugin}-batch-max-size is 0: give a positive number");
            if let Some(Throttle { qps, burst }) = self.throttle {
                ensure!(qps > 0.0, "--audit-{plugin}-batch-throttle-qps is {qps}: give a positive number");
                ensure!(burst > 0, "--audit-{plugin}-batch-throttle-burst is 0: give a positive number");
            }
        }
        if let Some(Truncate { max_event_size, max_batch_size }) = self.truncate {
            ensure!(
                max_event_size > 0,
                "--audit-{plugin}-truncate-max-event-size is 0: give a positive number"
            );
            ensure!(
                max_batch_size >= max_event_size,
                "--audit-{plugin}-truncate-max-batch-size is less than --audit-{plugin}-truncate-max-event-size"
            );
        }
        let batch = BatchOptions {
            buffer_size: self.buffer_size,
            max_size: self.max_size,
            max_wait: super::duration(&format!("--audit-{plugin}-batch-max-wait"), self.max_wait)?,
            throttle: self.throttle,
        };
        Ok(DeliveryOptions { mode: self.mode, batch, truncate: self.truncate })
    }
}

impl AuditFlags {
    /// What the flags say.
    pub(crate) fn options(&self) -> anyhow::Result<AuditOptions> {
        let log = Raw {
            plugin: "log",
            mode: self.audit_log_mode,
            buffer_size: self.audit_log_batch_buffer_size,
            max_size: self.audit_log_batch_max_size,
            max_wait: self.audit_log_batch_max_wait,
            throttle: self.audit_log_batch_throttle_enable.then_some(Throttle {
                qps: self.audit_log_batch_throttle_qps,
                burst: self.audit_log_batch_throttle_burst,
            }),
            truncate: self.audit_log_truncate_enabled.then_some(Truncate {
                max_event_size: self.audit_log_truncate_max_event_size,
                max_batch_size: self.audit_log_truncate_max_batch_size,
            }),
        };
        let webhook = Raw {
            plugin: "webhook",
            mode: self.audit_webhook_mode,
            buffer_size: self.audit_webhook_batch_buffer_size,
            max_size: self.audit_webhook_batch_max_size,
            max_wait: self.audit_webhook_batch_max_wait,
            throttle: self.audit_webhook_batch_throttle_enable.then_some(Throttle {
                qps: self.audit_webhook_batch_throttle_qps,
                burst: self.audit_webhook_batch_throttle_burst,
            }),
            truncate: self.audit_webhook_truncate_enabled.then_some(Truncate {
                max_event_size: self.audit_webhook_truncate_max_event_size,
                max_batch_size: self.audit_webhook_truncate_max_batch_size,
            }),
        };
        let megabytes = if self.audit_log_maxsize == 0 { 100 } else { self.audit_log_maxsize };
        let backoff: Duration =
            super::duration("--audit-webhook-initial-backoff", self.audit_webhook_initial_backoff)?;
        Ok(AuditOptions {
            policy_file: self.audit_policy_file.clone(),
            log: LogOptions {
                path: self.audit_log_path.clone(),
                format: self.audit_log_format,
                rotation: Rotation {
                    max_bytes: u64::from(megabytes) << 20,
                    max_backups: self.audit_log_maxbackup,
                    max_age_days: self.audit_log_maxage,
                    compress: self.audit_log_compress,
                },
                delivery: log.delivery()?,
            },
            webhook: WebhookOptions {
                config_file: self.audit_webhook_config_file.clone(),
                initial_backoff: backoff,
                delivery: webhook.delivery()?,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        audit: AuditFlags,
    }

    fn options(flags: &[&str]) -> anyhow::Result<AuditOptions> {
        Line::try_parse_from(["keelson"].iter().chain(flags))?.audit.options()
    }

    #[test]
    fn without_flags_the_options_are_the_servers_own() {
        assert_eq!(options(&[]).unwrap(), AuditOptions::default());
    }

    #[test]
    fn flags_are_read_and_wrong_ones_refused() {
        let read =
            options(&["--audit-log-path", "-", "--audit-log-maxsize=2", "--audit-log-mode=batch"]).unwrap();
        assert_eq!(read.log.path, Some(PathBuf::from("-")));
        assert_eq!((read.log.rotation.max_bytes, read.log.delivery.mode), (2 << 20, Mode::Batch));
        for wrong in [
            &["--audit-log-mode=never"][..],
            &["--audit-log-format=xml"],
            &["--audit-webhook-version=audit.k8s.io/v1beta1"],
            &["--audit-webhook-batch-max-size=0"],
            &["--audit-webhook-batch-throttle-qps=0"],
            &["--audit-log-truncate-enabled", "--audit-log-truncate-max-batch-size=1"],
        ] {
            assert!(options(wrong).is_err(), "{wrong:?}");
        }
    }
}
