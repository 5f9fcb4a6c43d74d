//! One connection: its handshake, its requests, its end.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::Request;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{Limits, listener};
use crate::audit::PeerAddress;
use crate::authentication::certificate::Authorities;
use crate::http::ApiState;

/// How long a client may take for a handshake, and for the head of a request.
const PATIENCE: Duration = Duration::from_secs(15);
/// The head of a request: tokens and impersonation make some long.
const HEAD_BYTES: u32 = 256 << 10;
/// Streams that a client takes back before they are answered, beyond which its connection ends (rapid reset).
const RESETS: usize = 100;
/// How long a connection is kept on which no request comes.
const IDLE: Duration = Duration::from_secs(90);
/// When a connection is silent for so long, its peer is asked whether it is there.
const SILENCE: Duration = Duration::from_secs(60);
/// For so long a peer may leave sent bytes unacknowledged, or its window shut, before its connection ends.
const STALLED: Duration = Duration::from_secs(120);

/// What all connections have in common.
pub(super) struct Connections {
    pub(super) state: Arc<ApiState>,
    pub(super) acceptor: TlsAcceptor,
    pub(super) authorities: Authorities,
    pub(super) limits: Limits,
    pub(super) stop: CancellationToken,
}

/// A peer that has gone away without a word, or that does not read, does not hold its connection for ever.
fn guard(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    let keepalive = socket2::TcpKeepalive::new().with_time(SILENCE).with_interval(PATIENCE).with_retries(4);
    let outcome = stream
        .set_nodelay(true)
        .and_then(|()| socket.set_tcp_keepalive(&keepalive))
        .and_then(|()| socket.set_tcp_user_timeout(Some(STALLED)));
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection cannot be watched over");
    }
}

impl Connections {
    /// Serves a connection until it ends. When the server stops, requests that are under way are still answered.
    pub(super) async fn serve(&self, stream: TcpStream) {
        guard(&stream);
        let accepted = tokio::select! {
            () = self.stop.cancelled() => return,
            accepted = tokio::time::timeout(PATIENCE, self.acceptor.accept(stream)) => accepted,
        };
        let stream = match accepted {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                self.state.insight.handshake_failed();
                tracing::debug!(%error, "a TLS handshake failed");
                return;
            }
            Err(_) => return self.state.insight.handshake_failed(),
        };
        let address = stream.get_ref().0.peer_addr().ok().filter(|_| self.state.audit.is_some());
        let peer = listener::peer(&self.authorities, &stream);
        let enough = Arc::new(Notify::new());
        let requests = watch::Sender::new(0_u64);
        let newest = requests.subscribe();
        let service = {
            let (state, enough, chance) = (&self.state, &enough, self.limits.goaway_chance);
            let (state, enough) = (Arc::clone(state), Arc::clone(enough));
            hyper::service::service_fn(move |mut request: Request<hyper::body::Incoming>| {
                if let Some(address) = address {
                    request.extensions_mut().insert(PeerAddress(address));
                }
                let state = Arc::clone(&state);
                let is_over = peer.is_over(jiff::Timestamp::now().as_second());
                // A certificate counts until it ends, however long its connection lasts.
                let peer = if is_over { Arc::default() } else { Arc::clone(&peer) };
                requests.send_modify(|count| *count = count.wrapping_add(1));
                if chance > 0.0 && request.version() == http::Version::HTTP_2 && rand::random_bool(chance) {
                    enough.notify_one();
                }
                async move {
                    let answer = listener::answer(state, peer, request.map(Body::new)).await;
                    Ok::<_, std::convert::Infallible>(answer)
                }
            })
        };
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .max_buf_size(HEAD_BYTES as usize);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.limits.http2_max_streams_per_connection)
            .max_header_list_size(HEAD_BYTES)
            .max_pending_accept_reset_streams(RESETS)
            .keep_alive_interval(PATIENCE * 2);
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let outcome = tokio::select! {
            outcome = connection.as_mut() => outcome,
            () = self.stop.cancelled() => end(connection.as_mut()).await,
            () = enough.notified() => end(connection.as_mut()).await,
            asked = unused(newest, IDLE) => match asked {
                // Whoever has not asked for anything yet need not be told of the end.
                0 => return,
                _ => end(connection.as_mut()).await,
            },
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "a connection ended");
        }
    }
}

/// Waits until no request has come for so long; how many have come until then.
async fn unused(mut newest: watch::Receiver<u64>, limit: Duration) -> u64 {
    loop {
        let asked = *newest.borrow_and_update();
        let limit = if asked == 0 { PATIENCE } else { limit };
        match tokio::time::timeout(limit, newest.changed()).await {
            Ok(Ok(())) => {}
            // The connection has ended.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => return asked,
        }
    }
}

type Ended = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Takes no further request on a connection, and answers those that are under way.
async fn end<S>(
    mut connection: std::pin::Pin<&mut auto::UpgradeableConnection<'_, TokioIo<Tls>, S, TokioExecutor>>,
) -> Ended
where
    S: hyper::service::Service<
            Request<hyper::body::Incoming>,
            Response = axum::response::Response,
            Error = std::convert::Infallible,
        >,
    S::Future: Send + 'static,
{
    connection.as_mut().graceful_shutdown();
    connection.await
}

type Tls = tokio_rustls::server::TlsStream<TcpStream>;
