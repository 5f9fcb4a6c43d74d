//! When pods were ended because of a shutdown, kept for the kubelet that starts after it.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Times {
    start_time: Option<Timestamp>,
    end_time: Option<Timestamp>,
}

/// The last shutdown.
#[derive(Debug)]
pub(crate) struct Record {
    file: PathBuf,
    times: Mutex<Times>,
}

impl Record {
    /// What is known of it in a kubelet's folder.
    pub(crate) fn open(folder: &Path) -> Self {
        let file = folder.join("graceful_node_shutdown_state");
        let times = match std::fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                tracing::warn!(%error, file = %file.display(), "when pods were ended last is not known");
                Times::default()
            }),
            // There was none.
            Err(_) => Times::default(),
        };
        Record { file, times: Mutex::new(times) }
    }

    /// Keeps when it began, and when all pods had ended.
    pub(super) async fn put(&self, start: Timestamp, end: Option<Timestamp>) {
        let times = Times { start_time: Some(start), end_time: end };
        *self.times.lock() = times;
        let aside = self.file.with_extension("new");
        let written = async {
            tokio::fs::write(&aside, serde_json::to_vec(&times)?).await?;
            tokio::fs::rename(&aside, &self.file).await
        };
        if let Err(error) = written.await {
            tracing::warn!(%error, "when pods are ended is not kept");
        }
    }

    /// Seconds since 1970; 0 where there was none.
    pub(crate) fn seconds(&self) -> (f64, f64) {
        let seconds =
            |time: Option<Timestamp>| time.map_or(0.0, |time| time.as_millisecond() as f64 / 1000.0);
        let Times { start_time, end_time } = *self.times.lock();
        (seconds(start_time), seconds(end_time))
    }
}
