//! The kubelet's side of the Container Runtime Interface.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use keelson_cri::v1;
use keelson_cri::v1::image_service_client::ImageServiceClient;
use keelson_cri::v1::runtime_service_client::RuntimeServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use crate::metrics::Operations;

/// Calls that only look, or that finish at once, take no longer.
const SHORT: Duration = Duration::from_secs(30);
/// Sandboxes and containers come up within this.
const LONG: Duration = Duration::from_secs(240);
/// Room for images' lists and for the output of commands.
const MAX_MESSAGE: usize = 64 << 20;

/// A call to the container runtime that failed.
#[derive(Debug, thiserror::Error)]
#[error("{call}: rpc error: code = {code} desc = {message}", code = code_name(.status.code()), message = .status.message())]
pub(crate) struct RuntimeError {
    /// Name of the call.
    pub(crate) call: &'static str,
    /// What the runtime answered.
    pub(crate) status: Status,
}

impl RuntimeError {
    /// What is asked for does not exist.
    pub(crate) fn is_not_found(&self) -> bool {
        self.status.code() == Code::NotFound
    }

    /// The call took longer than it may; who gave it up, the client or the runtime, decides the code.
    pub(crate) fn is_timeout(&self) -> bool {
        matches!(self.status.code(), Code::DeadlineExceeded | Code::Cancelled)
    }

    /// The runtime has no such call.
    pub(crate) fn is_unimplemented(&self) -> bool {
        self.status.code() == Code::Unimplemented
    }

    /// What the runtime said, and nothing else.
    pub(crate) fn message(&self) -> String {
        self.status.message().to_owned()
    }

    /// The text that events and statuses carry: without the call's name, as it came over the wire.
    pub(crate) fn text(&self) -> String {
        format!("rpc error: code = {} desc = {}", code_name(self.status.code()), self.status.message())
    }
}

/// The code as gRPC's other implementations print it.
fn code_name(code: Code) -> String {
    match code {
        Code::Ok => "OK".to_owned(),
        Code::Cancelled => "Canceled".to_owned(),
        other => format!("{other:?}"),
    }
}

/// Both services of the runtime, over connections that are made at the first call and made anew when they broke.
/// A clone shares them.
#[derive(Debug, Clone)]
pub(crate) struct RuntimeClient {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    /// What the runtime calls itself.
    name: Arc<OnceLock<Arc<str>>>,
    counted: Option<Operations>,
}

