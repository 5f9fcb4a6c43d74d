//! Creating, starting, stopping and removing containers, and running commands in them.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keelson_cri::v1;

use crate::cgroup::Hierarchy;
use crate::container_mounts::{self, Users};
use crate::device_filter;
use crate::error::{CallError, file};
use crate::pod_client::{self, PodClientError, PodConnection};
use crate::pod_process::protocol::{ExecExit, ExecRequest, Exit, Kind, Request, Response};
use crate::spec::{self, resources};
use crate::state::{Container, ContainerRecord, Encoded, Phase, Runtime, Sandbox, Why, new_id, now};
use crate::stop_signal;

/// `ExecSync` keeps this much of each output, as the CRI asks.
const MAX_OUTPUT: usize = 16 << 20;
/// After SIGKILL a process that hangs in the kernel is waited for no longer.
const KILL_LIMIT: Duration = Duration::from_secs(30);
/// A pod process that does not answer a signal within this is not asked any further.
const SIGNAL_LIMIT: Duration = Duration::from_secs(10);

impl Runtime {
    pub(crate) fn find_sandbox(&self, id: &str) -> Result<Arc<Sandbox>, CallError> {
        self.sandbox(id).ok_or_else(|| CallError::NotFound { kind: "sandbox", id: id.to_owned() })
    }

    pub(crate) fn find_container(&self, id: &str) -> Result<Arc<Container>, CallError> {
        self.container(id).ok_or_else(|| CallError::NotFound { kind: "container", id: id.to_owned() })
    }

    /// `CreateContainer`: the root file system and the configuration; the process comes with the start.
    pub(crate) async fn create_container(
        self: &Arc<Self>,
        sandbox: &str,
        config: v1::ContainerConfig,
        sandbox_config: Option<v1::PodSandboxConfig>,
    ) -> Result<String, CallError> {
        let sandbox = self.find_sandbox(sandbox)?;
        if !sandbox.is_ready() {
            return Err(CallError::Precondition(format!("sandbox {} is not running", sandbox.id)));
        }
        let metadata = config.metadata.clone().ok_or(CallError::Missing("the container's metadata"))?;
        let same = |one: &Arc<Container>| one.record.lock().config.0.metadata.as_ref() == Some(&metadata);
        if let Some(found) = self.containers_of(&sandbox.id).into_iter().find(same) {
            return Err(CallError::Precondition(format!(
                "container name {:?} (attempt {}) is reserved for {:?}",
                metadata.name, metadata.attempt, found.id
            )));
        }
        let sandbox_config = sandbox_config.unwrap_or_else(|| sandbox.config.clone());
        // Until the container is known to stand on its layers, they are not swept.
        let images = Arc::clone(&self.images);
        let lease = tokio::task::spawn_blocking(move || images.lease());
        let _lease = lease.await.map_err(|_| CallError::Interrupted)??;
        let this = Arc::clone(self);
        let work = move || this.create_blocking(&sandbox, config, &sandbox_config);
        let container = tokio::task::spawn_blocking(work).await.map_err(|_| CallError::Interrupted)??;
        let (id, sandbox) = (container.id.clone(), container.sandbox.clone());
        self.containers.write().insert(id.clone(), Arc::new(container));
        self.emit(&id, &sandbox, v1::ContainerEventType::ContainerCreatedEvent);
        Ok(id)
    }

    fn create_blocking(
        &self,
        sandbox: &Sandbox,
        config: v1::ContainerConfig,
        sandbox_config: &v1::PodSandboxConfig,
    ) -> Result<Container, CallError> {
        let id = new_id();
        let folder = sandbox.folder.join("containers").join(&id);
        let result = self.create_in(&id, folder.clone(), sandbox, config, sandbox_config);
        if result.is_err() {
            // Nothing is removed through a mount.
            match container_mounts::unmount_all(&folder) {
                Ok(()) => drop(fs::remove_dir_all(&folder)),
                Err(error) => tracing::error!(%error, container = id, "remains of a failed container"),
            }
        }
        result
    }

