//! Opens a store: finds out which member this is, joins if it is new, and starts it.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use openraft::ReadPolicy;
use openraft::async_runtime::WatchReceiver;
use tokio_util::sync::CancellationToken;

use super::{Config, OpenError, Peers, RaftStore, Reads, Timing};
use crate::disk::{Disk, RealDisk};
use crate::engine;
use crate::log::{self, Contents, Log, Record, Slot};
use crate::members::{Members, MembersError, Missed, take};
use crate::metrics::Metrics;
use crate::raft::changes::settled_voters;
use crate::raft::core::{Core, Hearsay};
use crate::raft::log_storage::{LogStorage, decode, encode};
use crate::raft::member::{Identity, Member};
use crate::raft::message::{
    Absent, Dial, MembersRequest, MembersResponse, Peer, PeerError, Refused, Request, Response,
};
use crate::raft::network::Network;
use crate::raft::origin::{Pending, Seen};
use crate::raft::peer::{client::Dialer, listener, tls};
use crate::raft::pieces::Place;
use crate::raft::recovery;
use crate::raft::retention::Sending;
use crate::raft::runtime::{random, spawn};
use crate::raft::saver::Saver;
use crate::raft::space::Space;
use crate::raft::state_machine::StateMachine;
use crate::raft::{Raft, snapshot_file};
use crate::{Observer, Quota};

/// The number of the one member of a store that was made when members had no numbers.
const FIRST: u64 = 1;
/// How long a new member asks to be taken in.
const JOIN: Duration = Duration::from_secs(60);
/// How often it asks, and how often a learner asks to be promoted.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// How long one member may take to answer the wish to join.
const JOIN_ANSWER: Duration = Duration::from_secs(5);

pub(super) fn raft_error(error: impl std::fmt::Display) -> OpenError {
    OpenError::Raft { reason: error.to_string() }
}

/// A lone member has nobody to hear from or to reassure, so its clock may be slow; it does not wait for it to lead.
fn raft_config(config: &Config) -> Result<openraft::Config, OpenError> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let common = openraft::Config {
        cluster_name: "keelson".to_owned(),
        heartbeat_interval: 2_000,
        election_timeout_min: 8_000,
        election_timeout_max: 12_000,
        snapshot_policy: openraft::SnapshotPolicy::Never,
        // A lone member needs nothing behind the saved state.
        max_in_snapshot_log_to_keep: 0,
        purge_batch_size: 1,
        ..openraft::Config::default()
    };
    if config.peers.is_none() {
        return common.validate().map_err(raft_error);
    }
    let Timing { heartbeat, election_timeout, .. } = config.timing;
    if heartbeat < Duration::from_millis(10)
        || election_timeout < heartbeat * 5
        || election_timeout > Duration::from_secs(60)
    {
        return Err(OpenError::Timing);
    }
    // A follower waits until the lease, which is the longest timeout, is over, and then for a random timeout.
    openraft::Config {
        heartbeat_interval: millis(heartbeat),
        election_timeout_min: millis(election_timeout / 4),
        election_timeout_max: millis(election_timeout / 2),
        enable_pre_vote: Some(true),
        // A leader that was started again must not take up what it has forgotten.
        enable_leader_restore: Some(false),
        // It is turned on when there is somebody to hear it.
        enable_tick: false,
        // Only one whose entries have been cut off is sent the whole state.
        replication_lag_threshold: u64::MAX / 2,
        max_payload_entries: 1_000,
        // What is cut off is said each time, and not as soon as a state is saved.
        max_in_snapshot_log_to_keep: u64::MAX,
        ..common
    }
    .validate()
    .map_err(raft_error)
}

fn lock(config: &Config) -> Result<nix::fcntl::Flock<std::fs::File>, OpenError> {
    let locked = |source| OpenError::Locked { dir: config.dir.clone(), source };
    std::fs::create_dir_all(&config.dir).map_err(locked)?;
    // All Secrets are in it.
    std::fs::set_permissions(&config.dir, std::fs::Permissions::from_mode(0o700)).map_err(locked)?;
    let file = std::fs::File::create(config.dir.join("lock")).map_err(locked)?;
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock)
        .map_err(|(_, errno)| locked(errno.into()))
}

/// The way to nobody, for a store that has no peers.
pub(crate) struct Nobody;

