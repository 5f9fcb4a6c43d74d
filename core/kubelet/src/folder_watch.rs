//! Tells when something in a folder changes.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

/// A folder that is watched.
pub(crate) struct FolderWatch(AsyncFd<OwnedFd>);

impl FolderWatch {
    /// Watches from now on for files that are made, written, moved in or out, or removed.
    #[allow(unsafe_code)]
    pub(crate) fn new(folder: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let events = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF;
        inotify.add_watch(folder, events)?;
        // SAFETY: an `OwnedFd` keeps its one descriptor open until it is dropped.
        let watched = unsafe { AsyncFd::register(OwnedFd::from(inotify)) };
        watched.map(FolderWatch).map_err(io::Error::from)
    }

    /// Waits for changes. Which ones is seen in the folder.
    pub(crate) async fn changed(&self) -> io::Result<()> {
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