    fn create_in(
        &self,
        id: &str,
        folder: PathBuf,
        sandbox: &Sandbox,
        config: v1::ContainerConfig,
        sandbox_config: &v1::PodSandboxConfig,
    ) -> Result<Container, CallError> {
        let image_spec = config.image.clone().ok_or(CallError::Missing("the container's image"))?;
        let image = self.images.find(&image_spec.image)?;
        let not_found = || CallError::NotFound { kind: "image", id: image_spec.image.clone() };
        let image = image.ok_or_else(not_found)?;
        let defaults = self.images.config(&image)?.config.unwrap_or_default();
        fs::create_dir_all(&folder).map_err(file("create", &folder))?;
        let mut layers: Vec<String> = image.layers.iter().map(|layer| layer.chain_id.clone()).collect();
        let paths: Vec<PathBuf> = layers.iter().map(|layer| self.images.layer_path(layer)).collect();
        let pause = *sandbox.pause.lock();
        let users_path = PathBuf::from(format!("/proc/{pause}/ns/user"));
        let users = match sandbox.users()? {
            Some(map) => {
                let namespace = fs::File::open(&users_path).map_err(file("open", &users_path))?;
                Some(Users { map, namespace })
            }
            None => None,
        };
        let rootfs = container_mounts::root(&folder, &paths, users.as_ref())?;
        let mounted = container_mounts::volumes(&self.images, &folder, &config, users.as_ref(), &mut layers)?;
        let inputs = spec::Inputs {
            id,
            config: &mounted,
            sandbox: sandbox_config,
            image: &defaults,
            pod_folder: &sandbox.folder,
            bundle: &folder,
            rootfs: &rootfs,
            pause,
            users: users.map(|users| (users_path, users.map)),
            target: self.target_pid(&config)?,
            netns: (!sandbox.host_network()).then(|| self.netns_path(&sandbox.id)),
            cgroup: self.cgroup_of(sandbox, id),
            hierarchy: &self.hierarchy,
        };
        let built = spec::build(&inputs)?;
        let path = folder.join("config.json");
        fs::write(&path, built.oci.to_string()).map_err(file("write", path))?;
        let linux = config.linux.clone().unwrap_or_default();
        let chosen = stop_signal::name(config.stop_signal());
        let record = ContainerRecord {
            id: id.to_owned(),
            sandbox: sandbox.id.clone(),
            created_at: now(),
            image_id: image.id.clone(),
            image_ref: image.digests.first().cloned().unwrap_or_else(|| image.id.clone()),
            layers,
            resources: Encoded(linux.resources.unwrap_or_default()),
            config: Encoded(config),
            launch: built.launch,
            stop_signal: chosen.or(defaults.stop_signal).unwrap_or_default(),
            start_error: None,
        };
        let container = Container::new(folder, record, Phase::Created);
        container.save().map_err(file("write", &container.folder))?;
        Ok(container)
    }

    /// The process whose pid namespace an ephemeral container joins.
    fn target_pid(&self, config: &v1::ContainerConfig) -> Result<Option<i32>, CallError> {
        let security = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let Some(options) = security.and_then(|security| security.namespace_options.as_ref()) else {
            return Ok(None);
        };
        if options.pid() != v1::NamespaceMode::Target {
            return Ok(None);
        }
        let target = self.find_container(&options.target_id)?;
        match target.phase() {
            Phase::Running { pid, .. } => Ok(Some(pid)),
            Phase::Created | Phase::Exited { .. } => {
                Err(CallError::Precondition(format!("target container {} is not running", target.id)))
            }
        }
    }

    /// `StartContainer`.
    pub(crate) async fn start_container(&self, id: &str) -> Result<(), CallError> {
        let container = self.find_container(id)?;
        let _change = container.changing.lock().await;
        match container.phase() {
            Phase::Created => {}
            Phase::Running { .. } => return Ok(()),
            Phase::Exited { .. } => {
                return Err(CallError::Precondition(format!("container {id} has exited already")));
            }
        }
        let sandbox = self.find_sandbox(&container.sandbox)?;
        let launch = container.record.lock().launch.clone();
        if let Err(error) = self.start_container_scope(&sandbox, &container, &launch).await {
            self.forget(&container).await;
            return Err(error);
        }
        self.create_cgroup(&launch.cgroup)?;
        if let Hierarchy::Unified { .. } = self.hierarchy {
            // Without the filter its root would have the node's disks.
            device_filter::attach(&launch.bundle, &self.hierarchy.folder("devices", &launch.cgroup))?;
        }
        match pod_client::ask(&sandbox.folder, &Request::Start(Box::new(launch))).await {
            Ok(Response::Started(started)) => {
                let running = Phase::Running { started_at: started.at, pid: started.pid };
                // It may have ended before this answer came.
                container.phase.send_if_modified(|phase| {
                    let created = *phase == Phase::Created;
                    if created {
                        *phase = running;
                    }
                    created
                });
                self.catch_up(&container);
                self.emit(&container.id, &sandbox.id, v1::ContainerEventType::ContainerStartedEvent);
                Ok(())
            }
            Ok(
                Response::Done | Response::Held { .. } | Response::Status { .. } | Response::Failed { .. },
            ) => Err(CallError::Ask(PodClientError::Gone)),
            Err(error) => {
                let message = crate::error::chain(&error);
                container.record.lock().start_error = Some(message.clone());
                if let Err(error) = container.save() {
                    tracing::error!(%error, container = id, "failed start not recorded");
                }
                let exit = Exit { code: 128, oom_killed: false, at: now() };
                if container.exited(exit, Why::StartError(message)) {
                    self.emit(&container.id, &sandbox.id, v1::ContainerEventType::ContainerStoppedEvent);
                }
                Err(match error {
                    // The pod process did its part: this is about the container.
                    PodClientError::Failed(message) => CallError::Start(message),
                    error => CallError::Ask(error),
                })
            }
        }
    }

