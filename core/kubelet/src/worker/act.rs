//! Acting: each action of a plan is a task of the worker, over the CRI.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use k8s_openapi::api::node::v1::RuntimeClass;
use keelson_cri::v1;
use tokio_util::sync::CancellationToken;

use super::telling::killing_message;
use super::{Node, Worker};
use crate::allocation::Allocation;
use crate::cdi;
use crate::dns::{self, ResolvConf};
use crate::event::EventType;
use crate::hook::{self, HookError, Told};
use crate::memory::{Image, Task, Why};
use crate::plan::{Action, Killing};
use crate::pod::{Member, PodModel};
use crate::probe::run::Target;
use crate::probe::{Finding, ProbeKind};
use crate::runtime_view::Instance;
use crate::security::ImageUser;
use crate::volume::{Recursion, VolumeError};
use crate::{container, environment, hosts, image, resources, sandbox, security, user_namespace};

/// A container always has this much between its stop signal and its end.
const LEAST_GRACE: Duration = Duration::from_secs(2);

/// A task that is done.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) task: Task,
    pub(super) outcome: Outcome,
}

/// Why a pod has not all its volumes.
#[derive(Debug)]
pub(super) struct VolumeFault {
    /// Of the event.
    pub(super) reason: &'static str,
    pub(super) text: String,
    /// A device that its containers have is another one by now.
    pub(super) is_loss: bool,
}

