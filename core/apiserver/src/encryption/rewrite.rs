//! Old objects under a new key: what is not sealed as it would be now is written anew, one object after the other, when
//! the server starts and when its configuration changes.

use std::sync::Arc;

use keelson_api::Status;
use tokio_util::sync::CancellationToken;

use super::{Config, configuration};
use crate::registry::Registry;
use crate::reload::{ReloadMetrics, WatchedFile};

/// Keeps the store sealed as the configuration says, until it is told to stop.
pub(crate) async fn keep(
    registry: Arc<Registry>,
    config: Config,
    metrics: ReloadMetrics,
    stop: CancellationToken,
) {
    let Some(path) = config.file else { return };
    let mut file = WatchedFile::new(&path, &tokio::fs::read(&path).await.unwrap_or_default());
    metrics.holds(&file);
    write_anew(&registry).await;
    if !config.reload {
        return;
    }
    while file.changed(&stop).await.is_some() {
        let read = configuration::read(&path);
        metrics.read_again(&file, read.is_ok());
        match read {
            Ok(rules) => {
                registry.encryption().replace(rules);
                tracing::info!(path = %path.display(), "the encryption configuration was read again");
                write_anew(&registry).await;
            }
            Err(error) => {
                tracing::error!(%error, "the new encryption configuration is not used: the one of before holds");
            }
        }
    }
}

async fn write_anew(registry: &Registry) {
    let (mut count, mut failed) = (0_u64, 0_u64);
    for (resource, key) in registry.stale_objects() {
        match registry.seal_anew(&resource, &key).await {
            Ok(written) => count += u64::from(written),
            Err(Status { message, .. }) => {
                failed += 1;
                tracing::warn!(object = key, resource = %resource, error = message, "an object could not be written anew");
            }
        }
    }
    if count + failed > 0 {
        tracing::info!(count, failed, "objects were written anew, sealed as the configuration says now");
    }
}
