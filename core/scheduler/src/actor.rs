//! Carries actions out at the API (client). It makes no choices.

mod devices;

use k8s_openapi::api::core::v1::{Binding, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::resource::v1::ResourceClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde_json::{Map, Value, json};

use crate::cycle::preemption::Preemption;
use crate::names::{NodeName, ObjectName, PodUid};
use crate::pod::PodInfo;
use crate::recorder::{Note, Recorder};
use crate::scheduler::{Action, BindFailure, Report};
use crate::volume::SELECTED_NODE;
use crate::volume::binding::Plan;

/// How an action ended.
#[derive(Debug)]
pub enum Outcome {
    /// A pod was bound, or was not.
    Bound {
        /// The pod.
        uid: PodUid,
        /// How it ended.
        result: Result<(), BindFailure>,
        /// Claims to devices as they are now.
        written: Vec<ResourceClaim>,
    },
    /// It was said which volumes a pod needs, or was not.
    Asked {
        /// The pod.
        uid: PodUid,
        /// How it ended.
        result: Result<(), BindFailure>,
    },
    /// Victims were deleted, or were not.
    Preempted {
        /// The pod for which room is made.
        uid: PodUid,
        /// Whether all were deleted.
        deleted: bool,
    },
    /// It was said why a pod has no node.
    Reported,
}

/// Carries actions out.
#[derive(Clone)]
pub struct Actor {
    client: Client,
    recorder: Recorder,
}

impl Actor {
    /// An actor that signs its Events as `scheduler_name`.
    pub fn new(client: Client, scheduler_name: &str) -> Self {
        Actor { recorder: Recorder::new(client.clone(), scheduler_name.to_owned()), client }
    }

    /// Carries an action out.
    pub async fn act(self, action: Action) -> Outcome {
        match action {
            Action::Bind { pod, node, claims } => {
                let mut written = Vec::new();
                let mut result = self.reserve_devices(&pod, &claims, &mut written).await;
                if result.is_ok() {
                    result = self.bind(&pod, &node).await;
                }
                if result.is_err() {
                    self.give_back(&pod, &mut written).await;
                }
                Outcome::Bound { uid: pod.uid.clone(), result, written }
            }
            Action::Free { claim, revision } => {
                self.free(&claim, revision).await;
                Outcome::Reported
            }
            Action::AskForVolumes { pod, node, plan } => {
                let result = self.ask_for_volumes(&node, &plan).await;
                Outcome::Asked { uid: pod.uid.clone(), result }
            }
            Action::Report(report) => {
                self.report(&report).await;
                Outcome::Reported
            }
            Action::Preempt { pod, preemption } => {
                let deleted = self.preempt(&pod, &preemption).await;
                Outcome::Preempted { uid: pod.uid.clone(), deleted }
            }
        }
    }

    fn pods(&self, pod: &PodInfo) -> Api<Pod> {
        Api::namespaced(self.client.clone(), pod.name.namespace.as_str())
    }

    async fn bind(&self, pod: &PodInfo, node: &NodeName) -> Result<(), BindFailure> {
        let name = &pod.name;
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(name.name.to_string()),
                namespace: Some(name.namespace.to_string()),
                uid: Some(pod.uid.to_string()),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".to_owned()),
                name: Some(node.to_string()),
                ..ObjectReference::default()
            },
        };
        // The answer is a Status, or the Binding itself.
        let answer: Result<Value, kube::Error> =
            self.pods(pod).create_subresource("binding", &name.name, &PostParams::default(), &binding).await;
        match answer {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_not_found() => return Err(BindFailure::Gone),
            Err(error) => {
                tracing::warn!(object = %name, %node, error = &error as &dyn std::error::Error, "binding failed");
                return Err(BindFailure::Refused(format!("binding rejected: {}", text(&error))));
            }
        }
        let message = format!("Successfully assigned {name} to {node}");
        let note = Note { pod, type_: "Normal", reason: "Scheduled", action: "Binding", message: &message };
        self.recorder.record(note).await;
        Ok(())
    }

    /// Reserves volumes for claims, and says on which node the others are to be made.
    async fn ask_for_volumes(&self, node: &NodeName, plan: &Plan) -> Result<(), BindFailure> {
        let refused = |error: kube::Error| BindFailure::Refused(format!("binding volumes: {}", text(&error)));
        for (volume, claim) in &plan.bind {
            self.reserve(volume, claim).await.map_err(refused)?;
        }
        for claim in &plan.provision {
            let api: Api<PersistentVolumeClaim> =
                Api::namespaced(self.client.clone(), claim.namespace.as_str());
            let body = json!({"metadata": {"annotations": {SELECTED_NODE: node.as_str()}}});
            api.patch(&claim.name, &PatchParams::default(), &Patch::Merge(body)).await.map_err(refused)?;
        }
        Ok(())
    }

    async fn reserve(&self, volume: &str, claim: &ObjectName) -> Result<(), kube::Error> {
        let claims: Api<PersistentVolumeClaim> =
            Api::namespaced(self.client.clone(), claim.namespace.as_str());
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let (found, there) = (claims.get(&claim.name).await?, volumes.get(volume).await?);
        let reference = there.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        if reference.is_some_and(|it| it.uid == found.metadata.uid) {
            return Ok(());
        }
        let mut body = json!({
            "metadata": {"resourceVersion": there.metadata.resource_version},
            "spec": {"claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": claim.namespace.as_str(),
                "name": *claim.name,
                "uid": found.metadata.uid,
                "resourceVersion": found.metadata.resource_version,
            }},
        });
        if reference.is_none() {
            body["metadata"]["annotations"] = json!({"pv.kubernetes.io/bound-by-controller": "yes"});
        }
        volumes.patch(volume, &PatchParams::default(), &Patch::Merge(body)).await.map(drop)
    }

    async fn report(&self, report: &Report) {
        if let Some(message) = &report.event {
            let (reason, action) = ("FailedScheduling", "Scheduling");
            let note = Note { pod: &report.pod, type_: "Warning", reason, action, message };
            self.recorder.record(note).await;
        }
        if let Some(patch) = status_patch(report, Timestamp::now()) {
            self.patch_status(&report.pod, &patch).await;
        }
    }

    /// Says at each victim why it has to go, deletes it, and records who it was for.
    async fn preempt(&self, pod: &PodInfo, preemption: &Preemption) -> bool {
        let mut all = true;
        for victim in &preemption.victims {
            let condition = json!({
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "PreemptionByScheduler",
                "message": format!("{}: preempting to accommodate a higher priority pod", self.recorder.component()),
                "lastTransitionTime": Time(Timestamp::now()),
            });
            self.patch_status(victim, &patch(victim, json!({"conditions": [condition]}))).await;
            let uid = Some(victim.uid.to_string());
            let params = DeleteParams {
                preconditions: Some(Preconditions { uid, ..Preconditions::default() }),
                ..DeleteParams::default()
            };
            match self.pods(victim).delete(&victim.name.name, &params).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.is_not_found() => continue,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(object = %victim.name, error, "a pod could not be displaced");
                    all = false;
                    continue;
                }
            }
            let message = format!("Preempted by pod {} on node {}", pod.uid, preemption.node);
            let (reason, action) = ("Preempted", "Preempting");
            self.recorder
                .record(Note { pod: victim, type_: "Normal", reason, action, message: &message })
                .await;
        }
        all
    }

    async fn patch_status(&self, pod: &PodInfo, patch: &Value) {
        let params = PatchParams::default();
        let result = self.pods(pod).patch_status(&pod.name.name, &params, &Patch::Strategic(patch)).await;
        match result {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(object = %pod.name, error, "the status of a pod could not be updated");
            }
        }
    }
}

fn text(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

fn patch(pod: &PodInfo, status: Value) -> Value {
    json!({"metadata": {"uid": pod.uid.as_str()}, "status": status})
}

fn status_patch(report: &Report, now: Timestamp) -> Option<Value> {
    let mut status = Map::new();
    if let Some(condition) = &report.condition {
        status.insert(
            "conditions".to_owned(),
            json!([{
                "type": "PodScheduled",
                "status": "False",
                "reason": condition.reason,
                "message": condition.message,
                "lastTransitionTime": Time(now),
            }]),
        );
    }
    if let Some(node) = &report.nominated {
        status.insert("nominatedNodeName".to_owned(), json!(node.as_ref().map(NodeName::as_str)));
    }
    (!status.is_empty()).then(|| patch(&report.pod, Value::Object(status)))
}