/// What came out.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The volumes have their content.
    Volumes(Result<(), VolumeFault>),
    /// There is a sandbox.
    Sandbox(Result<(), (&'static str, String)>),
    /// A sandbox is stopped.
    Stopped(Result<String, String>),
    /// The image was found.
    Image { container: String, found: Result<Image, Why> },
    /// A container was started; answers the instance.
    Started { container: String, result: Result<String, Why> },
    /// The hook after its start has ended.
    Hooked { container: String, instance: String, result: Result<(), String> },
    /// The hook before an instance's end has ended.
    Prepared { instance: String },
    /// An instance was ended.
    Killed { instance: String, result: Result<(), String> },
    /// Remains were removed.
    Removed(Result<(), String>),
    /// A probe was made.
    Probed { container: String, instance: String, kind: ProbeKind, finding: Finding },
    /// Limits were changed.
    /// With what the pod has got by it.
    Resized { allocation: Allocation, result: Result<(), String> },
    /// Devices of claims were given back.
    Unprepared(Result<(), String>),
    /// Nothing is left outside the runtime.
    CleanedUp(Result<(), String>),
    /// The status was written.
    Written { patch: serde_json::Value, result: Result<Box<Pod>, kube::Error> },
    /// The object was deleted.
    Deleted(Result<(), kube::Error>),
}

impl Worker {
    /// Runs a task of the worker.
    pub(super) fn spawn(&mut self, task: Task, work: impl Future<Output = Done> + Send + 'static) {
        self.memory.tasks.insert(task.clone());
        let id = self.tasks.spawn(work).id();
        self.task_names.insert(id, task);
    }

    /// Begins an action.
    pub(super) fn begin(&mut self, action: Action, now: Timestamp) {
        let task = action.task();
        let (node, pod, ends) = (Arc::clone(&self.node), Arc::clone(&self.pod), self.ends.clone());
        tracing::debug!(object = pod.object(), ?action, "action");
        match action {
            Action::SetUpVolumes => self.spawn(task.clone(), async move {
                let result = set_up_volumes(&node, &pod, &ends).await;
                Done { task, outcome: Outcome::Volumes(result) }
            }),
            Action::RunSandbox { attempt } => {
                if !self.observed.sandboxes.is_empty() {
                    let message = "Pod sandbox changed, it will be killed and re-created.";
                    node.recorder.tell(&pod, None, EventType::Normal, "SandboxChanged", message);
                }
                self.spawn(task.clone(), async move {
                    Done { task, outcome: Outcome::Sandbox(run_sandbox(&node, &pod, attempt).await) }
                });
            }
            Action::StopSandbox { id } => self.spawn(task.clone(), async move {
                let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.clone() };
                let result = node.runtime.stop_pod_sandbox(request).await;
                Done { task, outcome: Outcome::Stopped(result.map(|_| id).map_err(|error| error.text())) }
            }),
            Action::FindImage { container } => self.spawn(task.clone(), async move {
                let found = find_image(&node, &pod, &container, &ends).await;
                Done { task, outcome: Outcome::Image { container, found } }
            }),
            Action::Start { container, sandbox, restart_count, ips } => {
                self.start(task, container, sandbox, restart_count, ips, now);
            }
            Action::Kill { container, instance, grace, killing } => {
                self.kill(task, container, instance, grace, killing, now);
            }
            Action::Renew { instances, triggers } => {
                for container in &triggers {
                    if let Some(ended) = self.observed.newest(container).cloned() {
                        self.memory.container(container).restarts.advance(ended.since, now);
                    }
                }
                let last = |name: &str| self.observed.newest(name).map(|newest| newest.id.clone());
                let names = self.pod.members.iter().map(|member| member.name());
                self.memory.renewed.extend(names.map(|name| (name.to_owned(), last(name))));
                self.begin(Action::Remove { instances, sandboxes: Vec::new() }, now);
            }
            Action::PreStop { container, instance, grace } => {
                let target = self.target(&container, &instance);
                self.spawn(task.clone(), async move {
                    if let Some(target) = target {
                        pre_stop(&node, &pod, &target, grace).await;
                    }
                    Done { task, outcome: Outcome::Prepared { instance } }
                });
            }
            Action::Remove { instances, sandboxes } => {
                let removed = |one: &&Arc<Instance>| instances.contains(&one.id) && !one.log_path.is_empty();
                let all = self.observed.containers.iter().filter(removed);
                let logs: Vec<PathBuf> = all.map(|one| PathBuf::from(&one.log_path)).collect();
                self.spawn(task.clone(), async move {
                    let result = remove(&node, instances, sandboxes).await;
                    for log in logs.iter().filter(|_| result.is_ok()) {
                        crate::log_rotation::remove_log(log).await;
                    }
                    if !logs.is_empty() {
                        crate::log_links::sweep(&node.config.log_dir).await;
                    }
                    Done { task, outcome: Outcome::Removed(result) }
                });
            }
            Action::Resize { instances } => {
                let chosen = |one: &&Arc<Instance>| instances.contains(&one.id);
                let instances: Vec<_> = self.observed.containers.iter().filter(chosen).cloned().collect();
                let allocation = self.allocation.clone();
                self.spawn(task.clone(), async move {
                    let result = super::resizing::resize(&node, &pod, &instances).await;
                    Done { task, outcome: Outcome::Resized { allocation, result } }
                });
            }
            Action::Unprepare => self.spawn(task.clone(), async move {
                let unprepared = node.dra.unprepare(&pod.uid).await;
                let result = unprepared.map_err(|error| format!("unprepare dynamic resources: {error}"));
                Done { task, outcome: Outcome::Unprepared(result) }
            }),
            Action::CleanUp => self.spawn(task.clone(), async move {
                Done { task, outcome: Outcome::CleanedUp(clean_up(&node, &pod).await) }
            }),
        }
    }

    fn start(
        &mut self,
        task: Task,
        container: String,
        sandbox: String,
        restart_count: u32,
        ips: Vec<String>,
        now: Timestamp,
    ) {
        let newest = self.observed.newest(&container).cloned();
        if let Some(ended) = newest.filter(|one| one.exit_code().is_some()) {
            self.memory.container(&container).restarts.advance(ended.since, now);
        }
        let image = self.memory.container(&container).image.clone();
        let member = self.pod.member(&container);
        let target = member.and_then(|member| member.target.as_deref());
        let target = target.and_then(|name| self.observed.newest(name)).map(|one| one.id.clone());
        let attempt = self.observed.sandboxes.first().map_or(0, |one| one.attempt);
        let start = Start {
            node: Arc::clone(&self.node),
            pod: Arc::clone(&self.pod),
            sandbox,
            attempt,
            restart_count,
            ips,
            image,
            target,
        };
        self.spawn(task.clone(), async move {
            let result = match start.pod.member(&container) {
                Some(member) => start.run(member).await,
                None => Err(Why::new("CreateContainerError", "the pod has no such container any more")),
            };
            Done { task, outcome: Outcome::Started { container, result } }
        });
    }

    /// Runs the hook after a container's start.
    pub(super) fn post_start(&mut self, container: &str, instance: &str) -> bool {
        let member = self.pod.member(container);
        let lifecycle = member.and_then(|member| member.container.lifecycle.as_ref());
        let Some(handler) = lifecycle.and_then(|all| all.post_start.clone()) else { return false };
        let Some(target) = self.target(container, instance) else { return false };
        let (node, pod) = (Arc::clone(&self.node), Arc::clone(&self.pod));
        let (container, instance) = (container.to_owned(), instance.to_owned());
        let task = Task::Hook(container.clone());
        self.spawn(task.clone(), async move {
            let result = run_hook(&node, &pod, &target, &handler, None).await;
            let result = result.map_err(|error| error.to_string());
            Done { task, outcome: Outcome::Hooked { container, instance, result } }
        });
        true
    }

    fn target(&self, container: &str, instance: &str) -> Option<Target> {
        let ip = self.observed.ready_sandbox().and_then(|sandbox| sandbox.ips.first());
        let ip = ip.and_then(|ip| ip.parse().ok());
        Some(Target {
            runtime: self.node.runtime.clone(),
            instance: instance.to_owned(),
            container: self.pod.member(container)?.container.clone(),
            ip: if self.pod.host_network() { Some(self.node.config.node_ip) } else { ip },
        })
    }

    fn kill(
        &mut self,
        task: Task,
        container: String,
        instance: String,
        grace: Duration,
        killing: Killing,
        now: Timestamp,
    ) {
        // Its hook has run, and its end was told.
        let again = self.memory.busy(&task) || self.memory.failed_kills.contains_key(&instance);
        let is_prepared = self.memory.prepared.contains(&instance);
        if killing == Killing::Definition {
            self.memory.container(&container).redefined = Some(instance.clone());
        }
        let end = now.checked_add(SignedDuration::try_from(grace).unwrap_or(SignedDuration::MAX));
        let end = end.unwrap_or(Timestamp::MAX);
        let deadline = self.memory.kill_deadlines.entry(instance.clone()).or_insert(end);
        *deadline = end.min(*deadline);
        let message = killing_message(&self.pod, &container, killing);
        if !again {
            self.node.recorder.tell(&self.pod, Some(&container), EventType::Normal, "Killing", message);
        }
        let (node, pod) = (Arc::clone(&self.node), Arc::clone(&self.pod));
        let has_hook = !again && !is_prepared && !matches!(killing, Killing::Lost | Killing::Renewal);
        let target = self.target(&container, &instance).filter(|_| has_hook);
        self.spawn(task.clone(), async move {
            let since = Instant::now();
            if let Some(target) = target {
                pre_stop(&node, &pod, &target, grace).await;
            }
            let rest = grace.saturating_sub(since.elapsed()).max(LEAST_GRACE);
            let result = node.runtime.stop_container(&instance, rest).await;
            let result = result.map_err(|error| error.text());
            Done { task, outcome: Outcome::Killed { instance, result } }
        });
    }
}

