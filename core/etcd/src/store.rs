//! The store.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use keelson_store::engine::{self, HistoryError};
use keelson_store::{
    Alarm, Change, Entry, Failure as StoreFailure, Observer, Precondition, Refusal, Revision, Snapshot,
    Store, StoreError, Write,
};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, OpenError};
use crate::connection::{Failure, Pause, Servers, unavailable};
use crate::copy::{Copy, Ticket};
use crate::follower::{self, Follower};
use crate::layout::{Keys, Stored, revision};
use crate::proto::response_op::Response;
use crate::proto::{KeyValue, PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse, request_op};
use crate::reader;
use crate::upkeep::{Size, Upkeep};
use transaction::Last;

mod transaction;

/// Those who may wait to ask how far etcd is.
const READERS: usize = 1024;
/// How long an event may be under way before the watch is asked how far it is, and how often that is repeated.
const UNDER_WAY: Duration = Duration::from_millis(20);
const AGAIN: Duration = Duration::from_millis(200);
/// A watch that tells nothing for so long, although it was asked, is begun anew.
const HANGS: Duration = Duration::from_secs(2);

/// A store on an etcd cluster, which others may share.
pub struct EtcdStore {
    servers: Arc<Servers>,
    copy: Arc<Copy>,
    readers: Mutex<Option<mpsc::Sender<reader::Ask>>>,
    progress: mpsc::Sender<()>,
    /// One at a time asks how far the watch is.
    turn: tokio::sync::Mutex<()>,
    hangs: Arc<Notify>,
    notices: Arc<AtomicBool>,
    size: Arc<Size>,
    patience: Duration,
    ended: CancellationToken,
    /// One of the tasks has.
    failed: CancellationToken,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl EtcdStore {
    /// Opens it: what is below the prefix is read, and shown to the observer.
    pub async fn open(config: Config, observer: Arc<dyn Observer>) -> Result<Arc<EtcdStore>, OpenError> {
        let servers = Arc::new(Servers::of(&config)?);
        let history = engine::Config { history: config.history, ..engine::Config::default() };
        let copy = Arc::new(Copy::new(Keys::new(&config.prefix, &config.root), history, observer));
        let listed = first_list(&servers, &copy, config.start_timeout).await?;
        if let Some(key) = listed.foreign {
            return Err(OpenError::Foreign { key });
        }
        let (count, revision) = (listed.entries.len(), listed.revision);
        tracing::info!(servers = servers.names(), prefix = config.prefix, count, %revision, "etcd was read");
        copy.restore(listed);
        let (notices, size) = (Arc::new(AtomicBool::new(false)), Arc::new(Size::default()));
        let (hangs, ended) = (Arc::new(Notify::new()), CancellationToken::new());
        let (readers, asks) = mpsc::channel(READERS);
        let (progress, progress_asks) = mpsc::channel(1);
        let upkeep =
            Upkeep { servers: Arc::clone(&servers), notices: Arc::clone(&notices), size: Arc::clone(&size) };
        upkeep.look().await;
        let follower = Follower {
            servers: Arc::clone(&servers),
            copy: Arc::clone(&copy),
            asks: progress_asks,
            hangs: Arc::clone(&hangs),
            notices: Arc::clone(&notices),
        };
        let reading = reader::run(Arc::clone(&servers), Arc::clone(&copy), asks, config.request_timeout);
        let keeping = upkeep.run(config.compaction_interval, config.size_interval);
        let failed = CancellationToken::new();
        let tasks = vec![
            watched("follower", follower.run(), &ended, &failed),
            watched("reader", reading, &ended, &failed),
            watched("upkeep", keeping, &ended, &failed),
        ];
        Ok(Arc::new(EtcdStore {
            servers,
            copy,
            readers: Mutex::new(Some(readers)),
            progress,
            turn: tokio::sync::Mutex::new(()),
            hangs,
            notices,
            size,
            patience: config.request_timeout,
            ended,
            failed,
            tasks: Mutex::new(tasks),
        }))
    }

    /// Tells the size of the database in bytes, as it was told last.
    pub fn size(&self) -> impl Fn() -> Option<u64> + Send + Sync + use<> {
        let size = Arc::clone(&self.size);
        move || size.get()
    }

    /// Waits until everything up to a revision was shown to the observer.
    async fn reach(&self, wanted: Revision, deadline: Instant) -> Result<(), StoreError> {
        let seen = async {
            tokio::select! {
                () = self.copy.wait(wanted) => Ok(()),
                never = self.urge(wanted) => never,
            }
        };
        let late = || {
            let seen = self.copy.seen();
            unavailable(format!("etcd is at revision {wanted}, and its watch has told up to {seen}"))
        };
        tokio::select! {
            outcome = tokio::time::timeout_at(deadline, seen) => outcome.unwrap_or_else(|_| Err(late())),
            () = self.ended.cancelled() => Err(StoreError::Closed),
        }
    }

    /// Makes the watch tell how far it is, again and again. The newest revision may be one of a key elsewhere, of which
    /// the watch says nothing by itself.
    async fn urge(&self, wanted: Revision) -> Result<(), StoreError> {
        tokio::time::sleep(UNDER_WAY).await;
        let _turn = self.turn.lock().await;
        let (mut asked, mut pause) = (Instant::now(), AGAIN);
        loop {
            if self.copy.seen() >= wanted {
                // Whoever waits for it is told.
                return std::future::pending().await;
            }
            if self.notices.load(Ordering::Relaxed) {
                let _ = self.progress.try_send(());
            } else {
                self.touch().await;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(HANGS);
            if asked.elapsed() >= HANGS {
                self.hangs.notify_one();
                asked = Instant::now();
            }
        }
    }

    /// Writes a key below the prefix, so that the watch tells of it. Old versions of etcd tell wrongly how far a watch
    /// is: a notice may overtake events.
    async fn touch(&self) {
        let put = PutRequest { key: self.copy.keys.progress(), value: bytes::Bytes::new() };
        let put = RequestOp { request: Some(request_op::Request::RequestPut(put)) };
        let request = TxnRequest { success: vec![put], ..TxnRequest::default() };
        if let Err(failure) = self.servers.txn(request).await {
            let error = failure.of_read();
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "it cannot be seen how far the watch of etcd is"
            );
        }
    }

    /// What is under a key in etcd now, and how far etcd is.
    async fn read(&self, write: &Write, deadline: Instant) -> Result<(Revision, Option<Entry>), StoreError> {
        let Some(key) = self.copy.keys.to_etcd(&write.key) else { return Err(outside(write)) };
        let request = RangeRequest { key, limit: 1, ..RangeRequest::default() };
        let answer = self.servers.range(&request, deadline).await.map_err(Failure::of_read)?;
        let at = revision(answer.header.unwrap_or_default().revision);
        Ok((at, answer.kvs.first().and_then(found).map(|(_, entry)| entry)))
    }

    /// A write that is wrong whatever is there, or refused whatever is there.
    async fn hopeless(&self, write: &Write, deadline: Instant) -> Result<Entry, StoreError> {
        let (_, current) = self.read(write, deadline).await?;
        let holds = match (&write.precondition, &write.change) {
            (Precondition::Absent | Precondition::AbsentBeside { .. }, Change::Put(_)) => current.is_none(),
            (Precondition::Absent | Precondition::AbsentBeside { .. }, Change::Delete(_)) => false,
            (Precondition::Unchanged(at), _) => current.as_ref().is_some_and(|entry| entry.modified == *at),
            (Precondition::Any, Change::Put(_)) => true,
            (Precondition::Any, Change::Delete(_)) => current.is_some(),
        };
        Err(if holds { Refusal::Malformed } else { Refusal::Conflict { current } }.into())
    }

    /// Tries until it is known what became of a write, or the time is over.
    async fn attempt(
        &self,
        write: &Write,
        last: Last,
        ticket: &mut Ticket<'_>,
        deadline: Instant,
    ) -> Result<Entry, StoreError> {
        let Some(key) = self.copy.keys.to_etcd(&write.key) else { return Err(outside(write)) };
        let request = transaction::build(&self.copy, write, key, ticket.id, last);
        // The answer that did not come, if one attempt may have been successful.
        let mut lost: Option<String> = None;
        let mut pause = Pause::default();
        loop {
            let reason = match self.servers.txn(request.clone()).await {
                Ok(answer) if answer.succeeded => return self.made(write, &answer, ticket, deadline).await,
                Ok(answer) => return self.refused(write, &answer, ticket, lost, deadline).await,
                Err(Failure::Refused(StoreError::NoSpace)) if lost.is_none() => {
                    return self.without_room(write, last, ticket, deadline).await;
                }
                Err(Failure::Refused(error)) if lost.is_none() => return Err(error),
                Err(Failure::NotMade(reason)) => reason,
                // No event will tell of it.
                Err(Failure::Lost(reason)) if last == Last::Untold => {
                    return Err(StoreError::OutcomeUnknown { reason });
                }
                Err(Failure::Lost(reason)) => {
                    lost = Some(reason.clone());
                    reason
                }
                Err(failure @ (Failure::Refused(_) | Failure::Compacted | Failure::Large)) => {
                    failure.of_read().to_string()
                }
            };
            // What names no revision would be made a second time, a creation too if somebody has deleted its object
            // meanwhile. Its event may still come.
            let is_repeatable = matches!(write.precondition, Precondition::Unchanged(_)) || lost.is_none();
            let until = if is_repeatable { Instant::now() + pause.next() } else { deadline };
            tokio::select! {
                entry = ticket.event() => return Ok(entry),
                () = tokio::time::sleep_until(until.min(deadline)) => {}
                () = self.ended.cancelled() => {}
            }
            if Instant::now() >= deadline || self.ended.is_cancelled() {
                return Err(match lost {
                    Some(reason) => StoreError::OutcomeUnknown { reason },
                    None => unavailable(reason),
                });
            }
        }
    }

    /// A write for which etcd says that it has no room. A member that finds that out while it makes the write has made it
    /// nevertheless, and answers as one that has not begun with it.
    async fn without_room(
        &self,
        write: &Write,
        last: Last,
        ticket: &mut Ticket<'_>,
        deadline: Instant,
    ) -> Result<Entry, StoreError> {
        let unknown = |error: &dyn std::fmt::Display| {
            let reason =
                format!("etcd has no room left, and it was not seen whether it made the write: {error}");
            StoreError::OutcomeUnknown { reason }
        };
        let (at, current) = self.read(write, deadline).await.map_err(|error| unknown(&error))?;
        let is_untouched =
            |entry: &Entry| matches!(write.precondition, Precondition::Unchanged(at) if entry.modified == at);
        if current.as_ref().is_some_and(is_untouched) {
            return Err(StoreError::NoSpace);
        }
        if last == Last::Untold {
            return Err(unknown(&"it has changed meanwhile"));
        }
        self.reach(at, deadline).await.map_err(|error| unknown(&error))?;
        ticket.made().ok_or(StoreError::NoSpace)
    }

    /// A write that was made: it is answered when its event was seen.
    async fn made(
        &self,
        write: &Write,
        answer: &TxnResponse,
        ticket: &mut Ticket<'_>,
        deadline: Instant,
    ) -> Result<Entry, StoreError> {
        let at = revision(answer.header.unwrap_or_default().revision);
        if let Err(error) = self.reach(at, deadline).await {
            let reason = format!("it was made at revision {at}, but its event was not seen: {error}");
            return Err(StoreError::OutcomeUnknown { reason });
        }
        // The one that was seen shares its bytes with all who read it.
        Ok(ticket.made().unwrap_or_else(|| {
            let created = pairs(answer).next().map_or(at, |pair| revision(pair.create_revision));
            Entry { value: value(&write.change).finish(at), created, modified: at }
        }))
    }

    /// A write that was refused: by its condition, or since an earlier attempt at it was successful.
    async fn refused(
        &self,
        write: &Write,
        answer: &TxnResponse,
        ticket: &mut Ticket<'_>,
        lost: Option<String>,
        deadline: Instant,
    ) -> Result<Entry, StoreError> {
        let at = revision(answer.header.unwrap_or_default().revision);
        let current = pairs(answer).next().and_then(found);
        let is_own = current.as_ref().is_some_and(|(stored, _)| stored.id == ticket.id);
        let current = current.map(|(_, entry)| entry);
        let known = self.copy.get(&write.key).map(|entry| entry.modified);
        // Where the key is not there, the other one has changed.
        let is_outdated =
            current.is_none() && matches!(write.precondition, Precondition::AbsentBeside { .. });
        // Who is refused looks at the state next, and must find what stands against the write.
        if known != current.as_ref().map(|entry| entry.modified) || lost.is_some() || is_outdated {
            let wanted = current.as_ref().filter(|_| lost.is_none()).map_or(at, |entry| entry.modified);
            if let Err(error) = self.reach(wanted, deadline).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a refused write may be tried in vain again"
                );
            }
        }
        let Some(reason) = lost else {
            let refusal = if is_outdated { Refusal::Outdated } else { Refusal::Conflict { current } };
            return Err(refusal.into());
        };
        if let Some(entry) = ticket.made() {
            return Ok(entry);
        }
        match (current, &write.precondition) {
            (Some(entry), _) if is_own => Ok(entry),
            // The revision has passed for good: the lost attempt was not made before, and cannot be any more.
            (current, Precondition::Unchanged(_)) if self.copy.seen() >= at => {
                Err(Refusal::Conflict { current }.into())
            }
            _ => Err(StoreError::OutcomeUnknown { reason }),
        }
    }
}

