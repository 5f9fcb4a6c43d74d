//! What is added to a log while somebody reads it.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::{IsRunning, LogError, OpenFile, Output, io_error};
use crate::folder_watch::FolderWatch;

/// The container is asked for again after this, whether anything changes or not: the folder is that of all its instances.
const PAUSE: Duration = Duration::from_secs(1);

/// When the container was asked for last.
struct Question(Instant);

impl Question {
    /// (pure) Whether it is to be asked for now.
    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = now.duration_since(self.0) >= PAUSE;
        if is_due {
            self.0 = now;
        }
        is_due
    }
}

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
    let mut question = Question(Instant::now());
    loop {
        tokio::select! {
            changed = watch.changed() => changed.map_err(io_error("watch", path))?,
            () = tokio::time::sleep_until(question.0 + PAUSE) => {}
            () = output.reader.closed() => return Ok(()),
        }
        // Asked before the rest is read: nothing comes after the end.
        let ended = question.is_due(Instant::now()) && !is_running().await;
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
            current = Some(OpenFile::open(path.to_owned()).await?);
        }
        if ended {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_container_is_asked_for_each_second_however_much_its_next_instance_writes() {
        let begun = Instant::now();
        let mut question = Question(begun);
        // Something changes each tenth of a second.
        let asked = (1..=30).filter(|tenths| question.is_due(begun + Duration::from_millis(100) * *tenths));
        assert_eq!(asked.collect::<Vec<_>>(), [10, 20, 30]);
    }
}