/// Runs a hook, and tells of an endpoint that was asked otherwise than the pod says.
async fn run_hook(
    node: &Node,
    pod: &PodModel,
    target: &Target,
    handler: &LifecycleHandler,
    limit: Option<Duration>,
) -> Result<(), HookError> {
    let container = target.container.name.as_str();
    let told = hook::run(target, hook::Place::new(pod, container), handler, limit).await?;
    if let Told::Fallback(host) = told {
        node.metrics.hook_fallbacks.inc();
        let message =
            format!("request to HTTPS lifecycle hook {host} got HTTP response, retry with HTTP succeeded");
        node.recorder.tell(pod, None, EventType::Warning, "LifecycleHTTPFallback", message);
    }
    Ok(())
}

/// Runs the hook before the stop signal, for as long as the grace allows.
async fn pre_stop(node: &Node, pod: &PodModel, target: &Target, grace: Duration) {
    let handler = target.container.lifecycle.as_ref().and_then(|all| all.pre_stop.as_ref());
    let Some(handler) = handler else { return };
    // A command that is cut off is killed with the connection.
    let outcome = tokio::time::timeout(grace, run_hook(node, pod, target, handler, Some(grace))).await;
    if let Ok(Err(error)) = outcome {
        let container = target.container.name.as_str();
        // The words of a hook may hold secrets: they are not for everybody who reads events.
        tracing::warn!(object = pod.object(), container, %error, "a hook failed");
        let message = "PreStopHook failed";
        node.recorder.tell(pod, Some(container), EventType::Warning, "FailedPreStopHook", message);
    }
}

async fn folder(path: &Path) -> Result<(), String> {
    tokio::fs::create_dir_all(path).await.map_err(|error| format!("create {}: {error}", path.display()))
}

