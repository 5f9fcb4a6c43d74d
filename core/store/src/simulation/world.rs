//! The places where members live, and how a run goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::disk::SimulatedDisk;
use super::history::Action;
use super::network::{Network, Ways};
use super::truth::{Truth, Watcher};
use super::{Report, clients, faults};
use crate::disk::Disk;
use crate::raft::member::{Identity, Member};
use crate::raft::message::Sender;
use crate::raft::pieces::Place as Files;
use crate::raft::runtime::{TASKS, random, spawn};
use crate::raft_store::open::{Nobody, Start, join, open_log, take_part};
use crate::raft_store::{Config, OpenError, PeerTls, Peers, RaftStore, Reads, Timing};
use crate::{Change, Entry, Key, Observer, Precondition, Store, Value, Write};

/// Where members may live.
pub(super) const PLACES: usize = 6;
/// How many there are at first.
const FIRST: usize = 3;
const CLIENTS: u64 = 4;
/// How long a world without faults may take to be well.
const HEALING: Duration = Duration::from_secs(60);

/// The tasks of one run of a member.
pub(super) type Tasks = Arc<Mutex<Vec<AbortHandle>>>;

/// Where a member lives.
#[derive(Default)]
struct Place {
    disk: SimulatedDisk,
    identity: Option<Identity>,
    store: Option<Arc<RaftStore>>,
    /// Who follows it.
    watcher: Option<Arc<Watcher>>,
    tasks: Tasks,
    /// Whether a member is to live there.
    used: bool,
}

/// All of it.
pub(super) struct World {
    places: Vec<Mutex<Place>>,
    pub(super) network: Network,
    truth: Arc<Truth>,
    ends: AtomicBool,
    /// How all members read.
    reads: Reads,
}

/// Runs a world whose dice have been seeded.
pub(super) async fn run() -> Result<Report, String> {
    let world = Arc::new(World {
        places: (0..PLACES).map(|_| Mutex::default()).collect(),
        network: Network::default(),
        truth: Arc::new(Truth::default()),
        ends: AtomicBool::new(false),
        reads: if random().is_multiple_of(3) { Reads::Lease } else { Reads::Index },
    });
    if random().is_multiple_of(2) {
        world.begin_alone().await?;
    }
    for place in 0..FIRST {
        world.boot(place);
        world.until("the first members run", || world.store(place).is_some()).await?;
    }
    for place in 0..PLACES {
        tokio::spawn(mind_the_power(Arc::clone(&world), place));
    }
    let clients: Vec<_> =
        (1..=CLIENTS).map(|number| tokio::spawn(clients::client(Arc::clone(&world), number))).collect();
    let outcome = faults::inject(&world).await;
    world.heal().await;
    let outcome = match outcome {
        Ok(()) => world.recover().await,
        violated => violated,
    };
    world.ends.store(true, Ordering::Relaxed);
    for client in clients {
        if client.await.is_err() {
            return Err("a client has panicked".to_owned());
        }
    }
    outcome?;
    world.agree().await?;
    let report = world.truth.conclude();
    (0..PLACES).for_each(|place| world.kill(place));
    report
}

/// When the power of a place fails at a write, the member is gone, and comes back later.
async fn mind_the_power(world: Arc<World>, place: usize) {
    let failed = Arc::clone(&world.places[place].lock().disk.failed);
    loop {
        failed.notified().await;
        world.kill(place);
        world.places[place].lock().disk.lose_power();
        tokio::time::sleep(Duration::from_millis(random() % 2_000)).await;
        world.boot(place);
    }
}

impl World {
    pub(super) fn truth(&self) -> &Truth {
        &self.truth
    }

    pub(super) fn ends(&self) -> bool {
        self.ends.load(Ordering::Relaxed)
    }

    pub(super) fn store(&self, place: usize) -> Option<Arc<RaftStore>> {
        self.places[place].lock().store.clone()
    }

