//! What is added to a log while somebody reads it.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use super::{IsRunning, LogError, OpenFile, Output, io_error};
use crate::folder_watch::FolderWatch;

/// When nothing is written for so long, the container is asked for.
const QUIET: Duration = Duration::from_secs(1);

/// Whether the name still means the open file.
async fn is_current(path: &Path, file: &OpenFile) -> Result<bool, LogError> {
    let open = file.reader.get_ref().metadata().await.map_err(io_error("look at", path))?;
    match tokio::fs::metadata(path).await {
        Ok(named) => Ok((named.dev(), named.ino()) == (open.dev(), open.ino())),
        // Rotated away just now: the new one is not there yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(io_error("look at", path)(error)),
    }
}

/// Sends what is written until the container has ended, or the reader has gone.
pub(super) async fn follow(
    path: &Path,
    watch: FolderWatch,
    mut current: Option<OpenFile>,
    output: &mut Output,
    is_running: &IsRunning,
) -> Result<(), LogError> {
    loop {
        let waited = tokio::select! {
            changed = tokio::time::timeout(QUIET, watch.changed()) => changed,
            () = output.reader.closed() => return Ok(()),
        };
        let ended = match waited {
            Ok(changed) => {
                changed.map_err(io_error("watch", path))?;
                false
            }
            // Asked before the rest is read: nothing comes after the end.
            Err(_) => !is_running().await,
        };
        loop {
            if let Some(file) = &mut current {
                let before = !is_current(path, file).await?;
                if file.drain(output).await?.is_err() {
                    return Ok(());
                }
                if !before {
                    break;
                }
            }
            // The first file, or the one after a rotation.
            if !tokio::fs::try_exists(path).await.map_err(io_error("look at", path))? {
                break;
            }
            current = Some(OpenFile::open(path.to_owned(), 0).await?);
        }
        if ended {
            return Ok(());
        }
    }
}
