//! The servers of one cluster: who they are, how another joins them, and where clients find them.
//!
//! All of it lies below one path that is no resource, [`PREFIX`], and is decided by rules for such paths: a ClusterRole
//! with `nonResourceURLs`.
//!
//! | request | what it does |
//! |---|---|
//! | `GET members` | the members of the store, as the leader sees them |
//! | `DELETE members/ID` | removes one |
//! | `POST members/ID/promote` | makes a learner that has caught up a voter |
//! | `POST members/ID/lead` | hands the lead over |
//! | `POST join` | gives a new server the keys of the cluster and the addresses of the members |

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use http::{Method, Request, StatusCode};
use keelson_api::Status;
use keelson_store::{MemberId, MemberStatus, MembersError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::http::{ApiState, body, json};
use crate::pki::Pki;
use crate::pki::shared::ClusterKeys;
use crate::request_info::RequestInfo;

pub(crate) mod endpoints;
pub(crate) mod presence;

/// What the paths begin with.
pub const PREFIX: &str = "/keelson.io/v1/";

/// What a server knows of the others.
pub struct ControlPlane {
    /// The members of the store.
    pub members: keelson_store::Members,
    /// The keys that they share.
    pub pki: Arc<Pki>,
    /// What every server of the cluster must be told alike.
    pub settings: Value,
}

/// What a server that wants to join says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinRequest {
    /// The name under which it would be a member.
    pub name: String,
    /// The port of its API server.
    pub api_port: u16,
}

/// What it is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Admission {
    /// The keys of the cluster.
    pub keys: ClusterKeys,
    /// Where the members reach each other.
    pub peers: Vec<String>,
    /// What every server of the cluster is told alike.
    pub settings: Value,
}

/// The members of a cluster's store.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberList {
    /// The number of the cluster.
    pub cluster: Option<MemberId>,
    /// The member that answered.
    pub answered_by: MemberId,
    /// All of them.
    pub members: Vec<MemberStatus>,
}

/// Serves a request below [`PREFIX`], of one who may.
pub(crate) async fn serve(
    state: &Arc<ApiState>,
    info: &RequestInfo,
    request: Request<Body>,
) -> Result<Response, Status> {
    let Some(control_plane) = &state.control_plane else {
        return Err(Status::new(
            501,
            "NotImplemented",
            "the servers of this cluster keep its state in a store of somebody else, and have no members of their own",
        ));
    };
    let path = info.path.strip_prefix(PREFIX).unwrap_or_default();
    let parts: Vec<&str> = path.split('/').collect();
    let members = &control_plane.members;
    let done = |result: Result<(), MembersError>| {
        result.map(|()| json(StatusCode::OK, &serde_json::json!({}))).map_err(|error| refused(&error))
    };
    match (request.method(), parts.as_slice()) {
        (&Method::GET, ["members"]) => answer(&control_plane.list().await?),
        (&Method::DELETE, ["members", id]) => done(members.remove(number(id)?).await),
        (&Method::POST, ["members", id, "promote"]) => done(members.promote(number(id)?).await),
        (&Method::POST, ["members", id, "lead"]) => done(members.transfer_leadership(number(id)?).await),
        (&Method::POST, ["join"]) => {
            let raw = body::read(request.into_body()).await?;
            let asked: JoinRequest = serde_json::from_slice(&raw)
                .map_err(|error| Status::bad_request(format!("the request to join is not one: {error}")))?;
            let port = state.advertised.get().map(std::net::SocketAddr::port);
            answer(&control_plane.admit(&asked, port).await?)
        }
        (_, ["members" | "join", ..]) => Err(Status::method_not_allowed()),
        (_, _) => Err(Status::path_not_found()),
    }
}

fn answer(document: &impl Serialize) -> Result<Response, Status> {
    let value = serde_json::to_value(document).map_err(Status::internal)?;
    Ok(json(StatusCode::OK, &value))
}

fn number(id: &str) -> Result<MemberId, Status> {
    id.parse()
        .map_err(|_| Status::bad_request(format!("{id:?} is no number of a member: 16 hexadecimal digits")))
}

/// What a change that was not made is answered with.
fn refused(error: &MembersError) -> Status {
    let (code, reason) = match error {
        MembersError::Invalid { .. } => (400, "BadRequest"),
        MembersError::NotFound { .. } => (404, "NotFound"),
        MembersError::Alone
        | MembersError::NameTaken { .. }
        | MembersError::Behind { .. }
        | MembersError::Unhealthy { .. }
        | MembersError::NotVoter { .. }
        | MembersError::Busy => (409, "Conflict"),
        MembersError::Unavailable { .. } => (503, "ServiceUnavailable"),
        MembersError::OutcomeUnknown { .. } => (504, "Timeout"),
    };
    Status::new(code, reason, error.to_string())
}

impl ControlPlane {
    async fn list(&self) -> Result<MemberList, Status> {
        let members = self.members.list().await.map_err(|error| refused(&error))?;
        Ok(MemberList { cluster: self.members.cluster(), answered_by: self.members.me(), members })
    }

    /// Lets a server in, as far as it is said before it is a member.
    async fn admit(&self, asked: &JoinRequest, port: Option<u16>) -> Result<Admission, Status> {
        let list = self.list().await?.members;
        let peers: Vec<String> = list.iter().flat_map(|member| member.addresses.clone()).collect();
        if peers.is_empty() {
            return Err(Status::new(
                409,
                "Conflict",
                "this server takes in no others, because it listens for none: start it with --peer-listen, or with \
                 --bind at an address that others reach",
            ));
        }
        if let Some(member) = list.iter().find(|member| member.name == asked.name) {
            return Err(refused(&MembersError::NameTaken { name: member.name.clone(), id: member.id }));
        }
        if let Some(port) = port.filter(|port| *port != asked.api_port) {
            let detail = format!("all servers of a cluster listen on the same port: bind to port {port}");
            return Err(Status::bad_request(detail));
        }
        let keys = self.pki.shared().map_err(Status::internal)?;
        tracing::info!(server = asked.name, "a server is given the keys of the cluster");
        Ok(Admission { keys, peers, settings: self.settings.clone() })
    }
}
