//! Listens for other members, and answers them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use openraft::raft::AppendEntriesRequest;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status, Streaming};

use super::proto::peer_server::{Peer, PeerServer};
use super::proto::{Entries, Message, Piece};
use super::tls::{PeerTls, TlsError, is_of};
use super::{MESSAGE_BYTES, header};
use crate::raft::core::Core;
use crate::raft::log_storage::{decode, encode};
use crate::raft::message::{Refused, Sender};
use crate::raft::pieces::{Come, Pieces, PiecesError, Place};
use crate::raft::runtime::spawn;
use crate::raft::state_machine::Image;
use crate::raft::{SnapshotMeta, TypeConfig, Vote};

/// Calls of one connection at once.
const STREAMS: u32 = 256;
/// Bytes that may be under way on a connection before they are taken.
const WINDOW: u32 = 8 << 20;
/// A connection from which nothing comes for so long is asked for a sign of life.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
/// How long TLS may take to come about.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Connections at once for which TLS comes about.
const HANDSHAKES: usize = 64;
/// The pause after a connection could not be accepted: out of file descriptors, as a rule.
const PAUSE: Duration = Duration::from_millis(50);

/// Answers for a member.
struct Answerer {
    core: Arc<Core>,
    /// Where states are put together.
    place: Place,
}

/// Binds the address at which a member listens.
pub(crate) async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Starts to listen.
pub(crate) fn start(
    core: Arc<Core>,
    place: Place,
    listener: TcpListener,
    tls: &PeerTls,
    ended: CancellationToken,
) -> Result<(), TlsError> {
    let acceptor = TlsAcceptor::from(Arc::new(tls.server()?));
    let service = PeerServer::new(Answerer { core, place })
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES);
    let server = Server::builder()
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .http2_keepalive_interval(Some(SIGN_OF_LIFE))
        .http2_keepalive_timeout(Some(SIGN_OF_LIFE))
        .add_service(service);
    let (accepted, incoming) = mpsc::channel(1);
    spawn(accept(listener, acceptor, accepted, ended.clone()));
    // Connections that are open are told to go; their streams end because the member has.
    let stop = ended.cancelled_owned();
    let serving = server.serve_with_incoming_shutdown(ReceiverStream::new(incoming), stop);
    spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "the member can no longer listen for others");
        }
    });
    Ok(())
}

/// Those who have shown who they are.
type Accepted = mpsc::Sender<io::Result<TlsStream<TcpStream>>>;

