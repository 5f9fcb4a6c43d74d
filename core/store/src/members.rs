//! The members of the store, and changes of them.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::raft::core::Core;
use crate::raft::member::{InvalidMember, Member};
use crate::raft::message::{MembersRequest, MembersResponse, PeerError, Refused, Request, Response};

/// The pause before a question to the leader is put again.
const PAUSE: Duration = Duration::from_millis(50);

/// The number of a member: random, and never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

impl Serialize for MemberId {
    /// As a number; for people, and where numbers may not be so large, as they read it.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for MemberId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return u64::deserialize(deserializer).map(MemberId);
        }
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl std::fmt::Display for MemberId {
    /// As it is shown to people: 16 hexadecimal digits.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl std::str::FromStr for MemberId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(MemberId)
    }
}

/// What a member does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// It counts towards a majority.
    Voter,
    /// It is sent everything, and counts for nothing.
    Learner,
}

/// A member, as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Its number.
    pub id: MemberId,
    /// Its name.
    pub name: String,
    /// Where it listens for the other members.
    pub addresses: Vec<String>,
    /// What it does.
    pub role: Role,
    /// Whether it leads.
    pub leader: bool,
    /// The last entry of the log that it is known to have.
    pub matched: Option<u64>,
    /// How many entries it lacks.
    pub lag: u64,
    /// Whether the leader has heard from it within an election timeout.
    pub healthy: bool,
}

/// Why the membership was not changed, or could not be seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum MembersError {
    /// The store was opened without [`crate::raft_store::Peers`].
    #[error("the store was opened without settings for peers")]
    Alone,
    /// A name or an address is not one.
    #[error("{reason}")]
    Invalid {
        /// What is wrong with it.
        reason: String,
    },
    /// Another member has the name.
    #[error(
        "member {id} has the name {name} already; remove it first if it is gone, or join under another with --name"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Whose it is.
        id: MemberId,
    },
    /// There is no such member.
    #[error("there is no member {id}")]
    NotFound {
        /// The number.
        id: MemberId,
    },
    /// A learner that has not caught up is not made a voter.
    #[error("member {id} lacks {entries} entries of the log; it becomes a voter when it has caught up")]
    Behind {
        /// Its number.
        id: MemberId,
        /// How many it lacks.
        entries: u64,
    },
    /// With this change, too few members would be well for anything to be written.
    #[error(
        "with this change {healthy} healthy members would be left, and {needed} are needed for a majority"
    )]
    Unhealthy {
        /// How many of the voters that would be left are healthy.
        healthy: u64,
        /// How many make a majority.
        needed: u64,
    },
    /// Only a voter can lead.
    #[error("member {id} is not a voter")]
    NotVoter {
        /// Its number.
        id: MemberId,
    },
    /// Another change is under way.
    #[error("another change of the members is under way")]
    Busy,
    /// It is not known whether the change was made.
    #[error("it is not known whether the change was made: {reason}")]
    OutcomeUnknown {
        /// What happened.
        reason: String,
    },
    /// The leader could not be asked in time; nothing has changed.
    #[error("the leader cannot be asked: {reason}")]
    Unavailable {
        /// Why not.
        reason: String,
    },
}

impl From<InvalidMember> for MembersError {
    fn from(error: InvalidMember) -> Self {
        MembersError::Invalid { reason: error.to_string() }
    }
}

/// The members of a store: a handle, cheap to clone.
#[derive(Clone)]
pub struct Members {
    core: Arc<Core>,
}

