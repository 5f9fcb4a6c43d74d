//! The streaming server: exec, attach and port-forward over WebSocket and SPDY on a loopback port, by one-time tokens.
//!
//! - `remote_command`: exec and attach; `port_forward`: all forms of port forwarding
//! - `wire`: the bytes of either; `spdy`: the protocol of old clients, and what is inside of a tunnel

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{FromRequestParts as _, Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::error::CallError;

mod port_forward;
mod remote_command;
mod spdy;
mod wire;

/// A token is worth nothing after this.
const LIFETIME: Duration = Duration::from_secs(60);
/// More are not open at a time.
const MAX_TOKENS: usize = 1000;

/// How long a client may take to answer the end of a session.
const FAREWELL: Duration = Duration::from_secs(5);

/// Ends a session in order: a client takes any other end for a failure. What it still sends is read and dropped, since
/// closing a connection with unread data throws away what was sent last.
async fn end(socket: &mut WebSocket) {
    let normal = CloseFrame { code: close_code::NORMAL, reason: "".into() };
    if socket.send(Message::Close(Some(normal))).await.is_err() {
        // The client has gone, and needs no answer.
        return;
    }
    let rest = async { while let Some(Ok(_)) = socket.recv().await {} };
    let _ = tokio::time::timeout(FAREWELL, rest).await;
}

/// What a token is for.
#[derive(Debug, Clone)]
pub(crate) enum Session {
    Exec {
        folder: PathBuf,
        container: String,
        command: Vec<String>,
        tty: bool,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
    Attach {
        folder: PathBuf,
        container: String,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
    PortForward {
        netns: Option<PathBuf>,
        ports: Vec<u16>,
    },
}

impl Session {
    fn path(&self) -> &'static str {
        match self {
            Self::Exec { .. } => "exec",
            Self::Attach { .. } => "attach",
            Self::PortForward { .. } => "portforward",
        }
    }
}

#[derive(Debug, Default)]
struct Tokens(HashMap<String, (Instant, Session)>);

impl Tokens {
    fn issue(&mut self, session: Session, now: Instant) -> Option<String> {
        self.0.retain(|_, (issued, _)| now.duration_since(*issued) < LIFETIME);
        if self.0.len() >= MAX_TOKENS {
            return None;
        }
        let token = hex::encode(rand::random::<[u8; 16]>());
        self.0.insert(token.clone(), (now, session));
        Some(token)
    }

    /// Valid once.
    fn redeem(&mut self, token: &str, now: Instant) -> Option<Session> {
        let (issued, session) = self.0.remove(token)?;
        (now.duration_since(issued) < LIFETIME).then_some(session)
    }
}

/// Issues tokens for the server at `address`.
#[derive(Debug, Clone)]
pub(crate) struct Streaming {
    address: SocketAddr,
    tokens: Arc<Mutex<Tokens>>,
}

impl Streaming {
    /// Starts the server; it ends with `shutdown`.
    pub(crate) async fn start(shutdown: CancellationToken) -> std::io::Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let streaming = Self { address, tokens: Arc::default() };
        let routes = Router::new().route("/{kind}/{token}", any(serve)).with_state(streaming.clone());
        tokio::spawn(async move {
            let served =
                axum::serve(listener, routes).with_graceful_shutdown(shutdown.cancelled_owned()).await;
            if let Err(error) = served {
                tracing::error!(%error, "streaming server failed");
            }
        });
        Ok(streaming)
    }

    /// A URL that opens the session once, within a minute.
    pub(crate) fn issue(&self, session: Session) -> Result<String, CallError> {
        let path = session.path();
        let token = self.tokens.lock().issue(session, Instant::now());
        let token =
            token.ok_or_else(|| CallError::Precondition("too many open streaming requests".to_owned()))?;
        Ok(format!("http://{}/{path}/{token}", self.address))
    }
}

async fn serve(
    State(streaming): State<Streaming>,
    Path((kind, token)): Path<(String, String)>,
    mut request: Request,
) -> Response {
    let upgrade = match spdy::Upgrade::of(&mut request) {
        Some(upgrade) => Asked::Spdy(upgrade),
        None => match WebSocketUpgrade::from_request_parts(&mut request.into_parts().0, &()).await {
            Ok(upgrade) => Asked::WebSocket(upgrade),
            // A request in another protocol does not use the token up.
            Err(rejection) => {
                let text =
                    format!("unable to upgrade: only WebSocket and SPDY/3.1 are supported: {rejection}");
                return (StatusCode::BAD_REQUEST, text).into_response();
            }
        },
    };
    let session = streaming.tokens.lock().redeem(&token, Instant::now());
    let Some(session) = session.filter(|session| session.path() == kind) else {
        return (StatusCode::NOT_FOUND, "no such session, or it has expired").into_response();
    };
    match (upgrade, session) {
        (Asked::WebSocket(upgrade), Session::PortForward { netns, ports }) => {
            port_forward::upgrade(upgrade, netns, ports)
        }
        (Asked::Spdy(upgrade), Session::PortForward { netns, .. }) => {
            port_forward::upgrade_spdy(upgrade, netns)
        }
        (Asked::WebSocket(upgrade), session @ (Session::Exec { .. } | Session::Attach { .. })) => {
            remote_command::upgrade(upgrade, session)
        }
        (Asked::Spdy(upgrade), session @ (Session::Exec { .. } | Session::Attach { .. })) => {
            remote_command::upgrade_spdy(upgrade, session)
        }
    }
}

/// The protocol in which a client wants to go on.
enum Asked {
    WebSocket(WebSocketUpgrade),
    Spdy(spdy::Upgrade),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        Session::PortForward { netns: None, ports: vec![80] }
    }

    #[test]
    fn a_token_is_good_once_and_for_a_minute() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        let token = tokens.issue(session(), now).unwrap();
        assert!(tokens.redeem(&token, now).is_some());
        assert!(tokens.redeem(&token, now).is_none());
        let token = tokens.issue(session(), now).unwrap();
        assert!(tokens.redeem(&token, now + LIFETIME).is_none());
    }

    #[test]
    fn the_number_of_open_tokens_is_bounded() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        for _ in 0..MAX_TOKENS {
            assert!(tokens.issue(session(), now).is_some());
        }
        assert!(tokens.issue(session(), now).is_none());
        assert!(tokens.issue(session(), now + LIFETIME).is_some());
    }
}
