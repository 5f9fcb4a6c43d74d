//! The way to etcd's members, and what their errors mean.
//!
//! One member is asked until it fails, then the next. Connections come about when they are needed.

use std::error::Error;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use keelson_store::{Alarm, StoreError};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Response, Status};
use url::Url;

use crate::config::{Config, OpenError};
use crate::proto::kv_client::KvClient;
use crate::proto::maintenance_client::MaintenanceClient;
use crate::proto::watch_client::WatchClient;
use crate::proto::{
    AlarmMember, AlarmRequest, AlarmType, CompactionRequest, RangeRequest, RangeResponse, StatusRequest,
    StatusResponse, TxnRequest, TxnResponse,
};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(2);
/// A quiet connection is asked for a sign of life after so long, and given up after as long again as `LIFE`. Servers
/// end connections on which they are asked more often than every five seconds.
const QUIET: Duration = Duration::from_secs(10);
const LIFE: Duration = Duration::from_secs(3);
/// How long one question may take before another member is asked.
const ANSWER: Duration = Duration::from_secs(5);
/// The largest answer that is taken: a page of a list, or a fragment of a watch.
const MESSAGE_BYTES: usize = 64 << 20;
/// The pauses between attempts: the first and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// What became of a question that was not answered.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// It had no effect, and it is worthwhile to ask again.
    NotMade(String),
    /// It had no effect, and would not have any if it were asked again.
    Refused(StoreError),
    /// It is not known whether it had an effect.
    Lost(String),
    /// The revision that it names has been compacted away.
    Compacted,
    /// The answer is larger than what is taken.
    Large,
}

impl Failure {
    /// Where nothing was to be changed.
    pub(crate) fn of_read(self) -> StoreError {
        match self {
            Failure::NotMade(reason) | Failure::Lost(reason) => StoreError::Unavailable { reason },
            Failure::Refused(error) => error,
            Failure::Compacted => unavailable("etcd has compacted the revision away"),
            Failure::Large => unavailable("an answer of etcd is too large"),
        }
    }
}

pub(crate) fn unavailable(reason: impl Into<String>) -> StoreError {
    StoreError::Unavailable { reason: reason.into() }
}

/// A pause that grows from attempt to attempt.
#[derive(Debug, Default)]
pub(crate) struct Pause(u32);

impl Pause {
    /// How long to wait now, with some chance in it so that many do not come back together.
    pub(crate) fn next(&mut self) -> Duration {
        let whole = (PAUSES.0 * 2_u32.saturating_pow(self.0)).min(PAUSES.1);
        self.0 = (self.0 + 1).min(16);
        whole.mul_f64(rand::random_range(0.5..1.0))
    }

    pub(crate) fn reset(&mut self) {
        self.0 = 0;
    }
}

/// The files of TLS.
#[derive(Clone, Debug)]
struct Tls {
    ca: Option<PathBuf>,
    pair: Option<(PathBuf, PathBuf)>,
}

fn bad_file(path: &Path, reason: impl ToString) -> OpenError {
    OpenError::File { path: path.to_owned(), reason: reason.to_string() }
}

impl Tls {
    fn of(config: &Config) -> Result<Self, OpenError> {
        let pair = match (&config.cert_file, &config.key_file) {
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => return Err(OpenError::Pair),
        };
        Ok(Tls { ca: config.ca_file.clone(), pair })
    }

    fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, OpenError> {
        let found: Result<Vec<_>, _> =
            CertificateDer::pem_file_iter(path).map_err(|error| bad_file(path, error))?.collect();
        let found = found.map_err(|error| bad_file(path, error))?;
        if found.is_empty() { Err(bad_file(path, "it holds no certificate")) } else { Ok(found) }
    }

