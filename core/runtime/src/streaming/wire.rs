//! The bytes of a client in pieces, whether they come as messages of a WebSocket or over an upgraded connection.

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{SinkExt as _, StreamExt as _};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::io::ReaderStream;

use super::FAREWELL;

/// Pieces on their way to the client.
const QUEUE: usize = 16;
/// The longest piece that is read of an upgraded connection.
const PIECE: usize = 32 << 10;

/// Both directions of a session. A task sends what is queued, so that reading never waits for a slow reader.
pub(super) struct Wire {
    /// What the client sends: of a WebSocket each piece is a message. It ends when the client does.
    pub(super) incoming: BoxStream<'static, Bytes>,
    /// What is sent to it, each piece as a message.
    pub(super) outgoing: mpsc::Sender<Bytes>,
    sending: JoinHandle<()>,
}

impl Wire {
    /// The messages of a WebSocket; it is closed in order, since a client takes any other end for a failure.
    pub(super) fn socket(socket: WebSocket) -> Self {
        Self::messages(socket, Message::Binary)
    }

    /// The same, of a client that takes texts; pieces that are none are left out.
    pub(super) fn text_socket(socket: WebSocket) -> Self {
        Self::messages(socket, |bytes| {
            Utf8Bytes::try_from(bytes).map_or_else(|_| Message::Ping(Bytes::new()), Message::Text)
        })
    }

    fn messages(socket: WebSocket, message: impl Fn(Bytes) -> Message + Send + 'static) -> Self {
        let (mut sink, stream) = socket.split();
        let (outgoing, mut queue) = mpsc::channel::<Bytes>(QUEUE);
        let sending = tokio::spawn(async move {
            while let Some(bytes) = queue.recv().await {
                if sink.send(message(bytes)).await.is_err() {
                    return;
                }
            }
            let normal = CloseFrame { code: close_code::NORMAL, reason: "".into() };
            // The client has gone if this fails.
            let _ = sink.send(Message::Close(Some(normal))).await;
        });
        let payloads = stream.map(|message| match message {
            Ok(Message::Binary(bytes)) => Some(bytes),
            Ok(Message::Text(text)) => Some(text.into()),
            Ok(Message::Ping(_) | Message::Pong(_)) => Some(Bytes::new()),
            Ok(Message::Close(_)) | Err(_) => None,
        });
        let payloads = payloads.take_while(|payload| futures::future::ready(payload.is_some()));
        let some = |payload: Option<Bytes>| payload.filter(|payload| !payload.is_empty());
        let incoming = payloads.filter_map(move |payload| futures::future::ready(some(payload))).boxed();
        Wire { incoming, outgoing, sending }
    }

    /// A connection after its upgrade.
    pub(super) fn connection(upgraded: Upgraded) -> Self {
        let (reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
        let (outgoing, mut queue) = mpsc::channel::<Bytes>(QUEUE);
        let sending = tokio::spawn(async move {
            while let Some(bytes) = queue.recv().await {
                if writer.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            if let Err(error) = writer.shutdown().await {
                tracing::debug!(%error, "a stream's client has gone before its end");
            }
        });
        let pieces = ReaderStream::with_capacity(reader, PIECE);
        let incoming = pieces.take_while(|piece| futures::future::ready(piece.is_ok()));
        let incoming = incoming.filter_map(|piece| futures::future::ready(piece.ok())).boxed();
        Wire { incoming, outgoing, sending }
    }

    /// Ends it once everything queued is sent. What the client still sends is read and dropped for a while, since
    /// closing a connection with unread data throws away what was sent last.
    pub(super) async fn finish(self) {
        let Wire { mut incoming, outgoing, sending } = self;
        drop(outgoing);
        let farewell = async {
            let rest = async { while incoming.next().await.is_some() {} };
            let (_, sent) = tokio::join!(rest, sending);
            if sent.is_err() {
                tracing::debug!("the sending side of a stream was given up");
            }
        };
        if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
            tracing::debug!("a stream's client did not answer its end");
        }
    }
}
