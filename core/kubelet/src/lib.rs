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
//! - `remains`: ending all pods of a cluster in somebody else's runtime, when the cluster itself is at rest
//! - `image`: finding and pulling, with what `credential_provider` plugins say; `hook`, `probe::run`, `http_get`: asking containers; `event`: telling
//! - `runtime_client`: the CRI; `relist`: looking at all it holds; `runtime_view`: what it holds of a pod; `pods`: all pods, for those who look
//! - `objects`, `environment`, `field`, `volume`, `dns`, `hosts`, `last_words`: what containers see and leave
//! - `state_file`: what has to be known after a restart; `user_namespace`: ids of pods that have their own
//! - `plugins`: drivers that make themselves known; `csi`: those of storage; `dra`: those of devices of claims;
//!   `cdi`: devices by name, for runtimes that know no such names
//! - `furnishing`: what pods alone have of `exclusive_cpus`, `numa_memory` and `devices` of plugins, by `topology`
//! - `disk_usage`: what pods use of the disk; `eviction`: ends pods that use too much; `image_gc`: removes images;
//!   `node_shutdown`: ends pods before the machine shuts down
//! - `usage`: what nodes, pods and containers use; `metrics`: what the kubelet counts
//! - `pod_resources`: who has which devices, for monitors on the node
//! - `node`: the Node object and its lease; `server`: HTTPS for the API server, with `logs`; `log_rotation` keeps those short, `log_links`
//!   leads collectors to them

mod admission;
mod allocation;
mod backoff;
mod beneath;
mod cdi;
mod cgroup;
mod clock;
mod config;
pub mod configuration;
mod container;
mod credential_provider;
mod csi;
mod devices;
mod disk_usage;
mod dispatcher;
mod dns;
mod dra;
mod environment;
mod event;
mod eviction;
mod exclusive_cpus;
mod field;
mod folder_watch;
mod furnishing;
mod hook;
mod hosts;
mod http_get;
mod image;
mod image_gc;
mod labels;
mod last_words;
mod log_links;
mod log_rotation;
mod logs;
mod memory;
mod metrics;
mod node;
mod node_shutdown;
mod numa_memory;
mod objects;
mod plan;
mod plugins;
mod pod;
mod pod_resources;
mod pods;
mod probe;
mod relist;
mod remains;
mod resources;
mod runtime_client;
mod runtime_view;
mod sandbox;
mod security;
mod server;
mod state_file;
mod static_pods;
mod status;
mod stop_signal;
mod sysctl;
#[cfg(test)]
mod testing;
mod topology;
mod usage;
mod user_namespace;
mod volume;
mod worker;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use keelson_cri::v1;
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use configuration::KubeletConfiguration;
pub use credential_provider::{CredentialProviderError, CredentialProviders};
pub use remains::{RemainsError, remove_pods};

use crate::node::{machine, range};

