//! A network that delays, loses, doubles and cuts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use openraft::raft::AppendEntriesRequest;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;

use super::world::Tasks;
use crate::Snapshot;
use crate::raft::core::Core;
use crate::raft::log_storage::{decode, encode};
use crate::raft::member::Member;
use crate::raft::message::{
    BoxFuture, Dial, EntryAnswers, Peer, PeerError, Refused, Request, Response, Sender, pump,
};
use crate::raft::peer::client::entries;
use crate::raft::peer::listener::to_request;
use crate::raft::peer::proto::Piece;
use crate::raft::pieces::{self, Come, Pieces, Place};
use crate::raft::runtime::{TASKS, random, spawn};
use crate::raft::state_machine::Image;
use crate::raft::{SnapshotMeta, TypeConfig, Vote};

/// The bytes of one piece of a state.
const PIECE_BYTES: usize = 400;
/// After how long without a sign of life a connection is given up.
const GIVEN_UP: Duration = Duration::from_millis(1_000);

/// All links.
#[derive(Clone, Default)]
pub(super) struct Network(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Who runs, and in which tasks.
    running: BTreeMap<usize, (Arc<Core>, Tasks)>,
    /// Where those who run put states together.
    places: BTreeMap<usize, Place>,
    /// Directions in which nothing passes.
    cut: BTreeSet<(usize, usize)>,
    weather: Weather,
}

/// How often messages come to harm, in thousandths.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weather {
    pub(super) lost: u64,
    pub(super) doubled: u64,
    pub(super) slow: u64,
}

impl Network {
    pub(super) fn start(&self, place: usize, core: Arc<Core>, tasks: Tasks, files: Place) {
        let mut state = self.0.lock();
        state.running.insert(place, (core, tasks));
        state.places.insert(place, files);
    }

    /// Where the member of a place puts states together.
    fn files(&self, place: usize) -> Option<Place> {
        self.0.lock().places.get(&place).cloned()
    }

    pub(super) fn stop(&self, place: usize) {
        self.0.lock().running.remove(&place);
    }

    pub(super) fn cut(&self, from: usize, to: usize) {
        self.0.lock().cut.insert((from, to));
    }

    pub(super) fn heal(&self) {
        let mut state = self.0.lock();
        state.cut.clear();
        state.weather = Weather::default();
    }

    pub(super) fn set_weather(&self, weather: Weather) {
        self.0.lock().weather = weather;
    }

    /// Lets a message pass. `false`: it never arrives.
    async fn pass(&self, from: usize, to: usize) -> bool {
        let weather = self.0.lock().weather;
        let usual = 200 + random() % 2_000;
        let micros = if random() % 1_000 < weather.slow { random() % 600_000 } else { usual };
        tokio::time::sleep(Duration::from_micros(micros)).await;
        random() % 1_000 >= weather.lost && !self.0.lock().cut.contains(&(from, to))
    }

    /// Who runs at a place.
    fn at(&self, place: usize) -> Option<(Arc<Core>, Tasks)> {
        self.0.lock().running.get(&place).cloned()
    }
}

/// The place that an address stands for.
fn place(address: &str) -> Option<usize> {
    address.strip_prefix("place-")?.split(':').next()?.parse().ok()
}

/// The ways of one member.
pub(super) struct Ways {
    pub(super) network: Network,
    pub(super) place: usize,
    pub(super) sender: Sender,
}

/// The way to one other.
struct Way {
    network: Network,
    from: usize,
    sender: Sender,
    to: Option<usize>,
    /// The number that it must have; one that was replaced has another.
    id: Option<u64>,
}

impl Dial for Ways {
    fn peer(&self, id: u64, member: &Member) -> Arc<dyn Peer> {
        let to = member.addresses.first().and_then(|address| place(address));
        let network = self.network.clone();
        Arc::new(Way { network, from: self.place, sender: self.sender, to, id: Some(id) })
    }

    fn stranger(&self, address: &str) -> Arc<dyn Peer> {
        let to = place(address);
        Arc::new(Way { network: self.network.clone(), from: self.place, sender: self.sender, to, id: None })
    }
}

impl Way {
    fn no_answer(&self) -> PeerError {
        PeerError::NoAnswer { peer: format!("{:?}", self.to), reason: "the connection is lost".to_owned() }
    }

    /// Who is at the other end; nothing has been sent yet.
    fn target(&self) -> Result<(usize, Arc<Core>, Tasks), PeerError> {
        let unreachable = |reason: &str| PeerError::Unreachable {
            peer: format!("{:?}", self.to),
            reason: reason.to_owned(),
        };
        let place = self.to.ok_or_else(|| unreachable("its address is not known"))?;
        let (core, tasks) = self.network.at(place).ok_or_else(|| unreachable("the connection is refused"))?;
        if self.id.is_some_and(|id| id != core.id()) {
            return Err(unreachable("another member is there"));
        }
        Ok((place, core, tasks))
    }

    async fn lost(&self) -> PeerError {
        tokio::time::sleep(GIVEN_UP).await;
        self.no_answer()
    }
}

/// Has a member answer, as one of its own tasks.
fn deliver(core: Arc<Core>, tasks: Tasks, from: Sender, request: Request) -> oneshot::Receiver<Response> {
    let (sender, receiver) = oneshot::channel();
    TASKS.sync_scope(tasks, || {
        spawn(async move {
            // Who asked may be gone.
            let _ = sender.send(core.answer(from, request).await);
        });
    });
    receiver
}

