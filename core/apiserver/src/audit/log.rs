//! The log: events as lines of a file or of the standard output, written by a thread of their own.
//!
//! A disk that hangs holds up that thread and those who chose to wait for it, and nobody else.

use std::io::{self, Write as _};
use std::path::Path;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use super::delivery::{Entry, Output, OutputError};
use super::options::{LogFormat, LogOptions};
use super::rotation::RotatingFile;

/// Writes that may wait for the thread.
const WAITING: usize = 64;

/// Where the lines go.
enum Place {
    File(RotatingFile),
    Output(io::Stdout),
}

struct Write {
    lines: Vec<u8>,
    done: oneshot::Sender<io::Result<()>>,
}

/// The log.
pub(super) struct Log {
    format: LogFormat,
    writes: mpsc::Sender<Write>,
}

impl Log {
    pub(super) fn open(path: &Path, options: &LogOptions) -> io::Result<Self> {
        let mut place = if path == Path::new("-") {
            Place::Output(io::stdout())
        } else {
            Place::File(RotatingFile::open(path.to_owned(), options.rotation.clone())?)
        };
        let (writes, mut waiting) = mpsc::channel::<Write>(WAITING);
        std::thread::Builder::new().name("audit-log".to_owned()).spawn(move || {
            while let Some(Write { lines, done }) = waiting.blocking_recv() {
                // Whoever asked may have gone; the lines are written all the same.
                let _ = done.send(place.write(&lines));
            }
        })?;
        Ok(Log { format: options.format, writes })
    }
}

impl Place {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Place::File(file) => file.write(lines),
            Place::Output(output) => {
                let mut output = output.lock();
                output.write_all(lines)?;
                output.flush()
            }
        }
    }
}

#[async_trait]
impl Output for Log {
    fn name(&self) -> &'static str {
        "log"
    }

    /// Lines stay in their order.
    fn is_concurrent(&self) -> bool {
        false
    }

    async fn write(&self, entries: &[Entry]) -> Result<(), OutputError> {
        let mut lines = Vec::with_capacity(entries.iter().map(|entry| entry.json.len() + 1).sum());
        for entry in entries {
            match self.format {
                LogFormat::Json => lines.extend_from_slice(&entry.json),
                LogFormat::Legacy => lines.extend_from_slice(entry.event.to_line().as_bytes()),
            }
            lines.push(b'\n');
        }
        let (done, written) = oneshot::channel();
        self.writes.send(Write { lines, done }).await.map_err(|_| OutputError::Ended)?;
        Ok(written.await.map_err(|_| OutputError::Ended)??)
    }
}
