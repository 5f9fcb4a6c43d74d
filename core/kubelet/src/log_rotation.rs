//! Keeps logs short: one task looks at the files of running containers and has those anew that have grown too large.
//!
//! `N.log` becomes `N.log.TIME`, of which the newest ones are kept; the runtime then opens `N.log` anew.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use keelson_cri::v1::ReopenContainerLogRequest;
use tokio_util::sync::CancellationToken;

use crate::configuration::KubeletConfiguration;
use crate::pods::Pods;
use crate::runtime_client::{RuntimeClient, RuntimeError};

/// Why a log stays as long as it is.
#[derive(Debug, thiserror::Error)]
enum RotationError {
    /// A file cannot be moved, listed or removed.
    #[error("{action} {}: {source}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    /// The runtime goes on with the old file.
    #[error(transparent)]
    Reopen(#[from] RuntimeError),
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RotationError {
    let path = path.to_owned();
    move |source| RotationError::File { action, path, source }
}

/// The files that were moved away from a log, the oldest first.
async fn rotated(log: &Path) -> Result<Vec<PathBuf>, RotationError> {
    let (Some(folder), Some(name)) = (log.parent(), log.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    let prefix = format!("{name}.");
    let mut found = Vec::new();
    let mut entries = match tokio::fs::read_dir(folder).await {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(failed("list", folder)(error)),
    };
    while let Some(entry) = entries.next_entry().await.map_err(failed("list", folder))? {
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

async fn remove_file(path: &Path) -> Result<(), RotationError> {
    match tokio::fs::remove_file(path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes the log of an instance that is removed.
pub(crate) async fn remove_log(log: &Path) {
    let work = async {
        for path in rotated(log).await? {
            remove_file(&path).await?;
        }
        remove_file(log).await
    };
    if let Err(error) = work.await {
        tracing::warn!(%error, "a log of a container that is gone stays");
    }
}

async fn rotate(
    settings: &KubeletConfiguration,
    runtime: &RuntimeClient,
    id: &str,
    log: &Path,
    now: Timestamp,
) -> Result<(), RotationError> {
    let mut name = log.as_os_str().to_owned();
    name.push(format!(".{}", now.strftime("%Y%m%d-%H%M%S")));
    let aside = PathBuf::from(name);
    tokio::fs::rename(log, &aside).await.map_err(failed("move", log))?;
    let request = ReopenContainerLogRequest { container_id: id.to_owned() };
    if let Err(error) = runtime.reopen_container_log(request).await {
        // What is written goes on at the old place, under its old name.
        tokio::fs::rename(&aside, log).await.map_err(failed("move", &aside))?;
        return Err(error.into());
    }
    let all = rotated(log).await?;
    let files = settings.container_log_max_files as usize;
    for path in all.iter().take((all.len() + 1).saturating_sub(files)) {
        remove_file(path).await?;
    }
    Ok(())
}

/// Rotates a log that has grown too large, and has one opened anew that is not there: it was moved away, and what was to follow was
/// broken off, or somebody removed it.
async fn look(settings: &KubeletConfiguration, runtime: &RuntimeClient, id: &str, log: &Path) {
    let result = match tokio::fs::metadata(log).await {
        Ok(found) if found.len() > settings.container_log_max_size.0 => {
            rotate(settings, runtime, id, log, Timestamp::now()).await
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let request = ReopenContainerLogRequest { container_id: id.to_owned() };
            runtime.reopen_container_log(request).await.map(drop).map_err(RotationError::from)
        }
        Err(error) => Err(failed("look at", log)(error)),
    };
    if let Err(error) = result {
        tracing::warn!(container = id, log = %log.display(), %error, "a log is not rotated");
    }
}

/// Looks at all logs again and again until the shutdown.
pub(crate) async fn run(
    settings: KubeletConfiguration,
    pods: Arc<Pods>,
    runtime: RuntimeClient,
    shutdown: CancellationToken,
) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(settings.container_log_monitor_interval) => {}
        }
        for (id, log) in pods.running_logs() {
            look(&settings, &runtime, &id, &log).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use keelson_cri::v1::ReopenContainerLogResponse;

    use super::*;
    use crate::testing::{self, Answer};

    #[tokio::test]
    async fn a_log_that_is_not_there_is_opened_anew() {
        let folder = std::env::temp_dir().join(format!("keelson-rotation-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&folder).unwrap();
        let log = folder.join("0.log");
        let made = log.clone();
        let (socket, _server) = testing::runtime(move |call| {
            assert_eq!(call, "ReopenContainerLog");
            std::fs::write(&made, "x").unwrap();
            std::future::ready(Answer::one(&ReopenContainerLogResponse {})).boxed()
        });
        let (settings, runtime) = (KubeletConfiguration::default(), RuntimeClient::new(&socket, None));
        look(&settings, &runtime, "c1", &log).await;
        assert!(log.exists());
        // One that is there is left alone.
        std::fs::write(&log, "").unwrap();
        look(&settings, &runtime, "c1", &log).await;
        assert_eq!(std::fs::read(&log).unwrap(), b"");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[tokio::test]
    async fn a_log_is_removed_with_its_rotated_files_and_no_other() {
        let folder = std::env::temp_dir().join(format!("keelson-logs-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&folder).unwrap();
        for name in ["1.log", "1.log.20260101-000000", "11.log", "2.log"] {
            std::fs::write(folder.join(name), "x").unwrap();
        }
        remove_log(&folder.join("1.log")).await;
        let mut left: Vec<_> =
            std::fs::read_dir(&folder).unwrap().map(|one| one.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["11.log", "2.log"]);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
