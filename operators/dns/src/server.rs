//! The server's sockets (server): datagrams, and connections with many questions.
//!
//! What the zone answers is answered in the loop that receives; only what others are asked is a task, of which there are at
//! most [`QUESTIONS`].

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::Message;
use parking_lot::RwLock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::answer::{self, Step};
use crate::clients::Clients;
use crate::forward::Forwarder;
use crate::zone::Zone;

/// How many datagrams' questions are with others at the same time, and how many connections there are.
const QUESTIONS: usize = 256;
const CONNECTIONS: usize = 64;

/// How long a connection may be silent.
const SILENCE: Duration = Duration::from_secs(10);

/// The pause after an error of a socket.
const PAUSE: Duration = Duration::from_millis(100);

/// How many ports are tried.
const PORTS: usize = 16;

/// The same port of both protocols.
#[derive(Debug)]
pub(crate) struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
    address: SocketAddr,
}

impl Sockets {
    /// Opens the preferred port of an address if it is free, or else any.
    pub(crate) async fn open(address: IpAddr, preferred: Option<u16>) -> io::Result<Self> {
        let mut last = None;
        for port in preferred.into_iter().chain([0; PORTS]) {
            match Self::open_port(address, port).await {
                Ok(sockets) => return Ok(sockets),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::Error::other("no port was tried")))
    }

    async fn open_port(address: IpAddr, port: u16) -> io::Result<Self> {
        let udp = UdpSocket::bind((address, port)).await?;
        let address = udp.local_addr()?;
        let tcp = TcpListener::bind(address).await?;
        Ok(Sockets { udp, tcp, address })
    }

    /// Where they are.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Who answers. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) zone: Arc<RwLock<Zone>>,
    pub(crate) clients: Arc<RwLock<Clients>>,
    pub(crate) forwarder: Arc<Forwarder>,
}

impl Server {
    /// Serves until shutdown. Questions under way then stay unanswered.
    pub(crate) async fn run(self, sockets: Sockets, shutdown: CancellationToken) {
        let Sockets { udp, tcp, address: _ } = sockets;
        let udp = Arc::new(udp);
        tokio::select! {
            () = self.datagrams(&udp) => {}
            () = self.connections(&tcp) => {}
            () = shutdown.cancelled() => {}
        }
    }

    async fn datagrams(&self, socket: &Arc<UdpSocket>) {
        let mut tasks = JoinSet::new();
        let mut buffer = vec![0; 4096];
        loop {
            tokio::select! {
                Some(_) = tasks.join_next() => {}
                received = socket.recv_from(&mut buffer) => match received {
                    Ok((length, peer)) if self.clients.read().allow(peer.ip()) => {
                        self.datagram(socket, &buffer[..length], peer, &mut tasks).await;
                    }
                    Ok((_, peer)) => tracing::debug!(%peer, "a stranger is not answered"),
                    Err(error) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "receive a datagram");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
            }
        }
    }

    async fn datagram(
        &self,
        socket: &Arc<UdpSocket>,
        bytes: &[u8],
        peer: SocketAddr,
        tasks: &mut JoinSet<()>,
    ) {
        let request = match answer::read(bytes) {
            Some(Ok(request)) => request,
            Some(Err(refusal)) => return send(socket, &refusal, answer::LARGEST_DATAGRAM, peer).await,
            None => return,
        };
        let limit = answer::datagram_limit(&request);
        match self.begin(&request) {
            Step::Done(response) => send(socket, &response, limit, peer).await,
            Step::Ask(_, response) if tasks.len() >= QUESTIONS => {
                send(socket, &answer::finish(response, None), limit, peer).await;
            }
            step @ Step::Ask(..) => {
                let (server, socket) = (self.clone(), Arc::clone(socket));
                tasks.spawn(async move {
                    send(&socket, &server.finish(&request, step).await, limit, peer).await;
                });
            }
        }
    }

    async fn connections(&self, listener: &TcpListener) {
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                Some(_) = tasks.join_next() => {}
                accepted = listener.accept(), if tasks.len() < CONNECTIONS => match accepted {
                    Ok((stream, peer)) if self.clients.read().allow(peer.ip()) => {
                        let server = self.clone();
                        tasks.spawn(async move {
                            if let Err(error) = server.connection(stream).await {
                                let error = &error as &dyn std::error::Error;
                                tracing::debug!(%peer, error, "a connection broke");
                            }
                        });
                    }
                    Ok((_, peer)) => tracing::debug!(%peer, "a stranger is not answered"),
                    Err(error) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "accept a connection");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
            }
        }
    }

    /// Answers one question after the other, until the client ends it or is silent.
    async fn connection(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let length = match timeout(SILENCE, stream.read_u16()).await {
                Ok(Ok(length)) => length,
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Ok(()),
            };
            let mut buffer = vec![0; usize::from(length)];
            timeout(SILENCE, stream.read_exact(&mut buffer)).await??;
            let response = match answer::read(&buffer) {
                Some(Ok(request)) => {
                    let step = self.begin(&request);
                    self.finish(&request, step).await
                }
                Some(Err(refusal)) => refusal,
                None => return Ok(()),
            };
            let Some(bytes) = answer::encode(&response, u16::MAX) else { return Ok(()) };
            let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
            timeout(SILENCE, stream.write_all(&[&length.to_be_bytes(), bytes.as_slice()].concat())).await??;
        }
    }

    fn begin(&self, request: &Message) -> Step {
        answer::begin(&self.zone.read(), request)
    }

    async fn finish(&self, request: &Message, step: Step) -> Message {
        match step {
            Step::Done(response) => response,
            Step::Ask(query, response) => {
                let signatures = answer::wants_signatures(request);
                let unchecked = request.metadata.checking_disabled;
                answer::finish(response, self.forwarder.ask(&query, signatures, unchecked).await)
            }
        }
    }
}

async fn send(socket: &UdpSocket, response: &Message, limit: u16, peer: SocketAddr) {
    let Some(bytes) = answer::encode(response, limit) else { return };
    if let Err(error) = socket.send_to(&bytes, peer).await {
        tracing::debug!(%peer, error = &error as &dyn std::error::Error, "an answer could not be sent");
    }
}

#[cfg(test)]
mod tests;
