//! Taking a pod that is new to the node, or refusing it.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use keelson_cri::v1;
use kube::Api;

use super::{Node as Shared, Worker};
use crate::admission::{self, Misfit, REJECTED};
use crate::event::EventType;
use crate::eviction::Eviction;
use crate::memory::{End, Why};
use crate::plan::Stage;
use crate::runtime_client::RuntimeError;

/// The Node is asked for no longer than this: without it a pod is taken by what was known.
const PATIENCE: Duration = Duration::from_secs(2);
/// Whether there is room now is looked at again after this.
const RETRY: SignedDuration = SignedDuration::from_secs(1);

impl Shared {
    /// Takes back what a pod has of the node.
    fn take_back(&self, uid: &str) {
        self.ledger.remove(uid);
        self.furnishing.release(uid);
    }
}

impl Worker {
    /// Takes the pod, refuses it, or says when to try again. What runs from before was taken then.
    pub(super) async fn admit(&mut self, now: Timestamp) -> Option<Timestamp> {
        let ledger = &self.node.ledger;
        if !self.observed.sandboxes.is_empty() || self.pod.status().start_time.is_some() {
            ledger.put((*self.pod).clone());
            self.admitted = true;
            return None;
        }
        if !ledger.is_complete() && !self.pod.is_critical() {
            // Those that run already come first. The dispatcher wakes this one when they are known.
            return now.checked_add(RETRY).ok();
        }
        if *self.node.leaving.borrow() {
            let text = "Pod was rejected as the node is shutting down.";
            self.refuse(Why::new("NodeShutdown", text), now);
            return None;
        }
        let foreign = admission::foreign(&self.pod).map(|(reason, text)| Why::new(reason, text));
        let pressed = admission::pressed(&self.pod, *self.node.shortage.borrow());
        if let Some(why) = pressed.or(foreign) {
            self.refuse(why, now);
            return None;
        }
        match self.groups_are_kept().await {
            Ok(true) => {}
            Ok(false) => {
                let text = "SupplementalGroupsPolicy=Strict is not supported in this node";
                self.refuse(Why::new("SupplementalGroupsPolicyNotSupported", text), now);
                return None;
            }
            Err(error) => {
                tracing::warn!(object = self.pod.object(), %error, "the runtime does not say what it can do");
                return now.checked_add(RETRY).ok();
            }
        }
        let Err((misfits, others)) = self.find_place().await else {
            return self.furnish(now).await;
        };
        if let Some(victims) = admission::victims(&self.pod, &misfits, &others) {
            let short = misfits.iter().find_map(Misfit::resource).unwrap_or_default();
            for victim in victims {
                if !self.node.pods.is_ending(&victim.uid) {
                    self.node.metrics.lifecycle.preempted(short);
                }
                let eviction = Eviction {
                    reason: "Preempting",
                    message: "Preempted in order to admit critical pod".to_owned(),
                    grace: Duration::ZERO,
                    annotations: BTreeMap::new(),
                    disruption: Some(
                        "Pod was preempted by Kubelet to accommodate a critical pod.".to_owned(),
                    ),
                };
                // Who takes them ends with the shutdown alone.
                let _ = self.node.orders.send((victim.uid.clone(), eviction)).await;
            }
            return now.checked_add(RETRY).ok();
        }
        let first = misfits.first();
        let why = first.map(|one| Why::new(&one.reason(), one.message()));
        let unknown = "GeneralPredicates failed due to unknown reason, which is unexpected.";
        self.refuse(why.unwrap_or_else(|| Why::new("UnknownReason", unknown)), now);
        None
    }

    /// Gives the pod what it alone is to have: processors, memory and devices. Refuses it, or says when to try again, if that cannot be.
    async fn furnish(&mut self, now: Timestamp) -> Option<Timestamp> {
        let Err(error) = self.node.furnishing.furnish(&self.pod).await else {
            self.admitted = true;
            return None;
        };
        self.node.take_back(&self.pod.uid);
        if error.may_pass() {
            tracing::info!(object = self.pod.object(), %error, "a pod waits for a device plugin");
            return now.checked_add(RETRY).ok();
        }
        self.refuse(error.why(), now);
        None
    }

    async fn find_place(&self) -> Result<(), (Vec<Misfit>, Vec<crate::pod::PodModel>)> {
        let (ledger, config) = (&self.node.ledger, &self.node.config);
        if !self.pod.is_static() && ledger.is_stale() {
            self.learn_node().await;
        }
        let placed = ledger.take(&self.pod, config);
        let of_node = |misfits: &[Misfit]| misfits.iter().any(Misfit::is_of_node);
        match placed {
            Err((misfits, _)) if of_node(&misfits) && !self.pod.is_static() => {
                self.learn_node().await;
                ledger.take(&self.pod, config)
            }
            placed => placed,
        }
    }

    /// Whether the runtime gives containers the groups that the pod names and no others, if that is asked for.
    async fn groups_are_kept(&self) -> Result<bool, RuntimeError> {
        let context = self.pod.spec().security_context.as_ref();
        if context.and_then(|it| it.supplemental_groups_policy.as_deref()) != Some("Strict") {
            return Ok(true);
        }
        let status = self.node.runtime.status(v1::StatusRequest::default()).await?;
        Ok(status.features.is_some_and(|features| features.supplemental_groups_policy))
    }

    /// (client) The Node's labels and taints as they are now.
    async fn learn_node(&self) {
        let nodes: Api<Node> = Api::all(self.node.client.clone());
        match tokio::time::timeout(PATIENCE, nodes.get(&self.node.config.node_name)).await {
            Ok(Ok(node)) => self.node.ledger.learn(node),
            Ok(Err(error)) => tracing::warn!(%error, "the node's labels are not read"),
            Err(_) => tracing::warn!("the node's labels are not read in time"),
        }
    }

    fn refuse(&mut self, why: Why, now: Timestamp) {
        self.admitted = true;
        self.memory.refused = true;
        self.node.metrics.lifecycle.refused(&why.reason);
        let (reason, message) = (why.reason.clone(), why.message.clone());
        self.node.recorder.tell(&self.pod, None, EventType::Warning, reason, message);
        let why = Why::new(&why.reason, format!("{REJECTED}{}", why.message));
        self.end(End::Evicted(why), self.pod.grace(), now);
    }

    /// Gives the pod's place back once nothing of it runs any more.
    pub(super) fn give_back(&self, stage: Stage) {
        if matches!(stage, Stage::Stopped | Stage::Ended) {
            self.node.take_back(&self.pod.uid);
        }
    }
}
