//! The Raft log on the disk: one thread owns the [`Log`], so that waiting for the disk blocks no task, and the
//! appends that wait for it share one flush.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use keelson_metrics::Histogram;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use super::room::{Ledger, Margins, Purpose, Room};
use super::{LogEntry, LogId, TypeConfig, Vote};
use crate::disk::Disk;
use crate::log::{Contents, Log, LogError, Record, Slot};

/// Jobs that may wait for the disk; a sender beyond that waits.
const QUEUE: usize = 256;
/// Roughly how many bytes of entries are sent to another member at once; one entry may be larger.
const MESSAGE_BYTES: u64 = 1 << 20;

/// A job for the log's thread.
enum Job {
    /// One group: all of it is durable, or nothing.
    Write {
        records: Vec<Record>,
        done: Done,
    },
    Reserve {
        bytes: u64,
        purpose: Purpose,
        done: oneshot::Sender<Result<Room, LogError>>,
    },
    /// Says that all jobs before are done.
    Pass(oneshot::Sender<()>),
    Release {
        upto: u64,
    },
}

/// Whom to tell that records are durable.
enum Done {
    Flushed(IOFlushed<TypeConfig>),
    Reply(oneshot::Sender<io::Result<()>>),
}

/// The log as openraft sees it. Clones share everything.
#[derive(Clone)]
pub(crate) struct LogStorage {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
}

struct Shared {
    state: Mutex<State>,
    room: Ledger,
    margins: Margins,
    /// Bytes written since the log was last cut.
    since_purge: AtomicU64,
    /// Bytes on the disk.
    retained: AtomicU64,
    /// How many saves of the state behind the log have failed.
    failed_saves: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<u64, Held>,
    vote: Option<Vote>,
    purged: Option<LogId>,
}

/// An entry in memory, and its size on the disk.
struct Held {
    entry: LogEntry,
    bytes: u64,
}