    fn client(&self) -> Result<rustls::ClientConfig, OpenError> {
        let mut roots = rustls::RootCertStore::empty();
        match &self.ca {
            Some(path) => {
                for certificate in Self::certificates(path)? {
                    roots.add(certificate).map_err(|error| bad_file(path, error))?;
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| bad_file(Path::new("TLS"), error))?
            .with_root_certificates(roots);
        let mut client = match &self.pair {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = Self::certificates(certificate)?;
                let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| bad_file(key, error))?;
                builder.with_client_auth_cert(chain, secret).map_err(|error| bad_file(certificate, error))?
            }
        };
        client.alpn_protocols = vec![b"h2".to_vec()];
        Ok(client)
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Where a member is.
#[derive(Clone, Debug)]
struct Target {
    host: String,
    port: u16,
    tls: Option<Tls>,
}

impl Target {
    fn read(server: &str, tls: &Tls) -> Result<Self, OpenError> {
        let bad = || OpenError::Server { server: server.to_owned() };
        let url = Url::parse(server).map_err(|_| bad())?;
        let host = match url.host().ok_or_else(bad)? {
            url::Host::Domain(name) => name.to_owned(),
            url::Host::Ipv4(address) => address.to_string(),
            url::Host::Ipv6(address) => address.to_string(),
        };
        let is_bare = url.path().trim_matches('/').is_empty() && url.query().is_none();
        let has_files = tls.ca.is_some() || tls.pair.is_some();
        let tls = match url.scheme() {
            "https" if is_bare => Some(tls.clone()),
            "http" if has_files => return Err(OpenError::Plain { server: server.to_owned() }),
            "http" if is_bare => None,
            _ => return Err(bad()),
        };
        Ok(Target { host, port: url.port().unwrap_or(2379), tls })
    }

    /// Connects. The files are read each time, so that a renewed certificate is shown.
    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let tls = tls.clone();
        let read = tokio::task::spawn_blocking(move || tls.client()).await.map_err(io::Error::other)?;
        let name = ServerName::try_from(self.host.clone()).map_err(io::Error::other)?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(read.map_err(io::Error::other)?));
        Ok(Box::new(connector.connect(name, stream).await?))
    }

    fn channel(self) -> Channel {
        // Where it leads is the connector's matter.
        Endpoint::from_static("http://etcd.invalid")
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(QUIET)
            .keep_alive_timeout(LIFE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(8 << 20)
            .connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
                let target = self.clone();
                async move {
                    let late =
                        || io::Error::new(io::ErrorKind::TimedOut, "the connection does not come about");
                    let made = tokio::time::timeout(CONNECT, target.connect()).await;
                    made.map_err(|_| late())?.map(TokioIo::new)
                }
            }))
    }
}

/// The members.
pub(crate) struct Servers {
    all: Vec<(String, Channel)>,
    /// Who is asked now; counts on beyond the number of members.
    current: AtomicUsize,
}

/// One of the members.
#[derive(Clone)]
pub(crate) struct Server {
    turn: usize,
    channel: Channel,
    pub(crate) name: String,
}

impl Servers {
    pub(crate) fn of(config: &Config) -> Result<Self, OpenError> {
        let tls = Tls::of(config)?;
        let mut all = Vec::new();
        for server in &config.servers {
            let target = Target::read(server, &tls)?;
            if let Some(tls) = &target.tls {
                tls.client()?;
            }
            all.push((server.clone(), target.channel()));
        }
        if all.is_empty() {
            return Err(OpenError::NoServer);
        }
        let current = AtomicUsize::new(rand::random_range(0..all.len()));
        Ok(Servers { all, current })
    }

    /// Their addresses, for people.
    pub(crate) fn names(&self) -> String {
        let names: Vec<&str> = self.all.iter().map(|(name, _)| name.as_str()).collect();
        names.join(", ")
    }

    pub(crate) fn count(&self) -> usize {
        self.all.len()
    }

    /// Who is asked now.
    pub(crate) fn current(&self) -> Server {
        self.at(self.current.load(Ordering::Relaxed))
    }

    /// One of them by its place.
    pub(crate) fn at(&self, turn: usize) -> Server {
        let (name, channel) = &self.all[turn % self.all.len()];
        Server { turn, channel: channel.clone(), name: name.clone() }
    }

