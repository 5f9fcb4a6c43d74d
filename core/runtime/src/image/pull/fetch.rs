//! Fetching one blob: from where it broke off, also before a kill, until it is whole.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use oci_client::client::BlobResponse;
use oci_client::errors::OciDistributionError;
use tokio::sync::mpsc;

use super::super::config::Descriptor;
use super::super::partial::{Growth, Partial};
use super::super::store::{ImageStore, Lease, StoreError};
use super::{PullError, Way, registry_error};

/// Tries in a row that bring nothing.
const TRIES: u32 = 4;
/// Pieces that wait to be written.
const QUEUE: usize = 64;
/// The pause after the first; it doubles.
const PAUSE: Duration = Duration::from_millis(500);

/// How often it went wrong in a row.
#[derive(Debug, Default)]
pub(super) struct Tries(u32);

impl Tries {
    /// Waits for the next try, or gives the error back that another try would not heal.
    pub(super) async fn after(
        &mut self,
        error: OciDistributionError,
        what: &'static str,
    ) -> Result<(), OciDistributionError> {
        self.0 += 1;
        if self.0 >= TRIES || !is_passing(&error) {
            return Err(error);
        }
        tracing::info!(%error, what, tries = self.0, "a registry did not answer well; it is asked again");
        tokio::time::sleep(PAUSE * (1 << (self.0 - 1))).await;
        Ok(())
    }

    fn progress(&mut self) {
        self.0 = 0;
    }
}

/// Of the way, or of a registry in trouble; not of what is asked for.
fn is_passing(error: &OciDistributionError) -> bool {
    match error {
        OciDistributionError::IoError(_) => true,
        OciDistributionError::RequestError(error) => !error.is_builder() && !error.is_redirect(),
        OciDistributionError::ServerError { code, .. } => *code >= 500 || *code == 429,
        _ => false,
    }
}

/// Runs what waits for the disk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, PullError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| PullError::Interrupted)
}

/// The same; nothing is swept before it is done, also if nobody waits for it any more.
pub(super) async fn holding<T: Send + 'static>(
    lease: &Arc<Lease>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, PullError> {
    let lease = Arc::clone(lease);
    let done = blocking(move || (work(), lease)).await?;
    Ok(done.0)
}

/// A blob that is fetched.
pub(super) struct Fetch<'a> {
    pub(super) way: &'a Way,
    pub(super) store: &'a Arc<ImageStore>,
    pub(super) lease: &'a Arc<Lease>,
    /// The image's name.
    pub(super) name: &'a str,
    pub(super) wanted: &'a Descriptor,
    /// Where it is told how much has come.
    pub(super) growth: &'a Arc<Growth>,
}

impl Fetch<'_> {
    /// Brings the blob, which is not there, into the store.
    pub(super) async fn run(&self) -> Result<(), PullError> {
        let path = self.store.partial_path(&self.wanted.digest)?;
        let failed = |source| StoreError::File { action: "write", path: path.clone(), source };
        let (file, size, growth) = (path.clone(), self.wanted.size, Arc::clone(self.growth));
        let mut partial = blocking(move || Partial::open(&file, size, growth)).await?.map_err(failed)?;
        let mut is_fresh = partial.length() == 0;
        if !is_fresh {
            let (bytes, digest) = (partial.length(), self.wanted.digest.as_str());
            tracing::info!(image = self.name, digest, bytes, "a blob is continued");
        }
        loop {
            partial = self.receive(partial).await?;
            let actual = partial.digest();
            if actual == self.wanted.digest {
                break;
            }
            if is_fresh {
                partial.discard().map_err(failed)?;
                return Err(StoreError::Digest { expected: self.wanted.digest.clone(), actual }.into());
            }
            // What was there before may have suffered when the machine went down.
            partial.restart().map_err(failed)?;
            is_fresh = true;
        }
        // Whoever reads it meanwhile has seen all.
        self.growth.end(true);
        let (store, digest) = (Arc::clone(self.store), self.wanted.digest.clone());
        holding(self.lease, move || {
            let adopted = store.adopt_blob(&path, &digest);
            // Nobody else writes into it before it has its place.
            drop(partial);
            adopted
        })
        .await??;
        Ok(())
    }

    /// Asks until all that was announced is there.
    async fn receive(&self, mut partial: Partial) -> Result<Partial, PullError> {
        let mut tries = Tries::default();
        while partial.length() < self.wanted.size {
            let before = partial.length();
            let outcome;
            (partial, outcome) = self.ask(partial).await?;
            if partial.length() > before {
                tries.progress();
            }
            let failure = match outcome {
                Err(error) => error,
                Ok(()) if partial.length() >= self.wanted.size => break,
                // It ended early without saying so.
                Ok(()) => io::Error::from(io::ErrorKind::UnexpectedEof).into(),
            };
            tries.after(failure, "blob").await.map_err(|error| registry_error(self.name, error))?;
        }
        Ok(partial)
    }

    /// Asks for what is still missing, and takes what comes, but no more than was announced.
    async fn ask(
        &self,
        mut partial: Partial,
    ) -> Result<(Partial, Result<(), OciDistributionError>), PullError> {
        let (client, source, digest) = (&self.way.client, &self.way.source, self.wanted.digest.as_str());
        let asked = match partial.length() {
            0 => client.pull_blob_stream(source, digest).await.map(BlobResponse::Full),
            from => client.pull_blob_stream_partial(source, digest, from, None).await,
        };
        let (mut stream, begins) = match asked {
            Ok(BlobResponse::Partial(stream)) => (stream, false),
            // From the beginning: also if it does not know parts.
            Ok(BlobResponse::Full(stream)) => (stream, true),
            Err(error) => return Ok((partial, Err(error))),
        };
        let (pieces, mut coming) = mpsc::channel::<Bytes>(QUEUE);
        let size = self.wanted.size;
        let writer = tokio::task::spawn_blocking(move || -> io::Result<Partial> {
            if begins && partial.length() > 0 {
                partial.restart()?;
            }
            while let Some(piece) = coming.blocking_recv() {
                if let Err(error) = partial.append(&piece) {
                    // It would be in the way of whoever makes room.
                    if error.kind() == io::ErrorKind::StorageFull {
                        partial.discard()?;
                    }
                    return Err(error);
                }
                if partial.length() > size {
                    break;
                }
            }
            Ok(partial)
        });
        let mut outcome = Ok(());
        while let Some(piece) = stream.next().await {
            match piece {
                Ok(piece) => {
                    if pieces.send(piece).await.is_err() {
                        break;
                    }
                }
                Err(error) => {
                    outcome = Err(error.into());
                    break;
                }
            }
        }
        drop(pieces);
        let path = self.store.partial_path(digest)?;
        let written = writer.await.map_err(|_| PullError::Interrupted)?;
        let partial = written.map_err(|source| StoreError::File { action: "write", path, source })?;
        Ok((partial, outcome))
    }
}
