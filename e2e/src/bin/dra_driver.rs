//! A driver of devices for tests: the devices are nothing but names, and a container that has one sees so in its environment.
//!
//! `dra_driver FOLDER ENDPOINT REGISTRATION NAME NODE DEVICES`: FOLDER holds the list `calls`, and the file `health` with a line
//! `DEVICE WORDS` for each that does not fare well, which is followed; ENDPOINT is the driver's socket, and
//! REGISTRATION the one by which a kubelet finds it. It offers the devices `gpu-0` and so on of NODE by the API that
//! KUBECONFIG leads to, and says in files in /var/run/cdi what containers need. Every call is safe to repeat.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt as _;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use keelson_dra::health;
use keelson_dra::health::dra_resource_health_server::{DraResourceHealth, DraResourceHealthServer};
use keelson_dra::v1;
use keelson_dra::v1::dra_plugin_server::{DraPlugin, DraPluginServer};
use keelson_e2e::plugin_server::{Answer, Calls, Registrar, serve};
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

const CDI: &str = "/var/run/cdi";
/// The vendor and class of the devices in these files.
const KIND: &str = "test.keelson.io/gpu";

struct Driver {
    folder: PathBuf,
    calls: Calls,
    name: String,
    node: String,
    devices: usize,
    client: Client,
}

/// Between two looks at how devices fare.
const LOOK: Duration = Duration::from_millis(100);

impl Driver {
    fn file(claim: &v1::Claim) -> PathBuf {
        Path::new(CDI).join(format!("test.keelson.io-{}.json", claim.uid))
    }