    /// The places whose members run.
    pub(super) fn running(&self) -> Vec<usize> {
        (0..PLACES).filter(|place| self.store(*place).is_some()).collect()
    }

    pub(super) fn any_store(&self) -> Option<Arc<RaftStore>> {
        let running = self.running();
        let place = running.get(random() as usize % running.len().max(1))?;
        self.store(*place)
    }

    pub(super) fn is_used(&self, place: usize) -> bool {
        self.places[place].lock().used
    }

    pub(super) fn disk(&self, place: usize) -> SimulatedDisk {
        self.places[place].lock().disk.clone()
    }

    /// Starts the member of a place, or makes one there, if none runs.
    pub(super) fn boot(self: &Arc<Self>, place: usize) {
        self.kill(place);
        let tasks = {
            let mut here = self.places[place].lock();
            here.used = true;
            here.tasks = Tasks::default();
            Arc::clone(&here.tasks)
        };
        self.truth.count(|report| report.starts += 1);
        let world = Arc::clone(self);
        TASKS.sync_scope(Arc::clone(&tasks), || {
            spawn(async move {
                match world.open(place, &tasks).await {
                    Ok(store) => world.places[place].lock().store = Some(store),
                    // It asks again for as long as it lives here.
                    Err(OpenError::Join { .. }) => world.places[place].lock().used = false,
                    Err(error) if world.places[place].lock().disk.is_dead() => drop(error),
                    // What starts members tries again.
                    Err(error) if world.disk(place).is_flawed() || world.disk(place).is_limited() => {
                        drop(error);
                        world.start_again(place);
                    }
                    Err(error) => {
                        let source = std::error::Error::source(&error).map(ToString::to_string);
                        world.truth.violate(format!("member {place} does not open: {error}: {source:?}"));
                    }
                }
            })
        });
    }

    async fn open(self: &Arc<Self>, place: usize, tasks: &Tasks) -> Result<Arc<RaftStore>, OpenError> {
        let peers = Peers {
            name: format!("place-{place}"),
            addresses: vec![address(place)],
            listen: ([127, 0, 0, 1], 1).into(),
            source: None,
            tls: PeerTls::none(),
            join: (0..PLACES).filter(|other| *other != place).map(address).collect(),
            promote: true,
        };
        let me = Member::new(&peers.name, &peers.addresses)?;
        let config = self.config(place, Some(&peers));
        let disk: Arc<dyn Disk> = Arc::new(self.disk(place));
        let ways = |identity: &Identity| Ways {
            network: self.network.clone(),
            place,
            sender: Sender { cluster: identity.cluster, member: identity.member },
        };
        let mut identity = self.identity(place);
        if identity.cluster.is_none() {
            let cluster = join(&ways(&identity), &peers.join, identity.member, &me).await?;
            identity.cluster = Some(cluster);
            self.places[place].lock().identity = Some(identity);
        }
        let (log, contents) = open_log(&disk, &config)?;
        let dial = Arc::new(ways(&identity));
        let files = Files { disk: Arc::clone(&disk), dir: config.dir.clone() };
        let member = Start { identity, me, dial, disk, ended: CancellationToken::new() };
        let observer = Arc::new(Watcher::new(Arc::clone(&self.truth), place));
        let core = member.start(&config, log, contents, Arc::clone(&observer) as Arc<dyn Observer>).await?;
        self.places[place].lock().watcher = Some(observer);
        self.network.start(place, Arc::clone(&core), Arc::clone(tasks), files);
        spawn(take_part(Arc::clone(&core), peers, member.ended.clone()));
        let store = RaftStore::run(core, &config, member.ended, None);
        let (world, failing) = (Arc::clone(self), Arc::clone(&store));
        spawn(async move {
            let failure = failing.failed().await;
            let disk = world.disk(place);
            if disk.is_dead() {
                return;
            }
            if failing.members().is_gone() {
                // It ends well, and is not to be started again.
                return;
            }
            if !disk.is_flawed() {
                world.truth.violate(format!("member {place}: {failure}"));
            }
            world.start_again(place);
        });
        Ok(store)
    }

