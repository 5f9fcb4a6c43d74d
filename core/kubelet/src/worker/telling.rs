//! Events about what containers wait for, told when the reason changes.

use super::Worker;
use crate::event::EventType;
use crate::memory::Why;
use crate::plan::Plan;

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