/// Why a pod has no sandbox: reason and message of the event.
async fn run_sandbox(node: &Node, pod: &PodModel, attempt: u32) -> Result<(), (&'static str, String)> {
    if let Err(error) = node.dra.prepare(&pod.pod).await {
        let message = format!("Failed to prepare dynamic resources: prepare dynamic resources: {error}");
        return Err(("FailedPrepareDynamicResources", message));
    }
    let made = make_sandbox(node, pod, attempt).await;
    made.map_err(|error| ("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {error}")))
}

async fn make_sandbox(node: &Node, pod: &PodModel, attempt: u32) -> Result<(), String> {
    let config = &node.config;
    folder(&sandbox::log_directory(pod, config)).await?;
    let resolv_conf = ResolvConf::of_node(config.settings.resolv_conf.as_deref()).await;
    for (reason, message) in dns::notices(&pod.pod, config, &resolv_conf) {
        node.recorder.tell(pod, None, EventType::Warning, reason, message);
    }
    let mut sandbox =
        sandbox::configuration(pod, attempt, config, &resolv_conf).map_err(|error| error.to_string())?;
    let runtime_handler = handler(node, pod).await?;
    if let Some(users) = users(node, pod).await? {
        let status = node.runtime.status(v1::StatusRequest::default()).await.map_err(|error| error.text())?;
        // One that knows nothing of it would run the pod as root of the node.
        if !user_namespace::is_supported(&status, &runtime_handler) {
            let who = match runtime_handler.as_str() {
                "" => "runtime".to_owned(),
                handler => format!("RuntimeClass handler {handler:?}"),
            };
            return Err(format!("can't set `spec.hostUsers: false`, {who} does not support user namespaces"));
        }
        let security = sandbox.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
        user_namespace::tell(security.and_then(|it| it.namespace_options.as_mut()), Some(&users));
    }
    let groups = &node.groups;
    let (group, limits) = (pod.cgroup(&groups.names().root), resources::of_pod(pod));
    let pids = node.machine.pod_pids;
    if groups.are_by_systemd() {
        // It would make them by itself when the first scope is there, without limits.
        node.tiers.share_out(&node.ledger.taken()).await;
        groups.make(&group, &limits, pids).await.map_err(|error| error.to_string())?;
    }
    let (began, handler) = (std::time::Instant::now(), runtime_handler.clone());
    let request = v1::RunPodSandboxRequest { config: Some(sandbox), runtime_handler };
    let made = node.runtime.run_pod_sandbox(request).await;
    node.metrics.lifecycle.sandbox(&handler, began.elapsed(), made.is_err());
    made.map_err(|error| error.text())?;
    groups.limit(&group, &limits, pids).await.map_err(|error| error.to_string())?;
    node.tiers.share_out(&node.ledger.taken()).await;
    Ok(())
}

