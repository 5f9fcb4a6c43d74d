//! Snapshots of the store for people to keep: streamed to an administrator who asks, and saved by a schedule.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http::header;
use jiff::Timestamp;
use keelson_api::Status;
use keelson_store::archive::{self, Head};
use keelson_store::{MemberId, Revision, Store};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;

pub mod schedule;

/// Where one is asked for. It holds everything, Secrets included: a caller must be allowed to `get` this very path, or
/// all paths, as `cluster-admin` is.
pub const PATH: &str = "/keelson.io/v1/store/snapshot";

/// Where the store is asked, by POST, to give room back to the disk.
pub const DEFRAGMENT: &str = "/keelson.io/v1/store/defragment";

/// How many are sent at once. Each keeps in memory what is replaced meanwhile.
const AT_ONCE: usize = 2;
/// The size of a piece, and how many may wait for the client.
const PIECE: usize = 256 << 10;
const PIECES: usize = 4;
/// How long a client may take for a piece.
const PATIENCE: Duration = Duration::from_secs(60);

/// Gives snapshots of a store.
pub struct Snapshots {
    store: Arc<dyn Store>,
    cluster: Option<MemberId>,
    member: Option<MemberId>,
    version: String,
    turns: Arc<Semaphore>,
}

/// Why no snapshot was saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The store does not say what is current.
    #[error("read the store")]
    Store(#[from] keelson_store::StoreError),
    /// A file or folder.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The task that writes has ended.
    #[error("write the snapshot")]
    Ended(#[source] tokio::task::JoinError),
}

/// Hands what is written on in pieces, and waits for whoever takes them.
struct Pieces {
    piece: BytesMut,
    sender: mpsc::Sender<io::Result<Bytes>>,
    runtime: tokio::runtime::Handle,
}

impl Pieces {
    fn send(&mut self) -> io::Result<()> {
        let piece = self.piece.split().freeze();
        let sent = self.runtime.block_on(tokio::time::timeout(PATIENCE, self.sender.send(Ok(piece))));
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() { Ok(()) } else { self.send() }
    }
}

impl Snapshots {
    /// Of a store; `cluster` and `member` are its numbers, if it has any.
    pub fn new(
        store: Arc<dyn Store>,
        cluster: Option<MemberId>,
        member: Option<MemberId>,
        version: &str,
    ) -> Self {
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        Snapshots { store, cluster, member, version: version.to_owned(), turns }
    }

    fn head(&self, now: Timestamp) -> Head {
        Head {
            cluster: self.cluster.map(|id| id.0),
            member: self.member.map(|id| id.0),
            revision: Revision::ZERO,
            taken: now.as_second(),
            version: self.version.clone(),
        }
    }

    /// Answers with the newest state. If the stream ends early, so does the file, and its digest is missing.
    pub async fn serve(&self) -> Result<Response, Status> {
        let turn = Arc::clone(&self.turns).try_acquire_owned().map_err(|_| {
            Status::too_many_requests("snapshots of the store are being sent already; try again later", 10)
        })?;
        let unavailable = |error: keelson_store::StoreError| Status::unavailable(error.to_string());
        self.store.barrier().await.map_err(unavailable)?;
        let (state, head) = (self.store.snapshot(), self.head(Timestamp::now()));
        let (sender, pieces) = mpsc::channel(PIECES);
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let out = Pieces {
                piece: BytesMut::with_capacity(PIECE * 2),
                sender: sender.clone(),
                runtime: runtime.clone(),
            };
            if let Err(error) = archive::write(out, &head, &state) {
                tracing::warn!(%error, "a snapshot of the store was not sent to its end");
                // The client is to see that the answer is broken off, and not that it is at its end. Where it takes
                // nothing, it has all the same to find this behind what it has not taken yet.
                let told = tokio::time::timeout(PATIENCE, sender.send(Err(error)));
                if let Ok(Err(_)) | Err(_) = runtime.block_on(told) {
                    tracing::info!("the client of a snapshot that was not sent to its end is gone");
                }
            }
        });
        let headers = [
            (header::CONTENT_TYPE, "application/octet-stream"),
            (header::CONTENT_DISPOSITION, "attachment; filename=\"keelson.snapshot\""),
            (header::CACHE_CONTROL, "no-store"),
        ];
        Ok((headers, Body::from_stream(ReceiverStream::new(pieces))).into_response())
    }

    /// Has the store give room back to the disk; answers when that is done.
    pub async fn defragment(&self) -> Result<Response, Status> {
        let done = self.store.defragment().await;
        done.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(crate::http::json(http::StatusCode::OK, &serde_json::json!({"defragmented": true})))
    }

    /// Saves the newest state as a file: it has its name when all of it is on the disk.
    pub async fn save(&self, path: &Path) -> Result<u64, SaveError> {
        self.store.barrier().await?;
        let (state, head) = (self.store.snapshot(), self.head(Timestamp::now()));
        let path = path.to_owned();
        let written = tokio::task::spawn_blocking(move || save(&path, &head, &state)).await;
        written.map_err(SaveError::Ended)?
    }
}

fn save(path: &Path, head: &Head, state: &keelson_store::Snapshot) -> Result<u64, SaveError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let partial = path.with_extension(schedule::PARTIAL);
    let failed = |action| {
        let partial = partial.clone();
        move |source| SaveError::Io { action, path: partial, source }
    };
    let write = || -> Result<u64, SaveError> {
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(&partial).map_err(failed("create"))?;
        let out = io::BufWriter::with_capacity(PIECE, &file);
        archive::write(out, head, state).map_err(failed("write"))?;
        file.sync_all().map_err(failed("flush"))?;
        std::fs::rename(&partial, path).map_err(failed("give its name to"))?;
        let dir = path.parent().unwrap_or(Path::new("."));
        std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("flush the folder of"))?;
        Ok(file.metadata().map(|metadata| metadata.len()).unwrap_or_default())
    };
    write().inspect_err(|_| {
        // The room is wanted: often that was what was lacking.
        let _ = std::fs::remove_file(&partial);
    })
}
