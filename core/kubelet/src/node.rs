//! The Node object: what the machine is, how it fares, and the lease that says that it is there.
//!
//! - `machine`: what the kernel says; `sample`: one look at machine and runtime
//! - `pressure` and `status` (pure): what follows for pods, and for the Node's status
//! - `registration`: the object itself; `lease`: its heartbeat; `range`: the addresses that its pods are given
//!
//! A look every ten seconds; the status is written when something changed, and every five minutes otherwise.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeStatus, ObjectReference};
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::runtime_client::RuntimeClient;

mod lease;
pub(crate) mod machine;
mod pressure;
pub(crate) mod range;
mod registration;
mod sample;
mod status;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(10);
/// Between two looks while the node comes up.
const STARTING_INTERVAL: Duration = Duration::from_millis(500);
/// How long a node may come up.
const STARTING: Duration = Duration::from_secs(60);
/// An unchanged status is written this often.
const REPORT: Duration = Duration::from_secs(300);

/// Keeps the Node object and its lease until `shutdown`. The API server may come and go.
pub(crate) async fn run(
    config: Arc<Config>,
    client: kube::Client,
    runtime: RuntimeClient,
    shutdown: CancellationToken,
) {
    let mut keeper = Keeper::new(Arc::clone(&config), client.clone(), runtime);
    let work = async {
        let uid = registration::register(&config, &client).await;
        keeper.event("Starting", "Starting kubelet.".to_owned()).await;
        tokio::join!(lease::keep(client, &config.node_name, &uid), keeper.keep());
    };
    tokio::select! {
        () = work => {}
        () = shutdown.cancelled() => {}
    }
}

struct Keeper {
    config: Arc<Config>,
    nodes: Api<Node>,
    recorder: Recorder,
    sampler: sample::Sampler,
    pressure: pressure::Pressure,
    /// What was written last, and when.
    written: Option<(NodeStatus, Instant)>,
}

impl Keeper {
    fn new(config: Arc<Config>, client: kube::Client, runtime: RuntimeClient) -> Self {
        let reporter =
            Reporter { controller: "kubelet".to_owned(), instance: Some(config.node_name.clone()) };
        Keeper {
            nodes: Api::all(client.clone()),
            recorder: Recorder::new(client, reporter),
            sampler: sample::Sampler::new(runtime),
            pressure: pressure::Pressure::default(),
            written: None,
            config,
        }
    }

    /// The status as it is now, with the names of events for what changed since `before`.
    async fn look(&mut self, before: Option<&NodeStatus>) -> Option<(NodeStatus, Vec<&'static str>)> {
        let sample = match self.sampler.take(&self.config).await {
            Ok(sample) => sample,
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, "the machine cannot be read");
                return None;
            }
        };
        let pressure = self.pressure.step(&sample.state, Instant::now());
        Some(status::build(&self.config, sample, pressure, before, jiff::Timestamp::now()))
    }

    async fn keep(&mut self) {
        let started = Instant::now();
        loop {
            self.report().await;
            let ready = self.written.as_ref().is_some_and(|(status, _)| status::is_ready(status));
            let starting = !ready && started.elapsed() < STARTING;
            tokio::time::sleep(if starting { STARTING_INTERVAL } else { INTERVAL }).await;
        }
    }

    /// Looks, and writes the status if that is due.
    async fn report(&mut self) {
        let known = self.written.as_ref().map(|(status, _)| status.clone());
        let before = match known {
            Some(known) => Some(known),
            None => match self.nodes.get(&self.config.node_name).await {
                Ok(node) => node.status,
                Err(error) => {
                    tracing::warn!(node = self.config.node_name, %error, "the node cannot be read");
                    return;
                }
            },
        };
        let Some((status, events)) = self.look(before.as_ref()).await else { return };
        if let Some((written, at)) = &self.written
            && at.elapsed() < REPORT
            && status::is_same(written, &status)
        {
            return;
        }
        let patch = json!({ "status": status });
        let params = PatchParams::default();
        let patched =
            self.nodes.patch_status(&self.config.node_name, &params, &Patch::Strategic(patch)).await;
        match patched {
            Ok(_) => {
                self.written = Some((status, Instant::now()));
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
        let name = self.config.node_name.clone();
        let reference = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            // Events of nodes are found by the name in this place.
            uid: Some(name.clone()),
            name: Some(name),
            ..ObjectReference::default()
        };
        let (type_, reason, action) = (EventType::Normal, reason.to_owned(), reason.to_owned());
        let event = Event { type_, reason, note: Some(note), action, secondary: None };
        if let Err(error) = self.recorder.publish(&event, &reference).await {
            tracing::warn!(node = self.config.node_name, %error, "an event of the node cannot be written");
        }
    }
}
