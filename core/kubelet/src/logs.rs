//! Reading containers' logs.
//!
//! - `line` (pure): one line of a log file in the CRI format
//! - `options` (pure): what of a log is wanted
//! - `printer` (pure): what of it is sent
//! - `files`: the files of one log, with those that were rotated away, and where their last lines begin
//! - `follow`: what is added while somebody reads
//!
//! One task per reader; it ends with its reader, or when the log is complete.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt as _, AsyncSeekExt as _, BufReader};
use tokio::sync::mpsc;

use crate::folder_watch::FolderWatch;

mod files;
mod follow;
mod line;
mod options;
mod printer;

pub(crate) use options::{OptionError, Options};
use printer::Printer;

/// Pieces on their way to a slow reader.
const QUEUE: usize = 8;
/// Output is sent in pieces of about this size.
const PIECE: usize = 32 << 10;

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// A file of the log.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Changes of the log cannot be watched.
    #[error("watch {}", path.display())]
    Watch {
        /// Which log.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogError {
    let path = path.to_owned();
    move |source| LogError::Io { action, path, source }
}

/// The reader has enough.
struct Gone;

/// Sends lines as one stream of pieces.
struct Output {
    printer: Printer,
    piece: Vec<u8>,
    reader: mpsc::Sender<Result<Bytes, io::Error>>,
}

impl Output {
    async fn line(&mut self, line: &[u8]) -> Result<(), Gone> {
        let more = self.printer.print(line, &mut self.piece);
        if !more || self.piece.len() >= PIECE {
            self.flush().await?;
        }
        if more { Ok(()) } else { Err(Gone) }
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::take(&mut self.piece));
        self.reader.send(Ok(piece)).await.map_err(|_| Gone)
    }
}

/// An open file of a log, with the line that is not complete yet.
struct OpenFile {
    path: PathBuf,
    reader: BufReader<File>,
    pending: Vec<u8>,
}

impl OpenFile {
    async fn open(path: PathBuf) -> Result<Self, LogError> {
        let file = File::open(&path).await.map_err(io_error("open", &path))?;
        Self::of(path, file, 0).await
    }

    async fn of(path: PathBuf, mut file: File, offset: u64) -> Result<Self, LogError> {
        file.seek(io::SeekFrom::Start(offset)).await.map_err(io_error("seek in", &path))?;
        Ok(OpenFile { path, reader: BufReader::with_capacity(PIECE, file), pending: Vec::new() })
    }

    /// Sends all complete lines up to the file's end.
    async fn drain(&mut self, output: &mut Output) -> Result<Result<(), Gone>, LogError> {
        loop {
            let read = self.reader.read_until(b'\n', &mut self.pending).await;
            read.map_err(io_error("read", &self.path))?;
            let Some(line) = self.pending.strip_suffix(b"\n") else {
                return Ok(output.flush().await);
            };
            if output.line(line).await.is_err() {
                return Ok(Err(Gone));
            }
            self.pending.clear();
        }
    }
}

/// Whether the container may still write.
pub(crate) type IsRunning = Box<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>;

async fn read(
    path: &Path,
    options: &Options,
    output: &mut Output,
    is_running: &IsRunning,
) -> Result<(), LogError> {
    // Watched before it is read, so that nothing is missed between the two.
    let folder = path.parent().unwrap_or(path);
    let failed = |source| LogError::Watch { path: folder.to_owned(), source };
    let watch = options.follow.then(|| FolderWatch::new(folder).map_err(failed)).transpose()?;
    let mut current = None;
    for part in files::from(path, options.tail_lines).await? {
        let mut file = OpenFile::of(part.path, File::from_std(part.file), part.offset).await?;
        if file.drain(output).await?.is_err() {
            return Ok(());
        }
        current = Some(file);
    }
    match watch {
        Some(watch) => follow::follow(path, watch, current, output, is_running).await,
        None => Ok(()),
    }
}

/// Starts to read the log at `path`; the pieces of what was asked for.
pub(crate) fn stream(
    path: PathBuf,
    options: Options,
    is_running: IsRunning,
) -> mpsc::Receiver<Result<Bytes, io::Error>> {
    let (reader, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let printer = Printer::new(&options, jiff::Timestamp::now());
        let mut output = Output { printer, piece: Vec::new(), reader };
        if let Err(error) = read(&path, &options, &mut output, &is_running).await {
            let error = io::Error::other(error);
            tracing::warn!(path = %path.display(), ?error, "a log cannot be read");
            // A reader that has gone needs no answer.
            let _ = output.reader.send(Err(error)).await;
        }
    });
    receiver
}

#[cfg(test)]
mod tests;
