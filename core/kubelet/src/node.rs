//! The Node object: what the machine is, how it fares, and the lease that says that it is there.
//!
//! - `machine`: what the kernel says; `sample`: one look at machine and runtime
//! - `allocatable`: what pods may have of it; `status` (pure): the Node's status; `event`: telling of the node
//! - `problem`: what is wrong with the machine itself
//! - `registration`: the object itself, `identity`: when it was made anew; `lease`: its heartbeat; `range`: the addresses that its pods are given
//!
//! A look every ten seconds; the status is written when something changed, and every five minutes otherwise. **Invariant: the status
//! never says that the node is ready without saying which volumes are in use**: while that cannot be read, what a Node says of them that a
//! kubelet has written before stays as it is, and a new Node gets no status.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeStatus};
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::runtime::events::EventType;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::csi::Drivers;
use crate::devices::Devices;
use crate::eviction::Shortage;
use crate::node_shutdown::Leaving;
use crate::relist::Health;
use crate::runtime_client::RuntimeClient;

pub(crate) mod allocatable;
mod event;
mod identity;
mod lease;
pub(crate) mod machine;
mod problem;
pub(crate) mod range;
mod registration;
mod sample;
mod status;

pub(crate) use event::NodeRecorder;
pub(crate) use status::network_fault;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(10);
/// Between two looks while the node comes up.
const STARTING_INTERVAL: Duration = Duration::from_millis(500);
/// How long a node may come up.
const STARTING: Duration = Duration::from_secs(60);
/// An unchanged status is written this often.
const REPORT: Duration = Duration::from_secs(300);

/// What others find out about the node.
#[derive(Clone)]
pub(crate) struct Changes {
    /// What it is short of.
    pub(crate) shortage: watch::Receiver<Shortage>,
    /// Whether it is about to shut down.
    pub(crate) leaving: Leaving,
    /// The UID of the Node; empty before it is registered.
    pub(crate) uid: watch::Sender<String>,
    /// Who knows which volumes are in use.
    pub(crate) drivers: Arc<Drivers>,
}

impl Changes {
    /// Waits until there is something else. Who finds it out may have ended.
    async fn next(&mut self) {
        tokio::select! {
            Ok(()) = self.shortage.changed() => {}
            Ok(()) = self.leaving.changed() => {}
            else => std::future::pending().await,
        }
    }
}

/// Keeps the Node object and its lease until `shutdown`. The API server may come and go.
pub(crate) async fn run(
    config: Arc<Config>,
    client: kube::Client,
    runtime: RuntimeClient,
    health: Arc<Health>,
    changes: Changes,
    devices: Arc<Devices>,
    shutdown: CancellationToken,
) {
    let told = changes.uid.clone();
    let mut keeper = Keeper::new(Arc::clone(&config), client.clone(), runtime, health, changes, devices);
    let (problems, recorder) = (keeper.problems.clone(), keeper.recorder.clone());
    let work = async {
        told.send_replace(registration::register(&config, &client).await);
        keeper.event("Starting", "Starting kubelet.".to_owned()).await;
        if config.settings.enforces_pods() {
            let note = "Updated Node Allocatable limit across pods".to_owned();
            keeper.event("NodeAllocatableEnforced", note).await;
        }
        let looking = problems.keep(&recorder);
        let following = identity::follow(Api::all(client.clone()), &config.node_name, &told);
        let lease = lease::keep(client.clone(), &config.node_name, told.subscribe());
        tokio::join!(lease, keeper.keep(&client), looking, following);
    };
    tokio::select! {
        () = work => {}
        () = shutdown.cancelled() => {}
    }
}

struct Keeper {
    config: Arc<Config>,
    nodes: Api<Node>,
    recorder: NodeRecorder,
    sampler: sample::Sampler,
    changes: Changes,
    devices: Arc<Devices>,
    problems: problem::Problems,
    /// The UID of the Node that is written.
    uid: String,
    /// What was written last, and when.
    written: Option<(NodeStatus, Instant)>,
    /// That it is not known which volumes are in use was said.
    is_unknown_told: bool,
}

impl Keeper {
    fn new(
        config: Arc<Config>,
        client: kube::Client,
        runtime: RuntimeClient,
        health: Arc<Health>,
        changes: Changes,
        devices: Arc<Devices>,
    ) -> Self {
        Keeper {
            nodes: Api::all(client.clone()),
            recorder: NodeRecorder::new(client, &config.node_name),
            sampler: sample::Sampler::new(runtime, health),
            changes,
            devices,
            problems: problem::Problems::begin(&config.data_dir),
            uid: String::new(),
            written: None,
            is_unknown_told: false,
            config,
        }
    }

