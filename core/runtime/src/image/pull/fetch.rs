//! Fetching one blob: from where it broke off, until it is whole.

use std::fs;
use std::time::Duration;

use futures::StreamExt as _;
use oci_client::client::BlobResponse;
use oci_client::errors::OciDistributionError;
use oci_client::{Client, Reference};
use ring::digest::{Context, SHA256};
use tokio::fs::File;
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};

use super::super::config::Descriptor;
use super::super::store::{ImageStore, StoreError};
use super::{PullError, registry_error};

/// Tries in a row that bring nothing.
const TRIES: u32 = 4;
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

/// A blob that is coming.
struct Partial {
    file: File,
    hash: Context,
    length: u64,
}

impl Partial {
    async fn restart(&mut self) -> std::io::Result<()> {
        self.file.set_len(0).await?;
        self.file.rewind().await?;
        (self.hash, self.length) = (Context::new(&SHA256), 0);
        Ok(())
    }

    /// Asks for what is still missing, and takes what comes. No more is taken than was announced.
    async fn ask(
        &mut self,
        client: &Client,
        source: &Reference,
        wanted: &Descriptor,
    ) -> Result<(), OciDistributionError> {
        let digest = wanted.digest.as_str();
        let mut stream = if self.length == 0 {
            client.pull_blob_stream(source, digest).await?
        } else {
            match client.pull_blob_stream_partial(source, digest, self.length, None).await? {
                BlobResponse::Partial(stream) => stream,
                // It does not know parts.
                BlobResponse::Full(stream) => {
                    self.restart().await?;
                    stream
                }
            }
        };
        while let Some(bytes) = stream.next().await {
            let bytes = bytes?;
            self.file.write_all(&bytes).await?;
            self.hash.update(&bytes);
            self.length += bytes.len() as u64;
            if self.length > wanted.size {
                break;
            }
        }
        self.file.flush().await?;
        Ok(())
    }
}

/// Brings a blob into the store, unless it is there.
pub(super) async fn blob(
    client: &Client,
    source: &Reference,
    store: &ImageStore,
    name: &str,
    wanted: &Descriptor,
) -> Result<(), PullError> {
    if store.blob_path(&wanted.digest)?.exists() {
        return Ok(());
    }
    let folder = store.stage()?;
    let result = stage(client, source, store, name, wanted, &folder).await;
    let _ = fs::remove_dir_all(&folder);
    result
}

async fn stage(
    client: &Client,
    source: &Reference,
    store: &ImageStore,
    name: &str,
    wanted: &Descriptor,
    folder: &std::path::Path,
) -> Result<(), PullError> {
    let staged = folder.join("blob");
    let failed = |source| StoreError::File { action: "write", path: staged.clone(), source };
    let file = File::create(&staged).await.map_err(failed)?;
    let mut partial = Partial { file, hash: Context::new(&SHA256), length: 0 };
    let mut tries = Tries::default();
    loop {
        let before = partial.length;
        let outcome = partial.ask(client, source, wanted).await;
        if partial.length > before {
            tries.progress();
        }
        let whole = partial.length >= wanted.size;
        match outcome {
            Ok(()) if whole => break,
            // It ended early without saying so.
            Ok(()) => {
                let error = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
                tries.after(error.into(), "blob").await.map_err(|error| registry_error(name, error))?;
            }
            Err(error) => tries.after(error, "blob").await.map_err(|error| registry_error(name, error))?,
        }
    }
    let actual = format!("sha256:{}", hex::encode(partial.hash.finish()));
    if actual != wanted.digest {
        return Err(StoreError::Digest { expected: wanted.digest.clone(), actual }.into());
    }
    store.adopt_blob(&staged, &wanted.digest)?;
    Ok(())
}
