//! Who has which devices, processors and memory, for monitors on the node: the pod resources API at `DATA/pod-resources/kubelet.sock`.
//!
//! Only root reaches the socket. Who asks too often is told so.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use keelson_devices::pod_resources as api;
use keelson_devices::pod_resources::pod_resources_lister_server::{
    PodResourcesLister, PodResourcesListerServer,
};
use parking_lot::Mutex;
use tokio::net::UnixListener;
use tokio::time::Instant;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status};

use crate::dra::Dra;
use crate::furnishing::Furnishing;
use crate::pods::Pods;

mod answer;

use answer::Givers;

/// Requests in a second, and at once, as upstream.
const RATE: f64 = 100.0;
const BURST: f64 = 10.0;
/// When the socket cannot be served, it is tried again after this.
const RETRY: Duration = Duration::from_secs(1);

/// How many more requests may come now.
#[derive(Debug)]
struct Limit(Mutex<(f64, Instant)>);

impl Limit {
    fn new() -> Self {
        Limit(Mutex::new((BURST, Instant::now())))
    }

    /// Takes one request in, or says that there were too many.
    fn admit(&self) -> Result<(), Status> {
        let mut state = self.0.lock();
        let now = Instant::now();
        let (left, since) = *state;
        let left = (left + now.duration_since(since).as_secs_f64() * RATE).min(BURST);
        let is_open = left >= 1.0;
        *state = (if is_open { left - 1.0 } else { left }, now);
        if is_open { Ok(()) } else { Err(Status::resource_exhausted("rejected by rate limit")) }
    }
}

struct Service {
    givers: Givers,
    pods: Arc<Pods>,
}

impl Service {
    /// The pods that have not ended.
    fn active(&self) -> Vec<Arc<Pod>> {
        let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone());
        let mut pods = self.pods.all();
        pods.retain(|pod| !matches!(phase(pod).as_deref(), Some("Succeeded" | "Failed")));
        pods
    }
}

#[tonic::async_trait]
impl PodResourcesLister for Service {
    async fn list(
        &self,
        _: Request<api::ListPodResourcesRequest>,
    ) -> Result<Response<api::ListPodResourcesResponse>, Status> {
        let pod_resources = self.active().iter().map(|pod| answer::of_pod(pod, &self.givers)).collect();
        Ok(Response::new(api::ListPodResourcesResponse { pod_resources }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<api::AllocatableResourcesRequest>,
    ) -> Result<Response<api::AllocatableResourcesResponse>, Status> {
        Ok(Response::new(answer::allocatable(&self.givers.furnishing)))
    }

    async fn get(
        &self,
        request: Request<api::GetPodResourcesRequest>,
    ) -> Result<Response<api::GetPodResourcesResponse>, Status> {
        let api::GetPodResourcesRequest { pod_name, pod_namespace } = request.into_inner();
        let is_it = |pod: &&Arc<Pod>| {
            pod.metadata.name.as_ref() == Some(&pod_name)
                && pod.metadata.namespace.as_ref() == Some(&pod_namespace)
        };
        match self.active().iter().find(is_it) {
            Some(pod) => {
                let pod_resources = Some(answer::of_pod(pod, &self.givers));
                Ok(Response::new(api::GetPodResourcesResponse { pod_resources }))
            }
            None => Err(Status::not_found(format!("pod {pod_name} in namespace {pod_namespace} not found"))),
        }
    }
}

fn listen(data_dir: &Path) -> std::io::Result<UnixListener> {
    let folder = data_dir.join("pod-resources");
    std::fs::create_dir_all(&folder)?;
    let path = folder.join("kubelet.sock");
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    UnixListener::bind(path)
}

/// Serves for as long as it is asked to.
pub(crate) async fn serve(data_dir: &Path, furnishing: Arc<Furnishing>, dra: Arc<Dra>, pods: Arc<Pods>) {
    let service = Arc::new(Service { givers: Givers { furnishing, dra }, pods });
    let limit = Arc::new(Limit::new());
    loop {
        match listen(data_dir) {
            Ok(listener) => {
                let limit = Arc::clone(&limit);
                let service = PodResourcesListerServer::from_arc(Arc::clone(&service));
                let limited = InterceptedService::new(service, move |request: Request<()>| {
                    limit.admit().map(|()| request)
                });
                let served = tonic::transport::Server::builder()
                    .add_service(limited)
                    .serve_with_incoming(UnixListenerStream::new(listener))
                    .await;
                if let Err(error) = served {
                    tracing::error!(%error, "who has which devices is not served");
                }
            }
            Err(error) => tracing::error!(%error, "who has which devices is not served"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_asks_too_often_is_told_so_and_may_ask_again_later() {
        let limit = Limit::new();
        for _ in 0..10 {
            limit.admit().unwrap();
        }
        assert_eq!(limit.admit().unwrap_err().message(), "rejected by rate limit");
        tokio::time::advance(Duration::from_millis(20)).await;
        assert!(limit.admit().is_ok() && limit.admit().is_ok() && limit.admit().is_err());
    }
}
