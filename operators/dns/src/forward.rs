//! Asks the node's resolvers (client).
//!
//! Each resolver of the file is asked by UDP, and by TCP when its answer was too long. The one that answered last is asked
//! first. The file is read again when it is needed and was not read for a while, so that an idle server reads nothing.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout};

use self::cache::{Cache, Key};
use crate::answer::LARGEST_DATAGRAM;

mod cache;
mod resolv_conf;

/// How long one resolver has, and all of them.
const ONE: Duration = Duration::from_secs(2);
const ALL: Duration = Duration::from_millis(4500);

/// How often each resolver is asked.
const ROUNDS: usize = 2;

/// For how long a file counts as read.
const FRESH: Duration = Duration::from_secs(5);

/// Why a resolver has not answered.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("reach the resolver")]
    Io(#[from] io::Error),
    #[error("no answer in time")]
    Late(#[from] tokio::time::error::Elapsed),
    #[error("the question or its answer cannot be encoded")]
    Codec(#[from] hickory_proto::ProtoError),
    #[error("the answer belongs to another question")]
    Other,
    #[error("the resolver refuses with {0}")]
    Refused(ResponseCode),
}

/// The node's resolvers, and what they have said.
#[derive(Debug)]
pub(crate) struct Forwarder {
    resolv_conf: PathBuf,
    /// The cluster's name server itself, which is not asked.
    own: IpAddr,
    port: u16,
    resolvers: Mutex<Resolvers>,
    cache: Mutex<Cache>,
}

#[derive(Debug, Default)]
struct Resolvers {
    read: Option<Instant>,
    addresses: Vec<IpAddr>,
}

impl Forwarder {
    /// To the resolvers that a file names. `own` is not asked even if it is among them.
    pub(crate) fn new(resolv_conf: PathBuf, own: IpAddr) -> Self {
        Forwarder { resolv_conf, own, port: 53, resolvers: Mutex::default(), cache: Mutex::default() }
    }

    /// To resolvers at another port than 53.
    #[cfg(test)]
    pub(crate) fn at_port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// What others say; `None` if nobody says anything.
    pub(crate) async fn ask(&self, query: &Query, signatures: bool, unchecked: bool) -> Option<Message> {
        let key = Key {
            name: query.name.to_lowercase(),
            wanted: query.query_type,
            signatures,
            checking_disabled: unchecked,
        };
        if let Some(kept) = self.cache.lock().get(&key, Instant::now()) {
            return Some(kept);
        }
        let mut question = Message::query();
        question.metadata.recursion_desired = true;
        question.metadata.checking_disabled = unchecked;
        let mut edns = Edns::new();
        edns.set_max_payload(LARGEST_DATAGRAM).set_dnssec_ok(signatures);
        question.set_edns(edns).add_query(query.clone());
        let answer = timeout(ALL, self.ask_all(&question)).await.ok().flatten()?;
        self.cache.lock().put(key, &answer, Instant::now());
        Some(answer)
    }

    async fn ask_all(&self, question: &Message) -> Option<Message> {
        let mut refusal = None;
        let resolvers = self.resolvers().await;
        for resolver in resolvers.iter().cycle().take(resolvers.len() * ROUNDS) {
            match ask_one(SocketAddr::new(*resolver, self.port), question).await {
                Ok(answer) if is_useful(&answer) => {
                    self.prefer(*resolver);
                    return Some(answer);
                }
                Ok(answer) => {
                    let error = AskError::Refused(answer.metadata.response_code);
                    tracing::debug!(%resolver, error = &error as &dyn std::error::Error, "a resolver is of no use");
                    refusal = Some(answer);
                }
                Err(error) => {
                    tracing::debug!(%resolver, error = &error as &dyn std::error::Error, "a resolver is of no use");
                }
            }
        }
        refusal
    }

    async fn resolvers(&self) -> Vec<IpAddr> {
        {
            let known = self.resolvers.lock();
            if known.read.is_some_and(|read| read.elapsed() < FRESH) {
                return known.addresses.clone();
            }
        }
        let read = tokio::fs::read_to_string(&self.resolv_conf).await;
        let mut known = self.resolvers.lock();
        known.read = Some(Instant::now());
        match read {
            Ok(text) => {
                let mut named = resolv_conf::resolvers(&text);
                named.retain(|address| *address != self.own);
                let same = named.len() == known.addresses.len()
                    && named.iter().all(|address| known.addresses.contains(address));
                if !same {
                    tracing::info!(resolvers = ?named, "names of others are asked of the node's resolvers");
                    known.addresses = named;
                }
            }
            Err(error) => {
                let (file, error) = (self.resolv_conf.display(), &error as &dyn std::error::Error);
                tracing::warn!(%file, error, "the node's resolvers could not be read");
            }
        }
        known.addresses.clone()
    }

    fn prefer(&self, resolver: IpAddr) {
        let mut known = self.resolvers.lock();
        if let Some(place) = known.addresses.iter().position(|one| *one == resolver) {
            known.addresses[..=place].rotate_right(1);
        }
    }
}

/// Whether nobody else need be asked.
fn is_useful(answer: &Message) -> bool {
    matches!(answer.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain)
}

async fn ask_one(resolver: SocketAddr, question: &Message) -> Result<Message, AskError> {
    let bytes = question.to_vec()?;
    let answer = timeout(ONE, by_udp(resolver, &bytes, question)).await??;
    if !answer.metadata.truncation {
        return Ok(answer);
    }
    timeout(ONE, by_tcp(resolver, &bytes, question)).await?
}

async fn by_udp(resolver: SocketAddr, bytes: &[u8], question: &Message) -> Result<Message, AskError> {
    let any: IpAddr = match resolver {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // Each question has a port of its own, so that answers are hard to forge.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(resolver).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // What is no answer to this question may be forged: the answer is still to come.
        match Message::from_vec(&buffer[..length]) {
            Ok(answer) if answers(&answer, question) => return Ok(answer),
            Ok(_) | Err(_) => {}
        }
    }
}

async fn by_tcp(resolver: SocketAddr, bytes: &[u8], question: &Message) -> Result<Message, AskError> {
    let mut stream = TcpStream::connect(resolver).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    let answer = Message::from_vec(&buffer).map_err(io::Error::other)?;
    if answers(&answer, question) { Ok(answer) } else { Err(AskError::Other) }
}

fn answers(answer: &Message, question: &Message) -> bool {
    answer.metadata.id == question.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && answer.queries == question.queries
}

#[cfg(test)]
pub(crate) mod tests;