    /// The process of a member has ended by itself: whatever watches over it starts it again after a while.
    fn start_again(self: &Arc<Self>, place: usize) {
        let world = Arc::clone(self);
        tokio::spawn(async move {
            world.kill(place);
            world.disk(place).end_process();
            tokio::time::sleep(Duration::from_millis(100 + random() % 1_000)).await;
            if world.is_used(place) && world.store(place).is_none() {
                world.boot(place);
            }
        });
    }

    /// The first member lives alone for a while, without settings for peers, and ends in one way or another.
    async fn begin_alone(self: &Arc<Self>) -> Result<(), String> {
        for round in 0..1 + random() % 3 {
            let tasks = Tasks::default();
            let alone = self.live_alone(round << 20);
            TASKS
                .scope(Arc::clone(&tasks), alone)
                .await
                .map_err(|error| format!("it does not open: {error}"))?;
            tasks.lock().drain(..).for_each(|task| task.abort());
            let disk = self.disk(0);
            if random().is_multiple_of(2) { disk.lose_power() } else { disk.end_process() }
        }
        self.truth.check()
    }

    async fn live_alone(self: &Arc<Self>, value: u64) -> Result<(), OpenError> {
        let config = self.config(0, None);
        let disk: Arc<dyn Disk> = Arc::new(self.disk(0));
        let (log, contents) = open_log(&disk, &config)?;
        let (identity, me, dial) = (self.identity(0), Member::default(), Arc::new(Nobody));
        let member = Start { identity, me, dial, disk, ended: CancellationToken::new() };
        let observer = Arc::new(Watcher::new(Arc::clone(&self.truth), 0));
        let core = member.start(&config, log, contents, observer).await?;
        let store = RaftStore::run(core, &config, member.ended, None);
        for number in 1..random() % 60 {
            let Ok(key) = Key::new(format!("/register/{}", number % 3)) else { continue };
            let value = value + number;
            let action = if number % 7 == 6 { Action::Cleared } else { Action::Write(value) };
            clients::write(&self.truth, &store, key, Precondition::Any, action, value).await;
            if random().is_multiple_of(16) {
                // It may be overtaken by the end.
                let _ = tokio::time::timeout(Duration::from_millis(random() % 500), store.checkpoint()).await;
            }
        }
        if random().is_multiple_of(2) {
            store.close().await;
        }
        Ok(())
    }

    /// Small files and a short log, so that a run sees many of them end; and a clock that is a little off, if that may
    /// be.
    fn config(&self, place: usize, peers: Option<&Peers>) -> Config {
        let pace = |millis: u64| Duration::from_millis(millis * (85 + 6 * place as u64) / 100);
        // Leases hold as long as those who give them count alike.
        let election = match self.reads {
            Reads::Index => pace(700),
            Reads::Lease => Duration::from_millis(700),
        };
        Config {
            history: 16,
            checkpoint_after_bytes: 6 << 10,
            snapshot_after_bytes: 1,
            segment_bytes: 8 << 10,
            catch_up_bytes: 2 << 10,
            peers: peers.cloned(),
            timing: Timing {
                heartbeat: pace(100),
                election_timeout: election,
                request_timeout: Duration::from_secs(2),
                reads: self.reads,
            },
            ..Config::new("/store")
        }
    }

    /// Who lives at a place; one who moves in becomes somebody.
    fn identity(&self, place: usize) -> Identity {
        let mut here = self.places[place].lock();
        *here.identity.get_or_insert_with(|| Identity {
            member: random(),
            cluster: (place == 0).then(random),
            joins: place != 0,
        })
    }

