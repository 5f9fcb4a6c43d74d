//! Port forwarding as `kubectl` does it: SPDY, tunnelled in a WebSocket (subprotocol `SPDY/3.1+portforward.k8s.io`) or,
//! by clients before 1.31, without one.
//!
//! For each connection the client opens two streams with the same `requestid`: one for errors, one for data. Each
//! connection is a task; one more sends, so that a slow connection does not keep others from being read.

use std::collections::HashMap;
use std::path::PathBuf;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::super::spdy::{Decoder, Encoder, Frame, REFUSED_STREAM};
use super::super::wire::Wire;
use super::connect;

/// Streams of a client at once.
const MAX_STREAMS: usize = 512;
/// Pieces on their way to one connection.
const QUEUE: usize = 16;
const PIECE: usize = 32 << 10;

/// A connection, as long as its task runs.
struct Connection {
    /// What the client sends; nothing after the end of its side.
    input: Option<mpsc::Sender<Bytes>>,
    /// The client wants no more of it, in either direction.
    reset: CancellationToken,
    task: AbortHandle,
}

/// The two streams of a connection, as far as they are open.
#[derive(Debug, Default)]
struct Pair {
    error: Option<u32>,
    data: Option<u32>,
}

/// What has to be done for a new stream (pure).
#[derive(Debug, PartialEq, Eq)]
enum Opened {
    /// The other stream is still missing.
    Waiting,
    /// Both are there.
    Connection { port: u16, error: u32, data: u32 },
    /// It makes no sense.
    Refused,
}

#[derive(Debug, Default)]
struct Requests(HashMap<String, Pair>);

impl Requests {
    fn open(&mut self, stream: u32, headers: &[(String, String)]) -> Opened {
        let header =
            |name: &str| headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let port = header("port").and_then(|port| port.parse().ok()).filter(|port: &u16| *port != 0);
        let Some(port) = port.filter(|_| self.0.len() < MAX_STREAMS) else { return Opened::Refused };
        let is_error = match header("streamtype") {
            Some("error") => true,
            Some("data") => false,
            _ => return Opened::Refused,
        };
        // Old clients do not number their requests: the data stream comes right after the error stream.
        let request = header("requestid").map(str::to_owned);
        let request =
            request.unwrap_or_else(|| if is_error { stream } else { stream.saturating_sub(2) }.to_string());
        let pair = self.0.entry(request.clone()).or_default();
        let place = if is_error { &mut pair.error } else { &mut pair.data };
        if place.replace(stream).is_some() {
            return Opened::Refused;
        }
        let (Some(error), Some(data)) = (pair.error, pair.data) else { return Opened::Waiting };
        self.0.remove(&request);
        Opened::Connection { port, error, data }
    }
}

/// Serves the tunnel until the client ends it.
pub(super) async fn run(mut wire: Wire, netns: Option<PathBuf>) {
    receive(&mut wire.incoming, netns, &wire.outgoing).await;
    wire.finish().await;
}

async fn receive(
    incoming: &mut BoxStream<'static, Bytes>,
    netns: Option<PathBuf>,
    outgoing: &mpsc::Sender<Bytes>,
) {
    let (mut decoder, mut encoder) = (Decoder::new(), Encoder::default());
    let (mut requests, mut open) = (Requests::default(), HashMap::<u32, Connection>::new());
    // Connections end with the tunnel.
    let mut connections = JoinSet::new();
    while let Some(bytes) = incoming.next().await {
        decoder.push(&bytes);
        while connections.try_join_next().is_some() {}
        open.retain(|_, connection| !connection.task.is_finished());
        loop {
            let frame = match decoder.next() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(%error, "a port forwarding is ended");
                    return;
                }
            };
            let answer = match frame {
                Frame::Open { stream, headers } => match requests.open(stream, &headers) {
                    Opened::Refused => Some(Encoder::reset(stream, REFUSED_STREAM)),
                    Opened::Waiting => Some(encoder.reply(stream)),
                    Opened::Connection { data, .. } if connections.len() >= MAX_STREAMS => {
                        Some(Encoder::reset(data, REFUSED_STREAM))
                    }
                    Opened::Connection { port, error, data } => {
                        let (input, pieces) = mpsc::channel(QUEUE);
                        let reset = CancellationToken::new();
                        let forward = forward(netns.clone(), port, error, data, pieces, outgoing.clone());
                        let forward = unless_reset(forward, error, reset.clone(), outgoing.clone());
                        // The reply goes first, since it is queued before the connection runs.
                        let reply = encoder.reply(stream);
                        if outgoing.send(reply).await.is_err() {
                            return;
                        }
                        let task = connections.spawn(forward);
                        open.insert(data, Connection { input: Some(input), reset, task });
                        None
                    }
                },
                Frame::Data { stream, bytes, last } => {
                    if let Some(connection) = open.get_mut(&stream) {
                        if let Some(input) = &connection.input
                            && !bytes.is_empty()
                            && input.send(bytes).await.is_err()
                        {
                            connection.input = None;
                        }
                        if last {
                            connection.input = None;
                        }
                    }
                    None
                }
                Frame::Reset { stream } => {
                    if let Some(connection) = open.remove(&stream) {
                        connection.reset.cancel();
                    }
                    None
                }
                Frame::Ping { id } => Some(Encoder::ping(id)),
                Frame::GoAway => return,
                Frame::Other => None,
            };
            if let Some(answer) = answer
                && outgoing.send(answer).await.is_err()
            {
                return;
            }
        }
    }
}

