//! Running, stopping and removing pod sandboxes.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keelson_cri::v1;
use nix::mount::{MsFlags, mount};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::error::{CallError, file};
use crate::info;
use crate::mapped_mount;
use crate::network::{PodIdentity, PortMapping, Protocol};
use crate::pod_client::{self, PodConnection};
use crate::pod_process::protocol::{Event, Exit, Kind, PodSetup, Request, Response};
use crate::snapshot;
use crate::state::{Encoded, Phase, Runtime, Sandbox, SandboxRecord, Why, new_id, now};
use crate::systemd_unit;

/// A pod process that does not end within this is killed with its groups.
const STOP_LIMIT: Duration = Duration::from_secs(10);

impl Runtime {
    /// `RunPodSandbox`.
    pub(crate) async fn run_sandbox(
        self: &Arc<Self>,
        config: v1::PodSandboxConfig,
        runtime_handler: String,
    ) -> Result<String, CallError> {
        if !info::is_handler(&runtime_handler) {
            let text =
                format!("failed to get sandbox runtime: no runtime for {runtime_handler:?} is configured");
            return Err(CallError::Refused(text));
        }
        let metadata = config.metadata.clone().ok_or(CallError::Missing("the sandbox's metadata"))?;
        let parent = config.linux.as_ref().map_or("", |linux| linux.cgroup_parent.as_str());
        systemd_unit::check(parent, self.config.cgroup_driver)?;
        let id = new_id();
        let folder = self.pods_folder().join(&id);
        let record = SandboxRecord {
            id: id.clone(),
            created_at: now(),
            runtime_handler,
            config: Encoded(config.clone()),
            addresses: Vec::new(),
            complete: false,
            stopped: false,
        };
        let sandbox = Arc::new(Sandbox {
            id: id.clone(),
            folder,
            config,
            record: Mutex::new(record),
            alive: watch::Sender::new(false),
            pause: Mutex::new(0),
            changing: tokio::sync::Mutex::new(()),
        });
        if sandbox.users()?.is_some() {
            if !mapped_mount::is_possible() {
                let text = "user namespaces of pods need a kernel of version 6.3 or later";
                return Err(CallError::Refused(text.to_owned()));
            }
            if sandbox.host_network() || sandbox.host_ipc() || sandbox.host_pid() {
                let text = "a pod with a user namespace has no namespace of the node";
                return Err(CallError::Refused(text.to_owned()));
            }
        }
        let mappings = &sandbox.config.port_mappings;
        if let Some(port) = mappings.iter().find(|port| !port.host_ip.is_empty() && address(port).is_none()) {
            let text = format!("host port {}: {:?} is no IP address", port.host_port, port.host_ip);
            return Err(CallError::Refused(text));
        }
        let _change = sandbox.changing.lock().await;
        self.reserve(&sandbox, &metadata)?;
        if let Err(error) = self.bring_up(&sandbox).await {
            if let Err(cleanup) = self.tear_down(&sandbox).await {
                tracing::error!(error = %crate::error::chain(&cleanup), sandbox = id, "remains of a failed sandbox");
            }
            self.sandboxes.write().remove(&id);
            let _ = fs::remove_dir_all(&sandbox.folder);
            return Err(error);
        }
        self.emit(&id, &id, v1::ContainerEventType::ContainerCreatedEvent);
        self.emit(&id, &id, v1::ContainerEventType::ContainerStartedEvent);
        Ok(id)
    }

    /// One sandbox per name and attempt.
    fn reserve(&self, sandbox: &Arc<Sandbox>, metadata: &v1::PodSandboxMetadata) -> Result<(), CallError> {
        let mut sandboxes = self.sandboxes.write();
        if let Some(found) = sandboxes.values().find(|one| one.config.metadata.as_ref() == Some(metadata)) {
            let name =
                format!("{}_{}_{}_{}", metadata.name, metadata.namespace, metadata.uid, metadata.attempt);
            let text = format!("sandbox name {name:?} is reserved for {:?}", found.id);
            return Err(CallError::Precondition(text));
        }
        sandboxes.insert(sandbox.id.clone(), Arc::clone(sandbox));
        Ok(())
    }

