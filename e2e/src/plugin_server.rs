//! What the plugins in `src/bin` have in common: the list of calls, the sockets, and how a kubelet finds them.

use std::fmt::Display;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use keelson_csi::registration::registration_server::{Registration, RegistrationServer};
use keelson_csi::registration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::server::{Router, Server};
use tonic::{Request, Response, Status};

/// What a call is answered.
pub type Answer<T> = Result<Response<T>, Status>;

/// The answer to a call that could not be served.
pub fn internal(error: impl Display) -> Status {
    Status::internal(error.to_string())
}

/// The file `calls` in a plugin's folder: a line for each call, for the test to read.
#[derive(Clone, Debug)]
pub struct Calls(PathBuf);

impl Calls {
    /// The list in a folder, which is made.
    pub fn new(folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Calls(folder.join("calls")))
    }

    /// One more.
    pub fn add(&self, call: &str) -> Result<(), Status> {
        let file = OpenOptions::new().append(true).create(true).open(&self.0);
        writeln!(file.map_err(internal)?, "{}", call.trim_end()).map_err(internal)
    }
}

/// The `pluginregistration` service: says what the plugin is, and lists what the kubelet made of it.
pub struct Registrar {
    /// What the plugin is.
    pub info: PluginInfo,
    /// Where `registered` and `refused REASON` are listed.
    pub calls: Calls,
}

impl Registrar {
    /// For a plugin of a type, with the socket at which it is served.
    pub fn new(r#type: &str, name: &str, endpoint: &Path, versions: &[&str], calls: &Calls) -> Self {
        let info = PluginInfo {
            r#type: r#type.to_owned(),
            name: name.to_owned(),
            endpoint: endpoint.to_string_lossy().into_owned(),
            supported_versions: versions.iter().map(|&version| version.to_owned()).collect(),
        };
        Registrar { info, calls: calls.clone() }
    }

    /// Serves it at a socket in the folder that the kubelet watches.
    pub async fn serve(self, socket: &Path) -> anyhow::Result<()> {
        serve(Server::builder().add_service(RegistrationServer::new(self)), socket).await
    }
}

#[tonic::async_trait]
impl Registration for Registrar {
    async fn get_info(&self, _: Request<InfoRequest>) -> Answer<PluginInfo> {
        Ok(Response::new(self.info.clone()))
    }

    async fn notify_registration_status(
        &self,
        status: Request<RegistrationStatus>,
    ) -> Answer<RegistrationStatusResponse> {
        let RegistrationStatus { plugin_registered, error } = status.into_inner();
        self.calls.add(&if plugin_registered {
            "registered".to_owned()
        } else {
            format!("refused {error}")
        })?;
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

/// Serves at a Unix socket, also where a run that was killed has left one.
pub async fn serve(services: Router, socket: &Path) -> anyhow::Result<()> {
    if socket.exists() {
        fs::remove_file(socket)?;
    }
    fs::create_dir_all(socket.parent().context("a socket has a folder")?)?;
    let listener = UnixListener::bind(socket).with_context(|| format!("listen at {}", socket.display()))?;
    let served = services.serve_with_incoming(UnixListenerStream::new(listener)).await;
    served.with_context(|| format!("serve at {}", socket.display()))
}
