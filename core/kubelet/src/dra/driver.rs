//! One driver, and what it is asked.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keelson_csi::registration::PluginInfo;
use keelson_dra::v1;
use prost::Message;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

use super::state::Device;
use super::{Dra, DraError, connection, health};
use crate::plugins::{Handler, channel, check_name, translated};

/// How long a driver may take over a call.
const LIMIT: Duration = Duration::from_secs(45);
const PREPARE: &str = "NodePrepareResources";
const UNPREPARE: &str = "NodeUnprepareResources";

/// The versions of the protocol, the better first: as drivers say them, and as their services are called.
const VERSIONS: [(&str, &str); 2] = [
    ("v1.DRAPlugin", "k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin"),
    ("v1beta1.DRAPlugin", "k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin"),
];

/// A driver that has made itself known.
#[derive(Debug)]
pub(crate) struct Driver {
    service: &'static str,
    socket: PathBuf,
    channel: Channel,
}

/// The service of the best version that a driver speaks.
fn service(info: &PluginInfo) -> Result<&'static str, String> {
    let spoken = &info.supported_versions;
    let found = VERSIONS.iter().find(|(version, _)| spoken.iter().any(|it| it == version));
    let known = VERSIONS.map(|(version, _)| version).join(", ");
    found.map(|(_, service)| *service).ok_or_else(|| {
        format!(
            "driver {} provides none of the supported gRPC services {known}: {}",
            info.name,
            spoken.join(", ")
        )
    })
}

impl Driver {
    /// The one behind a socket.
    pub(super) fn new(service: &'static str, socket: &Path) -> Self {
        Driver { service, socket: socket.to_owned(), channel: channel(socket) }
    }

    /// By which it is asked.
    pub(super) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    async fn call<T, U>(&self, call: &'static str, message: T) -> Result<U, DraError>
    where
        T: Message + Send + Sync + 'static,
        U: Message + Default + Send + Sync + 'static,
    {
        let failed = |code, message: String| DraError::Call { call, code, message };
        let path = format!("/{}/{call}", self.service).parse::<PathAndQuery>();
        let path = path.map_err(|error| failed(tonic::Code::Internal, error.to_string()))?;
        let mut grpc = Grpc::new(self.channel.clone());
        let ready = grpc.ready().await;
        ready.map_err(|error| failed(tonic::Code::Unavailable, error.to_string()))?;
        let mut request = tonic::Request::new(message);
        request.set_timeout(LIMIT);
        let asked = grpc.unary(request, path, ProstCodec::<T, U>::default());
        match tokio::time::timeout(LIMIT, asked).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(failed(status.code(), status.message().to_owned())),
            Err(_) => Err(failed(tonic::Code::DeadlineExceeded, "context deadline exceeded".to_owned())),
        }
    }

    /// Prepares a claim; what containers need for its devices.
    pub(super) async fn prepare(&self, claim: v1::Claim) -> Result<Vec<Device>, DraError> {
        let (uid, name) = (claim.uid.clone(), claim.name.clone());
        let request = v1::NodePrepareResourcesRequest { claims: vec![claim] };
        let mut answer: v1::NodePrepareResourcesResponse = self.call(PREPARE, request).await?;
        let answer = answer.claims.remove(&uid).ok_or(DraError::Skipped(PREPARE))?;
        if !answer.error.is_empty() {
            return Err(DraError::Claim { call: PREPARE, claim: name, message: answer.error });
        }
        let read = |device: v1::Device| Device {
            pool_name: device.pool_name,
            device_name: device.device_name,
            request_names: device.request_names,
            cdi_device_ids: device.cdi_device_ids,
        };
        Ok(answer.devices.into_iter().map(read).collect())
    }

