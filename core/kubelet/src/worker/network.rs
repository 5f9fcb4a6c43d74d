//! Whether a pod that is to begin gets a network.

use keelson_cri::v1;

use super::Worker;
use crate::event::EventType;

impl Worker {
    /// (client) Looks before anything is made for the pod. The runtime is asked only if there was no network when it was last seen;
    /// a fault is told once.
    pub(super) async fn look_at_network(&mut self) {
        let before = self.memory.network_fault.take();
        let is_new = self.memory.termination.is_none() && self.observed.ready_sandbox().is_none();
        let health = &self.node.health;
        if !is_new || self.pod.host_network() || health.network_fault().is_none() {
            return;
        }
        if let Ok(status) = self.node.runtime.status(v1::StatusRequest::default()).await {
            health.learn(&status);
        }
        let fault = health.network_fault();
        if let Some(text) = fault.as_ref().filter(|_| fault != before) {
            let message = format!("network is not ready: {text}");
            self.node.recorder.tell(&self.pod, None, EventType::Warning, "NetworkNotReady", message);
        }
        self.memory.network_fault = fault;
    }
}
