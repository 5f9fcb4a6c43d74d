//! The embedded container runtime behind the Container Runtime Interface.
//!
//! ```text
//! kubelet --CRI--> runtime_service, image_service --> sandbox, container --> pod_client --socket--> pod_process
//! apiserver --WebSocket--> streaming ----------------------------------------^        (one per pod, outlives us)
//! ```
//!
//! - [`image`]: the image store, pull, import, export; `snapshot`: a container's root file system;
//!   `container_mounts`, `mapped_mount`: images as volumes, and what pods with user namespaces see
//! - `state`: records and phases of sandboxes and containers, events; `sandbox`, `container`: what changes them;
//!   `recovery`: from disk and living pods at start; `status`, `stats`, `info`: what the CRI is told; `stop_signal`: what ends are asked by
//! - `spec`: from the CRI's configuration to the OCI runtime's
//! - [`pod_process`]: the small process per pod; `pod_client` our side of it
//! - `cdi`: what containers need for devices, as vendors say in files
//! - `cgroup`, `device_filter`, `seccomp`, `app_armor`: kernel interfaces; `systemd_unit`: control groups that systemd makes
//! - [`network`]: the seam to pod networking
//!
//! **Invariant**: no container is a child of this process, and nothing here is needed for one to run on.

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use keelson_cri::v1::image_service_server::ImageServiceServer;
use keelson_cri::v1::runtime_service_server::RuntimeServiceServer;
use nix::fcntl::{Flock, FlockArg};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;

mod app_armor;
mod cdi;
mod cgroup;
mod config;
mod container;
mod container_mounts;
mod device_filter;
mod error;
pub mod image;
mod image_service;
mod info;
mod mapped_mount;
pub mod network;
mod parents;
mod pod_client;
pub mod pod_process;
mod recovery;
mod runtime_service;
mod sandbox;
mod seccomp;
mod snapshot;
mod spec;
mod state;
mod stats;
mod status;
mod stop_signal;
mod streaming;
mod systemd_unit;

pub use config::{Config, PodProcess};
use image::{ImageStore, StoreError};
use state::Runtime;
use streaming::Streaming;