/// A connection that ends at once when the client resets it. The stream of errors is ended all the same: the client waits for that.
async fn unless_reset(
    forward: impl Future<Output = ()>,
    error: u32,
    reset: CancellationToken,
    outgoing: mpsc::Sender<Bytes>,
) {
    if reset.run_until_cancelled(forward).await.is_none()
        && outgoing.send(Encoder::data(error, &[], true)).await.is_err()
    {
        tracing::debug!("a client has gone before a connection's end");
    }
}

/// One connection, from its first byte to the end of both directions.
async fn forward(
    netns: Option<PathBuf>,
    port: u16,
    error: u32,
    data: u32,
    mut input: mpsc::Receiver<Bytes>,
    outgoing: mpsc::Sender<Bytes>,
) {
    let ends = match connect(netns, port).await {
        Err(reason) => {
            let text = format!("failed to connect to localhost:{port} inside the pod: {reason}");
            [Encoder::data(error, text.as_bytes(), true), Encoder::data(data, &[], true)]
        }
        Ok(connection) => {
            let (mut reader, mut writer) = connection.into_split();
            let inward = async {
                while let Some(bytes) = input.recv().await {
                    writer.write_all(&bytes).await?;
                }
                writer.shutdown().await
            };
            let outward = async {
                let mut buffer = vec![0; PIECE];
                loop {
                    match reader.read(&mut buffer).await {
                        Ok(0) | Err(_) => return,
                        Ok(count) => {
                            let piece = Encoder::data(data, &buffer[..count], false);
                            if outgoing.send(piece).await.is_err() {
                                return;
                            }
                        }
                    }
                }
            };
            tokio::pin!(outward);
            tokio::select! {
                // What the pod still has to say is sent after the client has ended its side.
                written = inward => match written {
                    Ok(()) => outward.await,
                    Err(reason) => tracing::debug!(port, %reason, "a forwarded connection does not take more"),
                },
                () = &mut outward => {}
            }
            [Encoder::data(data, &[], true), Encoder::data(error, &[], true)]
        }
    };
    for end in ends {
        if outgoing.send(end).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(kind: &str, port: &str, request: Option<&str>) -> Vec<(String, String)> {
        let mut out = vec![("streamtype".to_owned(), kind.to_owned()), ("port".to_owned(), port.to_owned())];
        out.extend(request.map(|request| ("requestid".to_owned(), request.to_owned())));
        out
    }

    #[test]
    fn two_streams_of_one_request_are_a_connection() {
        let mut requests = Requests::default();
        assert_eq!(requests.open(1, &headers("error", "80", Some("0"))), Opened::Waiting);
        assert_eq!(requests.open(3, &headers("error", "81", Some("1"))), Opened::Waiting);
        let expected = Opened::Connection { port: 80, error: 1, data: 5 };
        assert_eq!(requests.open(5, &headers("data", "80", Some("0"))), expected);
        assert_eq!(requests.open(7, &headers("error", "81", Some("1"))), Opened::Refused);
        assert_eq!(requests.open(9, &headers("error", "80", None)), Opened::Waiting);
        let expected = Opened::Connection { port: 80, error: 9, data: 11 };
        assert_eq!(requests.open(11, &headers("data", "80", None)), expected);
    }

    #[test]
    fn streams_without_a_port_or_of_another_kind_are_refused() {
        for (kind, port) in [("data", "0"), ("data", "x"), ("data", "65536"), ("stdin", "80")] {
            assert_eq!(Requests::default().open(1, &headers(kind, port, None)), Opened::Refused);
        }
    }

    #[tokio::test]
    async fn a_connection_that_the_client_resets_ends_and_so_does_its_stream_of_errors() {
        use super::super::super::spdy::open_with;

        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let (client, pieces) = mpsc::channel(8);
        let (outgoing, mut answers) = mpsc::channel(8);
        let mut incoming = stream_of(pieces);
        let tunnel = tokio::spawn(async move { receive(&mut incoming, None, &outgoing).await });
        for (stream, kind) in [(1, "error"), (3, "data")] {
            let headers = [("streamtype", kind), ("port", port.as_str()), ("requestid", "0")];
            client.send(open_with(stream == 1, stream, &headers)).await.unwrap();
            answers.recv().await.unwrap();
        }
        let (mut connection, _) = listener.accept().await.unwrap();
        // The pod neither reads to the end nor writes: only the client ends it.
        client.send(Encoder::reset(3, 5)).await.unwrap();
        assert_eq!(answers.recv().await.unwrap(), Encoder::data(1, &[], true));
        assert_eq!(connection.read(&mut [0; 8]).await.unwrap(), 0);
        // Nothing is left of it on the client's side either: its end is no half of one.
        assert!(!tunnel.is_finished());
        drop(client);
        tunnel.await.unwrap();
        assert!(answers.recv().await.is_none());
    }

    fn stream_of(pieces: mpsc::Receiver<Bytes>) -> BoxStream<'static, Bytes> {
        let next = async |mut pieces: mpsc::Receiver<Bytes>| Some((pieces.recv().await?, pieces));
        futures::stream::unfold(pieces, next).boxed()
    }
}