/// Decodes an entry or a small value of the log.
pub(crate) fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    postcard::from_bytes(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// The last entry that was purged.
pub(crate) fn purged(contents: &Contents) -> io::Result<Option<LogId>> {
    contents.slots.get(&Slot::Purged).map(|bytes| decode(bytes)).transpose()
}

/// Encodes an entry or a small value of the log.
pub(crate) fn encode<T: serde::Serialize>(value: &T) -> io::Result<Bytes> {
    postcard::to_allocvec(value)
        .map(Bytes::from)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

impl LogStorage {
    /// Takes over an opened log and starts its thread, which ends when the last clone is dropped.
    pub(crate) fn start(
        disk: &dyn Disk,
        mut log: Log,
        mut contents: Contents,
        fsync: Option<Histogram>,
    ) -> io::Result<Self> {
        let mut state = State { purged: purged(&contents)?, ..State::default() };
        if let Some(cut) = state.purged
            && contents.entries.keys().next().is_some_and(|first| *first <= cut.index)
        {
            // Written by an earlier version, which could end between the two records of a cut.
            log.append(&[Record::Purge { upto: cut.index }])
                .map_err(|error| io::Error::other(chain(&error)))?;
            contents.entries = contents.entries.split_off(&(cut.index + 1));
        }
        for (index, bytes) in &contents.entries {
            state.entries.insert(*index, Held { entry: decode(bytes)?, bytes: bytes.len() as u64 });
        }
        state.vote = contents.slots.get(&Slot::Vote).map(|bytes| decode(bytes)).transpose()?;
        let held = contents.entries.values().map(|bytes| bytes.len() as u64).sum();
        let retained = AtomicU64::new(log.retained_bytes());
        let since_purge = AtomicU64::new(held);
        let room = Ledger::default();
        room.found(log.room());
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            room,
            margins: Margins::of(log.segment_bytes()),
            since_purge,
            retained,
            failed_saves: watch::Sender::new(0),
        });
        let (jobs, receiver) = mpsc::channel(QUEUE);
        let seen = Arc::clone(&shared);
        #[cfg(feature = "simulation")]
        if disk.is_simulated() {
            super::runtime::spawn(serve_simulated(log, receiver, seen));
            return Ok(LogStorage { shared, jobs });
        }
        let _ = disk;
        std::thread::Builder::new()
            .name("store-log".to_owned())
            .spawn(move || serve(log, receiver, &seen, fsync.as_ref()))?;
        Ok(LogStorage { shared, jobs })
    }

    /// Bytes of entries since the log was last cut.
    pub(crate) fn bytes_since_purge(&self) -> u64 {
        self.shared.since_purge.load(Ordering::Relaxed)
    }

    /// The state has been saved: what was logged before need not be counted any more.
    pub(crate) fn saved(&self) {
        self.shared.since_purge.store(0, Ordering::Relaxed);
    }

    /// The state could not be saved: who waits for it is told.
    pub(crate) fn save_failed(&self) {
        self.shared.failed_saves.send_modify(|count| *count += 1);
    }

    /// Tells of saves that fail from now on.
    pub(crate) fn failed_saves(&self) -> watch::Receiver<u64> {
        self.shared.failed_saves.subscribe()
    }

    /// Bytes on the disk, entries included that are cut off but not released.
    pub(crate) fn retained_bytes(&self) -> u64 {
        self.shared.retained.load(Ordering::Relaxed)
    }

    /// Lets entries up to `upto`, inclusive, leave the disk once they are cut off.
    pub(crate) async fn release(&self, upto: u64) {
        // If the thread has ended, the next start releases them.
        let _ = self.jobs.send(Job::Release { upto }).await;
    }

    /// The vote that is stored.
    pub(crate) fn vote(&self) -> Option<Vote> {
        self.shared.state.lock().vote
    }

    /// The index of the last entry.
    pub(crate) fn last_index(&self) -> Option<u64> {
        self.shared.state.lock().entries.keys().next_back().copied()
    }

    /// The last entry that may be cut off if the newest `bytes` of those in memory are to stay.
    pub(crate) fn behind(&self, bytes: u64) -> Option<u64> {
        let state = self.shared.state.lock();
        let mut kept = 0;
        for (index, held) in state.entries.iter().rev() {
            kept += held.bytes;
            if kept > bytes {
                return Some(*index);
            }
        }
        None
    }

    /// Makes sure that an entry of `bytes` will find room on the disk for as long as the answer is kept. When this
    /// fails, nothing has changed.
    pub(crate) async fn reserve(&self, bytes: u64, purpose: Purpose) -> Result<Room, LogError> {
        let beside = self.shared.margins.beside(purpose);
        if let Some(room) = self.shared.room.take(bytes, beside) {
            return Ok(room);
        }
        let (done, answer) = oneshot::channel();
        self.jobs.send(Job::Reserve { bytes, purpose, done }).await.map_err(|_| LogError::Poisoned)?;
        answer.await.map_err(|_| LogError::Poisoned)?
    }

    /// For how many bytes one should have room who is to lead on where these were too many for another: a few writes
    /// must not make it hand the lead on.
    pub(crate) fn comfortable(&self, bytes: u64) -> u64 {
        bytes.max(self.shared.margins.put)
    }

    /// Waits until all that was handed over has been written.
    pub(crate) async fn pass(&self) {
        let (done, answer) = oneshot::channel();
        if self.jobs.send(Job::Pass(done)).await.is_ok() {
            // If the thread has ended, nothing will be written.
            let _ = answer.await;
        }
    }

    async fn submit(&self, records: Vec<Record>, done: Done) -> io::Result<()> {
        self.jobs.send(Job::Write { records, done }).await.map_err(|_| ended())
    }

    async fn write(&self, records: Vec<Record>) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        self.submit(records, Done::Reply(done)).await?;
        answer.await.map_err(|_| ended())?
    }
}

