//! A storage driver for tests: volumes are folders below a folder of its own, staged and published by bind mounts. Block devices are
//! loop devices of files in `devices`, with the same names.
//!
//! `csi_driver FOLDER ENDPOINT REGISTRATION NAME [LIMIT]`: a node can have LIMIT volumes; FOLDER holds `volumes/HANDLE` and the list `calls`; ENDPOINT is the driver's socket, and
//! REGISTRATION the one by which a kubelet finds it. Every call is safe to repeat, as the interface asks. While there is a file
//! `hold-HANDLE` in FOLDER, a call to publish the volume does not come back; while there is `busy-HANDLE`, it does not become larger.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keelson_csi::v1;
use keelson_csi::v1::identity_server::{Identity, IdentityServer};
use keelson_csi::v1::node_server::{Node, NodeServer};
use keelson_csi::v1::volume_capability::AccessType;
use keelson_e2e::LoopDevice;
use keelson_e2e::plugin_server::{Answer, Calls, Registrar, internal, serve};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// The attribute that a volume must have for its secrets to be looked at.
const SECRET: &str = "password";

/// How large a block device is at first.
const SIZE: u64 = 1 << 20;

/// The attribute of volumes that `csi_attacher` has to attach before they are staged.
const ATTACHED: &str = "attached";

struct Driver {
    folder: PathBuf,
    calls: Calls,
    name: String,
    limit: i64,
}

fn is_mounted(path: &str) -> Result<bool, Status> {
    let text = fs::read_to_string("/proc/self/mountinfo").map_err(internal)?;
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.into());
    Ok(text.lines().filter_map(|line| line.split(' ').nth(4)).any(|it| Path::new(it) == real))
}

fn is_block(capability: Option<&v1::VolumeCapability>) -> bool {
    capability.is_some_and(|it| matches!(it.access_type, Some(AccessType::Block(_))))
}

fn bind(from: &Path, to: &str, read_only: bool) -> Result<(), Status> {
    if from.is_dir() {
        fs::create_dir_all(to).map_err(internal)?;
    } else {
        fs::OpenOptions::new().create(true).append(true).open(to).map_err(internal)?;
    }
    if is_mounted(to)? {
        return Ok(());
    }
    let none = None::<&str>;
    mount(Some(from), to, none, MsFlags::MS_BIND, none).map_err(internal)?;
    if read_only {
        let again = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(none, to, none, again, none).map_err(internal)?;
    }
    Ok(())
}

fn release(path: &str) -> Result<(), Status> {
    while is_mounted(path)? {
        umount2(path, MntFlags::empty()).map_err(internal)?;
    }
    Ok(())
}

impl Driver {
    fn log(&self, call: &str, volume: &str, more: &HashMap<String, String>) -> Result<(), Status> {
        let mut more: Vec<String> = more.iter().map(|(key, value)| format!("{key}={value}")).collect();
        more.sort();
        self.calls.add(&format!("{call} {volume} {}", more.join(" ")))
    }

    fn volume(&self, handle: &str) -> Result<PathBuf, Status> {
        if handle.is_empty() || handle.contains('/') {
            return Err(Status::invalid_argument("a handle is one part of a path"));
        }
        let path = self.folder.join("volumes").join(handle);
        fs::create_dir_all(&path).map_err(internal)?;
        Ok(path)
    }

    /// The file of a block device.
    fn image(&self, handle: &str) -> PathBuf {
        self.folder.join("devices").join(handle)
    }

    /// The block device, which is made where there is none.
    fn device(&self, handle: &str) -> Result<LoopDevice, Status> {
        let image = self.image(handle);
        if !image.exists() {
            fs::File::create(&image).and_then(|file| file.set_len(SIZE)).map_err(internal)?;
        }
        LoopDevice::of(&image).map_err(internal)
    }