/// Accepts connections. What shows no certificate of a member, or not in time, gets no further.
async fn accept(listener: TcpListener, acceptor: TlsAcceptor, accepted: Accepted, ended: CancellationToken) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    while let Ok(place) = Arc::clone(&handshakes).acquire_owned().await {
        let stream = tokio::select! {
            biased;
            () = ended.cancelled() => return,
            stream = listener.accept() => stream,
        };
        match stream {
            Ok((stream, from)) => {
                let (acceptor, accepted) = (acceptor.clone(), accepted.clone());
                spawn(async move {
                    match tokio::time::timeout(HANDSHAKE, secure(stream, &acceptor)).await {
                        // The member may have ended.
                        Ok(Ok(stream)) => drop(accepted.send(Ok(stream)).await),
                        Ok(Err(error)) => tracing::debug!(%from, %error, "a connection was refused"),
                        Err(_) => tracing::debug!(%from, "a connection was given up"),
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection of a member could not be accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn secure(stream: TcpStream, acceptor: &TlsAcceptor) -> io::Result<TlsStream<TcpStream>> {
    // An answer must not wait until the one before it is acknowledged.
    stream.set_nodelay(true)?;
    acceptor.accept(stream).await
}

fn refuse(refused: &Refused) -> Status {
    let details = encode(refused).unwrap_or_default();
    Status::with_details(Code::FailedPrecondition, refused.to_string(), details)
}

fn malformed(error: impl ToString) -> Status {
    Status::invalid_argument(error.to_string())
}

fn message<T: serde::Serialize>(value: &T) -> Result<Message, Status> {
    Ok(Message { body: encode(value).map_err(|error| Status::internal(error.to_string()))? })
}

impl Answerer {
    /// Who asks, once it has shown that it is who it says it is.
    fn sender<T>(&self, request: &Request<T>) -> Result<Sender, Status> {
        let text = |key: &str| request.metadata().get(key).and_then(|value| value.to_str().ok());
        let number = |key: &str| {
            let parse = |text| u64::from_str_radix(text, 16).map_err(malformed);
            text(key).map(parse).transpose()
        };
        let name = text(header::NAME).ok_or_else(|| malformed("the name of the member is missing"))?;
        let certificates = request.peer_certs();
        let leaf = certificates.as_ref().and_then(|certificates| certificates.first());
        let other = || refuse(&Refused::OtherIdentity { member: name.to_owned() });
        if !leaf.is_some_and(|leaf| is_of(leaf, name)) {
            return Err(other());
        }
        let member =
            number(header::MEMBER)?.ok_or_else(|| malformed("the number of the member is missing"))?;
        if let Some(meant) = number(header::TO)?
            && meant != self.core.id()
        {
            return Err(refuse(&Refused::OtherMember { meant, is: self.core.id() }));
        }
        if self.core.name_of(member).is_some_and(|known| known != name) {
            return Err(other());
        }
        Ok(Sender { cluster: number(header::CLUSTER)?, member })
    }

    /// Puts together a state that comes in pieces.
    async fn receive(
        &self,
        mut pieces: Streaming<Piece>,
    ) -> Result<Box<(Vote, SnapshotMeta, Image)>, Status> {
        let first = pieces.message().await?.ok_or_else(|| malformed("there is no first piece"))?;
        let place = self.place.clone();
        let mut come = blocking(move || Pieces::start(place, first)).await?;
        loop {
            let some = match come {
                Come::All(all) => return Ok(all),
                Come::Some(some) => some,
            };
            let next = pieces.message().await?;
            let next = next.ok_or_else(|| malformed("the stream ends before the last piece"))?;
            come = blocking(move || some.take(next)).await?;
        }
    }
}

/// Does what waits for the disk, or takes long, where that is fine.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PiecesError> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Status::internal(error.to_string()))?.map_err(|error| refuse(&error.refused()))
}

pub(crate) fn to_request(entries: &Entries) -> io::Result<AppendEntriesRequest<TypeConfig>> {
    let (vote, prev_log_id, leader_commit) = decode(&entries.head)?;
    let entries = entries.entries.iter().map(|bytes: &Bytes| decode(bytes)).collect::<io::Result<_>>()?;
    Ok(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
}

#[tonic::async_trait]
impl Peer for Answerer {
    async fn call(&self, request: Request<Message>) -> Result<Response<Message>, Status> {
        let from = self.sender(&request)?;
        let asked = decode(&request.into_inner().body).map_err(malformed)?;
        // What has been begun is brought to its end, also if the one who asked goes away.
        let core = Arc::clone(&self.core);
        let answered = spawn(async move { core.answer(from, asked).await });
        let answer = answered.await.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(message(&answer)?))
    }

    type AppendStream = BoxStream<'static, Result<Message, Status>>;

    async fn append(
        &self,
        request: Request<Streaming<Entries>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let from = self.sender(&request)?;
        let input = request.into_inner();
        // A message that cannot be read ends the stream.
        let input = input.map(|entries| entries.ok().and_then(|entries| to_request(&entries).ok()));
        let input = input.take_while(|it| std::future::ready(it.is_some())).filter_map(std::future::ready);
        let answers = self.core.append(from, input).map_err(|refused| refuse(&refused))?;
        let answers =
            answers.map(|answer| answer.map_err(|refused| refuse(&refused)).and_then(|it| message(&it)));
        Ok(Response::new(answers.boxed()))
    }

    async fn snapshot(&self, request: Request<Streaming<Piece>>) -> Result<Response<Message>, Status> {
        let from = self.sender(&request)?;
        self.core.check_cluster(from).map_err(|refused| refuse(&refused))?;
        let (vote, meta, image) = *self.receive(request.into_inner()).await?;
        let taken = self.core.install(from, vote, meta, image).await;
        Ok(Response::new(message(&taken.map_err(|refused| refuse(&refused))?)?))
    }
}
