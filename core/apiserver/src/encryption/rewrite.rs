//! Old objects under a new key: what is not sealed as it would be now is written anew, one object after the other, when
//! the server starts and when its configuration changes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keelson_api::Status;
use ring::digest;
use tokio_util::sync::CancellationToken;

use super::{Config, configuration};
use crate::registry::Registry;

/// How often a file is looked at that may change.
const LOOK: Duration = Duration::from_secs(60);

/// Keeps the store sealed as the configuration says, until it is told to stop.
pub async fn keep(registry: Arc<Registry>, config: Config, stop: CancellationToken) {
    let Some(file) = config.file else { return };
    let mut known = fingerprint(&file).await;
    write_anew(&registry).await;
    if !config.reload {
        return;
    }
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let found = fingerprint(&file).await;
        if found == known || found.is_none() {
            continue;
        }
        known = found;
        match configuration::read(&file) {
            Ok(rules) => {
                registry.encryption().replace(rules);
                tracing::info!(path = %file.display(), "the encryption configuration was read again");
                write_anew(&registry).await;
            }
            Err(error) => {
                tracing::error!(%error, "the new encryption configuration is not used: the one of before holds");
            }
        }
    }
}

async fn fingerprint(file: &PathBuf) -> Option<Vec<u8>> {
    let text = tokio::fs::read(file).await.ok()?;
    Some(digest::digest(&digest::SHA256, &text).as_ref().to_vec())
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
