//! What is recorded, and where it goes: what an administrator configures.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use keelson_api::audit::PolicyError;

use crate::remote::SetupError;

/// What is recorded, and where it goes. Without a policy, or without a log or a webhook, nothing is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AuditOptions {
    /// A file of kind `Policy` of `audit.k8s.io/v1`.
    pub policy_file: Option<PathBuf>,
    /// The log.
    pub log: LogOptions,
    /// The webhook.
    pub webhook: WebhookOptions,
}

/// How events are written to a file.
#[derive(Clone, Debug, PartialEq)]
pub struct LogOptions {
    /// The file, or `-` for the standard output.
    pub path: Option<PathBuf>,
    /// How an event is written.
    pub format: LogFormat,
    /// When the file is put aside, and what becomes of it.
    pub rotation: Rotation,
    /// Who waits for it.
    pub delivery: DeliveryOptions,
}

/// How an event is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// A JSON document.
    #[default]
    Json,
    /// A line for people, with less in it.
    Legacy,
}

/// When a log is put aside, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// The size, in bytes, beyond which a file is put aside.
    pub max_bytes: u64,
    /// So many files that were put aside are kept; 0 for all.
    pub max_backups: usize,
    /// So many days they are kept; 0 for ever.
    pub max_age_days: u32,
    /// Whether they are compressed by gzip.
    pub compress: bool,
}

/// How events are sent to a server.
#[derive(Clone, Debug, PartialEq)]
pub struct WebhookOptions {
    /// The server, as a kubeconfig.
    pub config_file: Option<PathBuf>,
    /// How long after a first failure it is tried again.
    pub initial_backoff: Duration,
    /// Who waits for it.
    pub delivery: DeliveryOptions,
}

/// Who waits for events to be written, and how many are written at once.
#[derive(Clone, Debug, PartialEq)]
pub struct DeliveryOptions {
    /// Who waits.
    pub mode: Mode,
    /// How events are gathered in the mode `batch`.
    pub batch: BatchOptions,
    /// The largest events and batches, if large ones are cut.
    pub truncate: Option<Truncate>,
}

/// Who waits for events to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nobody: events wait in a buffer, and are dropped and counted where it is full.
    Batch,
    /// The request; it is served whether its events could be written or not.
    Blocking,
    /// The request; it is refused when it could not be recorded that it has come.
    BlockingStrict,
}

/// How events are gathered.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchOptions {
    /// Events that may wait.
    pub buffer_size: usize,
    /// Events that are written at once.
    pub max_size: usize,
    /// How long the first event of a batch waits for others; zero for as long as it takes.
    pub max_wait: Duration,
    /// Batches per second, if they are limited.
    pub throttle: Option<Throttle>,
}

/// How often batches are written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Throttle {
    /// Batches per second.
    pub qps: f32,
    /// Batches at once after a pause.
    pub burst: u32,
}

/// The largest events and batches, as JSON in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncate {
    /// A larger event loses its objects; what is larger still is dropped and counted.
    pub max_event_size: usize,
    /// A larger batch is divided.
    pub max_batch_size: usize,
}

/// Why requests cannot be recorded as configured.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// The policy cannot be read.
    #[error("read the audit policy {}", path.display())]
    Read {
        /// Its file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The policy is wrong.
    #[error("use the audit policy {}", path.display())]
    Policy {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        source: PolicyError,
    },
    /// The log cannot be written.
    #[error("open the audit log {}", path.display())]
    Log {
        /// Its file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The webhook cannot be called.
    #[error("use the audit webhook of {}", path.display())]
    Webhook {
        /// Its kubeconfig.
        path: PathBuf,
        /// What is wrong.
        source: SetupError,
    },
    /// The metrics.
    #[error(transparent)]
    Metrics(#[from] keelson_metrics::RegistryError),
}

impl Default for LogOptions {
    fn default() -> Self {
        let batch =
            BatchOptions { buffer_size: 10_000, max_size: 1, max_wait: Duration::ZERO, throttle: None };
        LogOptions {
            path: None,
            format: LogFormat::default(),
            rotation: Rotation::default(),
            delivery: DeliveryOptions { mode: Mode::Blocking, batch, truncate: None },
        }
    }
}

impl Default for Rotation {
    fn default() -> Self {
        Rotation { max_bytes: 100 << 20, max_backups: 0, max_age_days: 0, compress: false }
    }
}

impl Default for WebhookOptions {
    fn default() -> Self {
        let batch = BatchOptions {
            buffer_size: 10_000,
            max_size: 400,
            max_wait: Duration::from_secs(30),
            throttle: Some(Throttle { qps: 10.0, burst: 15 }),
        };
        WebhookOptions {
            config_file: None,
            initial_backoff: Duration::from_secs(10),
            delivery: DeliveryOptions { mode: Mode::Batch, batch, truncate: None },
        }
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "batch" => Ok(Mode::Batch),
            "blocking" => Ok(Mode::Blocking),
            "blocking-strict" => Ok(Mode::BlockingStrict),
            _ => Err("the modes are batch, blocking and blocking-strict".to_owned()),
        }
    }
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "json" => Ok(LogFormat::Json),
            "legacy" => Ok(LogFormat::Legacy),
            _ => Err("the formats are json and legacy".to_owned()),
        }
    }
}