fn value(change: &Change) -> &keelson_store::Value {
    match change {
        Change::Put(value) | Change::Delete(value) => value,
    }
}

fn outside(write: &Write) -> StoreError {
    unavailable(format!("{} does not lie where this store keeps its keys", write.key))
}

/// What was stored, and how the store shows it.
fn found(pair: &KeyValue) -> Option<(Stored, Entry)> {
    let stored = Stored::decode(pair.value.clone())?;
    let (created, modified) = (revision(pair.create_revision), revision(pair.mod_revision));
    let entry = Entry { value: stored.value.finish(modified), created, modified };
    Some((stored, entry))
}

/// What a transaction has read.
fn pairs(answer: &TxnResponse) -> impl Iterator<Item = &KeyValue> {
    answer.responses.iter().flat_map(|it| match &it.response {
        Some(Response::ResponseRange(range)) => range.kvs.as_slice(),
        Some(Response::ResponsePut(_) | Response::ResponseDeleteRange(_)) | None => &[],
    })
}

/// The first list, for which etcd may take a while to come up.
async fn first_list(
    servers: &Servers,
    copy: &Copy,
    patience: Duration,
) -> Result<crate::copy::Listed, OpenError> {
    let deadline = Instant::now() + patience;
    let unreachable = |reason: String| {
        // Of a client that is not let in, TLS 1.3 tells only when it has begun to speak: the alert may be overtaken by
        // the end of the connection.
        let closed = ["broken pipe", "reset", "closed"].iter().any(|word| reason.contains(word));
        let hint = if closed {
            "; it may not take the certificate that this client shows, or ask for one"
        } else {
            ""
        };
        OpenError::Unreachable { servers: servers.names(), reason: format!("{reason}{hint}") }
    };
    let mut pause = Pause::default();
    let mut told = None;
    loop {
        let listed = tokio::time::timeout_at(deadline, follower::list(servers, copy, Duration::ZERO)).await;
        let reason = match listed {
            Ok(Ok(listed)) => return Ok(listed),
            Ok(Err(Failure::Refused(error))) => return Err(unreachable(error.to_string())),
            Ok(Err(failure)) => failure.of_read().to_string(),
            Err(_) => return Err(unreachable(told.unwrap_or_else(|| "no answer".to_owned()))),
        };
        if told.as_ref() != Some(&reason) {
            tracing::warn!(servers = servers.names(), reason, "etcd cannot be reached yet");
        }
        if Instant::now() >= deadline {
            return Err(unreachable(reason));
        }
        told = Some(reason);
        tokio::time::sleep(pause.next()).await;
    }
}