    /// Says in a file what containers need for the claim's devices, and by what names it is found.
    async fn prepare(&self, claim: &v1::Claim) -> anyhow::Result<Vec<v1::Device>> {
        self.calls.add(&format!("prepare {}", claim.name))?;
        let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), &claim.namespace);
        let found = api.get(&claim.name).await?;
        anyhow::ensure!(found.uid().as_deref() == Some(&claim.uid), "the claim is another one");
        let allocation =
            found.status.and_then(|status| status.allocation).context("the claim is not allocated")?;
        let results = allocation.devices.and_then(|devices| devices.results).unwrap_or_default();
        let (mut devices, mut told) = (Vec::new(), Vec::new());
        for result in results.into_iter().filter(|result| result.driver == self.name) {
            let name = format!("{}-{}", claim.uid, result.device);
            let request = result.request.split('/').next().unwrap_or_default().to_owned();
            let node = json!({"path": format!("/dev/{}", result.device), "hostPath": "/dev/null", "permissions": "rw"});
            let edits =
                json!({"env": [format!("DEVICE_{request}={}", result.device)], "deviceNodes": [node]});
            told.push(json!({"name": name, "containerEdits": edits}));
            devices.push(v1::Device {
                request_names: vec![request],
                pool_name: result.pool,
                device_name: result.device,
                cdi_device_ids: vec![format!("{KIND}={name}")],
            });
        }
        let edits = json!({"env": [format!("CLAIM={}", claim.name)]});
        let text = json!({"cdiVersion": "0.5.0", "kind": KIND, "devices": told, "containerEdits": edits});
        fs::create_dir_all(CDI)?;
        let staged = Self::file(claim).with_extension("tmp");
        fs::write(&staged, text.to_string())?;
        fs::rename(&staged, Self::file(claim))?;
        Ok(devices)
    }

    fn unprepare(&self, claim: &v1::Claim) -> anyhow::Result<()> {
        self.calls.add(&format!("unprepare {}", claim.name))?;
        match fs::remove_file(Self::file(claim)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl DraPlugin for Driver {
    async fn node_prepare_resources(
        &self,
        request: Request<v1::NodePrepareResourcesRequest>,
    ) -> Answer<v1::NodePrepareResourcesResponse> {
        let mut claims = HashMap::new();
        for claim in request.into_inner().claims {
            let answer = match self.prepare(&claim).await {
                Ok(devices) => v1::NodePrepareResourceResponse { devices, error: String::new() },
                Err(error) => {
                    v1::NodePrepareResourceResponse { devices: Vec::new(), error: format!("{error:#}") }
                }
            };
            claims.insert(claim.uid, answer);
        }
        Ok(Response::new(v1::NodePrepareResourcesResponse { claims }))
    }

    async fn node_unprepare_resources(
        &self,
        request: Request<v1::NodeUnprepareResourcesRequest>,
    ) -> Answer<v1::NodeUnprepareResourcesResponse> {
        let mut claims = HashMap::new();
        for claim in request.into_inner().claims {
            let error = self.unprepare(&claim).err().map(|error| format!("{error:#}")).unwrap_or_default();
            claims.insert(claim.uid, v1::NodeUnprepareResourceResponse { error });
        }
        Ok(Response::new(v1::NodeUnprepareResourcesResponse { claims }))
    }
}

/// How all devices of a node fare.
fn health_of(folder: &Path, node: &str, devices: usize) -> Vec<health::DeviceHealth> {
    let text = fs::read_to_string(folder.join("health")).unwrap_or_default();
    let ill: HashMap<&str, &str> = text.lines().filter_map(|line| line.split_once(' ')).collect();
    let one = |at: usize| {
        let name = format!("gpu-{at}");
        let message = ill.get(name.as_str()).map(|words| (*words).to_owned());
        let status =
            if message.is_some() { health::HealthStatus::Unhealthy } else { health::HealthStatus::Healthy };
        let device = health::DeviceIdentifier { pool_name: node.to_owned(), device_name: name };
        health::DeviceHealth {
            device: Some(device),
            health: status.into(),
            health_check_timeout_seconds: 3600,
            message: message.unwrap_or_default(),
            ..health::DeviceHealth::default()
        }
    };
    (0..devices).map(one).collect()
}

#[tonic::async_trait]
impl DraResourceHealth for Driver {
    type NodeWatchResourcesStream = ReceiverStream<Result<health::NodeWatchResourcesResponse, Status>>;

    async fn node_watch_resources(
        &self,
        _: Request<health::NodeWatchResourcesRequest>,
    ) -> Answer<Self::NodeWatchResourcesStream> {
        let (told, stream) = mpsc::channel(1);
        let (folder, node, count) = (self.folder.clone(), self.node.clone(), self.devices);
        tokio::spawn(async move {
            let mut before = None;
            while !told.is_closed() {
                let devices = health_of(&folder, &node, count);
                if before.as_ref() != Some(&devices) {
                    before = Some(devices.clone());
                    if told.send(Ok(health::NodeWatchResourcesResponse { devices })).await.is_err() {
                        return;
                    }
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// Offers the devices of the node, and does so again when that is gone.
async fn publish(client: Client, driver: &str, node: &str, count: usize) -> anyhow::Result<()> {
    let api: Api<ResourceSlice> = Api::all(client);
    let name = format!("{node}-{driver}");
    let devices: Vec<_> = (0..count)
        .map(|at| {
            let model = if at % 2 == 0 { "fast" } else { "slow" };
            json!({
                "name": format!("gpu-{at}"),
                "attributes": {"model": {"string": model}, "index": {"int": at}},
                "capacity": {"memory": {"value": "4Gi"}},
            })
        })
        .collect();
    let slice = json!({
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": name},
        "spec": {
            "driver": driver,
            "nodeName": node,
            "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
            "devices": devices,
        },
    });
    let config = watcher::Config::default().fields(&format!("spec.driver={driver}"));
    let events = watcher(api.clone(), config).default_backoff();
    let mut there: BTreeMap<String, ()> = BTreeMap::new();
    let mut events = events.boxed();
    while let Some(event) = events.next().await {
        // A watch that breaks is taken up again.
        let Ok(event) = event else { continue };
        match event {
            watcher::Event::Init => there.clear(),
            watcher::Event::Apply(slice) | watcher::Event::InitApply(slice) => {
                there.insert(slice.name_any(), ());
                continue;
            }
            watcher::Event::InitDone => {}
            watcher::Event::Delete(slice) => drop(there.remove(&slice.name_any())),
        }
        if !there.contains_key(&name) {
            let params = PatchParams::apply("dra_driver").force();
            while let Err(error) = api.patch(&name, &params, &Patch::Apply(&slice)).await {
                eprintln!("the slice is not written: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, endpoint, registration, name, node, devices] = arguments.as_slice() else {
        anyhow::bail!("dra_driver FOLDER ENDPOINT REGISTRATION NAME NODE DEVICES");
    };
    // Two providers may be there; one has to be chosen.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::try_default().await?;
    let (folder, endpoint) = (PathBuf::from(folder), Path::new(endpoint));
    let (calls, count) = (Calls::new(&folder)?, devices.parse()?);
    let versions = ["v1.DRAPlugin", "v1beta1.DRAPlugin"];
    let registrar = Registrar::new("DRAPlugin", name, endpoint, &versions, &calls);
    let driver = Arc::new(Driver {
        folder,
        calls,
        name: name.clone(),
        node: node.clone(),
        devices: count,
        client: client.clone(),
    });
    let services = Server::builder()
        .add_service(DraPluginServer::from_arc(Arc::clone(&driver)))
        .add_service(DraResourceHealthServer::from_arc(driver));
    tokio::try_join!(
        serve(services, endpoint),
        registrar.serve(Path::new(registration)),
        publish(client, name, node, count)
    )?;
    Ok(())
}
