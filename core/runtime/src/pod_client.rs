//! The runtime's side of the pod process: starting it, and speaking with it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::config::PodProcess;
use crate::pod_process::READY;
use crate::pod_process::protocol::{self, Frame, FrameError, Kind, Request, Response};

/// A pod process that has not answered by then hangs. The longest that it does is to start a container.
const ASK_LIMIT: Duration = Duration::from_secs(60);
/// So does one that is not up by then.
const START_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub(crate) enum PodClientError {
    #[error("run the pod process")]
    Spawn(#[source] io::Error),
    #[error("the pod process did not come up: {0}")]
    NotReady(String),
    #[error("reach the pod process")]
    Connect(#[source] io::Error),
    #[error("speak with the pod process")]
    Io(#[source] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("understand the pod process")]
    Json(#[source] serde_json::Error),
    #[error("the pod process went away")]
    Gone,
    #[error("the pod process does not answer")]
    Silent,
    #[error("{0}")]
    Failed(String),
}

/// Starts the pod process of the folder; it serves when this returns.
pub(crate) async fn spawn(program: &PodProcess, folder: &Path) -> Result<(), PodClientError> {
    // No hook before exec, so that the process is made by vfork: the runtime's process is large.
    let mut child = tokio::process::Command::new(&program.program)
        .args(&program.arguments)
        .arg(folder)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .map_err(PodClientError::Spawn)?;
    let mut answer = Vec::new();
    if let Some(mut stdout) = child.stdout.take() {
        let read = tokio::time::timeout(START_LIMIT, stdout.read_to_end(&mut answer)).await;
        let Ok(read) = read else {
            child.kill().await.map_err(PodClientError::Spawn)?;
            return Err(PodClientError::Silent);
        };
        read.map_err(PodClientError::Spawn)?;
    }
    if answer == READY {
        // It lives on by itself; tokio reaps it if it ends before this process does.
        return Ok(());
    }
    let status = child.wait().await.map_err(PodClientError::Spawn)?;
    let text = String::from_utf8_lossy(&answer).trim().to_owned();
    Err(PodClientError::NotReady(if text.is_empty() { status.to_string() } else { text }))
}

/// What a pod process sends.
#[derive(Debug)]
pub(crate) struct PodReader {
    stream: OwnedReadHalf,
    input: Vec<u8>,
}

impl PodReader {
    /// The next frame; `None` when the pod process has closed. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, PodClientError> {
        loop {
            if let Some(frame) = protocol::decode(&mut self.input)? {
                return Ok(Some(frame));
            }
            let count = self.stream.read_buf(&mut self.input).await.map_err(PodClientError::Io)?;
            if count == 0 {
                return Ok(None);
            }
        }
    }
}

/// What is sent to a pod process.
#[derive(Debug)]
pub(crate) struct PodWriter(OwnedWriteHalf);

impl PodWriter {
    pub(crate) async fn send(&mut self, kind: Kind, payload: &[u8]) -> Result<(), PodClientError> {
        let mut frame = Vec::with_capacity(payload.len() + 5);
        protocol::encode(kind, payload, &mut frame);
        self.0.write_all(&frame).await.map_err(PodClientError::Io)
    }
}

/// One connection to a pod process.
#[derive(Debug)]
pub(crate) struct PodConnection {
    reader: PodReader,
    writer: PodWriter,
}

impl PodConnection {
    pub(crate) async fn open(folder: &Path) -> Result<Self, PodClientError> {
        // A socket's name is short: it goes by the open folder.
        let handle = File::open(folder).map_err(PodClientError::Connect)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/pod.sock", handle.as_raw_fd()));
        let stream = UnixStream::connect(path).await.map_err(PodClientError::Connect)?;
        let (reader, writer) = stream.into_split();
        let reader = PodReader { stream: reader, input: Vec::new() };
        Ok(Self { reader, writer: PodWriter(writer) })
    }

    /// Both directions, which do not wait for each other.
    pub(crate) fn split(self) -> (PodReader, PodWriter) {
        (self.reader, self.writer)
    }

    pub(crate) async fn send_json(
        &mut self,
        kind: Kind,
        value: &impl Serialize,
    ) -> Result<(), PodClientError> {
        let payload = serde_json::to_vec(value).map_err(PodClientError::Json)?;
        self.writer.send(kind, &payload).await
    }

    /// The next frame; `None` when the pod process has closed. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, PodClientError> {
        self.reader.next().await
    }

    /// Asks, and takes the answer.
    pub(crate) async fn ask(&mut self, request: &Request) -> Result<Response, PodClientError> {
        self.send_json(Kind::Json, request).await?;
        let frame = self.next().await?.ok_or(PodClientError::Gone)?;
        match serde_json::from_slice(&frame.payload).map_err(PodClientError::Json)? {
            Response::Failed { message } => Err(PodClientError::Failed(message)),
            response @ (Response::Done
            | Response::Held { .. }
            | Response::Started(_)
            | Response::Status { .. }) => Ok(response),
        }
    }
}

/// One question on a connection of its own, with its answer within [`ASK_LIMIT`].
pub(crate) async fn ask(folder: &Path, request: &Request) -> Result<Response, PodClientError> {
    ask_within(ASK_LIMIT, folder, request).await
}

/// One question on a connection of its own, with its answer within `limit`.
pub(crate) async fn ask_within(
    limit: Duration,
    folder: &Path,
    request: &Request,
) -> Result<Response, PodClientError> {
    let answer = async { PodConnection::open(folder).await?.ask(request).await };
    tokio::time::timeout(limit, answer).await.unwrap_or(Err(PodClientError::Silent))
}