/// Why the runtime does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be used.
    #[error("{action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another runtime works in the same folder.
    #[error("{0} is in use by another runtime")]
    InUse(PathBuf),
    /// The images could not be opened.
    #[error(transparent)]
    Images(#[from] StoreError),
    /// The streaming server could not be started.
    #[error("start the streaming server")]
    Streaming(#[source] io::Error),
    /// The state of before could not be taken over, or not be removed.
    #[error("take over or remove what is on this machine: {0}")]
    Recovery(String),
    /// Control groups cannot be made.
    #[error("make control groups by systemd")]
    Systemd(#[from] keelson_cgroup::SystemdError),
    /// The CRI could not be served.
    #[error("serve the CRI")]
    Serve(#[source] tonic::transport::Error),
}

fn file_error(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::File { action, path, source }
}

/// Calls under way are given this long at the end.
const SHUTDOWN_LIMIT: std::time::Duration = std::time::Duration::from_secs(2);

/// Only one runtime at a time works in a folder.
fn lock(config: &Config) -> Result<Flock<fs::File>, Error> {
    fs::create_dir_all(&config.root).map_err(file_error("create", &config.root))?;
    // Containers' environments are in it.
    fs::set_permissions(&config.root, Permissions::from_mode(0o700))
        .map_err(file_error("protect", &config.root))?;
    let path = config.root.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(file_error("open", &path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| Error::InUse(config.root.clone()))
}

/// Opens images and takes over pods.
async fn start(config: Config, shutdown: &CancellationToken) -> Result<Arc<Runtime>, Error> {
    let images = Arc::new(ImageStore::open(config.root.join("images"))?);
    if let Some(this) = &config.self_image {
        images.register_self(this)?;
    }
    let streaming = Streaming::start(shutdown.clone()).await.map_err(Error::Streaming)?;
    let (events, _) = tokio::sync::broadcast::channel(1024);
    let runtime = Arc::new(Runtime {
        config,
        images,
        pulls: image::pull::Pulls::default(),
        hierarchy: cgroup::Hierarchy::detect(),
        systemd: keelson_cgroup::Systemd::default(),
        sandboxes: parking_lot::RwLock::default(),
        containers: parking_lot::RwLock::default(),
        events,
        streaming,
        network_configured: parking_lot::Mutex::default(),
        image_usage: parking_lot::Mutex::default(),
        shutdown: shutdown.clone(),
    });
    runtime.recover().await.map_err(|error| Error::Recovery(error::chain(&error)))?;
    Ok(runtime)
}

/// Serves the CRI until `shutdown`. Pods run on afterwards, and are taken over at the next start.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let _lock = lock(&config)?;
    let socket = config.socket.clone();
    let driver = config.cgroup_driver;
    let runtime = start(config, &shutdown).await?;
    if driver == keelson_cgroup::Driver::Systemd {
        runtime.systemd.check().await?;
    }
    let listener = listen(&socket)?;
    tracing::info!(socket = %socket.display(), pods = runtime.sandboxes.read().len(), "container runtime ready");
    let ended = shutdown.clone();
    let sweeping = Arc::clone(&runtime).sweep(shutdown.clone());
    let server = tonic::transport::Server::builder()
        .add_service(RuntimeServiceServer::new(runtime_service::RuntimeServer(Arc::clone(&runtime))))
        .add_service(
            ImageServiceServer::new(image_service::ImageServer(runtime)).max_decoding_message_size(16 << 20),
        )
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), shutdown.cancelled_owned());
    tokio::select! {
        served = server => served.map_err(Error::Serve)?,
        () = async { sweeping.await; std::future::pending().await } => {}
        // A call that takes longer is cut off: whoever made it is stopping too.
        () = async { ended.cancelled().await; tokio::time::sleep(SHUTDOWN_LIMIT).await } => {}
    }
    let _ = fs::remove_file(&socket);
    Ok(())
}

fn listen(socket: &PathBuf) -> Result<tokio::net::UnixListener, Error> {
    if let Some(parent) = socket.parent() {
        // Before the socket is there: until its own mode is set, anybody could connect.
        let mut folder = fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(folder.recursive(true), 0o700);
        folder.create(parent).map_err(file_error("create", parent))?;
    }
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(file_error("remove", socket)(error));
        }
        Ok(()) | Err(_) => {}
    }
    let listener = tokio::net::UnixListener::bind(socket).map_err(file_error("bind", socket))?;
    fs::set_permissions(socket, Permissions::from_mode(0o600)).map_err(file_error("protect", socket))?;
    Ok(listener)
}

/// Removes what another container runtime has made of a group in the hierarchies without controllers, in which the embedded one
/// makes nothing. No process may be in it.
pub fn remove_tracking_groups(group: &str) -> std::io::Result<()> {
    cgroup::Hierarchy::detect().remove_tracking(group)
}

/// Stops and removes every pod of the folder: containers, mounts, namespaces, control groups, networks. Images stay.
/// A container has as long as `grace` to end after its stop signal. Answers how many pods there were.
/// The runtime must not be running.
pub async fn remove_all(config: Config, grace: std::time::Duration) -> Result<usize, Error> {
    if !config.root.exists() {
        return Ok(0);
    }
    let _lock = lock(&config)?;
    let cgroup_root = config.cgroup_root.clone();
    let shutdown = CancellationToken::new();
    let guard = shutdown.clone().drop_guard();
    let runtime = start(config, &shutdown).await?;
    let pods = runtime.sandboxes.read().len();
    let parents = runtime.parents_elsewhere();
    runtime.remove_pods(grace).await.map_err(|error| Error::Recovery(error::chain(&error)))?;
    for parent in parents {
        runtime.remove_parent(&parent).await;
    }
    runtime.remove_cgroup(&cgroup_root).map_err(|error| Error::Recovery(error::chain(&error)))?;
    drop(guard);
    Ok(pods)
}