/// The ids of a pod that has its own.
async fn users(node: &Node, pod: &PodModel) -> Result<Option<v1::UserNamespace>, String> {
    if pod.spec().host_users != Some(false) {
        return Ok(None);
    }
    let (data_dir, uid) = (node.config.data_dir.clone(), pod.uid.clone());
    let pods = node.config.settings.max_pods;
    match tokio::task::spawn_blocking(move || user_namespace::of_pod(&data_dir, &uid, pods)).await {
        Ok(found) => found.map(Some).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// The runtime's handler that the pod's RuntimeClass names.
async fn handler(node: &Node, pod: &PodModel) -> Result<String, String> {
    let Some(class) = pod.spec().runtime_class_name.as_deref().filter(|class| !class.is_empty()) else {
        return Ok(String::new());
    };
    let classes: kube::Api<RuntimeClass> = kube::Api::all(node.client.clone());
    match classes.get_opt(class).await {
        Ok(Some(found)) => Ok(found.handler),
        Ok(None) => Err(format!("failed to get sandbox runtime: RuntimeClass {class:?} not found")),
        Err(error) => Err(format!("failed to get sandbox runtime: RuntimeClass {class:?}: {error}")),
    }
}

/// Makes volumes, and finds the images among them, which are pulled as those of containers are.
async fn set_up_volumes(node: &Node, pod: &PodModel, stop: &CancellationToken) -> Result<(), VolumeFault> {
    let told = |error: VolumeError| {
        let (reason, is_loss) = (error.event(), error.is_loss());
        VolumeFault { reason, text: error.to_string(), is_loss }
    };
    node.volumes.set_up(&pod.pod).await.map_err(told)?;
    for volume in pod.spec().volumes.iter().flatten() {
        let Some(source) = &volume.image else { continue };
        let container = Container {
            name: volume.name.clone(),
            image: source.reference.clone(),
            image_pull_policy: source.pull_policy.clone(),
            ..Container::default()
        };
        let failed = |why: Why| {
            let text = format!("MountVolume.SetUp failed for volume {:?} : {}", volume.name, why.message);
            VolumeFault { reason: "FailedMount", text, is_loss: false }
        };
        let Image::Present { id, .. } = find(node, pod, &container, stop).await.map_err(failed)? else {
            return Err(failed(Why::new("ErrImagePull", "the image is not there")));
        };
        node.volumes.found_image(&pod.pod, &volume.name, id).map_err(told)?;
    }
    Ok(())
}

async fn find_image(
    node: &Node,
    pod: &PodModel,
    container: &str,
    stop: &CancellationToken,
) -> Result<Image, Why> {
    let Some(member) = pod.member(container) else {
        return Err(Why::new("ImageInspectError", "the pod has no such container any more"));
    };
    find(node, pod, &member.container, stop).await
}

async fn find(
    node: &Node,
    pod: &PodModel,
    container: &Container,
    stop: &CancellationToken,
) -> Result<Image, Why> {
    let config = &node.config;
    let resolv_conf = ResolvConf::of_node(config.settings.resolv_conf.as_deref()).await;
    let sandbox = sandbox::configuration(pod, 0, config, &resolv_conf);
    let sandbox = sandbox.map_err(|error| Why::new("ImageInspectError", error.to_string()))?;
    let finder = image::Finder {
        metrics: &node.metrics,
        pod,
        container,
        sandbox: &sandbox,
        runtime: &node.runtime,
        objects: &node.objects,
        credentials: &config.data_dir.join("config.json"),
        plugins: &node.credential_plugins,
        records: &node.images,
        recorder: &node.recorder,
        stop,
    };
    finder.find().await
}

/// What a start needs.
struct Start {
    node: Arc<Node>,
    pod: Arc<PodModel>,
    sandbox: String,
    attempt: u32,
    restart_count: u32,
    ips: Vec<String>,
    image: Image,
    target: Option<String>,
}

fn config_error(error: impl std::fmt::Display) -> Why {
    Why::new("CreateContainerConfigError", error.to_string())
}

impl Start {
    async fn run(&self, member: &Member) -> Result<String, Why> {
        let (node, pod) = (&self.node, &self.pod);
        let mut config = self.configuration(member).await?;
        let resolv_conf = ResolvConf::of_node(node.config.settings.resolv_conf.as_deref()).await;
        let sandbox = sandbox::configuration(pod, self.attempt, &node.config, &resolv_conf);
        let mut sandbox = sandbox.map_err(config_error)?;
        if let Some(users) = users(node, pod).await.map_err(config_error)? {
            let of_pod = sandbox.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
            user_namespace::tell(of_pod.and_then(|it| it.namespace_options.as_mut()), Some(&users));
            let own = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
            user_namespace::tell(own.and_then(|it| it.namespace_options.as_mut()), Some(&users));
        }
        let sandbox_config = Some(sandbox);
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: self.sandbox.clone(),
            config: Some(config),
            sandbox_config,
        };
        let created = node.runtime.create_container(request).await;
        let id = created.map_err(|error| Why::new("CreateContainerError", error.message()))?.container_id;
        let tell = |reason: &'static str, text: &str| {
            node.recorder.tell(pod, Some(member.name()), EventType::Normal, reason, text);
        };
        tell("Created", "Container created");
        let request = v1::StartContainerRequest { container_id: id.clone() };
        let started = node.runtime.start_container(request).await;
        started.map_err(|error| Why::new("RunContainerError", error.message()))?;
        tell("Started", "Container started");
        let log = crate::container::log_path(member.name(), self.restart_count);
        let log = sandbox::log_directory(pod, &node.config).join(log);
        crate::log_links::make(&node.config.log_dir, pod, member.name(), &id, &log).await;
        Ok(id)
    }

    /// Whether the pod's runtime makes mounts read-only with all below them; nobody is asked for whom it is no matter.
    async fn recursion(&self, container: &Container) -> Result<Recursion, String> {
        if !Recursion::is_asked(container) {
            return Ok(Recursion::Unknown);
        }
        let handler = handler(&self.node, &self.pod).await?;
        let status = self.node.runtime.status(v1::StatusRequest::default()).await;
        Ok(Recursion::of(&status.map_err(|error| error.text())?, &handler))
    }

    async fn configuration(&self, member: &Member) -> Result<v1::ContainerConfig, Why> {
        let (node, pod) = (&self.node, &self.pod);
        let Image::Present { id: image, uid, username } = &self.image else {
            return Err(Why::new("CreateContainerError", "the image is not known"));
        };
        let user = ImageUser { uid: *uid, username: username.clone() };
        security::check_non_root(pod, member, &user).map_err(config_error)?;
        let ips: Vec<_> = if pod.host_network() {
            vec![node.config.node_ip]
        } else {
            self.ips.iter().filter_map(|ip| ip.parse().ok()).collect()
        };
        let env = environment::environment(&pod.pod, &ips, &node.config, &member.container, &node.objects);
        let mut env = env.await.map_err(config_error)?;
        let recursion = self.recursion(&member.container).await.map_err(config_error)?;
        let mounts = node.volumes.mounts(&pod.pod, &member.container, &env, recursion).await;
        let mut mounts = mounts.map_err(config_error)?;
        let injection = node.furnishing.devices.prepare(pod, member).await.map_err(config_error)?;
        injection.environment(&mut env);
        injection.mounts(&mut mounts);
        let devices = node.volumes.devices(&pod.pod, &member.container).map_err(config_error)?;
        // The record of them may be of another run.
        node.dra.keep_prepared(&pod.pod).await.map_err(config_error)?;
        let cdi_devices = node.dra.devices(&pod.pod, &member.container).map_err(config_error)?;
        let hostname = dns::hostname(&pod.pod, &node.config).map_err(config_error)?;
        let hosts = hosts::write_hosts_file(&pod.pod, &ips, &hostname, &node.config).await;
        let hosts = hosts
            .map_err(|error| Why::new("CreateContainerError", format!("{error}: {}", source(&error))))?;
        let files = |text: String| Why::new("CreateContainerError", text);
        let folders = node.config.data_dir.join("pods").join(&pod.uid).join("containers").join(member.name());
        folder(&folders).await.map_err(files)?;
        let termination_log = folders.join(format!("{:08x}", rand::random::<u32>()));
        words_file(&termination_log).await.map_err(files)?;
        let log = container::log_path(member.name(), self.restart_count);
        let log = sandbox::log_directory(pod, &node.config).join(log);
        if let Some(parent) = log.parent() {
            folder(parent).await.map_err(files)?;
        }
        let found = container::Findings {
            image: image.clone(),
            restart_count: self.restart_count,
            env,
            mounts,
            devices,
            cdi_devices,
            hosts,
            termination_log,
            machine: node.machine.clone(),
            target: self.target.clone(),
            filters: security::Filters {
                profiles: node.config.data_dir.join("seccomp"),
                by_default: node.config.settings.seccomp_default,
            },
        };
        let mut config = container::configuration(pod, member, found);
        injection.complete(&mut config);
        cdi::provide(&node.runtime, &mut config).await.map_err(config_error)?;
        if let Some(limits) = config.linux.as_mut().and_then(|linux| linux.resources.as_mut()) {
            limits.cpuset_cpus = node.furnishing.cpus.place(pod, member);
            limits.cpuset_mems = node.furnishing.memory.nodes(&pod.uid, member.name());
        }
        Ok(config)
    }
}

