//! `runtime.v1.RuntimeService`: requests to calls, answers to messages.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use keelson_cgroup::Driver;
use keelson_cri::v1::runtime_service_server::RuntimeService;
use keelson_cri::v1::{self};
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tonic::{Request, Response, Status};

use crate::error::CallError;
use crate::info;
use crate::mapped_mount;
use crate::spec::resources;
use crate::state::{Container, Runtime, Sandbox, now};
use crate::status;
use crate::streaming::Session;

/// The service over the runtime.
#[derive(Clone)]
pub(crate) struct RuntimeServer(pub(crate) Arc<Runtime>);

type Answer<T> = Result<Response<T>, Status>;
/// A list in several messages.
pub(crate) type Pieces<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send + 'static>>;

/// Answers a list in several messages.
pub(crate) fn in_pieces<T, M: Send + 'static>(
    list: Vec<T>,
    message: impl Fn(Vec<T>) -> M,
) -> Answer<Pieces<M>> {
    let pieces: Vec<_> = info::pieces(list, message).collect();
    Ok(Response::new(Box::pin(futures::stream::iter(pieces))))
}

fn selected(labels: &HashMap<String, String>, selector: &HashMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

impl RuntimeServer {
    fn sandboxes(&self, id: &str, selector: &HashMap<String, String>) -> Vec<Arc<Sandbox>> {
        let all = self.0.sandboxes.read();
        let fits = |one: &&Arc<Sandbox>| one.id.starts_with(id) && selected(&one.config.labels, selector);
        all.values().filter(fits).cloned().collect()
    }

    fn containers(&self, id: &str, sandbox: &str, selector: &HashMap<String, String>) -> Vec<Arc<Container>> {
        let all = self.0.containers.read();
        let fits = |one: &&Arc<Container>| {
            one.id.starts_with(id)
                && one.sandbox.starts_with(sandbox)
                && selected(&one.record.lock().config.0.labels, selector)
        };
        all.values().filter(fits).cloned().collect()
    }
}

#[tonic::async_trait]
impl RuntimeService for RuntimeServer {
    async fn version(&self, _: Request<v1::VersionRequest>) -> Answer<v1::VersionResponse> {
        Ok(Response::new(v1::VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: "keelson".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: "v1".to_owned(),
        }))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<v1::RunPodSandboxRequest>,
    ) -> Answer<v1::RunPodSandboxResponse> {
        let request = request.into_inner();
        let config = request.config.ok_or(CallError::Missing("the sandbox's configuration"))?;
        // Runs to its end even when the caller gives up, so that nothing is left half made.
        let runtime = Arc::clone(&self.0);
        let work = tokio::spawn(async move { runtime.run_sandbox(config, request.runtime_handler).await });
        let pod_sandbox_id = work.await.map_err(|_| CallError::Interrupted)??;
        Ok(Response::new(v1::RunPodSandboxResponse { pod_sandbox_id }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<v1::StopPodSandboxRequest>,
    ) -> Answer<v1::StopPodSandboxResponse> {
        self.0.stop_sandbox(&request.into_inner().pod_sandbox_id).await?;
        Ok(Response::new(v1::StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Answer<v1::RemovePodSandboxResponse> {
        self.0.remove_sandbox(&request.into_inner().pod_sandbox_id).await?;
        Ok(Response::new(v1::RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Answer<v1::PodSandboxStatusResponse> {
        let request = request.into_inner();
        let sandbox = self.0.find_sandbox(&request.pod_sandbox_id)?;
        let info = if request.verbose { info::sandbox(&self.0, &sandbox) } else { HashMap::new() };
        let containers = self.0.containers_of(&sandbox.id);
        Ok(Response::new(v1::PodSandboxStatusResponse {
            status: Some(status::sandbox(&sandbox)),
            info,
            containers_statuses: containers.iter().map(|one| status::container(one)).collect(),
            timestamp: now(),
        }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<v1::ListPodSandboxRequest>,
    ) -> Answer<v1::ListPodSandboxResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let sandboxes = self.sandboxes(&filter.id, &filter.label_selector);
        let items = sandboxes.iter().map(|one| status::sandbox_item(one));
        let items = items.filter(|one| filter.state.is_none_or(|wanted| one.state == wanted.state)).collect();
        Ok(Response::new(v1::ListPodSandboxResponse { items }))
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Answer<v1::CreateContainerResponse> {
        let request = request.into_inner();
        let config = request.config.ok_or(CallError::Missing("the container's configuration"))?;
        let runtime = Arc::clone(&self.0);
        let work = tokio::spawn(async move {
            runtime.create_container(&request.pod_sandbox_id, config, request.sandbox_config).await
        });
        let container_id = work.await.map_err(|_| CallError::Interrupted)??;
        Ok(Response::new(v1::CreateContainerResponse { container_id }))
    }

    async fn start_container(
        &self,
        request: Request<v1::StartContainerRequest>,
    ) -> Answer<v1::StartContainerResponse> {
        let runtime = Arc::clone(&self.0);
        let id = request.into_inner().container_id;
        let work = tokio::spawn(async move { runtime.start_container(&id).await });
        work.await.map_err(|_| CallError::Interrupted)??;
        Ok(Response::new(v1::StartContainerResponse {}))
    }

    async fn stop_container(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Answer<v1::StopContainerResponse> {
        let request = request.into_inner();
        self.0.stop_container(&request.container_id, request.timeout).await?;
        Ok(Response::new(v1::StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Answer<v1::RemoveContainerResponse> {
        self.0.remove_container(&request.into_inner().container_id).await?;
        Ok(Response::new(v1::RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Answer<v1::ListContainersResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let containers = self.containers(&filter.id, &filter.pod_sandbox_id, &filter.label_selector);
        let items = containers.iter().map(|one| status::container_item(one));
        let containers =
            items.filter(|one| filter.state.is_none_or(|wanted| one.state == wanted.state)).collect();
        Ok(Response::new(v1::ListContainersResponse { containers }))
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Answer<v1::ContainerStatusResponse> {
        let request = request.into_inner();
        let container = self.0.find_container(&request.container_id)?;
        let info = if request.verbose { info::container(&container) } else { HashMap::new() };
        let status = Some(status::container(&container));
        Ok(Response::new(v1::ContainerStatusResponse { status, info }))
    }

    async fn update_container_resources(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Answer<v1::UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        let change = request.linux.ok_or(CallError::Missing("the resources"))?;
        self.0.update_resources(&request.container_id, &change).await?;
        Ok(Response::new(v1::UpdateContainerResourcesResponse {}))
    }

    async fn reopen_container_log(
        &self,
        request: Request<v1::ReopenContainerLogRequest>,
    ) -> Answer<v1::ReopenContainerLogResponse> {
        self.0.reopen_log(&request.into_inner().container_id).await?;
        Ok(Response::new(v1::ReopenContainerLogResponse {}))
    }

    async fn exec_sync(&self, request: Request<v1::ExecSyncRequest>) -> Answer<v1::ExecSyncResponse> {
        let request = request.into_inner();
        if request.cmd.is_empty() {
            return Err(CallError::Missing("the command").into());
        }
        let response = self.0.exec_sync(&request.container_id, request.cmd, request.timeout).await?;
        Ok(Response::new(response))
    }

    async fn exec(&self, request: Request<v1::ExecRequest>) -> Answer<v1::ExecResponse> {
        let request = request.into_inner();
        if request.cmd.is_empty() {
            return Err(CallError::Missing("the command").into());
        }
        let (container, sandbox) = self.0.running(&request.container_id)?;
        let url = self.0.streaming.issue(Session::Exec {
            folder: sandbox.folder.clone(),
            container: container.id.clone(),
            command: request.cmd,
            tty: request.tty,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr && !request.tty,
        })?;
        Ok(Response::new(v1::ExecResponse { url }))
    }

    async fn attach(&self, request: Request<v1::AttachRequest>) -> Answer<v1::AttachResponse> {
        let request = request.into_inner();
        let (container, sandbox) = self.0.running(&request.container_id)?;
        let url = self.0.streaming.issue(Session::Attach {
            folder: sandbox.folder.clone(),
            container: container.id.clone(),
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
        })?;
        Ok(Response::new(v1::AttachResponse { url }))
    }

    async fn port_forward(
        &self,
        request: Request<v1::PortForwardRequest>,
    ) -> Answer<v1::PortForwardResponse> {
        let request = request.into_inner();
        let sandbox = self.0.find_sandbox(&request.pod_sandbox_id)?;
        if !sandbox.is_ready() {
            return Err(CallError::Precondition(format!("sandbox {} is not running", sandbox.id)).into());
        }
        let netns = (!sandbox.host_network()).then(|| self.0.netns_path(&sandbox.id));
        let ports = request.port.iter().filter_map(|port| u16::try_from(*port).ok()).collect();
        let url = self.0.streaming.issue(Session::PortForward { netns, ports })?;
        Ok(Response::new(v1::PortForwardResponse { url }))
    }

    async fn container_stats(
        &self,
        request: Request<v1::ContainerStatsRequest>,
    ) -> Answer<v1::ContainerStatsResponse> {
        let container = self.0.find_container(&request.into_inner().container_id)?;
        let runtime = Arc::clone(&self.0);
        let work = move || runtime.container_stats(&container);
        let stats = tokio::task::spawn_blocking(work).await.map_err(|_| CallError::Interrupted)?;
        let stats = Some(stats);
        Ok(Response::new(v1::ContainerStatsResponse { stats }))
    }

    async fn list_container_stats(
        &self,
        request: Request<v1::ListContainerStatsRequest>,
    ) -> Answer<v1::ListContainerStatsResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let containers = self.containers(&filter.id, &filter.pod_sandbox_id, &filter.label_selector);
        let runtime = Arc::clone(&self.0);
        let work = move || containers.iter().map(|one| runtime.container_stats(one)).collect();
        let stats = tokio::task::spawn_blocking(work).await.map_err(|_| CallError::Interrupted)?;
        Ok(Response::new(v1::ListContainerStatsResponse { stats }))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<v1::PodSandboxStatsRequest>,
    ) -> Answer<v1::PodSandboxStatsResponse> {
        let sandbox = self.0.find_sandbox(&request.into_inner().pod_sandbox_id)?;
        let runtime = Arc::clone(&self.0);
        let work = move || runtime.sandbox_stats(&sandbox);
        let stats = tokio::task::spawn_blocking(work).await.map_err(|_| CallError::Interrupted)?;
        let stats = Some(stats);
        Ok(Response::new(v1::PodSandboxStatsResponse { stats }))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<v1::ListPodSandboxStatsRequest>,
    ) -> Answer<v1::ListPodSandboxStatsResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let sandboxes = self.sandboxes(&filter.id, &filter.label_selector);
        let runtime = Arc::clone(&self.0);
        let work = move || sandboxes.iter().map(|one| runtime.sandbox_stats(one)).collect();
        let stats = tokio::task::spawn_blocking(work).await.map_err(|_| CallError::Interrupted)?;
        Ok(Response::new(v1::ListPodSandboxStatsResponse { stats }))
    }

    async fn update_runtime_config(
        &self,
        request: Request<v1::UpdateRuntimeConfigRequest>,
    ) -> Answer<v1::UpdateRuntimeConfigResponse> {
        let config = request.into_inner().runtime_config.unwrap_or_default();
        let pod_cidr = config.network_config.map(|network| network.pod_cidr).unwrap_or_default();
        if !pod_cidr.is_empty() && self.0.network_configured.lock().as_ref() != Some(&pod_cidr) {
            self.0.config.network.configure(&pod_cidr).await.map_err(CallError::Network)?;
            *self.0.network_configured.lock() = Some(pod_cidr);
        }
        Ok(Response::new(v1::UpdateRuntimeConfigResponse {}))
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        let network = self.0.config.network.status().await;
        let condition = |kind: &str, fault: Option<(&str, String)>| v1::RuntimeCondition {
            r#type: kind.to_owned(),
            status: fault.is_none(),
            reason: fault.as_ref().map(|(reason, _)| (*reason).to_owned()).unwrap_or_default(),
            message: fault.map(|(_, message)| message).unwrap_or_default(),
        };
        let network = network.err().map(|error| ("NetworkPluginNotReady", crate::error::chain(&error)));
        let features = v1::RuntimeHandlerFeatures {
            recursive_read_only_mounts: true,
            user_namespaces: mapped_mount::is_possible(),
        };
        let verbose = request.into_inner().verbose;
        Ok(Response::new(v1::StatusResponse {
            status: Some(v1::RuntimeStatus {
                conditions: vec![condition("RuntimeReady", None), condition("NetworkReady", network)],
            }),
            info: if verbose { info::runtime(&self.0) } else { HashMap::new() },
            runtime_handlers: info::handlers(features),
            features: Some(v1::RuntimeFeatures {
                supplemental_groups_policy: true,
                user_namespaces_host_network: false,
            }),
        }))
    }

    async fn checkpoint_container(
        &self,
        _: Request<v1::CheckpointContainerRequest>,
    ) -> Answer<v1::CheckpointContainerResponse> {
        Err(Status::unimplemented("containers cannot be checkpointed by this runtime"))
    }

    type StreamPodSandboxesStream = Pieces<v1::StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(
        &self,
        request: Request<v1::StreamPodSandboxesRequest>,
    ) -> Answer<Self::StreamPodSandboxesStream> {
        let request = v1::ListPodSandboxRequest { filter: request.into_inner().filter };
        let list = self.list_pod_sandbox(Request::new(request)).await?.into_inner().items;
        in_pieces(list, |pod_sandboxes| v1::StreamPodSandboxesResponse { pod_sandboxes })
    }

    type StreamContainersStream = Pieces<v1::StreamContainersResponse>;

    async fn stream_containers(
        &self,
        request: Request<v1::StreamContainersRequest>,
    ) -> Answer<Self::StreamContainersStream> {
        let request = v1::ListContainersRequest { filter: request.into_inner().filter };
        let list = self.list_containers(Request::new(request)).await?.into_inner().containers;
        in_pieces(list, |containers| v1::StreamContainersResponse { containers })
    }

    type StreamContainerStatsStream = Pieces<v1::StreamContainerStatsResponse>;

    async fn stream_container_stats(
        &self,
        request: Request<v1::StreamContainerStatsRequest>,
    ) -> Answer<Self::StreamContainerStatsStream> {
        let request = v1::ListContainerStatsRequest { filter: request.into_inner().filter };
        let list = self.list_container_stats(Request::new(request)).await?.into_inner().stats;
        in_pieces(list, |container_stats| v1::StreamContainerStatsResponse { container_stats })
    }

    type StreamPodSandboxStatsStream = Pieces<v1::StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<v1::StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        let request = v1::ListPodSandboxStatsRequest { filter: request.into_inner().filter };
        let list = self.list_pod_sandbox_stats(Request::new(request)).await?.into_inner().stats;
        in_pieces(list, |pod_sandbox_stats| v1::StreamPodSandboxStatsResponse { pod_sandbox_stats })
    }

    type StreamPodSandboxMetricsStream = Pieces<v1::StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<v1::StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        Err(Status::unimplemented("metrics are served as stats by this runtime"))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<v1::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<v1::UpdatePodSandboxResourcesResponse> {
        let request = request.into_inner();
        let sandbox = self.0.find_sandbox(&request.pod_sandbox_id)?;
        {
            let mut record = sandbox.record.lock();
            let linux = record.config.0.linux.get_or_insert_default();
            linux.overhead = request.overhead.or(linux.overhead.take());
            linux.resources = request.resources.or(linux.resources.take());
        }
        // The pod's control group is whose who made it.
        sandbox.save().map_err(crate::error::file("write", sandbox.folder.join("sandbox.json")))?;
        Ok(Response::new(v1::UpdatePodSandboxResourcesResponse {}))
    }

    type GetContainerEventsStream = Pieces<v1::ContainerEventResponse>;

    async fn get_container_events(
        &self,
        _: Request<v1::GetEventsRequest>,
    ) -> Answer<Self::GetContainerEventsStream> {
        let events = BroadcastStream::new(self.0.events.subscribe()).map(|event| {
            event.map_err(|BroadcastStreamRecvError::Lagged(lost)| {
                // The subscriber lists anew; no event is lost in silence.
                Status::resource_exhausted(format!(
                    "{lost} events were not taken in time: list and subscribe again"
                ))
            })
        });
        // The stream ends with its first error.
        let ends = events.scan(false, |ended, event| {
            let item = if *ended { None } else { Some(event) };
            *ended |= item.as_ref().is_some_and(Result::is_err);
            std::future::ready(item)
        });
        Ok(Response::new(Box::pin(ends.take_until(self.0.shutdown.clone().cancelled_owned()))))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<v1::ListMetricDescriptorsRequest>,
    ) -> Answer<v1::ListMetricDescriptorsResponse> {
        Err(Status::unimplemented("metrics are served as stats by this runtime"))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<v1::ListPodSandboxMetricsRequest>,
    ) -> Answer<v1::ListPodSandboxMetricsResponse> {
        Err(Status::unimplemented("metrics are served as stats by this runtime"))
    }

    async fn runtime_config(
        &self,
        _: Request<v1::RuntimeConfigRequest>,
    ) -> Answer<v1::RuntimeConfigResponse> {
        let cgroup_driver = match self.0.config.cgroup_driver {
            Driver::Cgroupfs => v1::CgroupDriver::Cgroupfs,
            Driver::Systemd => v1::CgroupDriver::Systemd,
        } as i32;
        let linux = Some(v1::LinuxRuntimeConfiguration { cgroup_driver });
        Ok(Response::new(v1::RuntimeConfigResponse { linux }))
    }
}

impl From<resources::ResourceError> for Status {
    fn from(error: resources::ResourceError) -> Self {
        CallError::Spec(error.into()).into()
    }
}
