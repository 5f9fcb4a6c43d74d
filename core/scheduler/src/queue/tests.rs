use serde_json::{from_value, json};

use super::*;

fn pod(uid: &str, priority: i32) -> PendingPod {
    let pod = json!({
        "metadata": {"name": uid, "namespace": "d", "uid": uid},
        "spec": {"priority": priority, "containers": []},
    });
    PendingPod::read(&from_value(pod).unwrap()).unwrap()
}

fn gated(uid: &str) -> PendingPod {
    PendingPod { gates: vec!["example.com/wait".into()], ..pod(uid, 0) }
}

fn popped(queue: &mut Queue, now: Instant) -> Option<String> {
    queue.pop(now).map(|queued| queued.pod.info.uid.to_string())
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn higher_priority_comes_first_and_then_the_order_of_arrival() {
    let now = Instant::now();
    let mut queue = Queue::default();
    for (uid, priority) in [("a", 0), ("b", 0), ("c", 10), ("d", 0)] {
        queue.update(pod(uid, priority), None, now);
    }
    let order: Vec<_> = std::iter::from_fn(|| popped(&mut queue, now)).collect();
    assert_eq!(order, ["c", "a", "b", "d"]);
    assert!(queue.is_empty());
}

#[test]
fn an_unschedulable_pod_is_moved_only_by_what_may_help_it() {
    let now = Instant::now();
    let mut queue = Queue::default();
    queue.update(pod("a", 0), None, now);
    let queued = queue.pop(now).unwrap();
    queue.put_unschedulable(queued, ClusterEvents::NODE_LABELS | ClusterEvents::NODE_ADDED, now);
    assert!(!queue.is_ready(now));
    assert_eq!(queue.moved_by(ClusterEvents::POD_GONE, now), 0);
    assert_eq!(queue.moved_by(ClusterEvents::NODE_ADDED, now), 1);
    assert_eq!(popped(&mut queue, now).as_deref(), Some("a"));
}

#[test]
fn a_pod_that_backs_off_waits_behind_the_active_ones() {
    let now = Instant::now();
    let mut queue = Queue::default();
    queue.update(pod("a", 5), None, now);
    let queued = queue.pop(now).unwrap();
    queue.put_unschedulable(queued, ClusterEvents::NODE_ADDED, now);
    queue.moved_by(ClusterEvents::NODE_ADDED, now);
    queue.update(pod("b", 0), None, now);
    assert_eq!(popped(&mut queue, now).as_deref(), Some("b"));
    assert_eq!(popped(&mut queue, now).as_deref(), Some("a"));
}

#[test]
fn after_an_error_the_wait_doubles_up_to_the_limit() {
    let mut now = Instant::now();
    let mut queue = Queue::default();
    queue.update(pod("a", 0), None, now);
    for seconds in [1, 2, 4, 8, 10, 10] {
        let queued = queue.pop(now).unwrap();
        queue.put_failed(queued, now);
        assert_eq!(queue.next_wake(), Some(now + SECOND * seconds));
        assert!(popped(&mut queue, now).is_none());
        now += SECOND * seconds;
        assert!(queue.is_ready(now));
    }
}

#[test]
fn an_unschedulable_pod_is_tried_again_after_the_timeout() {
    let now = Instant::now();
    let mut queue = Queue::default();
    queue.update(pod("a", 0), None, now);
    let queued = queue.pop(now).unwrap();
    queue.put_unschedulable(queued, ClusterEvents::NONE, now);
    let later = now + SECOND * 300;
    assert_eq!(queue.next_wake(), Some(later));
    assert!(popped(&mut queue, later - SECOND).is_none());
    assert_eq!(popped(&mut queue, later).as_deref(), Some("a"));
}

#[test]
fn a_gated_pod_is_not_tried_until_its_gates_are_gone() {
    let now = Instant::now();
    let mut queue = Queue::default();
    queue.update(gated("a"), None, now);
    assert!(popped(&mut queue, now).is_none());
    queue.update(pod("a", 0), None, now);
    assert_eq!(popped(&mut queue, now).as_deref(), Some("a"));
}

#[test]
fn only_a_change_of_its_demands_gives_an_unschedulable_pod_a_new_try() {
    let now = Instant::now();
    let mut queue = Queue::default();
    queue.update(pod("a", 0), None, now);
    let queued = queue.pop(now).unwrap();
    queue.put_unschedulable(queued, ClusterEvents::NONE, now);
    let condition = Condition { reason: "Unschedulable".into(), message: "no".into() };
    queue.update(pod("a", 0), Some(condition), now);
    assert!(!queue.is_ready(now));
    queue.update(PendingPod { preempts: false, ..pod("a", 0) }, None, now);
    assert!(queue.is_ready(now));
}

#[test]
fn a_removed_pod_is_forgotten_wherever_it_was() {
    let now = Instant::now();
    let mut queue = Queue::default();
    for uid in ["active", "failed", "unschedulable"] {
        queue.update(pod(uid, 0), None, now);
    }
    let (_, failed, unschedulable) = (queue.pop(now), queue.pop(now).unwrap(), queue.pop(now).unwrap());
    queue.put_failed(failed, now);
    queue.put_unschedulable(unschedulable, ClusterEvents::NODE_ADDED, now);
    queue.update(gated("gated"), None, now);
    for uid in ["failed", "unschedulable", "gated"] {
        assert!(queue.remove(&PodUid::new(uid)).is_some());
    }
    assert!(queue.is_empty());
    assert_eq!(queue.next_wake(), None);
    assert_eq!(queue.moved_by(ClusterEvents::NODE_ADDED, now), 0);
}
