//! The kubelet's side of the Container Runtime Interface.

use std::path::Path;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use keelson_cri::v1;
use keelson_cri::v1::image_service_client::ImageServiceClient;
use keelson_cri::v1::runtime_service_client::RuntimeServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

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

/// Both services of the runtime, over one connection that is made at the first call and made anew when it broke.
/// A clone shares the connection.
#[derive(Debug, Clone)]
pub(crate) struct RuntimeClient {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

impl RuntimeClient {
    /// A client of the runtime that listens on `socket`; must be called within a tokio runtime.
    pub(crate) fn new(socket: &Path) -> Self {
        let socket = socket.to_owned();
        let connector = tower::service_fn(move |_: http::Uri| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://cri").connect_with_connector_lazy(connector);
        Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            images: ImageServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE),
        }
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
                    let answer = self.$of.clone().$name(timed(request, $limit)).await;
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
    /// Usage of all sandboxes.
    list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse, runtime, "ListPodSandboxStats", SHORT;
    /// All images.
    list_images(ListImagesRequest) -> ListImagesResponse, images, "ListImages", SHORT;
    /// One image, if it is there.
    image_status(ImageStatusRequest) -> ImageStatusResponse, images, "ImageStatus", SHORT;
}

impl RuntimeClient {
    /// Stops a container: its stop signal, and after `grace` SIGKILL; may be repeated.
    pub(crate) async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        // Whole seconds, and never less than what was granted.
        let timeout = i64::try_from(grace.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout };
        let limit = grace.saturating_add(LONG);
        let answer = self.runtime.clone().stop_container(timed(request, limit)).await;
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
        let answer = self.runtime.clone().exec_sync(request).await;
        Ok(answer.map_err(failed("ExecSync"))?.into_inner())
    }

    /// Gets an image from its registry. A pull takes as long as it takes.
    pub(crate) async fn pull_image(
        &self,
        request: v1::PullImageRequest,
    ) -> Result<v1::PullImageResponse, RuntimeError> {
        let answer = self.images.clone().pull_image(request).await;
        Ok(answer.map_err(failed("PullImage"))?.into_inner())
    }

    /// What happens to containers, from now on.
    pub(crate) async fn events(&self) -> Result<Streaming<v1::ContainerEventResponse>, RuntimeError> {
        let answer = self.runtime.clone().get_container_events(v1::GetEventsRequest {}).await;
        Ok(answer.map_err(failed("GetContainerEvents"))?.into_inner())
    }
}