/// Puts a state together; `None` if pieces are missing.
async fn put_together(
    files: Place,
    there: &mut mpsc::Receiver<Piece>,
) -> Option<Result<(Vote, SnapshotMeta, Image), Refused>> {
    let first = there.recv().await?;
    let mut come = Pieces::start(files, first);
    loop {
        let some = match come {
            Ok(Come::All(all)) => return Some(Ok(*all)),
            Ok(Come::Some(some)) => some,
            Err(error) => return Some(Err(error.refused())),
        };
        come = some.take(there.recv().await?);
    }
}

impl Peer for Way {
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Response, PeerError>> {
        Box::pin(async move {
            let (place, ..) = self.target()?;
            if random() % 1_000 < self.network.0.lock().weather.doubled {
                // It comes a second time, much later maybe.
                let (network, from, sender, again) =
                    (self.network.clone(), self.from, self.sender, request.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(random() % 3_000)).await;
                    if let Some((core, tasks)) = network.at(place)
                        && network.pass(from, place).await
                    {
                        drop(deliver(core, tasks, sender, again));
                    }
                });
            }
            if !self.network.pass(self.from, place).await {
                return Err(self.lost().await);
            }
            let Ok((_, core, tasks)) = self.target() else { return Err(self.lost().await) };
            // As over a wire, in bytes.
            let Ok(request) = encode(&request).and_then(|bytes| decode(&bytes)) else {
                return Err(self.no_answer());
            };
            let answer = deliver(core, tasks, self.sender, request).await;
            match answer.ok().and_then(|answer| encode(&answer).ok()) {
                Some(bytes) if self.network.pass(place, self.from).await => {
                    decode(&bytes).map_err(|_| self.no_answer())
                }
                Some(_) | None => Err(self.lost().await),
            }
        })
    }

    fn append(
        &self,
        input: BoxStream<'static, AppendEntriesRequest<TypeConfig>>,
    ) -> BoxFuture<'_, Result<EntryAnswers, PeerError>> {
        Box::pin(async move {
            let (place, core, tasks) = self.target()?;
            let (mut input, guard) = pump(input, |request| entries(&request).ok());
            let (to_there, there) = mpsc::channel(4);
            let (to_here, here) = mpsc::channel(64);
            let (network, from) = (self.network.clone(), self.from);
            // In order, as over one connection; what is lost breaks it. One that ends by itself is whole.
            let whole = Arc::new(AtomicBool::new(false));
            let lost = Arc::new(AtomicBool::new(false));
            let (broken, ended) = (Arc::clone(&lost), Arc::clone(&whole));
            let sending = spawn(async move {
                while let Some(entries) = input.recv().await {
                    if !network.pass(from, place).await || to_there.send(entries).await.is_err() {
                        broken.store(true, Ordering::Relaxed);
                        return;
                    }
                }
            });
            let (network, sender) = (self.network.clone(), self.sender);
            TASKS.sync_scope(tasks, || {
                spawn(async move {
                    let there = ReceiverStream::new(there);
                    let there = there.filter_map(|sent| std::future::ready(to_request(&sent).ok()));
                    let Ok(mut answers) = core.append(sender, there) else { return };
                    while let Some(answer) = answers.next().await {
                        let Ok(answer) = answer else { return };
                        if !network.pass(place, from).await || to_here.send(Ok(answer)).await.is_err() {
                            return;
                        }
                    }
                    ended.store(true, Ordering::Relaxed);
                })
            });
            let guards = (guard, AbortOnDropHandle::new(sending));
            let no_answer = self.no_answer();
            let end = futures::stream::once(async move {
                if whole.load(Ordering::Relaxed) && !lost.load(Ordering::Relaxed) {
                    return None;
                }
                tokio::time::sleep(GIVEN_UP / 4).await;
                Some(Err(no_answer))
            });
            let answers = ReceiverStream::new(here).chain(end.filter_map(std::future::ready));
            let answers = answers.map(move |answer| {
                let _ = &guards;
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
        Box::pin(async move {
            let (place, ..) = self.target()?;
            let (_, core, tasks) = self.target()?;
            let files = self.network.files(place).ok_or_else(|| self.no_answer())?;
            let mut pieces = Vec::new();
            let collect = |piece| {
                pieces.push(piece);
                Ok(())
            };
            if pieces::cut(vote, &meta, &state, PIECE_BYTES, collect).is_err() {
                return Err(self.no_answer());
            }
            let (to_there, mut there) = mpsc::channel::<Piece>(4);
            let (sender, receiver) = oneshot::channel();
            let from = self.sender;
            TASKS.sync_scope(tasks, || {
                spawn(async move {
                    let taken = match put_together(files, &mut there).await {
                        Some(Ok((vote, meta, image))) => core.install(from, vote, meta, image).await,
                        Some(Err(refused)) => Err(refused),
                        None => return,
                    };
                    let _ = sender.send(taken);
                })
            });
            for piece in pieces {
                if !self.network.pass(self.from, place).await {
                    drop(to_there);
                    return Err(self.lost().await);
                }
                // It may have refused what came before.
                if to_there.send(piece).await.is_err() {
                    break;
                }
            }
            drop(to_there);
            match receiver.await {
                Ok(Ok(vote)) if self.network.pass(place, self.from).await => Ok(vote),
                Ok(Err(refused)) => Err(PeerError::Refused { peer: format!("{place}"), refused }),
                Ok(Ok(_)) | Err(_) => Err(self.lost().await),
            }
        })
    }
}
