//! Port forwarding over WebSocket, subprotocol `v4.channel.k8s.io`: for the n-th port, channel 2n carries data and
//! channel 2n+1 errors; the first message of each is the port, two bytes, little-endian.
//!
//! - `tunnel`: SPDY, by itself or as the subprotocol `SPDY/3.1+portforward.k8s.io`, which `kubectl` asks for

use std::io;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc;

use super::spdy;
use super::wire::Wire;

mod tunnel;

const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const PROTOCOLS: [&str; 3] = [TUNNEL, "v4.channel.k8s.io", "portforward.k8s.io"];
const MAX_PORTS: usize = 64;

pub(super) fn upgrade(upgrade: WebSocketUpgrade, netns: Option<PathBuf>, ports: Vec<u16>) -> Response {
    let upgrade = upgrade.protocols(PROTOCOLS);
    if upgrade.selected_protocol().is_some_and(|protocol| protocol == TUNNEL) {
        // The ports come with the streams.
        return upgrade.on_upgrade(move |socket| tunnel::run(Wire::socket(socket), netns));
    }
    if upgrade.selected_protocol().is_none() || ports.is_empty() || ports.len() > MAX_PORTS {
        let text = "port forwarding is supported over the WebSocket subprotocols SPDY/3.1+portforward.k8s.io, and \
                    v4.channel.k8s.io with 1 to 64 ports in the request";
        return (StatusCode::BAD_REQUEST, text).into_response();
    }
    upgrade.on_upgrade(move |socket| run(socket, netns, ports))
}

pub(super) fn upgrade_spdy(upgrade: spdy::Upgrade, netns: Option<PathBuf>) -> Response {
    upgrade.accept(&["portforward.k8s.io"], move |wire, _| tunnel::run(wire, netns))
}

/// Connects to the port on the loopback address of the pod's network namespace.
async fn connect(netns: Option<PathBuf>, port: u16) -> io::Result<TcpStream> {
    let Some(netns) = netns else { return TcpStream::connect(("127.0.0.1", port)).await };
    let work = move || -> io::Result<std::net::TcpStream> {
        // A thread of its own, which ends in the pod's namespace and is not used again.
        let thread = std::thread::Builder::new().name("port-forward".to_owned()).spawn(move || {
            let file = std::fs::File::open(netns)?;
            nix::sched::setns(file.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET)?;
            let stream = std::net::TcpStream::connect(("127.0.0.1", port))
                .or_else(|_| std::net::TcpStream::connect(("::1", port)))?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        })?;
        thread.join().map_err(|_| io::Error::other("the connecting thread failed"))?
    };
    let stream = tokio::task::spawn_blocking(work).await.map_err(io::Error::other)??;
    TcpStream::from_std(stream)
}

fn message(channel: usize, payload: &[u8]) -> Message {
    let mut bytes = Vec::with_capacity(payload.len() + 1);
    bytes.push(u8::try_from(channel).unwrap_or(u8::MAX));
    bytes.extend_from_slice(payload);
    Message::Binary(bytes.into())
}

async fn run(mut socket: WebSocket, netns: Option<PathBuf>, ports: Vec<u16>) {
    let (sender, mut outgoing) = mpsc::channel::<Message>(16);
    let mut writers: Vec<Option<OwnedWriteHalf>> = Vec::new();
    for (index, port) in ports.into_iter().enumerate() {
        for channel in [2 * index, 2 * index + 1] {
            if socket.send(message(channel, &port.to_le_bytes())).await.is_err() {
                return;
            }
        }
        match connect(netns.clone(), port).await {
            Ok(stream) => {
                let (mut reader, writer) = stream.into_split();
                writers.push(Some(writer));
                let sender = sender.clone();
                tokio::spawn(async move {
                    let mut buffer = vec![0; 32 * 1024];
                    while let Ok(count @ 1..) = reader.read(&mut buffer).await {
                        if sender.send(message(2 * index, &buffer[..count])).await.is_err() {
                            return;
                        }
                    }
                });
            }
            Err(error) => {
                writers.push(None);
                let text = format!("failed to connect to localhost:{port} inside the pod: {error}");
                if socket.send(message(2 * index + 1, text.as_bytes())).await.is_err() {
                    return;
                }
            }
        }
    }
    drop(sender);
    loop {
        tokio::select! {
            message = outgoing.recv() => match message {
                Some(message) => if socket.send(message).await.is_err() { return },
                None => {
                    // Every connection has ended.
                    super::end(&mut socket).await;
                    return;
                }
            },
            message = socket.recv() => match message {
                Some(Ok(Message::Binary(bytes))) => {
                    let Some((channel, payload)) = bytes.split_first() else { continue };
                    let slot = writers.get_mut(usize::from(channel / 2)).filter(|_| channel % 2 == 0);
                    if let Some(Some(writer)) = slot && writer.write_all(payload).await.is_err() {
                        return;
                    }
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Text(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
            },
        }
    }
}