/// Why the kubelet cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine does not say what it has.
    #[error("look at the machine")]
    Machine(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It is not known who has which processors.
    #[error("read who has which processors")]
    Processors(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It is not known who was promised which memory.
    #[error("read who was promised which memory")]
    Memory(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It is not known who has which devices.
    #[error("read who has which devices")]
    Devices(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It is not known which devices are prepared.
    #[error("read which claims to devices are prepared")]
    Claims(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The runtime does not say who makes control groups.
    #[error("ask the container runtime for its cgroup driver")]
    Driver(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Control groups cannot be made.
    #[error("make control groups by systemd")]
    Systemd(#[from] keelson_cgroup::SystemdError),
    /// The group that pods are to be below is not there.
    #[error("find the control group of all pods")]
    Root(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The machine's own processes are not held to what is kept for them.
    #[error("enforce what is kept of the machine")]
    Reserved(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The folder of pods cannot be made, or not be kept from other users.
    #[error("make the folder of pods")]
    Folder(#[source] std::io::Error),
    /// What is counted has no place.
    #[error("make the metrics")]
    Metrics(#[from] keelson_metrics::RegistryError),
    /// The HTTPS server cannot run.
    #[error("serve logs and streams")]
    Server(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Runs the node agent until the shutdown, which leaves pods running.
///
/// `client` is the API as the user `system:node:NAME` of the group `system:nodes`.
pub async fn run(mut config: Config, client: kube::Client, shutdown: CancellationToken) -> Result<(), Error> {
    protect(&config.data_dir).map_err(Error::Folder)?;
    survive();
    let runtime = runtime_client::RuntimeClient::new(&config.cri_socket, config.image_socket.as_deref());
    if !dispatcher::wait_for_runtime(&runtime, &shutdown).await {
        return Ok(());
    }
    let driver = cgroup::groups::driver(&runtime, config.settings.cgroup_driver).await;
    config.settings.cgroup_driver = driver.map_err(|error| Error::Driver(Box::new(error)))?;
    let groups = Arc::new(cgroup::groups::Groups::new(config.cgroups()));
    groups.check().await?;
    let root = cgroup::reserved::check_root(&config.settings, &groups).await;
    root.map_err(|error| Error::Root(Box::new(error)))?;
    let enforced = cgroup::reserved::enforce_all(&config.settings, &groups, &client, &config.node_name).await;
    enforced.map_err(|error| Error::Reserved(Box::new(error)))?;
    let config = Arc::new(config);
    let numa = topology::NumaMachine::read();
    let places = topology::Topology::new(&config.settings, numa.clone());
    let places = places.map_err(|error| Error::Machine(Box::new(error)))?;
    let kept = numa_memory::kept(&config).map_err(|error| Error::Machine(Box::new(error)))?;
    let memory = numa_memory::NumaMemory::open(&config.data_dir, &config.settings, &numa, &kept);
    let memory = memory.map_err(|error| Error::Memory(Box::new(error)))?;
    let cpus = exclusive_cpus::ExclusiveCpus::open(&config.data_dir, &config.settings, &numa);
    let cpus = Arc::new(cpus.map_err(|error| Error::Processors(Box::new(error)))?);
    let claims = dra::Dra::open(Arc::clone(&config), client.clone());
    let claims = Arc::new(claims.map_err(|error| Error::Claims(Box::new(error)))?);
    let (machine, together) = limits(&config).map_err(|error| Error::Machine(Box::new(error)))?;
    if let Some(range) = config.pod_cidr {
        let told = range::tell(&runtime, &range.to_string()).await;
        if let Err(error) = told {
            tracing::warn!(%error, "the runtime does not take the pods' addresses");
        }
    }
    let objects = objects::Objects::new(client.clone());
    let pods = Arc::new(pods::Pods::default());
    let metrics = metrics::Metrics::new(&config.node_name, &config.version, &pods)?;
    let runtime = runtime.counted(metrics.operations.clone());
    // Ends with the others when one of them fails.
    let shutdown = shutdown.child_token();
    let _guard = shutdown.clone().drop_guard();
    let devices = devices::Devices::open(&config, Arc::clone(&metrics), shutdown.clone());
    let devices = Arc::new(devices.map_err(|error| Error::Devices(Box::new(error)))?);
    let meter = Arc::new(usage::Meter::new(Arc::clone(&config), Arc::clone(&pods)));
    let server = server::run(
        Arc::clone(&config),
        Arc::clone(&pods),
        runtime.clone(),
        client.clone(),
        Arc::clone(&metrics),
        Arc::clone(&meter),
        shutdown.clone(),
    );
    let rotation =
        log_rotation::run(config.settings.clone(), Arc::clone(&pods), runtime.clone(), shutdown.clone());
    let health = Arc::new(relist::Health::new());
    let (shortage, short) = tokio::sync::watch::channel(eviction::Shortage::default());
    let (leaving, left) = tokio::sync::watch::channel(false);
    let drivers = Arc::new(csi::Drivers::new(Arc::clone(&config), client.clone()));
    let (uid, node_uid) = tokio::sync::watch::channel(String::new());
    let registration = node::run(
        Arc::clone(&config),
        client.clone(),
        runtime.clone(),
        Arc::clone(&health),
        node::Changes { shortage: short.clone(), leaving: left.clone(), uid, drivers: Arc::clone(&drivers) },
        Arc::clone(&devices),
        shutdown.clone(),
    );
    let given = range::follow(Arc::clone(&config), client.clone(), runtime.clone(), shutdown.clone());
    let policy = image::verification::Verification::of(&config.settings);
    let images = image::records::Records::new(config.data_dir.join("image_manager"), policy);
    let plugins = credential_provider::Plugins::new(
        config.credential_providers.as_ref(),
        &client,
        &metrics.credentials,
    );
    if let Some(configured) = &config.credential_providers {
        metrics.tell_of_credential_providers(configured.hash())?;
    }
    image::settle(&images, &runtime).await;
    let status = runtime.status(v1::StatusRequest::default()).await;
    if let Ok(status) = &status {
        health.learn(status);
    }
    let (asker, engine, stop) = (Arc::clone(&health), runtime.clone(), shutdown.clone());
    let asking = Box::pin(async move { asker.keep(engine, stop).await });
    let (orders, ordered) = eviction::orders();
    let about_node = node::NodeRecorder::new(client.clone(), &config.node_name);
    let folder = Arc::new(image_gc::ImageFolder::new(runtime.clone()));
    let collector = image_gc::ImageGc::new(
        config.settings.clone(),
        runtime.clone(),
        images.clone(),
        Arc::clone(&pods),
        about_node.clone(),
        Arc::clone(&metrics),
        Arc::clone(&folder),
    );
    let last_shutdown = Arc::new(node_shutdown::Record::open(&config.data_dir));
    metrics.tell_of_shutdown(&last_shutdown)?;
    let leaver = node_shutdown::NodeShutdown::new(node_shutdown::Tools {
        config: Arc::clone(&config),
        pods: Arc::clone(&pods),
        recorder: about_node.clone(),
        orders: orders.clone(),
        leaving,
        record: last_shutdown,
    });
    let leaver = Box::pin(leaver.run(shutdown.clone()));
    let evictor = eviction::Evictor::new(eviction::Tools {
        config: Arc::clone(&config),
        pods: Arc::clone(&pods),
        runtime: runtime.clone(),
        meter,
        images: Arc::new(tokio::sync::Mutex::new(collector)),
        folder,
        metrics: Arc::clone(&metrics),
        recorder: about_node,
        orders: orders.clone(),
        shortage,
        pods_memory: together.memory,
    });
    let evictor = Box::pin(evictor.run(shutdown.clone()));
    let placed = Arc::clone(&cpus);
    let (all, engine, stop) = (Arc::clone(&pods), runtime.clone(), shutdown.clone());
    let placing = Box::pin(async move { placed.keep(all, engine, stop).await });
    let furnishing = furnishing::Furnishing::new(cpus, memory, Arc::clone(&devices), places);
    let furnishing = Arc::new(furnishing);
    let monitored = Arc::clone(&pods);
    let (keeping, stop) = (Arc::clone(&furnishing), shutdown.clone());
    let keeping = Box::pin(async move { keeping.keep(stop).await });
    let shared = Arc::new(worker::Node {
        images,
        credential_plugins: plugins,
        volumes: volume::Volumes::new(
            Arc::clone(&config),
            client.clone(),
            Arc::clone(&objects),
            Arc::clone(&drivers),
        ),
        metrics,
        recorder: event::Recorder::new(client.clone(), &config.node_name),
        pods: Arc::clone(&pods),
        objects,
        runtime,
        health,
        client,
        ledger: Arc::default(),
        furnishing: Arc::clone(&furnishing),
        dra: Arc::clone(&claims),
        orders,
        shortage: short,
        leaving: left,
        machine,
        tiers: cgroup::tiers::Tiers::new(Arc::clone(&groups), together),
        groups,
        config,
    });
    let known = Arc::clone(&shared);
    let in_use = move |path: &Path| known.volumes.uses(path);
    let folders =
        volume::local::keep(Arc::clone(&shared.config), shared.client.clone(), in_use, shutdown.clone());
    let of_devices = Arc::new(devices::DevicePlugins(Arc::clone(&devices)));
    let storage = Arc::clone(&drivers);
    let handlers: plugins::Handlers =
        vec![drivers, of_devices, Arc::clone(&claims) as Arc<dyn plugins::Handler>];
    let (reporting, stop) = (storage, shutdown.clone());
    let reporting = Box::pin(async move { reporting.keep(node_uid, stop).await });
    let prepared = Arc::clone(&claims);
    let data_dir = shared.config.data_dir.clone();
    let plugins = Box::pin(plugins::keep(data_dir, handlers, shutdown.clone()));
    let stop = shutdown.clone();
    let claims = Box::pin(async move { claims.keep(stop).await });
    let devices = Box::pin(devices.keep());
    let (folder, stop) = (shared.config.data_dir.clone(), shutdown.clone());
    let monitors = Box::pin(async move {
        stop.run_until_cancelled(pod_resources::serve(&folder, furnishing, prepared, monitored)).await;
    });
    let (folder, pods) =
        static_pods::Folder::open(shared.config.settings.static_pod_path.clone(), &shared.config.node_name);
    let mirrors =
        Arc::new(static_pods::mirrors::Mirrors::new(shared.client.clone(), &shared.config.node_name));
    let own = dispatcher::OwnPods { pods, mirrors: Arc::clone(&mirrors) };
    let (folder, stop) = (Box::pin(folder.keep(shutdown.clone())), shutdown.clone());
    let mirrors = Box::pin(async move { mirrors.keep(stop).await });
    let dispatcher = dispatcher::Dispatcher::new(shared, ordered, own, shutdown);
    let server = Box::pin(async { server.await.map_err(|error| Error::Server(Box::new(error))) });
    // Each lies where it is: all of them on one stack are too much for it.
    let (registration, given, rotation) = (Box::pin(registration), Box::pin(given), Box::pin(rotation));
    let (dispatcher, folders) = (Box::pin(dispatcher.run()), Box::pin(folders));
    let others = async {
        tokio::join!(
            registration,
            given,
            rotation,
            folders,
            plugins,
            devices,
            monitors,
            claims,
            keeping,
            evictor,
            leaver,
            placing,
            folder,
            mirrors,
            reporting,
            asking,
            dispatcher
        );
        Ok(())
    };
    tokio::try_join!(server, others).map(|((), ())| ())
}

/// What limits of containers depend on, and what all pods together are held to.
fn limits(config: &Config) -> Result<(resources::Machine, node::allocatable::Shared), machine::MachineError> {
    let shared = node::allocatable::shared(config)?;
    let machine = resources::Machine {
        memory: machine::memory()?.total,
        huge_pages: machine::huge_page_names(),
        unified: cgroup::is_unified(),
        swap: cgroup::bounds_swap(),
        pod_pids: config.settings.pod_pids(shared.processes),
    };
    Ok((machine, shared))
}

/// When memory runs out the kernel is to end anything before the node's agent. Not every machine allows to say so.
fn survive() {
    const SCORE: &str = "-999";
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", SCORE) {
        tracing::info!(%error, "the kernel may end the node's agent when memory runs out");
    }
}

/// Secrets and tokens of pods lie in the folder, and their files may be readable by all: containers get them as mounts,
/// other users of the machine not at all.
fn protect(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::set_permissions(folder, Permissions::from_mode(0o700))
}
