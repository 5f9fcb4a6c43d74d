//! One plugin, and what it is asked.

use std::path::Path;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use keelson_devices::v1beta1 as api;
use keelson_devices::v1beta1::device_plugin_client::DevicePluginClient;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::inventory::Question;

/// How long a plugin may take to say what it is.
const MEETING: Duration = Duration::from_secs(10);
/// How long it may take to prepare devices.
const LIMIT: Duration = Duration::from_secs(30);

/// Why a plugin does not do what it is asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("rpc error: code = {code:?} desc = {message}")]
    Status { code: tonic::Code, message: String },
    #[error("{0}")]
    Answer(String),
}

fn status(status: Status) -> CallError {
    CallError::Status { code: status.code(), message: status.message().to_owned() }
}

fn timed<T>(message: T, limit: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, CallError> {
    let answer = tokio::time::timeout(limit, call).await;
    let late = || Status::deadline_exceeded(format!("no answer within {} s", limit.as_secs()));
    answer.unwrap_or_else(|_| Err(late())).map(Response::into_inner).map_err(status)
}

/// A connection to a Unix socket.
fn channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_: http::Uri| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://device-plugin").connect_with_connector_lazy(connector)
}

/// A plugin that has made itself known.
#[derive(Debug)]
pub(super) struct Plugin {
    client: DevicePluginClient<Channel>,
    options: api::DevicePluginOptions,
    /// Ends when another one takes its place.
    pub(super) replaced: CancellationToken,
}

impl Plugin {
    /// Asks the plugin behind a socket what it can.
    pub(super) async fn meet(socket: &Path) -> Result<Self, CallError> {
        let client = DevicePluginClient::new(channel(socket));
        let mut asked = client.clone();
        let options = asked.get_device_plugin_options(timed(api::Empty {}, MEETING));
        let options = within(MEETING, options).await?;
        Ok(Plugin { client, options, replaced: CancellationToken::new() })
    }

    /// The devices, told anew whenever one changes.
    pub(super) async fn watch(&self) -> Result<tonic::Streaming<api::ListAndWatchResponse>, CallError> {
        let mut client = self.client.clone();
        // The answer begins with the first list, which may take its time.
        let told = client.list_and_watch(Request::new(api::Empty {})).await;
        told.map(Response::into_inner).map_err(status)
    }

    /// What it prefers; nothing if it does not say.
    pub(super) async fn prefer(&self, question: Option<Question>) -> Result<Vec<String>, CallError> {
        let Some(question) = question.filter(|_| self.options.get_preferred_allocation_available) else {
            return Ok(Vec::new());
        };
        let request = api::ContainerPreferredAllocationRequest {
            available_device_i_ds: question.available,
            must_include_device_i_ds: question.included,
            allocation_size: i32::try_from(question.size).unwrap_or(i32::MAX),
        };
        let request = api::PreferredAllocationRequest { container_requests: vec![request] };
        let mut client = self.client.clone();
        let answer = within(LIMIT, client.get_preferred_allocation(timed(request, LIMIT))).await?;
        Ok(answer.container_responses.into_iter().next().map(|one| one.device_i_ds).unwrap_or_default())
    }

    /// What a container needs to use devices.
    pub(super) async fn allocate(
        &self,
        devices: Vec<String>,
    ) -> Result<api::ContainerAllocateResponse, CallError> {
        let request = api::ContainerAllocateRequest { devices_ids: devices };
        let request = api::AllocateRequest { container_requests: vec![request] };
        let mut client = self.client.clone();
        let answer = within(LIMIT, client.allocate(timed(request, LIMIT))).await?;
        let [one] = <[_; 1]>::try_from(answer.container_responses)
            .map_err(|all| CallError::Answer(format!("{} answers for one container", all.len())))?;
        Ok(one)
    }

    /// Has it prepare devices for a start, if it wants to be asked.
    pub(super) async fn prepare(&self, devices: Vec<String>) -> Result<(), CallError> {
        if !self.options.pre_start_required {
            return Ok(());
        }
        let request = api::PreStartContainerRequest { devices_ids: devices };
        let mut client = self.client.clone();
        within(LIMIT, client.pre_start_container(timed(request, LIMIT))).await.map(drop)
    }
}
