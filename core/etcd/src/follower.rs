//! The list and the watch that feed the copy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::metadata::MetadataValue;

use crate::connection::{Failure, Pause, Server, Servers, classify};
use crate::copy::{Copy, Listed};
use crate::layout::{number, revision};
use crate::proto::watch_request::RequestUnion;
use crate::proto::{RangeRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse};

/// Keys that are listed at once, unless they are large.
const PAGE: i64 = 1000;
/// How long a list looks for a member that answers, for each page.
const LIST: Duration = Duration::from_secs(10);
/// How long a watch may take to begin.
const BEGIN: Duration = Duration::from_secs(5);
/// A watch that lasted so long was a good one: the next attempt is made at once.
const GOOD: Duration = Duration::from_secs(10);
/// How much is kept of a revision that comes in fragments. A transaction is no larger than a request may be.
const FRAGMENTS: usize = 1 << 20;

/// Reads everything, at one revision. Looks so long for a member that answers, for each page.
pub(crate) async fn list(servers: &Servers, copy: &Copy, patience: Duration) -> Result<Listed, Failure> {
    let (first, end) = copy.keys.range();
    let (mut listed, mut at, mut limit) = (Listed::default(), first.clone(), PAGE);
    loop {
        let request = RangeRequest {
            key: at.clone(),
            range_end: end.clone(),
            limit,
            revision: number(listed.revision),
            ..RangeRequest::default()
        };
        let page = match servers.range(&request, Instant::now() + patience).await {
            Ok(page) => page,
            Err(Failure::Large) if limit > 1 => {
                limit = (limit / 8).max(1);
                continue;
            }
            // It took longer than history is kept.
            Err(Failure::Compacted) => {
                (listed, at) = (Listed::default(), first.clone());
                continue;
            }
            Err(failure) => return Err(failure),
        };
        if listed.revision.get() == 0 {
            listed.revision = revision(page.header.unwrap_or_default().revision);
        }
        if let Some(last) = page.kvs.last() {
            at = after(&last.key);
        }
        let has_more = page.more && !page.kvs.is_empty();
        listed.add(copy, page.kvs);
        if !has_more {
            return Ok(listed);
        }
    }
}

/// The first key after another.
fn after(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}

/// Why a watch has ended.
enum End {
    /// The connection, or the member.
    Lost(String),
    /// What comes next has been compacted away.
    Compacted,
    /// Etcd is at an earlier revision than before.
    WentBack,
}

/// Feeds the copy.
pub(crate) struct Follower {
    pub(crate) servers: Arc<Servers>,
    pub(crate) copy: Arc<Copy>,
    /// Those who want to know how far the watch is.
    pub(crate) asks: mpsc::Receiver<()>,
    /// Told when the watch is thought to hang.
    pub(crate) hangs: Arc<Notify>,
    /// Whether notices of progress can be relied on.
    pub(crate) notices: Arc<AtomicBool>,
}

impl Follower {
    /// Follows, forever.
    pub(crate) async fn run(mut self) {
        let mut pause = Pause::default();
        let mut told = String::new();
        loop {
            let server = self.servers.current();
            let began = Instant::now();
            let end = self.follow(&server).await;
            if began.elapsed() >= GOOD {
                pause.reset();
                told.clear();
            }
            match end {
                End::Lost(reason) => {
                    self.servers.pass(&server);
                    // Once is enough, as long as it stays so.
                    if told == reason {
                        tracing::debug!(server = server.name, reason, "the watch of etcd was lost");
                    } else {
                        tracing::warn!(server = server.name, reason, "the watch of etcd was lost");
                        told = reason;
                    }
                }
                End::Compacted => {
                    tracing::info!("what the watch of etcd missed is compacted away: all is read anew");
                    self.relist().await;
                }
                End::WentBack => {
                    let seen = self.copy.seen();
                    tracing::error!(%seen, "etcd is at an earlier revision than before: all is read anew");
                    self.relist().await;
                }
            }
            tokio::time::sleep(pause.next()).await;
        }
    }

