//! The node agent: makes the node run the pods that are bound to it, through the Container Runtime Interface.
//!
//! ```text
//! API --watch--> dispatcher --mail (watch channel)--> worker (one task per pod) --CRI--> runtime
//! CRI --events------^                                  observe -> plan -> act -> status --> API
//! ```
//!
//! - [`Config`]: what the kubelet is told; [`run`]: all of it
//! - `dispatcher`: hands news of the API and of the runtime to workers; `worker`: one pod
//! - pure: `pod` (the model), `plan` (what to do next), `status`, `backoff`, `memory` (what a worker remembers),
//!   `sandbox`, `container`, `security`, `resources` (what the runtime is told), `probe` (results and due times)
//! - `image`: finding and pulling; `hook`, `probe::run`, `http_get`: asking containers; `event`: telling
//! - `runtime_client`: the CRI; `runtime_view`: what the runtime holds of a pod; `pods`: all pods, for those who look
//! - `objects`, `environment`, `field`, `volume`, `dns`, `hosts`, `last_words`: what containers see and leave
//! - `node`: the Node object and its lease; `server`: HTTPS for the API server, with `logs`; `log_rotation` keeps those short

mod admission;
mod backoff;
mod cgroup;
mod config;
mod container;
mod dispatcher;
mod dns;
mod environment;
mod event;
mod field;
mod hook;
mod hosts;
mod http_get;
mod image;
mod labels;
mod last_words;
mod log_rotation;
mod logs;
mod memory;
mod node;
mod objects;
mod plan;
mod pod;
mod pods;
mod probe;
mod resources;
mod runtime_client;
mod runtime_view;
mod sandbox;
mod security;
mod server;
mod status;
mod sysctl;
#[cfg(test)]
mod testing;
mod volume;
mod worker;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub use config::Config;

use crate::node::{machine, range};

/// Why the kubelet cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine does not say what it has.
    #[error("look at the machine")]
    Machine(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The folder of pods cannot be made, or not be kept from other users.
    #[error("make the folder of pods")]
    Folder(#[source] std::io::Error),
    /// The HTTPS server cannot run.
    #[error("serve logs and streams")]
    Server(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Runs the node agent until the shutdown, which leaves pods running.
///
/// `client` is the API as the user `system:node:NAME` of the group `system:nodes`.
pub async fn run(config: Config, client: kube::Client, shutdown: CancellationToken) -> Result<(), Error> {
    let config = Arc::new(config);
    protect(&config.data_dir).map_err(Error::Folder)?;
    let memory = machine::memory().map_err(|error| Error::Machine(Box::new(error)))?.total;
    let runtime = runtime_client::RuntimeClient::new(&config.cri_socket);
    if !dispatcher::wait_for_runtime(&runtime, &shutdown).await {
        return Ok(());
    }
    if let Some(range) = config.pod_cidr {
        let told = range::tell(&runtime, &range.to_string()).await;
        if let Err(error) = told {
            tracing::warn!(%error, "the runtime does not take the pods' addresses");
        }
    }
    let objects = objects::Objects::new(client.clone());
    let pods = Arc::new(pods::Pods::default());
    // Ends with the others when one of them fails.
    let shutdown = shutdown.child_token();
    let _guard = shutdown.clone().drop_guard();
    let server = server::run(Arc::clone(&config), Arc::clone(&pods), runtime.clone(), shutdown.clone());
    let rotation = log_rotation::run(Arc::clone(&pods), runtime.clone(), shutdown.clone());
    let registration = node::run(Arc::clone(&config), client.clone(), runtime.clone(), shutdown.clone());
    let given = range::follow(Arc::clone(&config), client.clone(), runtime.clone(), shutdown.clone());
    let shared = Arc::new(worker::Node {
        volumes: volume::Volumes::new(Arc::clone(&config), client.clone(), Arc::clone(&objects)),
        recorder: event::Recorder::new(client.clone(), &config.node_name),
        pods: Arc::clone(&pods),
        objects,
        runtime,
        client,
        config,
        memory,
    });
    let dispatcher = dispatcher::Dispatcher::new(shared, shutdown);
    let server = Box::pin(async { server.await.map_err(|error| Error::Server(Box::new(error))) });
    // Each lies where it is: all of them on one stack are too much for it.
    let (registration, given, rotation) = (Box::pin(registration), Box::pin(given), Box::pin(rotation));
    let dispatcher = Box::pin(dispatcher.run());
    let others = async {
        tokio::join!(registration, given, rotation, dispatcher);
        Ok(())
    };
    tokio::try_join!(server, others).map(|((), ())| ())
}

/// Secrets and tokens of pods lie in the folder, and their files may be readable by all: containers get them as mounts,
/// other users of the machine not at all.
fn protect(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::set_permissions(folder, Permissions::from_mode(0o700))
}