    /// The status as it is now, with the names of events for what changed since `before`.
    async fn look(&mut self, before: Option<&NodeStatus>) -> Option<(NodeStatus, Vec<&'static str>)> {
        let mut sample = match self.sampler.take(&self.config).await {
            Ok(sample) => sample.with(self.devices.counts()),
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, "the machine cannot be read");
                return None;
            }
        };
        sample.leaving = *self.changes.leaving.borrow_and_update();
        let shortage = *self.changes.shortage.borrow_and_update();
        let now = jiff::Timestamp::now();
        let problems = self.problems.conditions(now);
        Some(status::build(&self.config, sample, shortage, problems, before, now))
    }

    async fn keep(&mut self, client: &kube::Client) {
        let started = Instant::now();
        let mut devices = self.devices.news();
        let mut uid = self.changes.uid.subscribe();
        self.uid.clone_from(&uid.borrow_and_update());
        loop {
            if uid.has_changed().unwrap_or(false) {
                self.uid.clone_from(&uid.borrow_and_update());
                // Of what was written into the other object this one has nothing.
                self.written = None;
                registration::register(&self.config, client).await;
            }
            self.report().await;
            let ready = self.written.as_ref().is_some_and(|(status, _)| status::is_ready(status));
            let starting = !ready && started.elapsed() < STARTING;
            let pause = if starting { STARTING_INTERVAL } else { INTERVAL };
            // What others find out is told at once, and so are devices. Who finds those may have ended.
            let changed = async {
                tokio::select! {
                    () = self.changes.next() => {}
                    Ok(()) = devices.changed() => {}
                    Ok(()) = uid.changed() => uid.mark_changed(),
                }
            };
            let _ = tokio::time::timeout(pause, changed).await;
        }
    }

    /// Looks, and writes the status if that is due.
    async fn report(&mut self) {
        let known = self.written.as_ref().map(|(status, _)| status.clone());
        let (before, uid) = match known {
            Some(known) => (Some(known), Some(self.uid.clone())),
            None => match self.nodes.get(&self.config.node_name).await {
                Ok(node) => (node.status, node.metadata.uid),
                Err(error) => {
                    tracing::warn!(node = self.config.node_name, %error, "the node cannot be read");
                    return;
                }
            },
        };
        let Some((status, events)) = self.look(before.as_ref()).await else { return };
        let rebooted = before.as_ref().and_then(|before| status::rebooted(before, &status));
        if let Some((written, at)) = &self.written
            && at.elapsed() < REPORT
            && status::is_same(written, &status)
        {
            return;
        }
        let in_use = self.changes.drivers.in_use().await;
        let mut patch = json!({ "status": status });
        match &in_use {
            Ok(in_use) => {
                self.is_unknown_told = false;
                patch["status"]["volumesInUse"] = in_use.names();
            }
            Err(error) => {
                let is_known = before.as_ref().is_some_and(status::is_of_kubelet);
                if !std::mem::replace(&mut self.is_unknown_told, true) {
                    let is_written = is_known;
                    tracing::error!(%error, is_written, "it is not known which volumes are in use: the node's status does not say it anew");
                }
                if !is_known {
                    return;
                }
                // What this Node says of them stays, and no other one gets a status without it.
                patch["metadata"]["uid"] = json!(uid);
            }
        }
        let params = PatchParams::default();
        let patched =
            self.nodes.patch_status(&self.config.node_name, &params, &Patch::Strategic(patch)).await;
        drop(in_use);
        match patched {
            Ok(_) => {
                self.written = Some((status, Instant::now()));
                if let Some(boot) = rebooted {
                    let note = format!("Node {} has been rebooted, boot id: {boot}", self.config.node_name);
                    self.recorder.tell(EventType::Warning, "Rebooted", note).await;
                }
                for reason in events {
                    let note = format!("Node {} status is now: {reason}", self.config.node_name);
                    self.event(reason, note).await;
                }
            }
            Err(error) => {
                tracing::warn!(node = self.config.node_name, %error, "the node's status cannot be written");
            }
        }
    }

    async fn event(&self, reason: &str, note: String) {
        self.recorder.tell(EventType::Normal, reason, note).await;
    }
}
