//! Exec and attach over WebSocket: one byte of channel, then data (KEP-4006).
//!
//! Channels: 0 stdin, 1 stdout, 2 stderr, 3 the final `Status`, 4 terminal size, and in v5 255, which closes the
//! channel named by its payload.

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use super::Session;
use crate::error::chain;
use crate::pod_client::{PodClientError, PodConnection};
use crate::pod_process::protocol::{ExecExit, ExecRequest, Frame, Kind, Request};

const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

pub(super) fn upgrade(upgrade: WebSocketUpgrade, session: Session) -> Response {
    let upgrade = upgrade.protocols(PROTOCOLS);
    if upgrade.selected_protocol().is_none() {
        let text =
            format!("none of the subprotocols is supported; this server speaks {}", PROTOCOLS.join(", "));
        return (StatusCode::BAD_REQUEST, text).into_response();
    }
    upgrade.on_upgrade(move |socket| run(socket, session))
}

async fn open(session: Session) -> Result<PodConnection, PodClientError> {
    let (folder, request) = match session {
        Session::Exec { folder, container, command, tty, stdin } => {
            (folder, Request::Exec(ExecRequest { container, args: command, tty, stdin }))
        }
        Session::Attach { folder, container, stdin, stdout, stderr } => {
            (folder, Request::Attach { container, stdin, stdout, stderr })
        }
        Session::PortForward { .. } => return Err(PodClientError::Gone),
    };
    let mut connection = PodConnection::open(&folder).await?;
    connection.ask(&request).await?;
    Ok(connection)
}

/// The `Status` that ends a session.
fn status(code: i32) -> Value {
    if code == 0 {
        return json!({ "metadata": {}, "status": "Success" });
    }
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("command terminated with non-zero exit code: exit code {code}"),
        "reason": "NonZeroExitCode",
        "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
    })
}

fn failure(message: &str) -> Value {
    json!({
        "metadata": {}, "status": "Failure", "message": message, "reason": "InternalError", "code": 500
    })
}

fn message(channel: u8, payload: &[u8]) -> Message {
    let mut bytes = Vec::with_capacity(payload.len() + 1);
    bytes.push(channel);
    bytes.extend_from_slice(payload);
    Message::Binary(bytes.into())
}

async fn run(mut socket: WebSocket, session: Session) {
    // Who attaches looks at a container; how that ends is its status's matter, and no failure of the session.
    let looks_on = matches!(session, Session::Attach { .. });
    let end = match open(session).await {
        Ok(connection) => pump(&mut socket, connection, looks_on).await,
        Err(error) => Some(failure(&chain(&error))),
    };
    if let Some(end) = end {
        // The client has gone if this fails, and needs no answer.
        let _ = socket.send(message(ERROR, end.to_string().as_bytes())).await;
        super::end(&mut socket).await;
    }
}

/// Moves both ways until the command ends (its status) or the client leaves (`None`).
async fn pump(socket: &mut WebSocket, mut connection: PodConnection, looks_on: bool) -> Option<Value> {
    loop {
        tokio::select! {
            frame = connection.next() => match frame {
                Ok(Some(frame)) => match outgoing(frame) {
                    Outgoing::Send(message) => socket.send(message).await.ok()?,
                    Outgoing::Exit(code) => return Some(status(if looks_on { 0 } else { code })),
                    Outgoing::End(status) => return Some(status),
                    Outgoing::Nothing => {}
                },
                Ok(None) => return Some(failure("the pod process closed the stream")),
                Err(error) => return Some(failure(&chain(&error))),
            },
            message = socket.recv() => match message {
                Some(Ok(Message::Binary(bytes))) => forward(&mut connection, &bytes).await.ok()?,
                Some(Ok(Message::Text(text))) => forward(&mut connection, text.as_bytes()).await.ok()?,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
            },
        }
    }
}

enum Outgoing {
    Send(Message),
    Exit(i32),
    End(Value),
    Nothing,
}

fn outgoing(frame: Frame) -> Outgoing {
    match frame.kind {
        Kind::Stdout => Outgoing::Send(message(STDOUT, &frame.payload)),
        Kind::Stderr => Outgoing::Send(message(STDERR, &frame.payload)),
        Kind::Exit => match serde_json::from_slice::<ExecExit>(&frame.payload) {
            Ok(exit) => Outgoing::Exit(exit.code),
            Err(error) => Outgoing::End(failure(&error.to_string())),
        },
        Kind::Json | Kind::Stdin | Kind::Resize | Kind::StdinClosed => Outgoing::Nothing,
    }
}

async fn forward(connection: &mut PodConnection, bytes: &[u8]) -> Result<(), PodClientError> {
    let Some((channel, payload)) = bytes.split_first() else { return Ok(()) };
    match *channel {
        STDIN if !payload.is_empty() => {
            for piece in payload.chunks(256 * 1024) {
                connection.send(Kind::Stdin, piece).await?;
            }
            Ok(())
        }
        RESIZE => connection.send(Kind::Resize, payload).await,
        CLOSE if payload.first() == Some(&STDIN) => connection.send(Kind::StdinClosed, &[]).await,
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_tells_its_code_as_a_cause() {
        let status = status(3);
        assert_eq!(status["details"]["causes"][0], json!({ "reason": "ExitCode", "message": "3" }));
        assert_eq!(super::status(0)["status"], "Success");
    }
}