impl Members {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Members { core }
    }

    /// This member.
    pub fn me(&self) -> MemberId {
        MemberId(self.core.id())
    }

    /// The number of the cluster.
    pub fn cluster(&self) -> Option<MemberId> {
        self.core.identity.cluster.map(MemberId)
    }

    /// Whether this member knows that it was removed from the cluster.
    #[cfg(feature = "simulation")]
    pub(crate) fn is_gone(&self) -> bool {
        self.core.gone.is_cancelled()
    }

    /// The member that leads, as far as this one knows.
    pub fn leader(&self) -> Option<MemberId> {
        self.core.leader().map(|(leader, _)| MemberId(leader.node_id))
    }

    /// How many members there are, as far as this one knows.
    pub fn count(&self) -> usize {
        let server = self.core.raft.server_metrics();
        server.borrow_watched().membership_config.membership().nodes().count()
    }

    /// All members, as the leader sees them. One that has lost the majority and has not noticed yet may answer too, so that
    /// there is an answer when it is needed most: who decides by it that a member is gone for good asks
    /// [`crate::Store::barrier`] first. A member itself concludes that it was removed from committed memberships alone.
    pub async fn list(&self) -> Result<Vec<MemberStatus>, MembersError> {
        match self.ask(MembersRequest::List).await? {
            MembersResponse::List(members) => Ok(members),
            MembersResponse::Done { .. } => Ok(Vec::new()),
            MembersResponse::Refused(error) => Err(error),
        }
    }

    /// Adds a member that is sent everything, and counts for nothing until it is promoted. A member that is opened
    /// with `join` does this itself.
    pub async fn add_learner(
        &self,
        id: MemberId,
        name: &str,
        addresses: &[String],
    ) -> Result<(), MembersError> {
        let member = Member::new(name, addresses)?;
        self.change(MembersRequest::Add { id: id.0, member }).await
    }

    /// Makes a learner that has caught up a voter.
    pub async fn promote(&self, id: MemberId) -> Result<(), MembersError> {
        self.change(MembersRequest::Promote { id: id.0 }).await
    }

    /// Removes a member, which stops serving. It is refused if too few of the others are healthy.
    pub async fn remove(&self, id: MemberId) -> Result<(), MembersError> {
        self.change(MembersRequest::Remove { id: id.0 }).await
    }

    /// Lets another member lead. Returns when this member follows it.
    pub async fn transfer_leadership(&self, to: MemberId) -> Result<(), MembersError> {
        self.change(MembersRequest::Transfer { id: to.0 }).await?;
        let deadline = Instant::now() + self.core.timing.request_timeout;
        while self.leader() != Some(to) {
            if Instant::now() >= deadline {
                let reason = "the member did not come to lead in time".to_owned();
                return Err(MembersError::OutcomeUnknown { reason });
            }
            tokio::time::sleep(self.core.timing.heartbeat / 4).await;
        }
        Ok(())
    }

    /// Has the leader take up a new name or new addresses of this member.
    pub(crate) async fn describe_me(&self) -> Result<(), MembersError> {
        self.change(MembersRequest::Describe { id: self.core.id(), member: self.core.me.clone() }).await
    }

    async fn change(&self, request: MembersRequest) -> Result<(), MembersError> {
        match self.ask(request).await? {
            MembersResponse::Done { .. } | MembersResponse::List(_) => Ok(()),
            MembersResponse::Refused(error) => Err(error),
        }
    }

    /// Asks the leader. A change may be asked for twice: it is then already made.
    async fn ask(&self, request: MembersRequest) -> Result<MembersResponse, MembersError> {
        let core = &self.core;
        let deadline = Instant::now() + core.timing.request_timeout;
        let mut unknown = false;
        loop {
            let reason = match self.ask_once(&request, deadline).await {
                Ok(MembersResponse::Refused(MembersError::Busy)) => MembersError::Busy.to_string(),
                Ok(MembersResponse::Refused(MembersError::NotFound { .. }))
                    if unknown && matches!(request, MembersRequest::Remove { .. }) =>
                {
                    // The attempt whose answer was lost has removed it.
                    return Ok(MembersResponse::Done { cluster: core.identity.cluster.unwrap_or_default() });
                }
                Ok(response) => return Ok(response),
                Err(Missed::NotAsked(reason)) => reason,
                Err(Missed::NoAnswer(reason)) => {
                    unknown = true;
                    reason
                }
            };
            if let Some(removed) = core.removed() {
                return Err(MembersError::Unavailable { reason: removed.to_string() });
            }
            if Instant::now() + PAUSE >= deadline {
                return Err(if unknown {
                    MembersError::OutcomeUnknown { reason }
                } else {
                    MembersError::Unavailable { reason }
                });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn ask_once(&self, request: &MembersRequest, deadline: Instant) -> Result<MembersResponse, Missed> {
        let core = &self.core;
        let (leader, member) =
            core.leader().ok_or_else(|| Missed::NotAsked("there is no leader".to_owned()))?;
        let asked = Request::Members(request.clone());
        let left = deadline.saturating_duration_since(Instant::now());
        let response = if leader.node_id == core.id() {
            let answer = core.answer(core.sender(), asked);
            tokio::time::timeout(left, answer).await.map_err(|_elapsed| {
                Missed::NoAnswer("a majority of the members cannot be reached".to_owned())
            })?
        } else {
            core.ask(leader.node_id, &member, asked, left).await.map_err(Missed::from)?
        };
        take(response)
    }
}

/// Why there is no answer of the leader.
pub(crate) enum Missed {
    /// It was not asked, or is not the leader.
    NotAsked(String),
    /// It may have done what it was asked.
    NoAnswer(String),
}

impl Missed {
    pub(crate) fn reason(self) -> String {
        match self {
            Missed::NotAsked(reason) | Missed::NoAnswer(reason) => reason,
        }
    }
}

impl From<PeerError> for Missed {
    fn from(error: PeerError) -> Self {
        match error {
            PeerError::Unreachable { .. } | PeerError::Refused { .. } => Missed::NotAsked(error.to_string()),
            PeerError::NoAnswer { .. } => Missed::NoAnswer(error.to_string()),
        }
    }
}

/// Takes the answer to a question about members.
pub(crate) fn take(response: Response) -> Result<MembersResponse, Missed> {
    match response {
        Response::Members(response) => Ok(response),
        Response::NotLeader { .. } => {
            Err(Missed::NotAsked("the member that was asked does not lead".to_owned()))
        }
        Response::Refused(refused @ Refused::OutcomeUnknown { .. }) => {
            Err(Missed::NoAnswer(refused.to_string()))
        }
        Response::Refused(refused) => Err(Missed::NotAsked(refused.to_string())),
        other => Err(Missed::NotAsked(format!("the leader answered {other:?}"))),
    }
}
