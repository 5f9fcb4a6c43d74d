//! Asks other members, and sends to them.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use hyper_util::rt::TokioIo;
use openraft::raft::AppendEntriesRequest;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

use super::proto::peer_client::PeerClient;
use super::proto::{Entries, Message, Piece};
use super::tls::{MEMBER_DNS_NAME, TlsError};
use super::{MESSAGE_BYTES, PIECE_BYTES, header};
use crate::Snapshot;
use crate::raft::log_storage::{decode, encode};
use crate::raft::member::Identity;
use crate::raft::message::{BoxFuture, Dial, EntryAnswers, Peer, PeerError, Request, Response, pump};
use crate::raft::runtime::spawn;
use crate::raft::{Member, SnapshotMeta, TypeConfig, Vote, pieces};
use crate::raft_store::Peers;

/// How long finding or connecting to one address may take.
const CONNECT: Duration = Duration::from_millis(500);
/// How long TLS may take to come about.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// A connection from which nothing comes for so long is asked for a sign of life, and given up after as long again.
const SIGN_OF_LIFE: Duration = Duration::from_millis(500);
/// Bytes that may be under way on a connection before they are taken.
const WINDOW: u32 = 8 << 20;
/// Answers to entries that wait to be taken.
const ANSWERS: usize = 64;
/// Pieces of a snapshot that wait to be sent.
const PIECES: usize = 4;

/// Finds the way to other members.
pub(crate) struct Dialer {
    identity: Identity,
    name: String,
    tls: TlsConnector,
    source: Option<IpAddr>,
    /// One connection for questions and entries, one for snapshots, so that those do not hold up the others.
    channels: Mutex<HashMap<u64, (Member, Channel, Channel)>>,
}

/// The way to one member.
struct Remote {
    what: String,
    to: Option<u64>,
    identity: Identity,
    name: String,
    calls: Channel,
    bulk: Channel,
}

impl Dialer {
    pub(crate) fn new(identity: Identity, name: &str, peers: &Peers) -> Result<Self, TlsError> {
        let tls = TlsConnector::from(Arc::new(peers.tls.client()?));
        let (name, source) = (name.to_owned(), peers.source);
        Ok(Dialer { identity, name, tls, source, channels: Mutex::default() })
    }

    fn channel(&self, addresses: &[String], name: &str, missed: Arc<Missed>) -> Channel {
        // The connector chooses the address, and brings TLS about.
        let endpoint = Endpoint::from_static("http://member.invalid")
            .tcp_nodelay(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .http2_keep_alive_interval(SIGN_OF_LIFE)
            .keep_alive_timeout(SIGN_OF_LIFE)
            .keep_alive_while_idle(false);
        let addresses: Arc<[String]> = addresses.into();
        let (tls, name, source) = (self.tls.clone(), name.to_owned(), self.source);
        endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let (addresses, tls, name) = (Arc::clone(&addresses), tls.clone(), name.clone());
            let missed = Arc::clone(&missed);
            async move {
                let made = async {
                    let stream = connect(&addresses, source).await?;
                    tokio::time::timeout(HANDSHAKE, secure(stream, &tls, name.clone())).await?
                };
                let made: io::Result<_> = made.await;
                missed.tell(&name, made.as_ref().err());
                made.map(TokioIo::new)
            }
        }))
    }

    fn remote(&self, what: &str, to: Option<u64>, calls: Channel, bulk: Channel) -> Arc<dyn Peer> {
        let what = what.to_owned();
        Arc::new(Remote { what, to, identity: self.identity, name: self.name.clone(), calls, bulk })
    }
}

/// Whether a member cannot be reached, which is tried many times a second and logged once.
#[derive(Default)]
struct Missed(AtomicBool);

impl Missed {
    fn tell(&self, member: &str, error: Option<&io::Error>) {
        match (error, self.0.swap(error.is_some(), Ordering::Relaxed)) {
            (Some(error), false) => {
                tracing::warn!(member, %error, "a member cannot be reached; it is tried again and again");
            }
            (None, true) => tracing::info!(member, "a member is reached again"),
            (Some(_), true) | (None, false) => {}
        }
    }
}

/// Connects to the first address that answers. One that means nothing, or does not answer in time, is passed over.
async fn connect(addresses: &[String], source: Option<IpAddr>) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        let targets = match in_time(tokio::net::lookup_host(address)).await {
            Ok(targets) => targets,
            Err(error) => {
                last = error;
                continue;
            }
        };
        for target in targets {
            match in_time(connect_to(target, source)).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
    }
    Err(last)
}

/// One step on the way to a connection.
async fn in_time<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(CONNECT, step).await.map_err(io::Error::from)?
}

async fn connect_to(target: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = source.filter(|source| source.is_ipv4() == target.is_ipv4()) {
        socket.bind((source, 0).into())?;
    }
    let stream = socket.connect(target).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The certificate of the other end must show this name.
async fn secure(stream: TcpStream, tls: &TlsConnector, name: String) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name).map_err(io::Error::other)?;
    tls.connect(name, stream).await
}

impl Dial for Dialer {
    fn peer(&self, id: u64, member: &Member) -> Arc<dyn Peer> {
        let mut channels = self.channels.lock();
        let open = || {
            let missed = Arc::<Missed>::default();
            let channel = || self.channel(&member.addresses, &member.name, Arc::clone(&missed));
            (member.clone(), channel(), channel())
        };
        let kept = channels.entry(id).or_insert_with(open);
        if kept.0 != *member {
            *kept = open();
        }
        self.remote(&member.name, Some(id), kept.1.clone(), kept.2.clone())
    }