    /// Another one is asked from now on, unless that was decided already.
    pub(crate) fn pass(&self, server: &Server) {
        let next = server.turn.wrapping_add(1);
        let _ = self.current.compare_exchange(server.turn, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Asks one member, and makes sure that another is asked next where it does not answer.
    async fn ask<T, F>(&self, ask: impl FnOnce(Server) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let server = self.current();
        let name = server.name.clone();
        let asked = server.clone();
        match tokio::time::timeout(ANSWER, ask(server)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => {
                let failure = classify(&name, &status);
                if matches!(failure, Failure::NotMade(_) | Failure::Lost(_)) {
                    self.pass(&asked);
                }
                Err(failure)
            }
            Err(_) => {
                self.pass(&asked);
                Err(Failure::Lost(format!("{name} does not answer")))
            }
        }
    }

    /// Makes a transaction, once.
    pub(crate) async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Failure> {
        self.ask(|server| async move { server.kv().txn(request).await }).await
    }

    /// Compacts, once.
    pub(crate) async fn compact(&self, revision: i64) -> Result<(), Failure> {
        let request = CompactionRequest { revision };
        self.ask(|server| async move { server.kv().compact(request).await }).await.map(drop)
    }

    /// The alarms of all members.
    pub(crate) async fn alarms(&self) -> Result<Vec<Alarm>, Failure> {
        let asked = self.ask(|server| async move {
            MaintenanceClient::new(server.channel.clone()).alarm(AlarmRequest {}).await
        });
        let text = |member: AlarmMember| match member.alarm() {
            AlarmType::None => None,
            AlarmType::Nospace => Some(format!(
                "NOSPACE: member {:x} of etcd has used up its quota; compact and defragment it, and disarm the alarm",
                member.member_id
            )),
            AlarmType::Corrupt => Some(format!("CORRUPT: the data of member {:x} of etcd", member.member_id)),
        };
        Ok(asked.await?.alarms.into_iter().filter_map(text).map(Alarm::Elsewhere).collect())
    }

    /// Reads, from one after the other until one answers or the time is over.
    pub(crate) async fn range(
        &self,
        request: &RangeRequest,
        deadline: Instant,
    ) -> Result<RangeResponse, Failure> {
        let mut pause = Pause::default();
        loop {
            let request = request.clone();
            let outcome = self.ask(|server| async move { server.kv().range(request).await }).await;
            match outcome {
                Err(Failure::NotMade(_) | Failure::Lost(_)) if Instant::now() < deadline => {
                    tokio::time::sleep(pause.next()).await;
                }
                outcome => return outcome,
            }
        }
    }
}

impl Server {
    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES)
    }

    pub(crate) fn watch(&self) -> WatchClient<Channel> {
        WatchClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES)
    }

    /// Its version and the size of its database.
    pub(crate) async fn status(&self) -> Result<StatusResponse, Failure> {
        let mut client = MaintenanceClient::new(self.channel.clone());
        match tokio::time::timeout(ANSWER, client.status(StatusRequest {})).await {
            Ok(answer) => answer.map(Response::into_inner).map_err(|status| classify(&self.name, &status)),
            Err(_) => Err(Failure::Lost(format!("{} does not answer", self.name))),
        }
    }
}

/// An error with all that stands behind it, each only once.
fn chain(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = status.source();
    while let Some(error) = source {
        let part = error.to_string();
        if !part.is_empty() && !text.contains(&part) {
            text = if text.is_empty() { part } else { format!("{text}: {part}") };
        }
        source = error.source();
    }
    if text.is_empty() { status.code().to_string() } else { text }
}

/// Whether a request has never left: there was no connection, or it closed while the request waited to be sent.
fn is_unsent(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        let is_canceled = error.downcast_ref().is_some_and(hyper::Error::is_canceled);
        if is_canceled || error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// What an error of etcd means.
pub(crate) fn classify(server: &str, status: &Status) -> Failure {
    let told = || format!("{server}: {}", chain(status));
    let message = status.message();
    match status.code() {
        Code::ResourceExhausted if message.contains("database space exceeded") => {
            Failure::Refused(StoreError::NoSpace)
        }
        Code::ResourceExhausted if message.contains("too many requests") => Failure::NotMade(told()),
        Code::ResourceExhausted | Code::InvalidArgument
            if message.contains("request is too large") || message.contains("larger than max") =>
        {
            let reason = "etcd takes no request of this size, see its --max-request-bytes".to_owned();
            Failure::Refused(StoreError::TooLarge { reason })
        }
        Code::OutOfRange if message.contains("compacted") => Failure::Compacted,
        Code::OutOfRange if message.contains("too large") => Failure::Large,
        Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument | Code::Unimplemented => {
            Failure::Refused(unavailable(format!("etcd refuses this: {}", told())))
        }
        // Said of what was not proposed; "leader changed" and "request timed out" are said of what may have been.
        Code::Unavailable if message.ends_with("etcdserver: no leader") => Failure::NotMade(told()),
        _ if is_unsent(status) => Failure::NotMade(told()),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => Failure::Lost(told()),
    }
}

#[cfg(test)]
mod tests;
