//! Configuration files that are read again when they change.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use keelson_metrics::{GaugeVec, IntCounterVec, IntGaugeVec, Registry, RegistryError};
use ring::digest;
use tokio_util::sync::CancellationToken;

/// How often a file is looked at. To look costs a system call.
pub(crate) const LOOK: Duration = Duration::from_secs(5);

/// What a file looks like from outside: a file whose mark is the same holds the same.
type Mark = (u64, u64, i64, i64, i64, u64);

/// A file that may change.
#[derive(Debug)]
pub(crate) struct WatchedFile {
    path: PathBuf,
    mark: Option<Mark>,
    /// Of what is known of the file's content.
    digest: Option<String>,
}

fn digest_of(text: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, text).as_ref())
}

impl WatchedFile {
    /// A file whose content was read just now.
    pub(crate) fn new(path: &Path, content: &[u8]) -> Self {
        // Without a mark the first look reads the file: it may have changed since.
        WatchedFile { path: path.to_owned(), mark: None, digest: Some(digest_of(content)) }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// SHA-256 of its content, in hexadecimal digits.
    pub(crate) fn digest(&self) -> &str {
        self.digest.as_deref().unwrap_or_default()
    }

    /// Waits until the file holds something else, or cannot be read any more: each is told once. `None` when stopped.
    pub(crate) async fn changed(&mut self, stop: &CancellationToken) -> Option<io::Result<String>> {
        loop {
            tokio::select! {
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(LOOK) => {}
            }
            if let Some(change) = self.look() {
                return Some(change);
            }
        }
    }

    fn look(&mut self) -> Option<io::Result<String>> {
        let found = std::fs::metadata(&self.path)
            .map(|it| (it.dev(), it.ino(), it.mtime(), it.mtime_nsec(), it.ctime_nsec(), it.size()));
        let read = match found {
            Ok(mark) if self.mark == Some(mark) => return None,
            Ok(mark) => {
                let read = std::fs::read_to_string(&self.path);
                // What could not be read is tried again, though the file stays as it is.
                self.mark = read.is_ok().then_some(mark);
                read
            }
            Err(error) => {
                self.mark = None;
                Err(error)
            }
        };
        let digest = read.as_ref().ok().map(|text| digest_of(text.as_bytes()));
        if digest == self.digest {
            return None;
        }
        self.digest = digest;
        Some(read)
    }
}

/// How often a file was read again, and which one holds.
#[derive(Clone)]
pub(crate) struct ReloadMetrics {
    reloads: IntCounterVec,
    last: GaugeVec,
    config: IntGaugeVec,
    server: String,
}

/// The name of this server in metrics: one that tells nothing of its host.
fn server() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("sha256:{}", digest_of(host.trim().as_bytes()))
}

impl ReloadMetrics {
    /// Registers the metrics of one kind of file, such as `authentication`.
    pub(crate) fn new(registry: &Registry, kind: &str) -> Result<Self, RegistryError> {
        let name = |rest: &str| format!("apiserver_{kind}_config_controller_{rest}");
        let split = "split by status and apiserver identity.";
        Ok(ReloadMetrics {
            reloads: registry.counters(
                &name("automatic_reloads_total"),
                &format!("Total number of automatic reloads of {kind} configuration {split}"),
                &["status", "apiserver_id_hash"],
            )?,
            last: registry.floats(
                &name("automatic_reload_last_timestamp_seconds"),
                &format!("Timestamp of the last automatic reload of {kind} configuration {split}"),
                &["status", "apiserver_id_hash"],
            )?,
            config: registry.gauges(
                &name("last_config_info"),
                &format!("Information about the last applied {kind} configuration with hash as label, split by apiserver identity."),
                &["apiserver_id_hash", "hash"],
            )?,
            server: server(),
        })
    }

    /// Tells which content holds.
    pub(crate) fn holds(&self, file: &WatchedFile) {
        self.config.reset();
        let hash = format!("sha256:{}", file.digest());
        self.config.with_label_values(&[&self.server, &hash]).set(1);
    }

    /// Counts that a file was read again, for good or in vain.
    pub(crate) fn read_again(&self, file: &WatchedFile, is_used: bool) {
        let labels = [if is_used { "success" } else { "failure" }, self.server.as_str()];
        self.reloads.with_label_values(&labels).inc();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last.with_label_values(&labels).set(now.as_secs_f64());
        if is_used {
            self.holds(file);
        }
    }
}

/// Has a file taken anew whenever it changes, until told to stop. What cannot be used leaves everything as it was.
pub(crate) async fn keep<E: std::error::Error + 'static>(
    mut file: WatchedFile,
    metrics: ReloadMetrics,
    stop: CancellationToken,
    take: impl Fn(&str) -> Result<(), E>,
) {
    metrics.holds(&file);
    while let Some(read) = file.changed(&stop).await {
        let path = file.path().display().to_string();
        let taken = match &read {
            Ok(text) => take(text).map_err(|error| crate::proxy::chain(&error)),
            Err(error) => Err(error.to_string()),
        };
        metrics.read_again(&file, taken.is_ok());
        match taken {
            Ok(()) => tracing::info!(path, "a configuration was read again"),
            Err(error) => {
                tracing::error!(path, error, "a new configuration is not used: the one of before holds");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_file_tells_of_each_content_once_and_when_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        std::fs::write(&path, "one").unwrap();
        let (mut file, stop) = (WatchedFile::new(&path, b"one"), CancellationToken::new());
        assert!(file.look().is_none() && file.look().is_none());
        // Another file in its place, as editors and volumes do it.
        let other = dir.path().join("b.yaml");
        std::fs::write(&other, "two").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_eq!(file.changed(&stop).await.unwrap().unwrap(), "two");
        assert!(file.look().is_none());
        std::fs::remove_file(&path).unwrap();
        assert!(file.changed(&stop).await.unwrap().is_err());
        assert!(file.look().is_none());
        std::fs::write(&path, "two").unwrap();
        assert_eq!(file.changed(&stop).await.unwrap().unwrap(), "two");
        stop.cancel();
        assert!(file.changed(&stop).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_used_is_counted_and_the_old_hash_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        std::fs::write(&path, "bad").unwrap();
        let (registry, stop) = (Registry::default(), CancellationToken::new());
        let metrics = ReloadMetrics::new(&registry, "authentication").unwrap();
        let end = stop.clone();
        let take = move |text: &str| {
            if text == "bad" {
                std::fs::write(&path, "good").unwrap();
                return Err(io::Error::other("bad"));
            }
            end.cancel();
            Ok(())
        };
        keep(WatchedFile::new(&dir.path().join("a.yaml"), b"old"), metrics, stop, take).await;
        let text = registry.expose(keelson_metrics::Format::Text);
        for status in ["success", "failure"] {
            let line = format!(
                "automatic_reloads_total{{apiserver_id_hash=\"{}\",status=\"{status}\"}} 1",
                server()
            );
            assert!(text.contains(&line), "{text}");
        }
        assert!(text.contains(&format!("hash=\"sha256:{}\"}} 1", digest_of(b"good"))), "{text}");
        assert_eq!(text.matches("last_config_info{").count(), 1);
    }
}
