//! The words of events: about what containers wait for, told when the reason changes, and why one is ended.

use super::Worker;
use crate::event::EventType;
use crate::memory::Why;
use crate::plan::{Killing, Plan};
use crate::pod::{Kind, PodModel};
use crate::probe::ProbeKind;

/// The exit code of a process that was killed.
const KILLED: i32 = 137;

/// (pure) Why a container is ended. Of a sidecar it goes without saying that it begins again.
pub(super) fn killing_message(pod: &PodModel, container: &str, killing: Killing) -> String {
    let member = pod.member(container);
    let is_sidecar = member.is_some_and(|member| member.kind == Kind::Sidecar);
    let subject = if is_sidecar { "Init container" } else { "Container" };
    match killing {
        Killing::PodEnds | Killing::Sandbox => format!("Stopping container {container}"),
        Killing::Definition if is_sidecar => format!("{subject} {container} definition changed"),
        Killing::Definition => format!("{subject} {container} definition changed, will be restarted"),
        Killing::Probe(kind) => {
            let kind = if kind == ProbeKind::Startup { "startup" } else { "liveness" };
            let again = !is_sidecar && member.is_some_and(|member| pod.restarts(member, KILLED));
            let then = if again { ", will be restarted" } else { "" };
            format!("{subject} {container} failed {kind} probe{then}")
        }
        Killing::Resize => format!("Container {container} resize requires restart"),
        Killing::Renewal => format!("Stopping container {container} to restart all containers"),
        Killing::Hook => "FailedPostStartHook".to_owned(),
        Killing::Lost => "Container is in unknown state, try killing it".to_owned(),
    }
}

impl Worker {
    pub(super) fn tell_waits(&mut self, plan: &Plan) {
        for (container, why) in &plan.waiting {
            let before = self.waiting.get(container);
            if before.is_none_or(|before| before.reason != why.reason) {
                self.tell_wait(container, why);
            }
        }
        self.waiting.clone_from(&plan.waiting);
    }

    fn tell_wait(&self, container: &str, why: &Why) {
        let tell = |kind: EventType, reason: &'static str, message: String| {
            self.node.recorder.tell(&self.pod, Some(container), kind, reason, message);
        };
        match why.reason.as_str() {
            "CrashLoopBackOff" => {
                let pod = &self.pod;
                let message = format!(
                    "Back-off restarting failed container {container} in pod {}_{}({})",
                    pod.name, pod.namespace, pod.uid
                );
                tell(EventType::Warning, "BackOff", message);
            }
            "ImagePullBackOff" => {
                let image = self.pod.member(container).and_then(|member| member.container.image.clone());
                let message = format!("Back-off pulling image {:?}", image.unwrap_or_default());
                tell(EventType::Normal, "BackOff", message);
                tell(EventType::Warning, "Failed", "Error: ImagePullBackOff".to_owned());
            }
            // What fails is told when it fails.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    #[test]
    fn who_is_ended_for_a_probe_is_told_whether_it_begins_again() {
        let told = |policy: &str, container: &str| {
            let pod = json!({ "metadata": { "name": "p", "namespace": "n", "uid": "u" }, "spec": {
                "restartPolicy": policy, "containers": [{ "name": "a" }],
                "initContainers": [{ "name": "s", "restartPolicy": "Always" }] } });
            let pod = PodModel::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap();
            killing_message(&pod, container, Killing::Probe(ProbeKind::Liveness))
        };
        assert_eq!(told("Always", "a"), "Container a failed liveness probe, will be restarted");
        assert_eq!(told("Never", "a"), "Container a failed liveness probe");
        assert_eq!(told("Always", "s"), "Init container s failed liveness probe");
    }
}
