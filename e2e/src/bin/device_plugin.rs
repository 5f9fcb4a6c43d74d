//! A device plugin for tests: offers devices that are all `/dev/null`.
//!
//! `device_plugin FOLDER SOCKET RESOURCE [REGISTRATION]`: FOLDER holds the file `devices` with a line `ID HEALTH [NODE]` for each, which is
//! followed, and the list `calls`; a file `names` is of CDI devices that whoever is given one gets too, and while there is
//! a file `hold`, nothing is given. SOCKET lies beside the kubelet's `kubelet.sock`, at which the plugin makes itself known, again
//! whenever the kubelet has made the folder anew; with REGISTRATION it serves that socket instead, by which a kubelet finds it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use keelson_devices::v1beta1 as api;
use keelson_devices::v1beta1::device_plugin_server::{DevicePlugin, DevicePluginServer};
use keelson_devices::v1beta1::registration_client::RegistrationClient;
use keelson_e2e::plugin_server::{Answer, Calls, Registrar, serve};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};

/// Between two looks at files.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Clone)]
struct Plugin {
    folder: PathBuf,
    calls: Calls,
    socket: PathBuf,
    resource: String,
}

impl Plugin {
    async fn serve(&self) -> anyhow::Result<()> {
        let services = Server::builder().add_service(DevicePluginServer::new(self.clone()));
        serve(services, &self.socket).await
    }

    fn devices(&self) -> Vec<api::Device> {
        let text = fs::read_to_string(self.folder.join("devices")).unwrap_or_default();
        let device = |line: &str| {
            let mut words = line.split(' ').map(str::to_owned);
            let (id, health) = (words.next()?, words.next()?);
            let node = words.next().and_then(|node| node.parse().ok());
            let topology = node.map(|id| api::TopologyInfo { nodes: vec![api::NumaNode { id }] });
            Some(api::Device { id, health, topology })
        };
        text.lines().filter_map(device).collect()
    }

    fn names(&self) -> Vec<api::CdiDevice> {
        let text = fs::read_to_string(self.folder.join("names")).unwrap_or_default();
        text.lines().map(|name| api::CdiDevice { name: name.to_owned() }).collect()
    }
}

#[tonic::async_trait]
impl DevicePlugin for Plugin {
    async fn get_device_plugin_options(&self, _: Request<api::Empty>) -> Answer<api::DevicePluginOptions> {
        let options =
            api::DevicePluginOptions { pre_start_required: true, get_preferred_allocation_available: true };
        Ok(Response::new(options))
    }

    type ListAndWatchStream = ReceiverStream<Result<api::ListAndWatchResponse, Status>>;

    async fn list_and_watch(&self, _: Request<api::Empty>) -> Answer<Self::ListAndWatchStream> {
        self.calls.add("watched")?;
        let (told, stream) = mpsc::channel(1);
        let plugin = self.clone();
        tokio::spawn(async move {
            let mut before = None;
            while !told.is_closed() {
                let devices = plugin.devices();
                if before.as_ref() != Some(&devices) {
                    before = Some(devices.clone());
                    if told.send(Ok(api::ListAndWatchResponse { devices })).await.is_err() {
                        return;
                    }
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    /// Prefers the last ones.
    async fn get_preferred_allocation(
        &self,
        request: Request<api::PreferredAllocationRequest>,
    ) -> Answer<api::PreferredAllocationResponse> {
        let choose = |request: api::ContainerPreferredAllocationRequest| {
            let mut ids = request.available_device_i_ds;
            ids.sort();
            ids.reverse();
            ids.truncate(usize::try_from(request.allocation_size).unwrap_or(0));
            api::ContainerPreferredAllocationResponse { device_i_ds: ids }
        };
        let container_responses = request.into_inner().container_requests.into_iter().map(choose).collect();
        Ok(Response::new(api::PreferredAllocationResponse { container_responses }))
    }

    async fn allocate(&self, request: Request<api::AllocateRequest>) -> Answer<api::AllocateResponse> {
        let mut container_responses = Vec::new();
        for request in request.into_inner().container_requests {
            let ids = request.devices_ids.join(",");
            self.calls.add(&format!("asked {ids}"))?;
            while self.folder.join("hold").exists() {
                tokio::time::sleep(LOOK).await;
            }
            self.calls.add(&format!("allocate {ids}"))?;
            let device = |id: &String| api::DeviceSpec {
                container_path: format!("/dev/test-{id}"),
                host_path: "/dev/null".to_owned(),
                permissions: "rw".to_owned(),
            };
            container_responses.push(api::ContainerAllocateResponse {
                envs: [("TEST_DEVICES".to_owned(), ids)].into(),
                mounts: vec![api::Mount {
                    container_path: "/test-devices".to_owned(),
                    host_path: self.folder.to_string_lossy().into_owned(),
                    read_only: true,
                }],
                devices: request.devices_ids.iter().map(device).collect(),
                annotations: [("test.keelson.io/devices".to_owned(), "given".to_owned())].into(),
                cdi_devices: self.names(),
            });
        }
        Ok(Response::new(api::AllocateResponse { container_responses }))
    }

    async fn pre_start_container(
        &self,
        request: Request<api::PreStartContainerRequest>,
    ) -> Answer<api::PreStartContainerResponse> {
        self.calls.add(&format!("prepare {}", request.into_inner().devices_ids.join(",")))?;
        Ok(Response::new(api::PreStartContainerResponse {}))
    }
}

async fn register(plugin: &Plugin) -> anyhow::Result<()> {
    let kubelet = plugin.socket.with_file_name("kubelet.sock");
    let connector = tower::service_fn(move |_: http::Uri| {
        let kubelet = kubelet.clone();
        async move { UnixStream::connect(kubelet).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://kubelet").connect_with_connector(connector).await?;
    let endpoint = plugin.socket.file_name().context("a socket has a name")?;
    let request = api::RegisterRequest {
        version: "v1beta1".to_owned(),
        endpoint: endpoint.to_string_lossy().into_owned(),
        resource_name: plugin.resource.clone(),
        options: None,
    };
    RegistrationClient::new(channel).register(request).await?;
    Ok(())
}

/// Serves until the kubelet takes the socket away, which is when it wants to be told of the plugin again.
async fn serve_once(plugin: &Plugin) -> anyhow::Result<()> {
    let serving = plugin.serve();
    let registering = async {
        while let Err(error) = register(plugin).await {
            plugin.calls.add(&format!("waits {error}"))?;
            tokio::time::sleep(LOOK).await;
        }
        plugin.calls.add("registered")?;
        while plugin.socket.exists() {
            tokio::time::sleep(LOOK).await;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        served = serving => served,
        registered = registering => registered,
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (folder, socket, resource, registration) = match arguments.as_slice() {
        [folder, socket, resource] => (folder, socket, resource, None),
        [folder, socket, resource, registration] => (folder, socket, resource, Some(registration)),
        _ => anyhow::bail!("device_plugin FOLDER SOCKET RESOURCE [REGISTRATION]"),
    };
    let calls = Calls::new(Path::new(folder))?;
    let plugin = Plugin { folder: folder.into(), calls, socket: socket.into(), resource: resource.clone() };
    let Some(registration) = registration else {
        loop {
            serve_once(&plugin).await?;
        }
    };
    let registrar = Registrar::new("DevicePlugin", resource, &plugin.socket, &["v1beta1"], &plugin.calls);
    tokio::try_join!(plugin.serve(), registrar.serve(Path::new(registration)))?;
    Ok(())
}
