//! Exec and attach: what a command reads and writes, and how it ended, over whatever the client speaks.
//!
//! - `protocol`: WebSocket (KEP-4006) and SPDY, as one machine without IO

use std::time::Duration;

use axum::extract::ws::WebSocketUpgrade;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;
use serde_json::{Value, json};

use super::wire::Wire;
use super::{Session, spdy};
use crate::error::chain;
use crate::pod_client::{PodClientError, PodConnection, PodReader, PodWriter};
use crate::pod_process::protocol::{ExecExit, ExecRequest, Frame, Kind, Request};

mod protocol;

use protocol::{Farewell, Form, Input, Output, Reader, SpdyReader, Streams, Writer};

/// Those with `base64` are of text; before v4 a session ends with a text in place of a `Status`, and only one that failed.
const PROTOCOLS: [(&str, Form, Farewell); 5] = [
    ("v5.channel.k8s.io", Form::Binary, Farewell::Status),
    ("v4.channel.k8s.io", Form::Binary, Farewell::Status),
    ("v4.base64.channel.k8s.io", Form::Base64, Farewell::Status),
    ("channel.k8s.io", Form::Binary, Farewell::Text),
    ("base64.channel.k8s.io", Form::Base64, Farewell::Text),
];
/// The protocols over SPDY; the last two end with a text in place of a `Status`.
const SPDY_PROTOCOLS: [&str; 3] = ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io"];
/// How long a client may take to open its streams.
const PATIENCE: Duration = Duration::from_secs(30);
/// So many pieces of input may come before the last stream is open.
const EARLY: usize = 64;

pub(super) fn upgrade(upgrade: WebSocketUpgrade, session: Session) -> Response {
    let names = PROTOCOLS.map(|(name, _, _)| name);
    let upgrade = upgrade.protocols(names);
    let selected = upgrade.selected_protocol().and_then(|selected| selected.to_str().ok());
    let Some((_, form, farewell)) = PROTOCOLS.into_iter().find(|(name, _, _)| selected == Some(*name)) else {
        let text = format!("none of the subprotocols is supported; this server speaks {}", names.join(", "));
        return (StatusCode::BAD_REQUEST, text).into_response();
    };
    let reader = Reader::Socket(form, farewell);
    upgrade.on_upgrade(move |socket| {
        let wire = match form {
            Form::Binary => Wire::socket(socket),
            Form::Base64 => Wire::text_socket(socket),
        };
        run(wire, reader, session)
    })
}

pub(super) fn upgrade_spdy(upgrade: spdy::Upgrade, session: Session) -> Response {
    upgrade.accept(&SPDY_PROTOCOLS, move |wire, protocol| {
        let reader = SpdyReader::new(Streams::of(&session), protocol == SPDY_PROTOCOLS[0]);
        run(wire, Reader::Spdy(Box::new(reader)), session)
    })
}

