//! What is added to a log while somebody reads it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

use super::{IsRunning, LogError, OpenFile, Output, io_error};

/// When nothing is written for so long, the container is asked for.
const QUIET: Duration = Duration::from_secs(1);

/// Tells when something in the log's folder changes.
pub(super) struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    #[allow(unsafe_code)]
    pub(super) fn new(path: &Path) -> Result<Self, LogError> {
        let folder = path.parent().unwrap_or(path);
        let failed = |source| LogError::Watch { path: folder.to_owned(), source };
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).map_err(failed)?;
        let events = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        inotify.add_watch(folder, events).map_err(failed)?;
        // SAFETY: an `OwnedFd` keeps its one descriptor open until it is dropped.
        let watched = unsafe { AsyncFd::register(OwnedFd::from(inotify)) };
        watched.map(Watch).map_err(|error| io_error("watch", folder)(error.into()))
    }

    /// Waits for changes. Which ones is seen in the folder.
    async fn changed(&self) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        let mut buffer = [0; 4096];
        loop {
            match nix::unistd::read(&self.0, &mut buffer) {
                Ok(_) => {}
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        ready.clear_ready();
        Ok(())
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
    watch: Watch,
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
