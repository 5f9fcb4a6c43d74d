//! What a member is made of, and how it answers what other members ask.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::Stream;
use futures::stream::BoxStream;
use openraft::ReadPolicy;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::raft::{AppendEntriesRequest, ClientWriteResult, StreamAppendResult};
use openraft::type_config::alias::SnapshotOf;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::log_storage::LogStorage;
use super::member::Identity;
use super::message::{Dial, Origin, Peer, PeerError, Refused, Request, Response, Sender};
use super::origin::{Pending, Seen};
use super::retention::Sending;
use super::room::{self, Purpose};
use super::saver::Saver;
use super::space::Space;
use super::state_machine::Image;
use super::{Batch, LeaderId, LogId, Member, Raft, SnapshotMeta, TypeConfig, Vote, intake};
use crate::raft_store::{Reads, Timing};
use crate::{Engine, StoreError};

/// Why a member that was removed does nothing any more.
pub(crate) const REMOVED: &str =
    "this member was removed from the cluster; remove its data to let it join again";

/// What is said of this member by others.
#[derive(Debug, Default)]
pub(crate) struct Hearsay {
    removed: Mutex<Option<LogId>>,
    news: Notify,
    /// Whether this member has ever seen itself among the members.
    was_member: AtomicBool,
}

impl Hearsay {
    /// A committed membership at this place of the log is without this member.
    pub(crate) fn removed(&self, by: LogId) {
        let mut removed = self.removed.lock();
        if Some(by) > *removed {
            *removed = Some(by);
            self.news.notify_one();
        }
    }

    /// Notes whether this member is one now; says whether it ever was.
    fn was_member(&self, is: bool) -> bool {
        self.was_member.fetch_or(is, Ordering::Relaxed) || is
    }

    /// Waits until there is something new.
    pub(crate) async fn heard(&self) {
        self.news.notified().await;
    }
}

/// A running member. What is shared by its tasks.
pub(crate) struct Core {
    pub(crate) identity: Identity,
    pub(crate) me: Member,
    /// Whether it has no way to others.
    pub(crate) alone: bool,
    pub(crate) raft: Raft,
    pub(crate) engine: Arc<RwLock<Engine>>,
    pub(crate) log: LogStorage,
    pub(crate) pending: Arc<Pending>,
    pub(crate) seen: Seen,
    pub(crate) dial: Arc<dyn Dial>,
    pub(crate) hearsay: Arc<Hearsay>,
    pub(crate) sending: Arc<Sending>,
    pub(crate) timing: Timing,
    pub(crate) space: Arc<Space>,
    /// Whether entries of a leader were refused last, because there was no room for them.
    pub(crate) refuses: AtomicBool,
    /// Until when this member elects nobody, because it has forgotten whom it promised not to.
    pub(crate) quiet_until: Option<Instant>,
    pub(crate) saver: Arc<Saver>,
    /// One save of the state at a time.
    pub(crate) saving: tokio::sync::Mutex<()>,
    /// What came of the last attempt to give the lead away; one at a time.
    pub(crate) handover: tokio::sync::Mutex<Option<super::handover::Attempt>>,
    pub(crate) questions: super::confirm::Questions,
    pub(crate) metrics: Option<crate::metrics::Metrics>,
    /// It was removed from the cluster, and has nothing more to say.
    pub(crate) gone: CancellationToken,
}

/// The answer to entries of a stream.
pub(crate) type Answer = Result<StreamAppendResult<TypeConfig>, Refused>;

/// The answers to a stream of entries.
pub(crate) type Answers = BoxStream<'static, Answer>;

pub(crate) fn unavailable(reason: impl ToString) -> Refused {
    Refused::Unavailable { reason: reason.to_string() }
}

impl Core {
    pub(crate) fn id(&self) -> u64 {
        self.identity.member
    }

    /// Who this member says it is.
    pub(crate) fn sender(&self) -> Sender {
        Sender { cluster: self.identity.cluster, member: self.identity.member }
    }