impl Dial for Nobody {
    fn peer(&self, _: u64, _: &Member) -> Arc<dyn Peer> {
        Arc::new(Absent)
    }

    fn stranger(&self, _: &str) -> Arc<dyn Peer> {
        Arc::new(Absent)
    }
}

pub(super) async fn open(config: Config, observer: Arc<dyn Observer>) -> Result<Arc<RaftStore>, OpenError> {
    let lock = lock(&config)?;
    let disk = RealDisk::shared();
    let (log, contents) = open_log(&disk, &config)?;
    let identity = identity(&config, &contents)?;
    let Some(peers) = config.peers.clone() else {
        let (me, dial) = (Member::default(), Arc::new(Nobody));
        let member = Start { identity, me, dial, disk, ended: CancellationToken::new() };
        let core = member.start(&config, log, contents, observer).await?;
        return Ok(RaftStore::run(core, &config, member.ended, Some(lock)));
    };
    tls::choose_cryptography();
    let me = Member::new(&peers.name, &peers.addresses)?;
    let listen = |source: Box<dyn std::error::Error + Send + Sync>| OpenError::Listen {
        address: peers.listen,
        source,
    };
    let listener = listener::bind(peers.listen).await.map_err(|error| listen(error.into()))?;
    let identity = match identity.cluster {
        Some(_) => identity,
        None => {
            let dial = Dialer::new(identity, &me.name, &peers)?;
            let joined =
                Identity { cluster: Some(join(&dial, &peers.join, identity.member, &me).await?), ..identity };
            joined.write(&config.dir).map_err(OpenError::Identity)?;
            joined
        }
    };
    let dial = Arc::new(Dialer::new(identity, &me.name, &peers)?);
    let member = Start { identity, me, dial, disk: Arc::clone(&disk), ended: CancellationToken::new() };
    let core = member.start(&config, log, contents, observer).await?;
    let place = Place { disk, dir: config.dir.clone() };
    listener::start(Arc::clone(&core), place, listener, &peers.tls, member.ended.clone())?;
    spawn(take_part(Arc::clone(&core), peers, member.ended.clone()));
    Ok(RaftStore::run(core, &config, member.ended, Some(lock)))
}

/// Opens the log of a store.
pub(crate) fn open_log(disk: &Arc<dyn Disk>, config: &Config) -> Result<(Log, Contents), OpenError> {
    let place = log::Config { dir: config.dir.join("log"), segment_bytes: config.segment_bytes };
    Ok(Log::open_on(Arc::clone(disk), place)?)
}

/// Reads which member this is, or decides it.
fn identity(config: &Config, contents: &Contents) -> Result<Identity, OpenError> {
    let known = Identity::read(&config.dir).map_err(OpenError::Identity)?;
    if let Some(identity) = known {
        return Ok(identity);
    }
    let old = *contents != Contents::default();
    let joins = !old && config.peers.as_ref().is_some_and(|peers| !peers.join.is_empty());
    let identity =
        Identity { member: if old { FIRST } else { random() }, cluster: (!joins).then(random), joins };
    identity.write(&config.dir).map_err(OpenError::Identity)?;
    Ok(identity)
}