    /// Takes back what was prepared for a claim.
    pub(super) async fn unprepare(&self, claim: v1::Claim) -> Result<(), DraError> {
        let (uid, name) = (claim.uid.clone(), claim.name.clone());
        let request = v1::NodeUnprepareResourcesRequest { claims: vec![claim] };
        let mut answer: v1::NodeUnprepareResourcesResponse = self.call(UNPREPARE, request).await?;
        let answer = answer.claims.remove(&uid).ok_or(DraError::Skipped(UNPREPARE))?;
        if answer.error.is_empty() {
            Ok(())
        } else {
            Err(DraError::Claim { call: UNPREPARE, claim: name, message: answer.error })
        }
    }
}

#[async_trait]
impl Handler for Dra {
    fn kind(&self) -> &'static str {
        "DRAPlugin"
    }

    async fn meet(&self, socket: &Path, info: &PluginInfo) -> Result<(), String> {
        check_name(&info.name)?;
        let service = service(info)?;
        let endpoint = if info.endpoint.is_empty() { socket } else { Path::new(&info.endpoint) };
        let own = translated(&self.config.data_dir, endpoint);
        let driver = Arc::new(Driver::new(service, own.as_deref().unwrap_or(endpoint)));
        let watch = CancellationToken::new();
        let follow = self.follow(&info.name, Arc::clone(&driver));
        let listen = self.listen(&info.name, Arc::clone(&driver));
        let both = async {
            tokio::join!(follow, listen);
        };
        tokio::spawn(watch.clone().run_until_cancelled_owned(both));
        self.drivers.lock().add(&info.name, socket, driver, watch.drop_guard(), Instant::now());
        self.changed.notify_one();
        Ok(())
    }

    async fn forget(&self, socket: &Path, name: &str) -> Result<(), String> {
        self.drivers.lock().remove(name, socket, Instant::now());
        if self.health.lock().forget(name) {
            self.news.send_modify(|count| *count += 1);
        }
        self.changed.notify_one();
        Ok(())
    }
}

impl Dra {
    /// Hears how a driver's devices fare, for as long as it is known.
    fn listen(&self, name: &str, driver: Arc<Driver>) -> impl Future<Output = ()> + Send + 'static {
        let (known, news, name) = (Arc::downgrade(&self.health), Arc::downgrade(&self.news), name.to_owned());
        async move {
            let told = |devices: Option<Vec<keelson_dra::health::DeviceHealth>>| {
                let (known, news) = (known.upgrade()?, news.upgrade()?);
                let mut known = known.lock();
                let is_news = match devices {
                    Some(devices) => known.update(&name, &devices, Instant::now()),
                    None => known.forget(&name),
                };
                if is_news {
                    news.send_modify(|count| *count += 1);
                }
                known.next_end(&name)
            };
            health::listen(&driver, told).await;
        }
    }

    /// Sees whether a driver is there, for as long as it is known.
    fn follow(&self, name: &str, driver: Arc<Driver>) -> impl Future<Output = ()> + Send + 'static {
        let (drivers, changed, name) =
            (Arc::downgrade(&self.drivers), Arc::clone(&self.changed), name.to_owned());
        async move {
            let told = |is_up| {
                let Some(drivers) = drivers.upgrade() else { return };
                tracing::info!(driver = name, is_up, "the connection of a driver changed");
                drivers.lock().connected(&name, &driver, is_up, Instant::now());
                changed.notify_one();
            };
            connection::follow(&driver.socket, told).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_version_that_a_driver_speaks_is_spoken() {
        let info = |versions: &[&str]| PluginInfo {
            name: "d".into(),
            supported_versions: versions.iter().map(ToString::to_string).collect(),
            ..PluginInfo::default()
        };
        assert!(
            service(&info(&["v1beta1.DRAPlugin", "v1.DRAPlugin"])).unwrap().ends_with("dra.v1.DRAPlugin")
        );
        assert!(service(&info(&["v1beta1.DRAPlugin"])).unwrap().ends_with("dra.v1beta1.DRAPlugin"));
        assert_eq!(
            service(&info(&["1.0.0"])).unwrap_err(),
            "driver d provides none of the supported gRPC services v1.DRAPlugin, v1beta1.DRAPlugin: 1.0.0"
        );
    }
}