/// Connects to `socket` when it is needed.
fn channel(socket: PathBuf) -> Channel {
    let connector = tower::service_fn(move |_: http::Uri| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://cri").connect_with_connector_lazy(connector)
}

impl RuntimeClient {
    /// A client of the runtime that listens on `socket`, and whose images are at `images` if that is another place; must
    /// be called within a tokio runtime.
    pub(crate) fn new(socket: &Path, images: Option<&Path>) -> Self {
        let runtime = channel(socket.to_owned());
        let images = images.map_or_else(|| runtime.clone(), |images| channel(images.to_owned()));
        Self {
            runtime: RuntimeServiceClient::new(runtime).max_decoding_message_size(MAX_MESSAGE),
            images: ImageServiceClient::new(images).max_decoding_message_size(MAX_MESSAGE),
            name: Arc::default(),
            counted: None,
        }
    }

    /// What the runtime calls itself, as `containerd`: asked for once.
    pub(crate) async fn name(&self) -> Result<Arc<str>, RuntimeError> {
        if let Some(name) = self.name.get() {
            return Ok(Arc::clone(name));
        }
        let found = self.version(v1::VersionRequest::default()).await?;
        Ok(Arc::clone(self.name.get_or_init(|| found.runtime_name.into())))
    }
}

/// The name of a call as upstream counts it.
fn operation(call: &'static str) -> &'static str {
    match call {
        "run_pod_sandbox" => "run_podsandbox",
        "stop_pod_sandbox" => "stop_podsandbox",
        "remove_pod_sandbox" => "remove_podsandbox",
        "pod_sandbox_status" => "podsandbox_status",
        "list_pod_sandbox" => "list_podsandbox",
        other => other,
    }
}

fn timed<T>(message: T, limit: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

fn failed(call: &'static str) -> impl FnOnce(Status) -> RuntimeError {
    move |status| RuntimeError { call, status }
}

/// One method per call: `name(request) -> response`, on the client `$of`, within `$limit`.
macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($request:ident) -> $response:ident, $of:ident, $call:literal, $limit:expr;)*) => {
        impl RuntimeClient {
            $(
                $(#[$doc])*
                pub(crate) async fn $name(&self, request: v1::$request) -> Result<v1::$response, RuntimeError> {
                    let call = self.$of.clone();
                    let called = async move { { call }.$name(timed(request, $limit)).await };
                    let answer = self.count(operation(stringify!($name)), called).await;
                    Ok(answer.map_err(failed($call))?.into_inner())
                }
            )*
        }
    };
}

calls! {
    /// Name and version of the runtime.
    version(VersionRequest) -> VersionResponse, runtime, "Version", SHORT;
    /// The runtime's own conditions.
    status(StatusRequest) -> StatusResponse, runtime, "Status", SHORT;
    /// Who makes the runtime's control groups.
    runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse, runtime, "RuntimeConfig", SHORT;
    /// Hands the node's pod addresses to the runtime.
    update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse, runtime, "UpdateRuntimeConfig", SHORT;
    /// Makes a pod's sandbox, with its network.
    run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse, runtime, "RunPodSandbox", LONG;
    /// Ends what runs in a sandbox and takes its network away; may be repeated.
    stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse, runtime, "StopPodSandbox", LONG;
    /// Removes a sandbox with its containers; may be repeated.
    remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse, runtime, "RemovePodSandbox", LONG;
    /// One sandbox.
    pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse, runtime, "PodSandboxStatus", SHORT;
    /// All sandboxes that fit a filter.
    list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse, runtime, "ListPodSandbox", SHORT;
    /// Makes a container in a sandbox.
    create_container(CreateContainerRequest) -> CreateContainerResponse, runtime, "CreateContainer", LONG;
    /// Starts a container that was made.
    start_container(StartContainerRequest) -> StartContainerResponse, runtime, "StartContainer", LONG;
    /// Removes a container; may be repeated.
    remove_container(RemoveContainerRequest) -> RemoveContainerResponse, runtime, "RemoveContainer", LONG;
    /// One container.
    container_status(ContainerStatusRequest) -> ContainerStatusResponse, runtime, "ContainerStatus", SHORT;
    /// All containers that fit a filter.
    list_containers(ListContainersRequest) -> ListContainersResponse, runtime, "ListContainers", SHORT;
    /// Opens the log file of a container anew, after it was moved away.
    reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse, runtime, "ReopenContainerLog", SHORT;
    /// Asks for the URL at which a command's streams are served.
    exec(ExecRequest) -> ExecResponse, runtime, "Exec", SHORT;
    /// Asks for the URL at which a container's streams are served.
    attach(AttachRequest) -> AttachResponse, runtime, "Attach", SHORT;
    /// Asks for the URL at which a sandbox's ports are served.
    port_forward(PortForwardRequest) -> PortForwardResponse, runtime, "PortForward", SHORT;
    /// Usage of one container.
    container_stats(ContainerStatsRequest) -> ContainerStatsResponse, runtime, "ContainerStats", SHORT;
    /// Changes the limits of a container that runs.
    update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse, runtime, "UpdateContainerResources", SHORT;
    /// Usage of all containers.
    list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse, runtime, "ListContainerStats", SHORT;
    /// All images.
    list_images(ListImagesRequest) -> ListImagesResponse, images, "ListImages", SHORT;
    /// Removes an image with all its names; may be repeated.
    remove_image(RemoveImageRequest) -> RemoveImageResponse, images, "RemoveImage", LONG;
    /// Where images are kept.
    image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse, images, "ImageFsInfo", LONG;
    /// One image, if it is there.
    image_status(ImageStatusRequest) -> ImageStatusResponse, images, "ImageStatus", SHORT;
}

impl RuntimeClient {
    /// The same, with its calls counted.
    pub(crate) fn counted(mut self, operations: Operations) -> Self {
        self.counted = Some(operations);
        self
    }

    async fn count<T>(
        &self,
        operation: &str,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let began = Instant::now();
        let answer = call.await;
        if let Some(counted) = &self.counted {
            counted.ended(operation, began.elapsed(), answer.is_err());
        }
        answer
    }

    /// Stops a container: its stop signal, and after `grace` SIGKILL; may be repeated.
    pub(crate) async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        // Whole seconds, and never less than what was granted.
        let timeout = i64::try_from(grace.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout };
        let limit = grace.saturating_add(LONG);
        let mut call = self.runtime.clone();
        let answer = self.count("stop_container", call.stop_container(timed(request, limit))).await;
        answer.map(|_| ()).map_err(failed("StopContainer"))
    }

    /// Runs a command in a container to its end.
    pub(crate) async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        limit: Duration,
    ) -> Result<v1::ExecSyncResponse, RuntimeError> {
        let timeout = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
        let request = v1::ExecSyncRequest { container_id: id.to_owned(), cmd: command, timeout };
        let mut request = Request::new(request);
        if !limit.is_zero() {
            // The runtime ends the command itself; this is for a runtime that does not answer.
            request.set_timeout(limit.saturating_add(Duration::from_secs(10)));
        }
        let mut call = self.runtime.clone();
        let answer = self.count("exec_sync", call.exec_sync(request)).await;
        Ok(answer.map_err(failed("ExecSync"))?.into_inner())
    }

    /// Gets an image from its registry. A pull takes as long as it takes.
    pub(crate) async fn pull_image(
        &self,
        request: v1::PullImageRequest,
    ) -> Result<v1::PullImageResponse, RuntimeError> {
        let mut call = self.images.clone();
        let answer = self.count("pull_image", call.pull_image(request)).await;
        Ok(answer.map_err(failed("PullImage"))?.into_inner())
    }

    /// What happens to containers, from now on.
    pub(crate) async fn events(&self) -> Result<Streaming<v1::ContainerEventResponse>, RuntimeError> {
        let answer = self.runtime.clone().get_container_events(v1::GetEventsRequest {}).await;
        Ok(answer.map_err(failed("GetContainerEvents"))?.into_inner())
    }
}
