//! Files that hold what has to be known after a restart: each is replaced whole, by one writer at a time, and never on a thread that
//! others wait for.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Mutex;

/// One such file.
#[derive(Debug, Clone)]
pub(crate) struct StateFile {
    path: PathBuf,
    turn: Arc<Mutex<()>>,
}

impl StateFile {
    /// The file of a path, be it there or not.
    pub(crate) fn new(path: PathBuf) -> Self {
        StateFile { path, turn: Arc::default() }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Does work that may block, after all that was begun before it, and to its end, also when nobody waits for it any more.
    pub(crate) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> T + Send + 'static,
    ) -> io::Result<T> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let path = self.path.clone();
        let done = tokio::task::spawn_blocking(move || {
            let result = work(&path);
            drop(turn);
            result
        });
        done.await.map_err(io::Error::other)
    }
}

/// Gives a file another content, which is on the disk when this returns. It blocks.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let staged = path.with_extension("tmp");
    let mut file = fs::File::create(&staged)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&staged, path)?;
    path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_comes_in_the_order_in_which_it_was_begun_also_if_nobody_waits() {
        let folder = std::env::temp_dir().join(format!("keelson-state-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(&folder).unwrap();
        let file = StateFile::new(folder.join("state"));
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let first = file.work(move |path| {
            wait.recv().unwrap();
            replace(path, b"first")
        });
        let mut first = Box::pin(first);
        assert!(futures::poll!(first.as_mut()).is_pending());
        // Whoever began it is gone; it is done all the same, and before what comes after it.
        drop(first);
        let second = file.work(|path| {
            let before = fs::read_to_string(path);
            replace(path, b"second").map(|()| before.unwrap())
        });
        let mut second = Box::pin(second);
        assert!(futures::poll!(second.as_mut()).is_pending());
        go.send(()).unwrap();
        assert_eq!(second.await.unwrap().unwrap(), "first");
        assert_eq!(fs::read_to_string(file.path()).unwrap(), "second");
        fs::remove_dir_all(folder).unwrap();
    }
}