    fn stranger(&self, address: &str) -> Arc<dyn Peer> {
        let channel = self.channel(&[address.to_owned()], MEMBER_DNS_NAME, Arc::default());
        self.remote(address, None, channel.clone(), channel)
    }
}

impl Remote {
    fn client(channel: &Channel) -> PeerClient<Channel> {
        PeerClient::new(channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES)
    }

    fn request<T>(&self, body: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(body);
        let headers = request.metadata_mut();
        let numbers = [
            (header::CLUSTER, self.identity.cluster),
            (header::MEMBER, Some(self.identity.member)),
            (header::TO, self.to),
        ];
        for (key, number) in numbers {
            if let Some(value) =
                number.and_then(|number| MetadataValue::try_from(format!("{number:016x}")).ok())
            {
                headers.insert(key, value);
            }
        }
        if let Ok(value) = MetadataValue::try_from(&self.name) {
            headers.insert(header::NAME, value);
        }
        request
    }

    fn failed(&self, status: &Status) -> PeerError {
        let peer = self.what.clone();
        // The other end puts why it refuses into the details.
        if let Ok(refused) = decode(status.details())
            && status.code() == Code::FailedPrecondition
        {
            return PeerError::Refused { peer, refused };
        }
        let mut reason = status.message().to_owned();
        let mut source = std::error::Error::source(status);
        while let Some(error) = source {
            reason = format!("{reason}: {error}");
            source = error.source();
        }
        // Without a connection, nothing was sent.
        let connecting = source_is_connect(status);
        if connecting {
            PeerError::Unreachable { peer, reason }
        } else {
            PeerError::NoAnswer { peer, reason }
        }
    }

    fn broken(&self, error: impl ToString) -> PeerError {
        PeerError::NoAnswer { peer: self.what.clone(), reason: error.to_string() }
    }
}

/// Whether a call failed because there was no connection.
fn source_is_connect(status: &Status) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

impl Peer for Remote {
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Response, PeerError>> {
        Box::pin(async move {
            let body = encode(&request).map_err(|error| self.broken(error))?;
            let answer = Self::client(&self.calls).call(self.request(Message { body })).await;
            let answer = answer.map_err(|status| self.failed(&status))?;
            decode(&answer.into_inner().body).map_err(|error| self.broken(error))
        })
    }

    fn append(
        &self,
        input: BoxStream<'static, AppendEntriesRequest<TypeConfig>>,
    ) -> BoxFuture<'_, Result<EntryAnswers, PeerError>> {
        let (input, pump) = pump(input, |request| entries(&request).ok());
        let request = self.request(ReceiverStream::new(input));
        Box::pin(async move {
            let answers = Self::client(&self.calls).append(request).await;
            let mut answers = answers.map_err(|status| self.failed(&status))?.into_inner();
            let what = self.what.clone();
            let (sender, receiver) = mpsc::channel(ANSWERS);
            let reader = spawn(async move {
                let broken = |reason: String| PeerError::NoAnswer { peer: what.clone(), reason };
                loop {
                    let answer = match answers.message().await {
                        Ok(Some(message)) => decode(&message.body).map_err(|error| broken(error.to_string())),
                        Ok(None) => return,
                        Err(status) => Err(broken(status.to_string())),
                    };
                    let ends = answer.is_err();
                    if sender.send(answer).await.is_err() || ends {
                        return;
                    }
                }
            });
            let both = (pump, AbortOnDropHandle::new(reader));
            let answers = ReceiverStream::new(receiver).map(move |answer| {
                // They live as long as somebody waits for answers.
                let _ = &both;
                answer
            });
            Ok(answers.boxed())
        })
    }

    fn snapshot(
        &self,
        vote: Vote,
        meta: SnapshotMeta,
        state: Snapshot,
    ) -> BoxFuture<'_, Result<Vote, PeerError>> {
        let request = self.request(pieces(vote, meta, state));
        Box::pin(async move {
            let answer = Self::client(&self.bulk).snapshot(request).await;
            let answer = answer.map_err(|status| self.failed(&status))?;
            decode(&answer.into_inner().body).map_err(|error| self.broken(error))
        })
    }
}

/// A request to append, each entry in the bytes that stand in the log.
pub(crate) fn entries(request: &AppendEntriesRequest<TypeConfig>) -> io::Result<Entries> {
    let head = encode(&(&request.vote, &request.prev_log_id, &request.leader_commit))?;
    let entries = request.entries.iter().map(encode).collect::<io::Result<Vec<Bytes>>>()?;
    Ok(Entries { head, entries })
}

/// Cuts a state into pieces, no faster than they are sent.
fn pieces(vote: Vote, meta: SnapshotMeta, state: Snapshot) -> ReceiverStream<Piece> {
    let (sender, receiver) = mpsc::channel(PIECES);
    spawn(async move {
        // It waits for the network, so it must not hold up other tasks.
        let cut = tokio::task::spawn_blocking(move || {
            let send = |piece| sender.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into());
            pieces::cut(vote, &meta, &state, PIECE_BYTES, send)
        });
        match cut.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::info!(%error, "a snapshot was not sent to its end"),
            Err(error) => tracing::error!(%error, "a snapshot could not be cut into pieces"),
        }
    });
    ReceiverStream::new(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_that_do_not_lead_anywhere_are_passed_over() {
        let here = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = here.local_addr().unwrap().to_string();
        let nobody = gone.local_addr().unwrap().to_string();
        drop(gone);
        let addresses = ["no such name.invalid:1".to_owned(), nobody, good.clone()];
        let stream = connect(&addresses, None).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap().to_string(), good);
        assert!(connect(&addresses[..2], None).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_does_not_answer_is_given_up_in_time() {
        let silent = in_time(std::future::pending::<io::Result<()>>()).await;
        assert_eq!(silent.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