    async fn await_release(&self, handle: &str) {
        while self.folder.join(format!("hold-{handle}")).exists() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tonic::async_trait]
impl Identity for Driver {
    async fn get_plugin_info(
        &self,
        _: Request<v1::GetPluginInfoRequest>,
    ) -> Answer<v1::GetPluginInfoResponse> {
        let (name, vendor_version) = (self.name.clone(), "1".to_owned());
        Ok(Response::new(v1::GetPluginInfoResponse { name, vendor_version, manifest: HashMap::new() }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<v1::GetPluginCapabilitiesRequest>,
    ) -> Answer<v1::GetPluginCapabilitiesResponse> {
        Ok(Response::new(v1::GetPluginCapabilitiesResponse::default()))
    }

    async fn probe(&self, _: Request<v1::ProbeRequest>) -> Answer<v1::ProbeResponse> {
        Ok(Response::new(v1::ProbeResponse { ready: Some(true) }))
    }
}

#[tonic::async_trait]
impl Node for Driver {
    async fn node_stage_volume(
        &self,
        request: Request<v1::NodeStageVolumeRequest>,
    ) -> Answer<v1::NodeStageVolumeResponse> {
        let request = request.into_inner();
        self.log("stage", &request.volume_id, &request.volume_context)?;
        if let Some(wanted) = request.volume_context.get(SECRET)
            && request.secrets.get(SECRET) != Some(wanted)
        {
            return Err(Status::unauthenticated("the secret is not the one of the volume"));
        }
        if request.volume_context.contains_key(ATTACHED) {
            let ticket = fs::read_to_string(self.folder.join("attached").join(&request.volume_id));
            if request.publish_context.get("ticket") != ticket.ok().as_ref() {
                return Err(Status::failed_precondition("the volume is not attached to this node"));
            }
        }
        if is_block(request.volume_capability.as_ref()) {
            self.device(&request.volume_id)?;
        } else {
            bind(&self.volume(&request.volume_id)?, &request.staging_target_path, false)?;
        }
        Ok(Response::new(v1::NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        request: Request<v1::NodeUnstageVolumeRequest>,
    ) -> Answer<v1::NodeUnstageVolumeResponse> {
        let request = request.into_inner();
        self.log("unstage", &request.volume_id, &HashMap::new())?;
        release(&request.staging_target_path)?;
        if self.image(&request.volume_id).exists() {
            LoopDevice::detach_all(&self.image(&request.volume_id)).map_err(internal)?;
        }
        Ok(Response::new(v1::NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        request: Request<v1::NodePublishVolumeRequest>,
    ) -> Answer<v1::NodePublishVolumeResponse> {
        let request = request.into_inner();
        self.log("publish", &request.volume_id, &request.volume_context)?;
        self.await_release(&request.volume_id).await;
        if is_block(request.volume_capability.as_ref()) {
            if !Path::new(&request.staging_target_path).is_dir() || Path::new(&request.target_path).is_dir() {
                return Err(Status::invalid_argument(
                    "a device is staged in a folder and published as a file",
                ));
            }
            let device = self.device(&request.volume_id)?;
            bind(device.path(), &request.target_path, false)?;
            return Ok(Response::new(v1::NodePublishVolumeResponse {}));
        }
        let staged = Path::new(&request.staging_target_path);
        let from =
            if staged.as_os_str().is_empty() { self.volume(&request.volume_id)? } else { staged.to_owned() };
        if !staged.as_os_str().is_empty() && !is_mounted(&request.staging_target_path)? {
            return Err(Status::failed_precondition("the volume is not staged"));
        }
        bind(&from, &request.target_path, request.readonly)?;
        Ok(Response::new(v1::NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<v1::NodeUnpublishVolumeRequest>,
    ) -> Answer<v1::NodeUnpublishVolumeResponse> {
        let request = request.into_inner();
        self.log("unpublish", &request.volume_id, &HashMap::new())?;
        release(&request.target_path)?;
        if fs::exists(&request.target_path).map_err(internal)? {
            let target = Path::new(&request.target_path);
            if target.is_dir() { fs::remove_dir(target) } else { fs::remove_file(target) }
                .map_err(internal)?;
        }
        // What lives in a pod goes with it.
        if request.volume_id.starts_with("csi-") {
            fs::remove_dir_all(self.volume(&request.volume_id)?).map_err(internal)?;
        }
        Ok(Response::new(v1::NodeUnpublishVolumeResponse {}))
    }

    async fn node_expand_volume(
        &self,
        request: Request<v1::NodeExpandVolumeRequest>,
    ) -> Answer<v1::NodeExpandVolumeResponse> {
        let request = request.into_inner();
        let capacity_bytes = request.capacity_range.map_or(0, |range| range.required_bytes);
        if !is_mounted(&request.volume_path)? {
            return Err(Status::not_found("the volume is not published there"));
        }
        self.log(&format!("expand {capacity_bytes}"), &request.volume_id, &HashMap::new())?;
        if self.folder.join(format!("busy-{}", request.volume_id)).exists() {
            return Err(Status::failed_precondition("the volume is in use"));
        }
        if is_block(request.volume_capability.as_ref()) {
            let file = fs::OpenOptions::new().write(true).open(self.image(&request.volume_id));
            let bytes = u64::try_from(capacity_bytes).map_err(internal)?;
            file.and_then(|file| file.set_len(bytes)).map_err(internal)?;
            self.device(&request.volume_id)?.grow().map_err(internal)?;
        }
        Ok(Response::new(v1::NodeExpandVolumeResponse { capacity_bytes }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<v1::NodeGetCapabilitiesRequest>,
    ) -> Answer<v1::NodeGetCapabilitiesResponse> {
        use v1::node_service_capability::rpc::Type as Rpc;
        let can = |rpc: Rpc| {
            let rpc = v1::node_service_capability::Rpc { r#type: rpc.into() };
            v1::NodeServiceCapability { r#type: Some(v1::node_service_capability::Type::Rpc(rpc)) }
        };
        let capabilities = vec![can(Rpc::StageUnstageVolume), can(Rpc::ExpandVolume)];
        Ok(Response::new(v1::NodeGetCapabilitiesResponse { capabilities }))
    }

    async fn node_get_info(&self, _: Request<v1::NodeGetInfoRequest>) -> Answer<v1::NodeGetInfoResponse> {
        let segments = HashMap::from([(format!("topology.{}/rack", self.name), "r1".to_owned())]);
        Ok(Response::new(v1::NodeGetInfoResponse {
            node_id: "test-node".to_owned(),
            max_volumes_per_node: self.limit,
            accessible_topology: Some(v1::Topology { segments }),
        }))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, endpoint, registration, name, more @ ..] = arguments.as_slice() else {
        anyhow::bail!("csi_driver FOLDER ENDPOINT REGISTRATION NAME [LIMIT]");
    };
    let limit = more.first().map_or(Ok(7), |limit| limit.parse())?;
    let (folder, endpoint) = (PathBuf::from(folder), Path::new(endpoint));
    let calls = Calls::new(&folder)?;
    fs::create_dir_all(folder.join("volumes"))?;
    fs::create_dir_all(folder.join("devices"))?;
    let registrar = Registrar::new("CSIPlugin", name, endpoint, &["1.0.0"], &calls);
    let driver = Arc::new(Driver { folder, calls, name: name.clone(), limit });
    let services = Server::builder()
        .add_service(IdentityServer::from_arc(Arc::clone(&driver)))
        .add_service(NodeServer::from_arc(driver));
    tokio::try_join!(serve(services, endpoint), registrar.serve(Path::new(registration)))?;
    Ok(())
}