fn source(error: &dyn std::error::Error) -> String {
    error.source().map(ToString::to_string).unwrap_or_default()
}

/// An empty file that every user may write.
async fn words_file(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt as _;
    let failed = |error: std::io::Error| format!("create {}: {error}", path.display());
    tokio::fs::write(path, b"").await.map_err(failed)?;
    tokio::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).await.map_err(failed)
}

async fn remove(node: &Node, instances: Vec<String>, sandboxes: Vec<String>) -> Result<(), String> {
    for container_id in instances {
        let request = v1::RemoveContainerRequest { container_id };
        node.runtime.remove_container(request).await.map_err(|error| error.text())?;
    }
    for pod_sandbox_id in sandboxes {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id };
        node.runtime.remove_pod_sandbox(request).await.map_err(|error| error.text())?;
    }
    Ok(())
}

/// Takes volumes, folders and control groups away.
async fn clean_up(node: &Node, pod: &PodModel) -> Result<(), String> {
    node.volumes.tear_down(&pod.uid).await.map_err(|error| error.to_string())?;
    node.groups.remove_pod(&pod.uid).await.map_err(|error| error.to_string())?;
    let mut others = node.ledger.taken();
    others.retain(|one| one.uid != pod.uid);
    node.tiers.share_out(&others).await;
    Ok(())
}