    async fn bring_up(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), CallError> {
        let this = Arc::clone(self);
        let one = Arc::clone(sandbox);
        tokio::task::spawn_blocking(move || this.prepare_folder(&one))
            .await
            .map_err(|_| CallError::Interrupted)??;
        pod_client::spawn(&self.config.pod_process, &sandbox.folder).await.map_err(CallError::PodProcess)?;
        self.follow(sandbox).await?;
        self.start_sandbox_scope(sandbox).await?;
        if !sandbox.host_network() {
            let netns = self.netns_path(&sandbox.id);
            let added = self.config.network.add(&netns, &identity(sandbox), &ports(sandbox)).await;
            sandbox.record.lock().addresses = added.map_err(CallError::Network)?;
        }
        sandbox.record.lock().complete = true;
        sandbox.save().map_err(file("write", sandbox.folder.join("sandbox.json")))
    }

    fn prepare_folder(&self, sandbox: &Sandbox) -> Result<(), CallError> {
        let folder = &sandbox.folder;
        fs::create_dir_all(folder.join("containers")).map_err(file("create", folder))?;
        sandbox.save().map_err(file("write", folder))?;
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).map_err(file("write", path))
        };
        let dns = sandbox.config.dns_config.clone().unwrap_or_default();
        match resolv_conf(&dns) {
            Some(text) => write("resolv.conf", &text)?,
            None => {
                let host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
                write("resolv.conf", &host)?;
            }
        }
        let hostname = self.hostname(sandbox);
        write("hostname", &format!("{hostname}\n"))?;
        let hosts = fs::read_to_string("/etc/hosts").unwrap_or_else(|_| "127.0.0.1 localhost\n".to_owned());
        write("hosts", &hosts)?;
        if !sandbox.host_ipc() {
            let shm = folder.join("shm");
            fs::create_dir_all(&shm).map_err(file("create", &shm))?;
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            mount(Some("shm"), &shm, Some("tmpfs"), flags, Some("mode=1777,size=64m"))
                .map_err(|error| file("mount", &shm)(error.into()))?;
        }
        let metadata = sandbox.config.metadata.clone().unwrap_or_default();
        let linux = sandbox.config.linux.clone().unwrap_or_default();
        let setup = PodSetup {
            title: format!("{}/{}", metadata.namespace, metadata.name),
            hostname,
            host_network: sandbox.host_network(),
            host_ipc: sandbox.host_ipc(),
            shared_pid: sandbox.shared_pid(),
            netns: self.netns_path(&sandbox.id),
            // A scope comes when its process is there.
            cgroup: self.slice_of(sandbox).is_none().then(|| self.cgroup_of(sandbox, &sandbox.id)),
            sysctls: linux.sysctls.into_iter().collect::<BTreeMap<_, _>>(),
            users: sandbox.users()?,
        };
        let path = folder.join("pod.json");
        let text = serde_json::to_vec(&setup).map_err(|error| file("write", &path)(error.into()))?;
        fs::write(&path, text).map_err(file("write", &path))
    }

    fn hostname(&self, sandbox: &Sandbox) -> String {
        if !sandbox.config.hostname.is_empty() {
            return sandbox.config.hostname.clone();
        }
        let own = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        own.unwrap_or_else(|| "localhost".to_owned())
    }

    /// Subscribes to the pod process, takes over what it says of its containers, and listens on.
    pub(crate) async fn follow(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), CallError> {
        let mut connection = PodConnection::open(&sandbox.folder).await.map_err(CallError::PodProcess)?;
        connection.ask(&Request::Subscribe).await.map_err(CallError::PodProcess)?;
        let status =
            pod_client::ask(&sandbox.folder, &Request::Status).await.map_err(CallError::PodProcess)?;
        if let Response::Status { pause, pause_alive, containers } = status {
            *sandbox.pause.lock() = pause;
            sandbox.alive.send_replace(pause_alive);
            for report in containers {
                let Some(container) = self.container(&report.id) else { continue };
                container.phase.send_if_modified(|phase| match phase {
                    Phase::Created => {
                        *phase = Phase::Running { started_at: report.started.at, pid: report.started.pid };
                        true
                    }
                    Phase::Running { .. } | Phase::Exited { .. } => false,
                });
                if let Some(exit) = report.exit {
                    self.container_exited(&report.id, exit);
                }
            }
        }
        let this = Arc::clone(self);
        let sandbox = Arc::clone(sandbox);
        tokio::spawn(async move { this.listen(sandbox, connection).await });
        Ok(())
    }

    async fn listen(self: Arc<Self>, sandbox: Arc<Sandbox>, mut connection: PodConnection) {
        loop {
            match connection.next().await {
                Ok(Some(frame)) if frame.kind == Kind::Json => match serde_json::from_slice(&frame.payload) {
                    Ok(Event::Exited { container, exit }) => self.container_exited(&container, exit),
                    Ok(Event::PauseExited) => self.sandbox_died(&sandbox),
                    Err(error) => tracing::error!(%error, sandbox = sandbox.id, "event not understood"),
                },
                Ok(Some(frame)) => {
                    tracing::error!(kind = ?frame.kind, sandbox = sandbox.id, "frame out of place")
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, sandbox = sandbox.id, "connection to the pod process lost");
                    break;
                }
            }
        }
        self.pod_process_gone(&sandbox);
    }

    fn container_exited(&self, id: &str, exit: Exit) {
        let Some(container) = self.container(id) else { return };
        if container.exited(exit, Why::Ended) {
            self.emit(id, &container.sandbox, v1::ContainerEventType::ContainerStoppedEvent);
        }
    }

    fn sandbox_died(&self, sandbox: &Sandbox) {
        let was = sandbox.alive.send_replace(false);
        if was {
            self.emit(&sandbox.id, &sandbox.id, v1::ContainerEventType::ContainerStoppedEvent);
        }
    }

    /// Without the pod process nobody reaps and logs: what is left of its containers ends.
    pub(crate) fn pod_process_gone(&self, sandbox: &Sandbox) {
        self.hierarchy.kill(&self.cgroup_of(sandbox, &sandbox.id));
        for container in self.containers_of(&sandbox.id) {
            let record = container.record.lock().clone();
            self.hierarchy.kill(&record.launch.cgroup);
            if matches!(container.phase(), Phase::Running { .. }) {
                let (exit, why) = match crate::state::phase_on_disk(&container.folder, &record) {
                    Ok(Phase::Exited { exit, why, .. }) => (exit, why),
                    Ok(Phase::Created | Phase::Running { .. }) | Err(_) => {
                        let exit = Exit { code: 255, oom_killed: false, at: now() };
                        let path = container.folder.join("exit.json");
                        if let Err(error) = crate::pod_process::record(&path, &exit) {
                            tracing::error!(%error, container = container.id, "exit not recorded");
                        }
                        (exit, Why::Unknown)
                    }
                };
                if container.exited(exit, why) {
                    self.emit(&container.id, &sandbox.id, v1::ContainerEventType::ContainerStoppedEvent);
                }
            }
        }
        self.sandbox_died(sandbox);
    }

    /// `StopPodSandbox`.
    pub(crate) async fn stop_sandbox(self: &Arc<Self>, id: &str) -> Result<(), CallError> {
        // One that is not there is stopped.
        let Some(sandbox) = self.sandbox(id) else { return Ok(()) };
        let _change = sandbox.changing.lock().await;
        if sandbox.record.lock().stopped {
            return Ok(());
        }
        self.tear_down(&sandbox).await?;
        sandbox.record.lock().stopped = true;
        sandbox.save().map_err(file("write", sandbox.folder.join("sandbox.json")))
    }

    /// Ends everything of the sandbox but its records; may be repeated.
    async fn tear_down(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), CallError> {
        self.stop_pod_process(sandbox).await;
        let netns = self.netns_path(&sandbox.id);
        if !sandbox.host_network() {
            let named = is_namespace(&netns).then_some(netns.as_path());
            let deleted = self.config.network.del(named, &identity(sandbox), &ports(sandbox)).await;
            deleted.map_err(CallError::NetworkDown)?;
        }
        for container in self.containers_of(&sandbox.id) {
            self.end_scope(sandbox, &container.id).await?;
        }
        self.end_scope(sandbox, &sandbox.id).await?;
        let this = Arc::clone(self);
        let sandbox = Arc::clone(sandbox);
        tokio::task::spawn_blocking(move || this.release(&sandbox, &netns))
            .await
            .map_err(|_| CallError::Interrupted)?
    }

    fn release(&self, sandbox: &Sandbox, netns: &Path) -> Result<(), CallError> {
        snapshot::unmount(netns)?;
        match fs::remove_file(netns) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(file("remove", netns)(error));
            }
            Ok(()) | Err(_) => {}
        }
        snapshot::unmount(&sandbox.folder.join("shm"))?;
        for container in self.containers_of(&sandbox.id) {
            let group = container.record.lock().launch.cgroup.clone();
            self.remove_cgroup(&group)?;
        }
        self.remove_cgroup(&self.cgroup_of(sandbox, &sandbox.id))
    }

    pub(crate) fn remove_cgroup(&self, path: &str) -> Result<(), CallError> {
        self.hierarchy.kill(path);
        self.hierarchy.remove(path).map_err(|source| CallError::Cgroup { path: path.to_owned(), source })
    }

    async fn stop_pod_process(&self, sandbox: &Sandbox) {
        let Ok(mut connection) = PodConnection::open(&sandbox.folder).await else {
            // Never up or dead already.
            return self.pod_process_gone(sandbox);
        };
        let end = async {
            connection.ask(&Request::Stop).await?;
            while connection.next().await?.is_some() {}
            Ok::<_, pod_client::PodClientError>(())
        };
        match tokio::time::timeout(STOP_LIMIT, end).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, sandbox = sandbox.id, "pod process ended in between"),
            Err(_) => {
                tracing::error!(sandbox = sandbox.id, "pod process does not end; killed");
                kill_pod_process(&sandbox.folder);
            }
        }
        self.pod_process_gone(sandbox);
    }

    /// `RemovePodSandbox`.
    pub(crate) async fn remove_sandbox(self: &Arc<Self>, id: &str) -> Result<(), CallError> {
        let Some(sandbox) = self.sandbox(id) else { return Ok(()) };
        self.stop_sandbox(&sandbox.id).await?;
        for container in self.containers_of(&sandbox.id) {
            self.remove_container(&container.id).await?;
        }
        let _change = sandbox.changing.lock().await;
        match fs::remove_dir_all(&sandbox.folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(file("remove", &sandbox.folder)(error));
            }
            Ok(()) | Err(_) => {}
        }
        self.emit(&sandbox.id, &sandbox.id, v1::ContainerEventType::ContainerDeletedEvent);
        self.sandboxes.write().remove(&sandbox.id);
        Ok(())
    }
}

