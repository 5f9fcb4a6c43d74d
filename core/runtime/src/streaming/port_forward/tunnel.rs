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
use tokio::task::JoinSet;

use super::super::spdy::{Decoder, Encoder, Frame, REFUSED_STREAM};
use super::super::wire::Wire;
use super::connect;

/// Streams of a client at once.
const MAX_STREAMS: usize = 512;
/// Pieces on their way to one connection.
const QUEUE: usize = 16;
const PIECE: usize = 32 << 10;

type Input = mpsc::Sender<Bytes>;

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
    let (mut requests, mut inputs) = (Requests::default(), HashMap::<u32, Input>::new());
    // Connections end with the tunnel.
    let mut connections = JoinSet::new();
    while let Some(bytes) = incoming.next().await {
        decoder.push(&bytes);
        while connections.try_join_next().is_some() {}
        inputs.retain(|_, input| !input.is_closed());
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
                        inputs.insert(data, input);
                        let forward = forward(netns.clone(), port, error, data, pieces, outgoing.clone());
                        // The reply goes first, since it is queued before the connection runs.
                        let reply = encoder.reply(stream);
                        if outgoing.send(reply).await.is_err() {
                            return;
                        }
                        connections.spawn(forward);
                        None
                    }
                },
                Frame::Data { stream, bytes, last } => {
                    if let Some(input) = inputs.get(&stream)
                        && !bytes.is_empty()
                        && input.send(bytes).await.is_err()
                    {
                        inputs.remove(&stream);
                    }
                    if last {
                        inputs.remove(&stream);
                    }
                    None
                }
                Frame::Reset { stream } => {
                    inputs.remove(&stream);
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
}
