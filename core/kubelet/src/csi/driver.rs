//! One driver, and what it is asked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keelson_csi::v1;
use keelson_csi::v1::node_client::NodeClient;
use keelson_csi::v1::node_service_capability::Type as Capability;
use keelson_csi::v1::node_service_capability::rpc::Type as Rpc;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::plugins::{USUAL, channel, translated};
use crate::volume::DeviceError;
use crate::volume::token::TokenError;

/// How long a driver may take over a call.
const LIMIT: Duration = Duration::from_secs(120);

/// Why a driver's volume cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CsiError {
    #[error("driver name {driver} not found in the list of registered CSI drivers")]
    Unknown { driver: String },
    #[error("rpc error: code = {code:?} desc = {call}: {message}")]
    Call { call: &'static str, code: Code, message: String },
    #[error("{action} {name:?}: {reason}")]
    Api { action: &'static str, name: String, reason: String },
    #[error("{action} {}: {reason}", path.display())]
    Disk { action: &'static str, path: PathBuf, reason: std::io::Error },
    #[error(transparent)]
    Device(DeviceError),
    #[error("{0}")]
    Attachment(String),
    #[error("failed to get service account token attributes: {0}")]
    Token(#[source] TokenError),
    #[error("{0}")]
    Refused(String),
}

impl CsiError {
    pub(super) fn disk(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |reason| CsiError::Disk { action, path, reason }
    }

    pub(super) fn api(action: &'static str, name: &str) -> impl FnOnce(kube::Error) -> Self {
        let name = name.to_owned();
        move |error| {
            let reason = match error {
                kube::Error::Api(status) => status.message.clone(),
                other => other.to_string(),
            };
            CsiError::Api { action, name, reason }
        }
    }
}

/// A driver that has made itself known.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(super) name: String,
    /// What it calls this node.
    pub(super) node_id: String,
    /// How many of its volumes this node can have; `None` if it does not say.
    pub(super) limit: Option<i32>,
    /// Where this node is.
    pub(super) topology: BTreeMap<String, String>,
    /// It stages volumes for the node before it publishes them to pods.
    pub(super) stages: bool,
    /// It gives files to a group itself.
    pub(super) mount_group: bool,
    /// It tells one pod on a node from several.
    pub(super) several_writers: bool,
    /// It makes file systems on this node as large as their volumes.
    pub(super) expands: bool,
    /// What it is told in place of this node's folder.
    pub(super) folder: Option<(PathBuf, PathBuf)>,
    node: NodeClient<Channel>,
}

fn called<T>(call: &'static str, answer: Result<Response<T>, Status>) -> Result<T, CsiError> {
    let failed =
        |status: Status| CsiError::Call { call, code: status.code(), message: status.message().to_owned() };
    answer.map(Response::into_inner).map_err(failed)
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(LIMIT);
    request
}

impl Driver {
    /// Asks a driver what it is and can. `endpoint` is its socket, as it says.
    pub(super) async fn meet(name: &str, endpoint: &Path, data_dir: &Path) -> Result<Self, CsiError> {
        let own = translated(data_dir, endpoint);
        let folder = own.is_some().then(|| (data_dir.to_owned(), PathBuf::from(USUAL)));
        let mut node = NodeClient::new(channel(own.as_deref().unwrap_or(endpoint)));
        let info = node.node_get_info(timed(v1::NodeGetInfoRequest {})).await;
        let info = called("NodeGetInfo", info)?;
        if info.node_id.is_empty() {
            return Err(CsiError::Refused(format!("driver {name} gives this node no ID")));
        }
        let can = node.node_get_capabilities(timed(v1::NodeGetCapabilitiesRequest {})).await;
        let can: Vec<Rpc> = called("NodeGetCapabilities", can)?
            .capabilities
            .into_iter()
            .filter_map(|it| it.r#type.map(|Capability::Rpc(rpc)| rpc.r#type()))
            .collect();
        Ok(Driver {
            name: name.to_owned(),
            node_id: info.node_id,
            limit: i32::try_from(info.max_volumes_per_node).ok().filter(|limit| *limit > 0),
            topology: info
                .accessible_topology
                .map(|it| it.segments.into_iter().collect())
                .unwrap_or_default(),
            stages: can.contains(&Rpc::StageUnstageVolume),
            expands: can.contains(&Rpc::ExpandVolume),
            mount_group: can.contains(&Rpc::VolumeMountGroup),
            several_writers: can.contains(&Rpc::SingleNodeMultiWriter),
            folder,
            node,
        })
    }

    /// A path as the driver sees it.
    pub(super) fn path(&self, path: &Path) -> String {
        let seen = self.folder.as_ref().and_then(|(own, told)| Some(told.join(path.strip_prefix(own).ok()?)));
        seen.as_deref().unwrap_or(path).to_string_lossy().into_owned()
    }

    pub(super) async fn stage(&self, request: v1::NodeStageVolumeRequest) -> Result<(), CsiError> {
        called("NodeStageVolume", self.node.clone().node_stage_volume(timed(request)).await).map(drop)
    }

    pub(super) async fn unstage(&self, request: v1::NodeUnstageVolumeRequest) -> Result<(), CsiError> {
        called("NodeUnstageVolume", self.node.clone().node_unstage_volume(timed(request)).await).map(drop)
    }

    pub(super) async fn publish(&self, request: v1::NodePublishVolumeRequest) -> Result<(), CsiError> {
        called("NodePublishVolume", self.node.clone().node_publish_volume(timed(request)).await).map(drop)
    }

    pub(super) async fn expand(&self, request: v1::NodeExpandVolumeRequest) -> Result<(), CsiError> {
        called("NodeExpandVolume", self.node.clone().node_expand_volume(timed(request)).await).map(drop)
    }

    pub(super) async fn unpublish(&self, request: v1::NodeUnpublishVolumeRequest) -> Result<(), CsiError> {
        called("NodeUnpublishVolume", self.node.clone().node_unpublish_volume(timed(request)).await).map(drop)
    }
}
