//! Whether there is a network for a pod that needs one.

use jiff::{SignedDuration, Timestamp};

use super::Worker;
use crate::event::EventType;
use crate::memory::NetworkFault;

/// A fault that stays is told again after this, as often as other kubelets' events of one kind come through.
const TELL_AGAIN: SignedDuration = SignedDuration::from_mins(5);

/// (pure) The fault as it is now, and whether it is to be told.
fn look(known: Option<NetworkFault>, now: Option<String>, at: Timestamp) -> (Option<NetworkFault>, bool) {
    let Some(text) = now else { return (None, false) };
    match known {
        Some(known) if known.text == text && at < known.tell_again => (Some(known), false),
        Some(_) | None => {
            let tell_again = at.checked_add(TELL_AGAIN).unwrap_or(Timestamp::MAX);
            (Some(NetworkFault { text, tell_again }), true)
        }
    }
}

impl Worker {
    /// Looks before anything is made for the pod, and before anything of it is changed.
    pub(super) fn look_at_network(&mut self, now: Timestamp) {
        let needs_one = self.memory.termination.is_none() && !self.pod.host_network();
        let fault = self.node.health.network_fault().filter(|_| needs_one);
        let (fault, is_news) = look(self.memory.network_fault.take(), fault, now);
        if let Some(fault) = fault.as_ref().filter(|_| is_news) {
            let message = format!("network is not ready: {}", fault.text);
            self.node.recorder.tell(&self.pod, None, EventType::Warning, "NetworkNotReady", message);
        }
        self.memory.network_fault = fault;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_told_when_it_is_new_and_while_it_stays_every_five_minutes() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let text = |text: &str| Some(text.to_owned());
        let (known, told) = look(None, text("no bridge"), at(100));
        assert!(told && known.as_ref().unwrap().tell_again == at(400));
        let (known, told) = look(known, text("no bridge"), at(399));
        assert!(!told && known.as_ref().unwrap().tell_again == at(400));
        let (other, told) = look(known.clone(), text("no addresses"), at(399));
        assert!(told && other.unwrap().text == "no addresses");
        assert!(look(known.clone(), text("no bridge"), at(400)).1);
        assert_eq!(look(known, None, at(400)), (None, false));
    }
}
