//! What the worker writes to the API: the status, and the deletion once nothing is left of the pod.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::Value;

use super::act::{Done, Outcome};
use super::done::{API_RETRY, later};
use super::{Record, Worker};
use crate::memory::{End, Task};
use crate::plan::{Plan, Stage};

/// The API has no pod of this name. That it has another one, which is a conflict as others are, the watch tells.
fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

impl Worker {
    fn api(&self) -> Api<Pod> {
        Api::namespaced(self.node.client.clone(), &self.pod.namespace)
    }

    /// Writes what the API does not know yet; says when to try again.
    pub(super) fn talk_to_api(&mut self, plan: &Plan, now: Timestamp) -> Option<Timestamp> {
        if self.gone {
            return None;
        }
        if let Some(retry) = self.api_retry.filter(|retry| *retry > now) {
            return Some(retry);
        }
        self.api_retry = None;
        let written = self.write_status(plan, now);
        let ended = plan.stage == Stage::Ended;
        self.memory.last_status_written = ended && written;
        let end = self.memory.termination.as_ref().map(|one| &one.end);
        if ended && written && end == Some(&End::Deleted) && !self.deleted && !self.memory.busy(&Task::Delete)
        {
            self.delete();
        }
        None
    }

    /// Whether the API knows all.
    fn write_status(&mut self, plan: &Plan, now: Timestamp) -> bool {
        if self.memory.busy(&Task::Status) {
            return false;
        }
        if self.settled {
            return true;
        }
        let uid = match &self.record {
            Record::Pod => self.pod.uid.clone(),
            Record::Mirror(Some(uid)) => uid.clone(),
            Record::Mirror(None) => return true,
        };
        let wanted = self.status(plan, now);
        let patch = match crate::status::patch(&uid, self.pod.status(), &wanted) {
            Ok(patch) => patch,
            Err(error) => {
                tracing::error!(object = self.pod.object(), %error, "the status cannot be written down");
                return true;
            }
        };
        let Some(patch) = patch else {
            // What the API knows now it may lose again.
            self.last_patch = None;
            return true;
        };
        if self.last_patch.as_ref() == Some(&patch) {
            tracing::debug!(object = self.pod.object(), %patch, "the API keeps another status than the one written");
            return true;
        }
        let (api, name) = (self.api(), self.pod.name.clone());
        let metrics = Arc::clone(&self.node.metrics);
        self.spawn(Task::Status, async move {
            let (change, began) = (Patch::Strategic(&patch), std::time::Instant::now());
            let result = api.patch_status(&name, &PatchParams::default(), &change).await;
            metrics.status_sync.observe(began.elapsed().as_secs_f64());
            Done { task: Task::Status, outcome: Outcome::Written { patch, result: result.map(Box::new) } }
        });
        false
    }

    pub(super) fn learn_written(
        &mut self,
        patch: Value,
        result: Result<Box<Pod>, kube::Error>,
        now: Timestamp,
    ) {
        match result {
            Ok(pod) => {
                self.last_patch = Some(patch);
                self.update(Arc::new(*pod));
            }
            // The watch tells of it.
            Err(error) if is_gone(&error) => self.last_patch = Some(patch),
            Err(error) => {
                tracing::warn!(object = self.pod.object(), %error, "the status is not written");
                self.api_retry = Some(later(now, API_RETRY));
            }
        }
    }

    /// A pod that has come to run has been started.
    pub(super) fn count_start(&self, pod: &Pod) {
        const RUNNING: Option<&str> = Some("Running");
        let now_runs = pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == RUNNING);
        if !now_runs || self.pod.status().phase.as_deref() == RUNNING {
            return;
        }
        let metrics = &self.node.metrics;
        metrics.pod_start.observe(self.born.elapsed().as_secs_f64());
        metrics.lifecycle.started(&self.pod.uid, pod, Timestamp::now());
        if let Some(made) = &pod.metadata.creation_timestamp {
            let took = Timestamp::now().duration_since(made.0).as_secs_f64();
            metrics.pod_start_total.with_label_values(&["false"]).observe(took.max(0.0));
        }
    }

    fn delete(&mut self) {
        let (api, name, uid) = (self.api(), self.pod.name.clone(), self.pod.uid.clone());
        self.spawn(Task::Delete, async move {
            let preconditions = Preconditions { uid: Some(uid), resource_version: None };
            let parameters = DeleteParams {
                preconditions: Some(preconditions),
                ..DeleteParams::default().grace_period(0)
            };
            let result = api.delete(&name, &parameters).await.map(drop);
            Done { task: Task::Delete, outcome: Outcome::Deleted(result) }
        });
    }

    pub(super) fn learn_deleted(&mut self, result: Result<(), kube::Error>, now: Timestamp) {
        match result {
            Ok(()) => self.deleted = true,
            Err(error) if is_gone(&error) => self.deleted = true,
            Err(error) => {
                tracing::warn!(object = self.pod.object(), %error, "the pod is not deleted");
                self.api_retry = Some(later(now, API_RETRY));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_gone_when_it_is_not_found_and_not_when_there_is_a_conflict() {
        let error = |code: u16| {
            let text = format!(r#"{{"status":"Failure","message":"","reason":"","code":{code}}}"#);
            kube::Error::Api(serde_json::from_str(&text).unwrap())
        };
        assert!(is_gone(&error(404)));
        assert!(!is_gone(&error(409)));
        assert!(!is_gone(&error(500)));
    }
}
