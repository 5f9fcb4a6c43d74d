//! Since when each node has been silent, and each pod has to go (pure).
//!
//! Times are of this process's own clock: clocks of nodes are not compared with it. What counts is when a sign of life
//! was seen to change.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

/// How often somebody looks at least.
pub const LOOK: Duration = Duration::from_secs(10);

/// Between two looks more than this passes only when the process slept.
const ASLEEP: Duration = Duration::from_secs(25);

/// How long it takes until the next node of a zone may lose its pods.
const PER_NODE: Duration = Duration::from_secs(10);

/// What has been seen, and when.
#[derive(Debug)]
pub struct Vigil {
    last_look: Instant,
    nodes: HashMap<String, Sign>,
    leaving: HashMap<String, Instant>,
    zones: HashMap<String, Instant>,
}

#[derive(Debug)]
struct Sign {
    lease: Option<Timestamp>,
    heartbeat: Option<Timestamp>,
    at: Instant,
}

impl Vigil {
    /// Begins now.
    pub fn begin(now: Instant) -> Self {
        Vigil { last_look: now, nodes: HashMap::new(), leaving: HashMap::new(), zones: HashMap::new() }
    }

    /// Somebody looks, and must say so before anything is decided. What was not seen because the process slept does not
    /// count; whether it did.
    pub fn look(&mut self, now: Instant) -> bool {
        let gap = now.duration_since(self.last_look);
        self.last_look = now;
        if gap <= ASLEEP {
            return false;
        }
        for sign in self.nodes.values_mut() {
            sign.at = now;
        }
        for since in self.leaving.values_mut() {
            *since = (*since + gap).min(now);
        }
        true
    }

    /// The Lease of a node was renewed then.
    pub fn renewed(&mut self, node: &str, at: Option<Timestamp>, now: Instant) {
        let sign = self.sign(node, now);
        if sign.lease != at {
            sign.lease = at;
            sign.at = now;
        }
    }

    /// A node wrote its conditions then.
    pub fn heard(&mut self, node: &str, at: Option<Timestamp>, now: Instant) {
        let sign = self.sign(node, now);
        if sign.heartbeat != at {
            sign.heartbeat = at;
            sign.at = now;
        }
    }

    fn sign(&mut self, node: &str, now: Instant) -> &mut Sign {
        self.nodes.entry(node.to_owned()).or_insert(Sign { lease: None, heartbeat: None, at: now })
    }

    /// A node is gone.
    pub fn forget_node(&mut self, node: &str) {
        self.nodes.remove(node);
    }

    /// How long a node has been silent; one that was never seen has not.
    pub fn silence(&self, node: &str, now: Instant) -> Duration {
        self.nodes.get(node).map_or(Duration::ZERO, |sign| now.duration_since(sign.at))
    }

    /// How long a pod, by UID, has had a reason to go; the first time, not at all.
    pub fn leaving_for(&mut self, pod: &str, now: Instant) -> Duration {
        let since = self.leaving.entry(pod.to_owned()).or_insert(now);
        now.duration_since(*since)
    }

    /// A pod has no reason to go, or is gone; whether it had one.
    pub fn stays(&mut self, pod: &str) -> bool {
        self.leaving.remove(pod).is_some()
    }

    /// Asks to take the pods of a node of a zone; how long to wait, if it may not be now.
    pub fn take_turn(&mut self, zone: &str, now: Instant) -> Option<Duration> {
        match self.zones.get(zone) {
            Some(next) if *next > now => Some(next.duration_since(now)),
            Some(_) | None => {
                self.zones.insert(zone.to_owned(), now + PER_NODE);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(second: i64) -> Option<Timestamp> {
        Timestamp::from_second(second).ok()
    }

    #[test]
    fn a_node_is_silent_from_when_its_last_sign_was_seen() {
        let begin = Instant::now();
        let mut vigil = Vigil::begin(begin);
        vigil.renewed("n", second(5), begin);
        let later = begin + LOOK;
        vigil.look(later);
        vigil.renewed("n", second(5), later);
        assert_eq!(vigil.silence("n", later), LOOK);
        vigil.heard("n", second(1), later);
        assert_eq!(vigil.silence("n", later), Duration::ZERO);
    }

    #[test]
    fn after_sleep_every_node_and_pod_has_its_time_again() {
        let begin = Instant::now();
        let mut vigil = Vigil::begin(begin);
        vigil.renewed("n", second(5), begin);
        vigil.leaving_for("p", begin);
        let tired = begin + LOOK;
        assert!(!vigil.look(tired));
        assert_eq!(vigil.leaving_for("p", tired), LOOK);
        let awake = tired + Duration::from_secs(3600);
        assert!(vigil.look(awake));
        assert_eq!(vigil.silence("n", awake), Duration::ZERO);
        assert_eq!(vigil.leaving_for("p", awake), LOOK);
    }

    #[test]
    fn nodes_of_a_zone_lose_their_pods_one_after_another() {
        let now = Instant::now();
        let mut vigil = Vigil::begin(now);
        assert_eq!(vigil.take_turn("a", now), None);
        assert_eq!(vigil.take_turn("a", now), Some(PER_NODE));
        assert_eq!(vigil.take_turn("b", now), None);
        assert_eq!(vigil.take_turn("a", now + PER_NODE), None);
    }
}