    /// An exit that was told while the container was not yet known to run is on disk.
    fn catch_up(&self, container: &Container) {
        let record = container.record.lock().clone();
        if let Ok(Phase::Exited { exit, why, .. }) = crate::state::phase_on_disk(&container.folder, &record)
            && container.exited(exit, why)
        {
            self.emit(&container.id, &container.sandbox, v1::ContainerEventType::ContainerStoppedEvent);
        }
    }

    fn create_cgroup(&self, path: &str) -> Result<(), CallError> {
        for folder in self.hierarchy.folders(path) {
            crate::cgroup::create(&folder).map_err(file("create", &folder))?;
        }
        Ok(())
    }

    /// `StopContainer`: the stop signal, then after `timeout` seconds SIGKILL.
    pub(crate) async fn stop_container(&self, id: &str, timeout: i64) -> Result<(), CallError> {
        let Some(container) = self.container(id) else { return Ok(()) };
        if !matches!(container.phase(), Phase::Running { .. }) {
            return Ok(());
        }
        let sandbox = self.find_sandbox(&container.sandbox)?;
        let signal = |signal: i32| Request::Signal { container: container.id.clone(), signal };
        let mut phase = container.phase.subscribe();
        let limit = Duration::from_secs(u64::try_from(timeout).unwrap_or(0));
        if !limit.is_zero() {
            let request = signal(stop_signal::number(&container.record.lock().stop_signal));
            match pod_client::ask_within(SIGNAL_LIMIT, &sandbox.folder, &request).await {
                Ok(_) => {
                    let ended = phase.wait_for(|phase| matches!(phase, Phase::Exited { .. }));
                    if tokio::time::timeout(limit, ended).await.is_ok() {
                        return Ok(());
                    }
                }
                Err(error) => {
                    let error = crate::error::chain(&error);
                    tracing::warn!(
                        container = id,
                        error,
                        "no stop signal can be sent; the container is killed"
                    );
                }
            }
        }
        if let Err(error) =
            pod_client::ask_within(SIGNAL_LIMIT, &sandbox.folder, &signal(libc::SIGKILL)).await
        {
            let error = crate::error::chain(&error);
            tracing::warn!(
                container = id,
                error,
                "the pod process does not kill the container; its group is killed"
            );
            let group = container.record.lock().launch.cgroup.clone();
            self.hierarchy.kill(&group);
        }
        let ended = phase.wait_for(|phase| matches!(phase, Phase::Exited { .. }));
        match tokio::time::timeout(KILL_LIMIT, ended).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(CallError::Interrupted),
            Err(_) => Err(CallError::Timeout(format!("kill container {id}"))),
        }
    }

    /// `RemoveContainer`, with force as the CRI asks.
    pub(crate) async fn remove_container(self: &Arc<Self>, id: &str) -> Result<(), CallError> {
        let Some(container) = self.container(id) else { return Ok(()) };
        self.stop_container(&container.id, 0).await?;
        let _change = container.changing.lock().await;
        self.forget(&container).await;
        if let Some(sandbox) = self.sandbox(&container.sandbox) {
            self.end_scope(&sandbox, &container.id).await?;
        }
        let this = Arc::clone(self);
        let one = Arc::clone(&container);
        let work = move || -> Result<(), CallError> {
            let group = one.record.lock().launch.cgroup.clone();
            this.remove_cgroup(&group)?;
            container_mounts::unmount_all(&one.folder)?;
            match fs::remove_dir_all(&one.folder) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(file("remove", &one.folder)(error))
                }
                Ok(()) | Err(_) => Ok(()),
            }
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| CallError::Interrupted)??;
        self.containers.write().remove(&container.id);
        self.emit(&container.id, &container.sandbox, v1::ContainerEventType::ContainerDeletedEvent);
        Ok(())
    }

    /// The pod process keeps nothing of it.
    async fn forget(&self, container: &Container) {
        if let Some(sandbox) = self.sandbox(&container.sandbox)
            && sandbox.is_ready()
        {
            let forget = Request::Forget { container: container.id.clone() };
            if let Err(error) = pod_client::ask(&sandbox.folder, &forget).await {
                tracing::debug!(%error, container = container.id, "pod process did not forget the container");
            }
        }
    }

    /// `UpdateContainerResources`.
    pub(crate) async fn update_resources(
        &self,
        id: &str,
        change: &v1::LinuxContainerResources,
    ) -> Result<(), CallError> {
        let container = self.find_container(id)?;
        match container.phase() {
            Phase::Running { .. } => {
                self.limit_scope(&container, change).await?;
                let group = container.record.lock().launch.cgroup.clone();
                resources::update(change, &self.hierarchy, &group).map_err(spec::SpecError::from)?;
            }
            Phase::Created => {
                return Err(CallError::Precondition(format!("container {id} is not running")));
            }
            Phase::Exited { .. } => {
                return Err(CallError::Precondition(format!("container {id} has exited")));
            }
        }
        resources::merge(&mut container.record.lock().resources.0, change);
        container.save().map_err(file("write", &container.folder))
    }

    /// `ReopenContainerLog`.
    pub(crate) async fn reopen_log(&self, id: &str) -> Result<(), CallError> {
        let (container, sandbox) = self.running(id)?;
        let request = Request::ReopenLog { container: container.id.clone() };
        pod_client::ask(&sandbox.folder, &request).await.map(drop).map_err(CallError::Ask)
    }

    /// The container, which runs, and its sandbox.
    pub(crate) fn running(&self, id: &str) -> Result<(Arc<Container>, Arc<Sandbox>), CallError> {
        let container = self.find_container(id)?;
        if !matches!(container.phase(), Phase::Running { .. }) {
            return Err(CallError::Precondition(format!("container {id} is not running")));
        }
        let sandbox = self.find_sandbox(&container.sandbox)?;
        Ok((container, sandbox))
    }

    /// `ExecSync`; without a timeout when `timeout` is 0. A command that takes longer is killed.
    pub(crate) async fn exec_sync(
        &self,
        id: &str,
        args: Vec<String>,
        timeout: i64,
    ) -> Result<v1::ExecSyncResponse, CallError> {
        let (container, sandbox) = self.running(id)?;
        let command = args.join(" ");
        let request = ExecRequest { container: container.id.clone(), args, tty: false, stdin: false };
        let run = async {
            let mut connection = PodConnection::open(&sandbox.folder).await?;
            connection.ask(&Request::Exec(request)).await?;
            let mut response = v1::ExecSyncResponse::default();
            let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
            while let Some(frame) = connection.next().await? {
                match frame.kind {
                    Kind::Stdout => append(&mut stdout, &frame.payload),
                    Kind::Stderr => append(&mut stderr, &frame.payload),
                    Kind::Exit => {
                        let exit: ExecExit =
                            serde_json::from_slice(&frame.payload).map_err(PodClientError::Json)?;
                        response.exit_code = exit.code;
                        response.stdout = stdout.into();
                        response.stderr = stderr.into();
                        return Ok(response);
                    }
                    Kind::Json | Kind::Stdin | Kind::Resize | Kind::StdinClosed => {}
                }
            }
            Err(PodClientError::Gone)
        };
        // Leaving the connection kills the command.
        match u64::try_from(timeout) {
            Ok(seconds @ 1..) => match tokio::time::timeout(Duration::from_secs(seconds), run).await {
                Ok(result) => result.map_err(CallError::Ask),
                Err(_) => Err(CallError::Timeout(command)),
            },
            Ok(0) | Err(_) => run.await.map_err(CallError::Ask),
        }
    }
}

fn append(output: &mut Vec<u8>, bytes: &[u8]) {
    let room = MAX_OUTPUT.saturating_sub(output.len());
    output.extend_from_slice(&bytes[..bytes.len().min(room)]);
}