/// Runs a task until the store ends, which does not go on without it.
fn watched(
    name: &'static str,
    task: impl Future<Output = ()> + Send + 'static,
    ended: &CancellationToken,
    failed: &CancellationToken,
) -> JoinHandle<()> {
    let (stop, ended, failed) = (ended.clone(), ended.clone(), failed.clone());
    let task = tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = task => {}
        }
    });
    tokio::spawn(async move {
        if let Err(error) = task.await {
            tracing::error!(task = name, %error, "a task of the store has failed: the store ends");
            ended.cancel();
            failed.cancel();
        }
    })
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn write(&self, write: Write) -> Result<Entry, StoreError> {
        if self.ended.is_cancelled() {
            return Err(StoreError::Closed);
        }
        let deadline = Instant::now() + self.patience;
        let never = matches!(
            (&write.precondition, &write.change),
            (Precondition::Unchanged(Revision::ZERO), _)
                | (Precondition::Absent | Precondition::AbsentBeside { .. }, Change::Delete(_))
        );
        if never || !value(&write.change).is_well_formed() {
            return self.hopeless(&write, deadline).await;
        }
        let mut ticket = self.copy.begin();
        let is_deletion = matches!(write.change, Change::Delete(_));
        match self.attempt(&write, Last::Told, &mut ticket, deadline).await {
            // What is there must be possible to delete: its event shows then what was stored.
            Err(StoreError::TooLarge { .. }) if is_deletion => {
                self.attempt(&write, Last::AsStored, &mut ticket, deadline).await
            }
            Err(StoreError::NoSpace) if is_deletion => {
                self.attempt(&write, Last::Untold, &mut ticket, deadline).await
            }
            outcome => outcome,
        }
    }

    async fn barrier(&self) -> Result<Revision, StoreError> {
        let deadline = Instant::now() + self.patience;
        let readers = self.readers.lock().clone().ok_or(StoreError::Closed)?;
        let (ask, answer) = oneshot::channel();
        readers.send(ask).await.map_err(|_| StoreError::Closed)?;
        let wanted = answer.await.map_err(|_| StoreError::Closed)??;
        self.reach(wanted, deadline).await?;
        Ok(self.copy.seen())
    }

    fn snapshot(&self) -> Snapshot {
        self.copy.snapshot()
    }

    fn snapshot_at(&self, revision: Revision) -> Result<Snapshot, HistoryError> {
        self.copy.snapshot_at(revision)
    }

    async fn alarms(&self) -> Vec<Alarm> {
        match self.servers.alarms().await {
            Ok(alarms) => alarms,
            Err(failure) => vec![Alarm::Elsewhere(failure.of_read().to_string())],
        }
    }

    async fn failed(&self) -> StoreFailure {
        self.failed.cancelled().await;
        StoreFailure { reason: "a task of the store on etcd has ended".to_owned() }
    }

    async fn close(&self) {
        self.ended.cancel();
        self.readers.lock().take();
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            if let Err(error) = task.await {
                tracing::warn!(%error, "a task of the store did not end cleanly");
            }
        }
    }
}
