//! Plugins make themselves known, and are listened to for as long as they are there.

use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keelson_csi::registration::PluginInfo;
use keelson_devices::v1beta1::registration_server::{Registration, RegistrationServer};
use keelson_devices::v1beta1::{Empty, RegisterRequest};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use super::plugin::{CallError, Plugin};
use super::{Devices, folder};
use crate::clock;
use crate::plugins::Handler;

/// The version that is spoken.
const VERSION: &str = "v1beta1";
/// The kubelet's own socket.
const SOCKET: &str = "kubelet.sock";
/// When the socket cannot be served, it is tried again after this.
const RETRY: Duration = Duration::from_secs(1);
/// Requests that are answered at a time.
const AT_ONCE: usize = 16;

/// Why a plugin cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistrationError {
    #[error("requested API version {0:?} is not supported by kubelet. Supported version is [\"v1beta1\"]")]
    Version(String),
    #[error("the ResourceName {0:?} is invalid")]
    Resource(String),
    #[error("the endpoint {0:?} is no name of a socket in the folder of device plugins")]
    Endpoint(String),
    #[error("failed to get device plugin options: {0}")]
    Options(#[source] CallError),
}

/// (pure) Whether a name is one that plugins may use.
fn is_extended(name: &str) -> bool {
    let is_native = !name.contains('/') || name.contains("kubernetes.io/");
    !is_native
        && !name.starts_with("requests.")
        && keelson_api::names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// Those that make themselves known in `plugins_registry`.
pub(crate) struct DevicePlugins(pub(crate) Arc<Devices>);

#[async_trait]
impl Handler for DevicePlugins {
    fn kind(&self) -> &'static str {
        "DevicePlugin"
    }

    async fn meet(&self, socket: &Path, info: &PluginInfo) -> Result<(), String> {
        let endpoint = if info.endpoint.is_empty() { socket } else { Path::new(&info.endpoint) };
        let met = self.0.register(&info.name, &info.supported_versions, endpoint).await;
        met.map_err(|error| error.to_string())
    }

    async fn forget(&self, _socket: &Path, name: &str) -> Result<(), String> {
        self.0.deregister(name);
        Ok(())
    }
}

impl Devices {
    /// Meets a plugin that offers a resource, in the place of one that did. `endpoint` is its socket, as it says.
    pub(crate) async fn register(
        self: &Arc<Self>,
        resource: &str,
        versions: &[String],
        endpoint: &Path,
    ) -> Result<(), RegistrationError> {
        if !versions.iter().any(|version| version == VERSION) {
            return Err(RegistrationError::Version(versions.join(", ")));
        }
        if !is_extended(resource) {
            return Err(RegistrationError::Resource(resource.to_owned()));
        }
        let own = crate::plugins::translated(&self.data_dir, endpoint);
        let plugin = Plugin::meet(own.as_deref().unwrap_or(endpoint)).await;
        let plugin = Arc::new(plugin.map_err(RegistrationError::Options)?);
        let before = self.plugins.lock().insert(resource.to_owned(), Arc::clone(&plugin));
        if let Some(before) = before {
            before.replaced.cancel();
        }
        self.inventory.lock().connect(resource);
        self.metrics.device_plugin_registrations.with_label_values(&[resource]).inc();
        tracing::info!(resource, "a device plugin is there");
        let (devices, resource) = (Arc::clone(self), resource.to_owned());
        tokio::spawn(async move {
            tokio::select! {
                () = devices.shutdown.cancelled() => {}
                () = plugin.replaced.cancelled() => {}
                () = devices.listen(&resource, &plugin) => devices.lose(&resource, &plugin),
            }
        });
        Ok(())
    }

    /// A plugin's socket in the folder of all plugins is gone.
    pub(crate) fn deregister(&self, resource: &str) {
        let plugin = self.plugins.lock().get(resource).cloned();
        if let Some(plugin) = plugin {
            plugin.replaced.cancel();
            self.lose(resource, &plugin);
        }
    }

    async fn listen(&self, resource: &str, plugin: &Plugin) {
        let mut told = match plugin.watch().await {
            Ok(told) => told,
            Err(error) => {
                tracing::warn!(resource, %error, "a device plugin does not say what devices there are");
                return;
            }
        };
        loop {
            match told.message().await {
                Ok(Some(list)) => {
                    if self.inventory.lock().update(resource, &list.devices) {
                        self.changed();
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::info!(resource, %error, "a device plugin has ended");
                    return;
                }
            }
        }
    }

    /// A plugin is gone, unless another one has its place already.
    fn lose(&self, resource: &str, plugin: &Arc<Plugin>) {
        let mut plugins = self.plugins.lock();
        if plugins.get(resource).is_some_and(|known| Arc::ptr_eq(known, plugin)) {
            plugins.remove(resource);
            self.inventory.lock().disconnect(resource, clock::now());
            tracing::info!(resource, "a device plugin is gone");
            self.changed();
        }
    }
}

struct Service(Arc<Devices>);

#[tonic::async_trait]
impl Registration for Service {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
        let RegisterRequest { version, endpoint, resource_name, options: _ } = request.into_inner();
        let is_plain = !endpoint.is_empty() && !endpoint.contains('/') && !endpoint.starts_with('.');
        let registered = if is_plain {
            let socket = folder(&self.0.data_dir).join(&endpoint);
            self.0.register(&resource_name, &[version], &socket).await
        } else {
            Err(RegistrationError::Endpoint(endpoint))
        };
        registered.map_err(|error| {
            tracing::warn!(resource = resource_name, %error, "a device plugin cannot be used");
            Status::unknown(error.to_string())
        })?;
        Ok(Response::new(Empty {}))
    }
}

/// Makes the folder anew: plugins whose sockets go know that they have to make themselves known again.
fn listen(data_dir: &Path) -> std::io::Result<(PathBuf, UnixListener)> {
    let folder = folder(data_dir);
    std::fs::create_dir_all(&folder)?;
    for entry in std::fs::read_dir(&folder)? {
        let entry = entry?;
        if entry.file_type()?.is_socket() {
            std::fs::remove_file(entry.path())?;
        }
    }
    let path = folder.join(SOCKET);
    let listener = UnixListener::bind(&path)?;
    Ok((path, listener))
}

/// Serves registration.
pub(super) async fn serve(devices: Arc<Devices>) {
    loop {
        match listen(&devices.data_dir) {
            Ok((path, listener)) => {
                tracing::debug!(socket = %path.display(), "device plugins can make themselves known");
                let served = tonic::transport::Server::builder()
                    .concurrency_limit_per_connection(AT_ONCE)
                    .add_service(RegistrationServer::new(Service(Arc::clone(&devices))))
                    .serve_with_incoming(UnixListenerStream::new(listener))
                    .await;
                if let Err(error) = served {
                    tracing::error!(%error, "device plugins cannot make themselves known");
                }
            }
            Err(error) => tracing::error!(%error, "device plugins cannot make themselves known"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::is_extended;

    #[test]
    fn plugins_offer_extended_resources_alone() {
        assert!(is_extended("example.com/gpu") && is_extended("amd.com/gpu-2"));
        for wrong in
            ["gpu", "kubernetes.io/gpu", "node.kubernetes.io/gpu", "requests.a.com/gpu", "a.com/", "a/b/c"]
        {
            assert!(!is_extended(wrong), "{wrong}");
        }
    }
}