    /// The leader that this member follows, or is.
    pub(crate) fn leader(&self) -> Option<(LeaderId, Member)> {
        let server = self.raft.server_metrics();
        let server = server.borrow_watched();
        let id = server.current_leader?;
        let vote = &server.vote;
        (vote.committed && vote.leader_id.node_id == id).then_some(())?;
        let member = server.membership_config.get_node(&id).cloned().unwrap_or_default();
        Some((vote.leader_id, member))
    }

    /// The name of a member that this one knows.
    pub(crate) fn name_of(&self, id: u64) -> Option<String> {
        let server = self.raft.server_metrics();
        let server = server.borrow_watched();
        server
            .membership_config
            .get_node(&id)
            .map(|member| member.name.clone())
            .filter(|name| !name.is_empty())
    }

    /// The way to another member.
    pub(crate) fn peer(&self, id: u64, member: &Member) -> Arc<dyn Peer> {
        self.dial.peer(id, member)
    }

    /// Asks another member, for no longer than a time. A refusal because this member was removed is noted.
    pub(crate) async fn ask(
        &self,
        id: u64,
        member: &Member,
        request: Request,
        within: Duration,
    ) -> Result<Response, PeerError> {
        let began = tokio::time::Instant::now();
        let answer = tokio::time::timeout(within, self.peer(id, member).call(request)).await;
        let answer = answer.unwrap_or_else(|_| {
            Err(PeerError::NoAnswer { peer: member.name.clone(), reason: format!("not within {within:?}") })
        });
        if let (Ok(_), Some(metrics)) = (&answer, &self.metrics) {
            metrics.round_trip(id, began.elapsed());
        }
        match answer {
            Ok(Response::Refused(Refused::Removed { by })) => {
                self.hearsay.removed(by);
                let refused = Refused::Removed { by };
                Err(PeerError::Refused { peer: member.name.clone(), refused })
            }
            other => other,
        }
    }

    /// Why this member no longer serves, if it does not.
    pub(crate) fn removed(&self) -> Option<StoreError> {
        let server = self.raft.server_metrics();
        let server = server.borrow_watched();
        let committed = &server.committed_membership_config;
        let own = server.membership_config.log_id();
        let known = committed.get_node(&self.id()).is_some()
            || server.membership_config.get_node(&self.id()).is_some();
        // One that has just joined may still have to hear of the membership with it.
        let by_own_log = !known && committed.log_id().is_some() && self.hearsay.was_member(known);
        let said = *self.hearsay.removed.lock();
        let by_hearsay = said.is_some() && (said > *own || (!known && said == *own));
        self.hearsay.was_member(known);
        (by_own_log || by_hearsay).then(|| StoreError::Unavailable { reason: REMOVED.to_owned() })
    }

    /// Why this member cannot show what is current, if it has no room for what the leader sends.
    pub(crate) fn lacks_entries(&self) -> Option<StoreError> {
        let leads = self.leader().is_some_and(|(leader, _)| leader.node_id == self.id());
        (!leads && self.refuses.load(Ordering::Relaxed)).then(|| StoreError::Unavailable {
            reason: "the disk of this member is full, so that it lacks what was written since; it catches up when there is room, and the other members go on"
                .to_owned(),
        })
    }