async fn open(session: Session) -> Result<PodConnection, PodClientError> {
    let (folder, request) = match session {
        Session::Exec { folder, container, command, tty, stdin, .. } => {
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

async fn run(mut wire: Wire, mut reader: Reader, session: Session) {
    // Who attaches looks at a container; how that ends is its status's matter, and no failure of the session.
    let looks_on = matches!(session, Session::Attach { .. });
    let opened = tokio::time::timeout(PATIENCE, ready(&mut wire, &mut reader)).await;
    let Ok(Some(early)) = opened else {
        tracing::debug!("a client did not open its streams");
        return wire.finish().await;
    };
    let writer = reader.writer();
    let end = match open(session).await {
        Ok(connection) => pump(&mut wire, &mut reader, writer, connection, early, looks_on).await,
        Err(error) => Some(failure(&chain(&error))),
    };
    for piece in end.iter().flat_map(|end| writer.end(end)) {
        if wire.outgoing.send(piece).await.is_err() {
            tracing::debug!("a client has gone before its session's end");
        }
    }
    wire.finish().await;
}

/// Waits for the client's streams; what it sends before the last is open is kept.
async fn ready(wire: &mut Wire, reader: &mut Reader) -> Option<Vec<Input>> {
    let mut early = Vec::new();
    while !reader.is_ready() {
        let step = reader.step(&wire.incoming.next().await?).ok()?;
        for answer in step.answers {
            wire.outgoing.send(answer).await.ok()?;
        }
        early.extend(step.inputs);
        if step.left || early.len() > EARLY {
            return None;
        }
    }
    Some(early)
}

/// Moves both ways until the command ends (its status) or the client leaves (`None`). The directions do not wait for
/// each other: a command that is not read must still be able to be written to, and the other way round.
async fn pump(
    wire: &mut Wire,
    reader: &mut Reader,
    writer: Writer,
    connection: PodConnection,
    early: Vec<Input>,
    looks_on: bool,
) -> Option<Value> {
    let (from_pod, to_pod) = connection.split();
    let (incoming, outgoing) = (&mut wire.incoming, &wire.outgoing);
    let inward = async {
        let mut to_pod = Some(to_pod);
        forward(&mut to_pod, early).await;
        while let Some(piece) = incoming.next().await {
            let step = match reader.step(&piece) {
                Ok(step) => step,
                Err(error) => {
                    tracing::debug!(%error, "a session is ended");
                    return;
                }
            };
            for answer in step.answers {
                if outgoing.send(answer).await.is_err() {
                    return;
                }
            }
            forward(&mut to_pod, step.inputs).await;
            if step.left {
                return;
            }
        }
    };
    let outward = async {
        let mut from_pod: PodReader = from_pod;
        loop {
            let frame = match from_pod.next().await {
                Ok(Some(frame)) => frame,
                Ok(None) => return Some(failure("the pod process closed the stream")),
                Err(error) => return Some(failure(&chain(&error))),
            };
            match outgoing_of(frame) {
                Outgoing::Send(output, payload) => {
                    if let Some(piece) = writer.output(output, &payload)
                        && outgoing.send(piece).await.is_err()
                    {
                        return None;
                    }
                }
                Outgoing::Exit(code) => return Some(status(if looks_on { 0 } else { code })),
                Outgoing::End(status) => return Some(status),
                Outgoing::Nothing => {}
            }
        }
    };
    tokio::select! {
        end = outward => end,
        () = inward => None,
    }
}

enum Outgoing {
    Send(Output, Vec<u8>),
    Exit(i32),
    End(Value),
    Nothing,
}

fn outgoing_of(frame: Frame) -> Outgoing {
    match frame.kind {
        Kind::Stdout => Outgoing::Send(Output::Stdout, frame.payload),
        Kind::Stderr => Outgoing::Send(Output::Stderr, frame.payload),
        Kind::Exit => match serde_json::from_slice::<ExecExit>(&frame.payload) {
            Ok(exit) => Outgoing::Exit(exit.code),
            Err(error) => Outgoing::End(failure(&error.to_string())),
        },
        Kind::Json | Kind::Stdin | Kind::Resize | Kind::StdinClosed => Outgoing::Nothing,
    }
}

/// Hands input over. A pod process that takes no more is about to tell the end.
async fn forward(to_pod: &mut Option<PodWriter>, inputs: Vec<Input>) {
    for input in inputs {
        let Some(writer) = to_pod else { return };
        let sent = match &input {
            Input::Stdin(bytes) => {
                let mut sent = Ok(());
                for piece in bytes.chunks(256 * 1024) {
                    if sent.is_ok() {
                        sent = writer.send(Kind::Stdin, piece).await;
                    }
                }
                sent
            }
            Input::StdinClosed => writer.send(Kind::StdinClosed, &[]).await,
            Input::Resize(size) => writer.send(Kind::Resize, size).await,
        };
        if let Err(error) = sent {
            tracing::debug!(%error, "a command takes no more input");
            *to_pod = None;
        }
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