fn ended() -> io::Error {
    io::Error::other("the thread of the log has ended")
}

/// The log's thread: all jobs that wait become one group, one flush.
fn serve(mut log: Log, mut jobs: mpsc::Receiver<Job>, shared: &Shared, fsync: Option<&Histogram>) {
    let mut waiting = Vec::new();
    keep_margin(&mut log, shared);
    while jobs.blocking_recv_many(&mut waiting, QUEUE) > 0 {
        work(&mut log, &mut waiting, shared, fsync);
    }
}

/// The same as a task, on a disk that takes its time.
#[cfg(feature = "simulation")]
async fn serve_simulated(mut log: Log, mut jobs: mpsc::Receiver<Job>, shared: Arc<Shared>) {
    let mut waiting = Vec::new();
    keep_margin(&mut log, &shared);
    while jobs.recv_many(&mut waiting, QUEUE).await > 0 {
        let slow = super::runtime::random().is_multiple_of(64);
        let micros = super::runtime::random() % if slow { 200_000 } else { 3_000 };
        tokio::time::sleep(std::time::Duration::from_micros(micros)).await;
        work(&mut log, &mut waiting, &shared, None);
    }
}

/// Keeps room for votes and cuts while there is any to be had.
fn keep_margin(log: &mut Log, shared: &Shared) {
    let needed = shared.room.needed(0, shared.margins.small);
    if log.room() < needed
        && let Err(error) = log.reserve(needed)
    {
        tracing::debug!(error = &error as &dyn std::error::Error, "the log has little room left");
    }
    shared.room.found(log.room());
}

/// Makes room and promises it.
fn reserve(log: &mut Log, shared: &Shared, bytes: u64, purpose: Purpose) -> Result<Room, LogError> {
    let beside = shared.margins.beside(purpose);
    loop {
        log.reserve(shared.room.needed(bytes, beside))?;
        shared.room.found(log.room());
        // Others may have taken some in the meantime.
        if let Some(room) = shared.room.take(bytes, beside) {
            return Ok(room);
        }
    }
}

/// Does jobs, and tells those who wait for them.
fn work(log: &mut Log, waiting: &mut Vec<Job>, shared: &Shared, fsync: Option<&Histogram>) {
    let mut records = Vec::new();
    let mut done = Vec::new();
    let mut passed = Vec::new();
    for job in waiting.drain(..) {
        match job {
            Job::Write { records: group, done: whom } => {
                records.extend(group);
                done.push(whom);
            }
            Job::Reserve { bytes, purpose, done } => {
                // Who asked may have gone: the promise then ends at once.
                let _ = done.send(reserve(log, shared, bytes, purpose));
            }
            Job::Release { upto } => log.release(upto),
            Job::Pass(done) => passed.push(done),
        }
    }
    let began = Instant::now();
    let outcome = if records.is_empty() { Ok(()) } else { log.append(&records) };
    if let (Some(fsync), false) = (fsync, records.is_empty()) {
        fsync.observe(began.elapsed().as_secs_f64());
    }
    shared.retained.store(log.retained_bytes(), Ordering::Relaxed);
    if let Err(error) = &outcome {
        tracing::error!(error = error as &dyn std::error::Error, "the log could not be written");
    }
    // Before anybody is told, for then promises end.
    keep_margin(log, shared);
    for whom in done {
        let result = match &outcome {
            Ok(()) => Ok(()),
            Err(error) => Err(io::Error::other(chain(error))),
        };
        match whom {
            Done::Flushed(callback) => callback.io_completed(result),
            Done::Reply(reply) => drop(reply.send(result)),
        }
    }
    for passed in passed {
        // Who asked may have gone.
        let _ = passed.send(());
    }
}

/// An error with what caused it, for those who can only be told a text.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

