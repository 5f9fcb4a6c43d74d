//! A storage driver for tests: volumes are folders below a folder of its own, staged and published by bind mounts.
//!
//! `csi_driver FOLDER ENDPOINT REGISTRATION NAME`: FOLDER holds `volumes/HANDLE` and the list `calls`; ENDPOINT is the driver's socket, and
//! REGISTRATION the one by which a kubelet finds it. Every call is safe to repeat, as the interface asks.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use keelson_csi::registration::registration_server::{Registration, RegistrationServer};
use keelson_csi::registration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};
use keelson_csi::v1;
use keelson_csi::v1::identity_server::{Identity, IdentityServer};
use keelson_csi::v1::node_server::{Node, NodeServer};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

/// The attribute that a volume must have for its secrets to be looked at.
const SECRET: &str = "password";

struct Driver {
    folder: PathBuf,
    endpoint: PathBuf,
    name: String,
}

type Answer<T> = Result<Response<T>, Status>;

fn internal(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

fn is_mounted(path: &str) -> Result<bool, Status> {
    let text = fs::read_to_string("/proc/self/mountinfo").map_err(internal)?;
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.into());
    Ok(text.lines().filter_map(|line| line.split(' ').nth(4)).any(|it| Path::new(it) == real))
}

fn bind(from: &Path, to: &str, read_only: bool) -> Result<(), Status> {
    fs::create_dir_all(to).map_err(internal)?;
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
        let path = self.folder.join("calls");
        let file = OpenOptions::new().append(true).create(true).open(path).map_err(internal);
        writeln!(file?, "{call} {volume} {}", more.join(" ")).map_err(internal)
    }

    fn volume(&self, handle: &str) -> Result<PathBuf, Status> {
        if handle.is_empty() || handle.contains('/') {
            return Err(Status::invalid_argument("a handle is one part of a path"));
        }
        let path = self.folder.join("volumes").join(handle);
        fs::create_dir_all(&path).map_err(internal)?;
        Ok(path)
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
        bind(&self.volume(&request.volume_id)?, &request.staging_target_path, false)?;
        Ok(Response::new(v1::NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        request: Request<v1::NodeUnstageVolumeRequest>,
    ) -> Answer<v1::NodeUnstageVolumeResponse> {
        let request = request.into_inner();
        self.log("unstage", &request.volume_id, &HashMap::new())?;
        release(&request.staging_target_path)?;
        Ok(Response::new(v1::NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        request: Request<v1::NodePublishVolumeRequest>,
    ) -> Answer<v1::NodePublishVolumeResponse> {
        let request = request.into_inner();
        self.log("publish", &request.volume_id, &request.volume_context)?;
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
            fs::remove_dir(&request.target_path).map_err(internal)?;
        }
        // What lives in a pod goes with it.
        if request.volume_id.starts_with("csi-") {
            fs::remove_dir_all(self.volume(&request.volume_id)?).map_err(internal)?;
        }
        Ok(Response::new(v1::NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<v1::NodeGetCapabilitiesRequest>,
    ) -> Answer<v1::NodeGetCapabilitiesResponse> {
        use v1::node_service_capability::rpc::Type as Rpc;
        let rpc = v1::node_service_capability::Rpc { r#type: Rpc::StageUnstageVolume.into() };
        let one = v1::NodeServiceCapability { r#type: Some(v1::node_service_capability::Type::Rpc(rpc)) };
        Ok(Response::new(v1::NodeGetCapabilitiesResponse { capabilities: vec![one] }))
    }

    async fn node_get_info(&self, _: Request<v1::NodeGetInfoRequest>) -> Answer<v1::NodeGetInfoResponse> {
        let segments = HashMap::from([(format!("topology.{}/rack", self.name), "r1".to_owned())]);
        Ok(Response::new(v1::NodeGetInfoResponse {
            node_id: "test-node".to_owned(),
            max_volumes_per_node: 7,
            accessible_topology: Some(v1::Topology { segments }),
        }))
    }
}

#[tonic::async_trait]
impl Registration for Driver {
    async fn get_info(&self, _: Request<InfoRequest>) -> Answer<PluginInfo> {
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: self.name.clone(),
            endpoint: self.endpoint.to_string_lossy().into_owned(),
            supported_versions: vec!["1.0.0".to_owned()],
        }))
    }

    async fn notify_registration_status(
        &self,
        status: Request<RegistrationStatus>,
    ) -> Answer<RegistrationStatusResponse> {
        let status = status.into_inner();
        let call = if status.plugin_registered { "registered" } else { "refused" };
        self.log(call, &status.error, &HashMap::new())?;
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

fn listen(path: &Path) -> anyhow::Result<UnixListenerStream> {
    // A socket of a run that was killed.
    if path.exists() {
        fs::remove_file(path)?;
    }
    fs::create_dir_all(path.parent().context("a socket has a folder")?)?;
    let listener = UnixListener::bind(path).with_context(|| format!("listen at {}", path.display()))?;
    Ok(UnixListenerStream::new(listener))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, endpoint, registration, name] = arguments.as_slice() else {
        anyhow::bail!("csi_driver FOLDER ENDPOINT REGISTRATION NAME");
    };
    let driver = Arc::new(Driver { folder: folder.into(), endpoint: endpoint.into(), name: name.clone() });
    fs::create_dir_all(driver.folder.join("volumes"))?;
    let serving = tonic::transport::Server::builder()
        .add_service(IdentityServer::from_arc(Arc::clone(&driver)))
        .add_service(NodeServer::from_arc(Arc::clone(&driver)))
        .serve_with_incoming(listen(Path::new(endpoint))?);
    let registering = tonic::transport::Server::builder()
        .add_service(RegistrationServer::from_arc(driver))
        .serve_with_incoming(listen(Path::new(registration))?);
    tokio::try_join!(serving, registering)?;
    Ok(())
}