    /// Ends the tasks of a member, wherever they are.
    pub(super) fn kill(&self, place: usize) {
        self.network.stop(place);
        let (store, tasks) = {
            let mut here = self.places[place].lock();
            (here.store.take(), std::mem::take(&mut here.tasks))
        };
        let handles = std::mem::take(&mut *tasks.lock());
        handles.iter().for_each(AbortHandle::abort);
        drop(store);
    }

    /// A member is gone for good; another one may move in.
    pub(super) fn vacate(&self, place: usize) {
        self.kill(place);
        let mut here = self.places[place].lock();
        here.disk.wipe();
        // Whoever lives here next joins.
        here.identity = Some(Identity { member: random(), cluster: None, joins: true });
        here.used = false;
    }

    /// No more faults: all links pass, all disks have power, all members run.
    async fn heal(self: &Arc<Self>) {
        self.network.heal();
        // Those whose power has failed come back.
        tokio::time::sleep(Duration::from_secs(3)).await;
        for place in 0..PLACES {
            let (used, runs) = {
                let here = self.places[place].lock();
                here.disk.spare();
                here.disk.limit(None);
                (here.used, here.store.is_some())
            };
            if used && !runs {
                self.boot(place);
            }
        }
    }

    /// Every member writes again.
    async fn recover(self: &Arc<Self>) -> Result<(), String> {
        let deadline = Instant::now() + HEALING;
        for place in 0..PLACES {
            let mut why = "it does not run".to_owned();
            loop {
                self.truth.check()?;
                if !self.is_used(place) || self.was_removed(place).await {
                    break;
                }
                if let Some(store) = self.store(place) {
                    let Ok(key) = Key::new(format!("/healed/{place}")) else { break };
                    let change = Change::Put(Value::plain("0"));
                    let write = Write { key, precondition: Precondition::Any, change };
                    match store.write(write).await {
                        Ok(_) => break,
                        Err(error) => why = error.to_string(),
                    }
                }
                if Instant::now() > deadline {
                    return Err(format!("member {place} does not write although all is well: {why}"));
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }

    /// Whether the member of a place is none any more, because it was removed and nobody was told.
    async fn was_removed(&self, place: usize) -> bool {
        let Some(identity) = self.places[place].lock().identity else { return false };
        for other in self.running() {
            let Some(store) = self.store(other) else { continue };
            if let Ok(all) = store.members().list().await {
                return identity.cluster.is_some() && all.iter().all(|member| member.id.0 != identity.member);
            }
        }
        false
    }

    /// All members have the same state.
    async fn agree(self: &Arc<Self>) -> Result<(), String> {
        let mut states = Vec::new();
        for place in self.running() {
            if self.was_removed(place).await {
                continue;
            }
            let Some(store) = self.store(place) else { continue };
            store.barrier().await.map_err(|error| format!("member {place} does not read: {error}"))?;
            let snapshot = store.snapshot();
            let state: Vec<_> =
                snapshot.range("/", None).map(|(key, entry)| (key.clone(), entry.clone())).collect();
            let told = self.places[place].lock().watcher.as_ref().map(|watcher| watcher.seen());
            let held = state.iter().map(|(key, entry): &(Key, Entry)| {
                (key.clone(), (entry.modified.get(), entry.value.clone()))
            });
            if told.is_none_or(|(at, told)| at == snapshot.revision().get() && !held.eq(told)) {
                return Err(format!("who follows member {place} has put another state together"));
            }
            states.push((snapshot.revision(), state));
        }
        self.truth.check()?;
        if states.is_empty() || states.windows(2).any(|pair| pair[0] != pair[1]) {
            return Err(format!("the members do not agree: {states:?}"));
        }
        Ok(())
    }

    /// Waits until something holds.
    pub(super) async fn until(&self, what: &str, holds: impl Fn() -> bool) -> Result<(), String> {
        let deadline = Instant::now() + HEALING;
        while !holds() {
            self.truth.check()?;
            if Instant::now() > deadline {
                return Err(format!("never: {what}"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}

fn address(place: usize) -> String {
    format!("place-{place}:1")
}