/// Asks to be taken in; says by which cluster. It may be asked for twice.
pub(crate) async fn join(
    dial: &dyn Dial,
    addresses: &[String],
    id: u64,
    me: &Member,
) -> Result<u64, OpenError> {
    let deadline = tokio::time::Instant::now() + JOIN;
    let mut reason = "no address of a member was given".to_owned();
    let request = Request::Members(MembersRequest::Add { id, member: me.clone() });
    loop {
        for address in addresses {
            match ask_to_join(dial.stranger(address), dial, &request).await {
                Ok(MembersResponse::Done { cluster }) => return Ok(cluster),
                Ok(MembersResponse::Refused(MembersError::Busy | MembersError::OutcomeUnknown { .. })) => {
                    reason = MembersError::Busy.to_string();
                }
                Ok(MembersResponse::Refused(refused)) => {
                    return Err(OpenError::Join { reason: refused.to_string() });
                }
                Ok(MembersResponse::List(_)) => reason = "the answer is not one to this question".to_owned(),
                Err(error) => reason = error,
            }
        }
        if addresses.is_empty() || tokio::time::Instant::now() >= deadline {
            return Err(OpenError::Join { reason });
        }
        tracing::info!(reason, "the store could not be joined yet");
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// Asks one member, and the leader if it says who leads.
async fn ask_to_join(
    peer: Arc<dyn Peer>,
    dial: &dyn Dial,
    request: &Request,
) -> Result<MembersResponse, String> {
    let mut answer = ask(&*peer, request).await?;
    if let Response::NotLeader { leader: Some((id, member)) } = &answer {
        answer = ask(&*dial.peer(*id, member), request).await?;
    }
    take(answer).map_err(Missed::reason)
}

async fn ask(peer: &dyn Peer, request: &Request) -> Result<Response, String> {
    let answer = tokio::time::timeout(JOIN_ANSWER, peer.call(request.clone())).await;
    match answer.map_err(|_| "no answer in time".to_owned())? {
        Ok(answer) => Ok(answer),
        // What is wrong with this member will be so the next time.
        Err(PeerError::Refused {
            refused: refused @ (Refused::OtherIdentity { .. } | Refused::Unknown),
            ..
        }) => {
            let refused = MembersError::Invalid { reason: refused.to_string() };
            Ok(Response::Members(MembersResponse::Refused(refused)))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Counts the runs of a member, so that what comes late from an earlier one is known as such.
fn begin_run(log: &mut Log, contents: &Contents) -> Result<u64, OpenError> {
    let last = contents.slots.get(&Slot::Run).map(|bytes| decode::<u64>(bytes)).transpose();
    let run = last.map_err(OpenError::Start)?.unwrap_or_default() + 1;
    let value = encode(&run).map_err(OpenError::Start)?;
    log.append(&[Record::Set { slot: Slot::Run, value }])?;
    Ok(run)
}

/// A member that is about to be started.
pub(crate) struct Start {
    pub(crate) identity: Identity,
    pub(crate) me: Member,
    pub(crate) dial: Arc<dyn Dial>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) ended: CancellationToken,
}

impl Start {
    /// Starts the member with what its log holds.
    pub(crate) async fn start(
        &self,
        config: &Config,
        mut log: Log,
        contents: Contents,
        observer: Arc<dyn Observer>,
    ) -> Result<Arc<Core>, OpenError> {
        let run = if config.peers.is_some() { begin_run(&mut log, &contents)? } else { 0 };
        let metrics = config.metrics.as_ref().map(Metrics::new).transpose()?;
        let history = engine::Config { history: config.history, ..engine::Config::default() };
        snapshot_file::sweep(&*self.disk, &config.dir)?;
        let (recovered, places) = recovery::recover(&*self.disk, &config.dir, history, &log, &contents)?;
        let fsync = metrics.as_ref().map(|metrics| metrics.fsync.clone());
        let storage = LogStorage::start(&*self.disk, log, contents, fsync).map_err(OpenError::Start)?;
        let space = Arc::new(Space::new(config.quota_bytes.map(Quota)));
        let saver =
            Saver::start(Arc::clone(&self.disk), config, places, storage.clone(), Arc::clone(&space)).await;
        let id = self.identity.member;
        let pending = Arc::new(Pending::new(id, run));
        let sending = Arc::new(Sending::default());
        let machine =
            StateMachine::new(recovered, history, Arc::clone(&saver), observer, Arc::clone(&pending));
        let engine = machine.engine();
        let hearsay = Arc::new(Hearsay::default());
        let network = Network {
            me: id,
            dial: Arc::clone(&self.dial),
            hearsay: Arc::clone(&hearsay),
            sending: Arc::clone(&sending),
        };
        // A promise to elect nobody lasts shorter than this.
        let leases = config.peers.is_some() && config.timing.reads == Reads::Lease;
        let quiet_until = leases.then(|| tokio::time::Instant::now() + config.timing.election_timeout);
        let raft = Raft::new(id, Arc::new(raft_config(config)?), network, storage.clone(), machine)
            .await
            .map_err(raft_error)?;
        let core = Arc::new(Core {
            identity: self.identity,
            me: self.me.clone(),
            alone: config.peers.is_none(),
            raft,
            engine,
            log: storage,
            pending,
            seen: Seen::default(),
            dial: Arc::clone(&self.dial),
            hearsay,
            sending,
            timing: config.timing.clone(),
            space,
            refuses: AtomicBool::new(false),
            quiet_until,
            saver,
            saving: tokio::sync::Mutex::default(),
            handover: tokio::sync::Mutex::default(),
            questions: Default::default(),
            metrics: metrics.clone(),
            gone: CancellationToken::new(),
        });
        if core.is_lone().await? {
            lead(&core).await?;
        } else if core.alone {
            return Err(OpenError::NotAlone);
        }
        if let Some(metrics) = metrics {
            metrics.watch(&core)?;
        }
        Ok(core)
    }
}

/// Makes the lone member lead, and waits until it has applied its whole log.
async fn lead(core: &Core) -> Result<(), OpenError> {
    let (id, raft) = (core.id(), &core.raft);
    let last = core.log.last_index();
    if raft.is_initialized().await.map_err(raft_error)? {
        raft.trigger().elect(false).await.map_err(raft_error)?;
    } else {
        let members = BTreeMap::from([(id, core.me.clone())]);
        raft.initialize(members).await.map_err(raft_error)?;
    }
    let wait = raft.wait(Some(Duration::from_secs(60)));
    wait.current_leader(id, "the lone member leads").await.map_err(raft_error)?;
    wait.applied_index_at_least(last, "the log is applied").await.map_err(raft_error)?;
    raft.ensure_linearizable(ReadPolicy::ReadIndex).await.map_err(raft_error)?;
    Ok(())
}

impl Core {
    /// Whether this member is the only one, or is about to make a cluster of its own.
    async fn is_lone(&self) -> Result<bool, OpenError> {
        if !self.raft.is_initialized().await.map_err(raft_error)? {
            return Ok(!self.identity.joins);
        }
        Ok(self.is_only_member())
    }

    fn is_only_member(&self) -> bool {
        let server = self.raft.server_metrics();
        let server = server.borrow_watched();
        let membership = server.membership_config.membership();
        membership.nodes().count() == 1 && membership.voter_ids().eq([self.id()])
    }
}

/// Keeps a member with peers a part of its cluster: its clock runs while there is somebody to hear it, its name and
/// addresses are known, it is promoted if it wants to be, and it does not stand for election once it was removed.
pub(crate) async fn take_part(core: Arc<Core>, peers: Peers, ended: CancellationToken) {
    let mut server = core.raft.server_metrics();
    let mut settled = false;
    loop {
        let quiet = core.is_quiet();
        let removed = core.removed().is_some();
        if removed {
            core.gone.cancel();
        }
        core.raft.runtime_config().elect(!removed && !quiet);
        // One that is left alone because the leader was removed has still to elect itself.
        let leads = core.leader().is_some_and(|(leader, _)| leader.node_id == core.id());
        core.raft.runtime_config().tick(!(leads && core.is_only_member()));
        if !settled && core.leader().is_some() {
            settled = tokio::select! {
                biased;
                () = ended.cancelled() => return,
                settled = settle(&core, peers.promote) => settled,
            };
        }
        // While it is not settled it asks again; so does it when it has been told that it was removed.
        let again = async {
            if settled {
                core.hearsay.heard().await;
            } else {
                tokio::time::sleep(ASK_AGAIN).await;
            }
        };
        let until = core.quiet_until.filter(|_| quiet);
        let quiet_ends = async move {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = ended.cancelled() => return,
            () = quiet_ends => {}
            changed = server.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = again => {}
        }
    }
}

/// Makes this member what it is to be; says whether it is.
async fn settle(core: &Arc<Core>, promote: bool) -> bool {
    let (known, voter) = {
        let server = core.raft.server_metrics();
        let server = server.borrow_watched();
        let membership = server.membership_config.membership();
        let settled = settled_voters(server.committed_membership_config.membership());
        (membership.get_node(&core.id()).cloned(), settled.contains(&core.id()))
    };
    let Some(known) = known else { return core.removed().is_some() };
    let members = Members::new(Arc::clone(core));
    if known != core.me
        && let Err(error) = members.describe_me().await
    {
        tracing::info!(%error, "the others do not know the addresses of this member yet");
        return false;
    }
    if voter || !promote {
        return true;
    }
    match members.promote(members.me()).await {
        Ok(()) => {
            tracing::info!(member = %core.me, "this member has caught up and votes");
            true
        }
        Err(error) => {
            tracing::info!(%error, "this member does not vote yet");
            false
        }
    }
}