/// After a restart of the machine only an empty file is left of a namespace's name.
fn is_namespace(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|found| found.filesystem_type() == nix::sys::statfs::NSFS_MAGIC)
}

/// The one that hangs is known by its folder: it is its working directory.
fn kill_pod_process(folder: &Path) {
    let Ok(folder) = fs::canonicalize(folder) else { return };
    let Ok(processes) = fs::read_dir("/proc") else { return };
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let comm = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        if comm.trim() == "keelson-pod"
            && fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == folder)
        {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

pub(crate) fn identity(sandbox: &Sandbox) -> PodIdentity {
    let metadata = sandbox.config.metadata.clone().unwrap_or_default();
    PodIdentity {
        id: sandbox.id.clone(),
        namespace: metadata.namespace,
        name: metadata.name,
        uid: metadata.uid,
    }
}

/// The node's address at which a port is open; all where there is none.
fn address(port: &v1::PortMapping) -> Option<IpAddr> {
    port.host_ip.parse().ok()
}

pub(crate) fn ports(sandbox: &Sandbox) -> Vec<PortMapping> {
    let port = |number: i32| u16::try_from(number).ok().filter(|number| *number > 0);
    let mapping = |one: &v1::PortMapping| {
        Some(PortMapping {
            protocol: match one.protocol() {
                v1::Protocol::Tcp => Protocol::Tcp,
                v1::Protocol::Udp => Protocol::Udp,
                v1::Protocol::Sctp => Protocol::Sctp,
            },
            container_port: port(one.container_port)?,
            // Without a port on the node nothing is mapped.
            host_port: port(one.host_port)?,
            host_ip: address(one).filter(|address| !address.is_unspecified()),
        })
    };
    sandbox.config.port_mappings.iter().filter_map(mapping).collect()
}

/// The text of resolv.conf; `None` when the pod has no DNS configuration of its own.
fn resolv_conf(dns: &v1::DnsConfig) -> Option<String> {
    if dns.servers.is_empty() && dns.searches.is_empty() && dns.options.is_empty() {
        return None;
    }
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resolver_is_configured_as_the_pod_says() {
        let dns = v1::DnsConfig {
            servers: vec!["10.96.0.10".to_owned()],
            searches: vec!["default.svc.cluster.local".to_owned(), "svc.cluster.local".to_owned()],
            options: vec!["ndots:5".to_owned()],
        };
        let text =
            "search default.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n";
        assert_eq!(resolv_conf(&dns).as_deref(), Some(text));
        assert_eq!(resolv_conf(&v1::DnsConfig::default()), None);
    }
}