    /// Reads everything, however long it takes until that is possible.
    async fn relist(&self) {
        let mut pause = Pause::default();
        loop {
            match list(&self.servers, &self.copy, LIST).await {
                Ok(listed) => {
                    if let Some(key) = &listed.foreign {
                        tracing::error!(
                            key,
                            "a key in etcd was not written by Keelson, and is taken as not there"
                        );
                    }
                    return self.copy.restore(listed);
                }
                Err(failure) => {
                    let error = failure.of_read();
                    tracing::warn!(error = &error as &dyn std::error::Error, "etcd could not be read");
                    tokio::time::sleep(pause.next()).await;
                }
            }
        }
    }

    /// Watches on one member, from behind what was seen.
    async fn follow(&mut self, server: &Server) -> End {
        let (send, receive) = mpsc::channel(4);
        let (key, range_end) = self.copy.keys.range();
        let create = WatchCreateRequest {
            key,
            range_end,
            start_revision: number(self.copy.seen().next()),
            progress_notify: self.has_notices(),
            fragment: true,
        };
        // There is room in a new channel.
        let _ = send.try_send(WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) });
        let mut request = Request::new(ReceiverStream::new(receive));
        // A member that has lost its leader says so, instead of showing nothing.
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        let mut client = server.watch();
        let lost = |status: &tonic::Status| match classify(&server.name, status) {
            Failure::NotMade(reason) | Failure::Lost(reason) => End::Lost(reason),
            Failure::Compacted => End::Compacted,
            other @ (Failure::Refused(_) | Failure::Large) => End::Lost(other.of_read().to_string()),
        };
        let mut stream = match tokio::time::timeout(BEGIN, client.watch(request)).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => return lost(&status),
            Err(_) => return End::Lost(format!("{} does not answer", server.name)),
        };
        let mut events = Vec::new();
        loop {
            tokio::select! {
                answer = stream.message() => match answer {
                    Ok(Some(answer)) => {
                        if let Some(end) = self.take(answer, &mut events).await {
                            return end;
                        }
                    }
                    Ok(None) => return End::Lost(format!("{} has ended it", server.name)),
                    Err(status) => return lost(&status),
                },
                // One who asks while there is no room asks again.
                Some(()) = self.asks.recv() => {
                    let ask = RequestUnion::ProgressRequest(WatchProgressRequest {});
                    let _ = send.try_send(WatchRequest { request_union: Some(ask) });
                }
                () = self.hangs.notified() => return End::Lost(format!("{} tells nothing", server.name)),
            }
        }
    }

    fn has_notices(&self) -> bool {
        self.notices.load(Ordering::Relaxed)
    }

    /// Takes up an answer of the watch. All events of a revision come in one, or in fragments of one.
    async fn take(&self, answer: WatchResponse, events: &mut Vec<crate::proto::Event>) -> Option<End> {
        let at = revision(answer.header.unwrap_or_default().revision);
        if answer.compact_revision > 0 {
            return Some(End::Compacted);
        }
        if answer.canceled {
            return Some(End::Lost(answer.cancel_reason));
        }
        if answer.created {
            return self.has_gone_back(at).await;
        }
        events.extend(answer.events);
        if answer.fragment {
            return (events.len() > FRAGMENTS).then(|| End::Lost("a revision is too large".to_owned()));
        }
        if !events.is_empty() {
            self.copy.take(&std::mem::take(events));
        } else if self.has_notices() {
            self.copy.progress(at);
        }
        None
    }

    /// A member that is behind others comes after them. That all are behind what was seen can only be if etcd was
    /// restored from earlier.
    async fn has_gone_back(&self, told: keelson_store::Revision) -> Option<End> {
        if told >= self.copy.seen() {
            return None;
        }
        match newest(&self.servers, &self.copy, Instant::now() + BEGIN).await {
            Ok(newest) => (newest < self.copy.seen()).then_some(End::WentBack),
            Err(failure) => Some(End::Lost(failure.of_read().to_string())),
        }
    }
}

/// Which revision etcd is at, not before anything that was acknowledged.
pub(crate) async fn newest(
    servers: &Servers,
    copy: &Copy,
    deadline: Instant,
) -> Result<keelson_store::Revision, Failure> {
    let request =
        RangeRequest { key: copy.keys.progress(), count_only: true, limit: 1, ..RangeRequest::default() };
    let answer = servers.range(&request, deadline).await?;
    Ok(revision(answer.header.unwrap_or_default().revision))
}