impl RaftLogReader<TypeConfig> for LogStorage {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<LogEntry>, io::Error> {
        Ok(self.shared.state.lock().entries.range(range).map(|(_, held)| held.entry.clone()).collect())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<LogEntry>, io::Error> {
        let state = self.shared.state.lock();
        let mut entries = Vec::new();
        let mut bytes = 0;
        for (_, held) in state.entries.range(start..end) {
            bytes += held.bytes;
            if bytes > MESSAGE_BYTES && !entries.is_empty() {
                break;
            }
            entries.push(held.entry.clone());
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.state.lock().vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStorage {
    type LogReader = LogStorage;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.shared.state.lock();
        let last = state.entries.values().next_back().map(|held| held.entry.log_id);
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: last.or(state.purged) })
    }

    async fn get_log_reader(&mut self) -> LogStorage {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.write(vec![Record::Set { slot: Slot::Vote, value: encode(vote)? }]).await?;
        self.shared.state.lock().vote = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = LogEntry> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<LogEntry> = entries.into_iter().collect();
        let Some(first) = entries.first().map(|entry| entry.log_id.index) else {
            callback.io_completed(Ok(()));
            return Ok(());
        };
        let encoded = entries.iter().map(encode).collect::<io::Result<Vec<Bytes>>>()?;
        let size = encoded.iter().map(|bytes| bytes.len() as u64).sum();
        self.shared.since_purge.fetch_add(size, Ordering::Relaxed);
        let held = entries.into_iter().zip(&encoded).map(|(entry, encoded)| {
            let bytes = encoded.len() as u64;
            (entry.log_id.index, Held { entry, bytes })
        });
        self.shared.state.lock().entries.extend(held);
        self.submit(vec![Record::Append { first, entries: encoded }], Done::Flushed(callback)).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let from = last_log_id.map_or(0, |id| id.index + 1);
        self.shared.state.lock().entries.split_off(&from);
        self.write(vec![Record::Truncate { from }]).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        {
            let mut state = self.shared.state.lock();
            state.entries = state.entries.split_off(&(log_id.index + 1));
            state.purged = Some(log_id);
        }
        self.shared.since_purge.store(0, Ordering::Relaxed);
        // Only together: entries that end before what is said to be cut off are no log.
        let place = Record::Set { slot: Slot::Purged, value: encode(&log_id)? };
        self.write(vec![place, Record::Purge { upto: log_id.index }]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;
    use crate::log;

    #[tokio::test(flavor = "multi_thread")]
    async fn entries_before_the_place_up_to_which_the_log_was_cut_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Log::open(log::Config::new(dir.path().join("log"))).unwrap();
        let leader = openraft::vote::leader_id_adv::LeaderId { term: 1, node_id: 1 };
        let place = openraft::LogId::new(leader, 1000);
        let entry =
            LogEntry { log_id: openraft::LogId::new(leader, 11), payload: openraft::EntryPayload::Blank };
        let (mut log, _) = open();
        log.append(&[Record::Append { first: 11, entries: vec![encode(&entry).unwrap()] }]).unwrap();
        // The power failed before the entries were cut off.
        log.append(&[Record::Set { slot: Slot::Purged, value: encode(&place).unwrap() }]).unwrap();
        drop(log);
        let (log, contents) = open();
        let mut storage = LogStorage::start(&*RealDisk::shared(), log, contents, None).unwrap();
        let state = storage.get_log_state().await.unwrap();
        assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(place), Some(place)));
        let entry =
            LogEntry { log_id: openraft::LogId::new(leader, 1001), payload: openraft::EntryPayload::Blank };
        storage
            .write(vec![Record::Append { first: 1001, entries: vec![encode(&entry).unwrap()] }])
            .await
            .unwrap();
        drop(storage);
        let opened = || Log::open(log::Config::new(dir.path().join("log"))).ok();
        let (_, contents) = std::iter::from_fn(|| Some(opened())).flatten().next().unwrap();
        assert_eq!(contents.entries.into_keys().collect::<Vec<_>>(), [1001]);
    }
}