    /// Whether this member elects nobody, itself included: it may have promised a leader not to before it was started
    /// again, and that leader may still answer reads on the strength of it.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet_until.is_some_and(|until| Instant::now() < until)
    }

    /// Whether one who asks may; the answer if not.
    fn check(&self, from: Sender, request: &Request) -> Result<(), Refused> {
        match (from.cluster, self.identity.cluster) {
            (Some(theirs), Some(ours)) if theirs != ours => {
                let member = self.me.name.clone();
                return Err(Refused::OtherCluster { member, theirs: ours, ours: theirs });
            }
            (None, _) if !matches!(request, Request::Members(_)) => return Err(Refused::Unknown),
            (Some(_) | None, Some(_) | None) => {}
        }
        let server = self.raft.server_metrics();
        let server = server.borrow_watched();
        let committed = &server.committed_membership_config;
        let Some(by) = *committed.log_id() else { return Ok(()) };
        if committed.get_node(&from.member).is_some()
            || server.membership_config.get_node(&from.member).is_some()
        {
            return Ok(());
        }
        let removed = match request {
            // One whose log is behind the membership that is without it cannot lead; one whose log is not may have
            // been added in the meantime.
            Request::Vote(vote) | Request::PreVote(vote) => vote.last_log_id < Some(by),
            Request::Propose { .. } | Request::Fence { .. } | Request::ReadIndex => {
                server.current_leader == Some(self.id())
            }
            Request::Append(_)
            | Request::Transfer(_)
            | Request::Members(_)
            | Request::Room { .. }
            | Request::Confirm { .. }
            | Request::Removed { .. } => false,
        };
        if removed { Err(Refused::Removed { by }) } else { Ok(()) }
    }

    /// Answers a question.
    pub(crate) async fn answer(self: &Arc<Self>, from: Sender, request: Request) -> Response {
        if let Err(refused) = self.check(from, &request) {
            return Response::Refused(refused);
        }
        match request {
            Request::Append(entries) => match intake::room(self, &entries).await {
                Ok(_room) => or_refused(self.raft.append_entries(entries).await, Response::Append),
                Err(refused) => Response::Refused(refused),
            },
            Request::Vote(_) | Request::PreVote(_) | Request::Transfer(_) if self.is_quiet() => {
                Response::Refused(unavailable("the member was started a moment ago and elects nobody yet"))
            }
            Request::Vote(vote) => or_refused(self.raft.vote(vote).await, Response::Vote),
            Request::PreVote(vote) => or_refused(self.raft.pre_vote(vote).await, Response::Vote),
            Request::Transfer(to) => {
                or_refused(self.raft.handle_transfer_leader(to).await, Response::Transfer)
            }
            Request::Propose { leader, batch } => self.propose(leader, batch).await,
            Request::Fence { leader, origin } => self.fence(leader, origin),
            Request::ReadIndex => self.read_index().await,
            Request::Members(request) => super::changes::answer(self, request).await,
            Request::Room { bytes } => Response::Room(self.room_to_lead(bytes).await),
            Request::Confirm { leader } => Response::Confirmed(self.knows_no_later(leader)),
            Request::Removed { by } => {
                self.hearsay.removed(by);
                Response::Done
            }
        }
    }

    fn not_leader(&self) -> Response {
        let leader = self.leader().map(|(leader, member)| (leader.node_id, member));
        Response::NotLeader { leader: leader.filter(|(id, _)| *id != self.id()) }
    }

    /// Proposes a batch as this leader, and as no other. Says what became of it as far as it knows.
    pub(crate) async fn propose(&self, leader: LeaderId, batch: Batch) -> Response {
        let new = batch.origin.is_some_and(|origin| self.seen.insert(origin));
        if !new {
            let reason = "the batch has come before".to_owned();
            return Response::Refused(Refused::OutcomeUnknown { reason });
        }
        let purpose = room::purpose(&batch);
        let bytes = room::size_of_all(&batch.writes);
        let room = self.log.reserve(bytes, purpose).await;
        if purpose == Purpose::Put {
            self.space.reserved(bytes, &room);
        }
        // It is kept until the batch is committed, and so is written.
        let _room = match room {
            Ok(room) => room,
            Err(_) if self.give_lead_away(bytes).await => return self.not_leader(),
            Err(error) if error.is_no_space() => return Response::Refused(Refused::NoSpace),
            Err(error) => return Response::Refused(unavailable(error)),
        };
        let batch = Batch { quota: self.space.quota, ..batch };
        let unknown = |error: &dyn std::fmt::Display| Refused::OutcomeUnknown { reason: error.to_string() };
        match self.client_write(leader, batch).await {
            Ok(Ok(response)) => Response::Proposed(response.log_id),
            Ok(Err(ClientWriteError::ForwardToLeader(_))) => self.not_leader(),
            Ok(Err(error)) => Response::Refused(unknown(&error)),
            Err(error) => Response::Refused(unknown(&error)),
        }
    }

    async fn client_write(
        &self,
        leader: LeaderId,
        batch: Batch,
    ) -> Result<ClientWriteResult<TypeConfig>, StoreError> {
        let (responder, answer) = openraft::impls::OneshotResponder::new_pair();
        let ended = |reason: String| StoreError::OutcomeUnknown { reason };
        let request = self.raft.write(batch).with_leader(leader).responder(responder);
        request.await.map_err(|error| ended(error.to_string()))?;
        answer.await.map_err(|_| ended("the member has ended".to_owned()))
    }

    /// Whether this member proposed a batch as this leader. If it did not, it never will. One that was started again
    /// leads in a later term, and does not know what it proposed before.
    fn fence(&self, leader: LeaderId, origin: Origin) -> Response {
        if leader.node_id != self.id() || self.leader().is_none_or(|(current, _)| current != leader) {
            return self.not_leader();
        }
        Response::Fenced { proposed: !self.seen.insert(origin) }
    }

    /// As leader: up to where the log must be applied to read what is current.
    pub(crate) async fn read_index(self: &Arc<Self>) -> Response {
        // Whether the lease holds is of no importance, since the voters are asked after this.
        if self.timing.reads == Reads::Index
            && let Some((leader, _)) = self.leader().filter(|(leader, _)| leader.node_id == self.id())
            && let Ok(read) = self.raft.get_read_linearizer(ReadPolicy::LeaseRead).await
            && self.is_confirmed(leader).await
        {
            return Response::ReadIndex(*read.read_log_id().log_id());
        }
        match self.raft.get_read_linearizer(self.timing.read_policy()).await {
            Ok(read) => Response::ReadIndex(*read.read_log_id().log_id()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_))) => self.not_leader(),
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                Response::Refused(unavailable("a majority of the members cannot be reached"))
            }
            Err(RaftError::Fatal(error)) => Response::Refused(unavailable(error)),
        }
    }

    /// Takes entries as they come.
    pub(crate) fn append(
        self: &Arc<Self>,
        from: Sender,
        input: impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + 'static,
    ) -> Result<Answers, Refused> {
        self.check_cluster(from)?;
        Ok(intake::append(Arc::clone(self), input))
    }

    /// Takes a whole state that has been received.
    pub(crate) async fn install(
        &self,
        from: Sender,
        vote: Vote,
        meta: SnapshotMeta,
        image: Image,
    ) -> Result<Vote, Refused> {
        self.check_cluster(from)?;
        let snapshot = SnapshotOf::<TypeConfig, Image> { meta, snapshot: image };
        let taken = self.raft.install_full_snapshot(vote, snapshot).await;
        if taken.is_ok() {
            // What was refused may be in it; if not, it is sent again.
            self.refuses.store(false, Ordering::Relaxed);
        }
        taken.map(|taken| taken.vote).map_err(unavailable)
    }

    /// Whether one who sends entries or a state is of this cluster.
    pub(crate) fn check_cluster(&self, from: Sender) -> Result<(), Refused> {
        match (from.cluster, self.identity.cluster) {
            (Some(theirs), Some(ours)) if theirs == ours => Ok(()),
            (Some(theirs), Some(ours)) => {
                Err(Refused::OtherCluster { member: self.me.name.clone(), theirs: ours, ours: theirs })
            }
            (None, _) | (_, None) => Err(Refused::Unknown),
        }
    }
}

fn or_refused<T, E: std::fmt::Display>(result: Result<T, E>, response: fn(T) -> Response) -> Response {
    result.map_or_else(|error| Response::Refused(unavailable(error)), response)
}
