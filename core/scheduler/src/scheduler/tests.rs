use pretty_assertions::assert_eq;
use serde_json::{Value, from_value, json};

use super::*;
use crate::informer::Standing;
use crate::node::NodeInfo;
use crate::pod::PendingPod;

fn node(name: &str, cpu: &str) -> Update {
    let node = json!({
        "metadata": {"name": name},
        "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}},
    });
    Update::Seen(Box::new(Object::Node(NodeInfo::read(&from_value(node).unwrap()).unwrap())))
}

fn json_pod(uid: &str, cpu: &str, priority: i32) -> Value {
    json!({
        "metadata": {"name": uid, "namespace": "default", "uid": uid},
        "spec": {
            "priority": priority,
            "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}],
        },
    })
}

fn pod(uid: &str, cpu: &str, priority: i32) -> PendingPod {
    PendingPod::read(&from_value(json_pod(uid, cpu, priority)).unwrap()).unwrap()
}

fn pending(uid: &str, cpu: &str, priority: i32) -> Update {
    Update::Seen(Box::new(Object::Pending(pod(uid, cpu, priority), Standing::default())))
}

fn placed(uid: &str, cpu: &str, node: &str) -> Update {
    Update::Seen(Box::new(Object::Placed(pod(uid, cpu, 0).info, NodeName::new(node))))
}

fn gone(uid: &str) -> Update {
    Update::Gone(Key::Pod(PodUid::new(uid)))
}

/// A scheduler that has listed everything: `updates` is all there is.
fn scheduler(updates: impl IntoIterator<Item = Update>, now: Instant) -> Scheduler {
    let mut scheduler = Scheduler::new(Config::default());
    let mut listed: HashMap<Kind, HashSet<Key>> = HashMap::new();
    for update in updates {
        let Update::Seen(object) = &update else { panic!("only objects") };
        let (kind, key) = match &**object {
            Object::Node(node) => (Kind::Node, Key::Node(node.name.clone())),
            Object::Pending(pod, _) => (Kind::Pod, Key::Pod(pod.info.uid.clone())),
            Object::Placed(pod, _) => (Kind::Pod, Key::Pod(pod.uid.clone())),
            Object::Claim(name, _) => (Kind::Claim, Key::Claim(name.clone())),
            Object::Class(name, _) => (Kind::Class, Key::Class(name.clone())),
            Object::Namespace(..)
            | Object::Volume(..)
            | Object::DeviceClaim(..)
            | Object::Slice(..)
            | Object::Limits(..)
            | Object::Attachment(..)
            | Object::DeviceClass(..) => panic!("not used here"),
        };
        listed.entry(kind).or_default().insert(key);
        scheduler.update(update, now);
    }
    for kind in Kind::ALL {
        assert!(!scheduler.is_ready(now), "nothing is decided before everything was listed");
        scheduler.update(Update::Listed(kind, listed.remove(&kind).unwrap_or_default()), now);
    }
    scheduler
}

fn bind(uid: &str, node: &str) -> Action {
    Action::Bind { pod: pod(uid, "1", 0).info, node: NodeName::new(node), claims: Vec::new() }
}

fn message(action: &Action) -> &str {
    match action {
        Action::Report(report) => report.event.as_deref().unwrap_or_default(),
        Action::Bind { .. } | Action::AskForVolumes { .. } | Action::Preempt { .. } | Action::Free { .. } => {
            panic!("{action:?} is no report")
        }
    }
}

#[test]
fn a_pod_is_bound_once_and_counts_from_then_on() {
    let now = Instant::now();
    let mut scheduler = scheduler([node("a", "1"), pending("1", "1", 0), pending("2", "1", 0)], now);
    assert_eq!(scheduler.step(now), [bind("1", "a")]);
    // A late echo of the unbound pod does not queue it again.
    scheduler.update(pending("1", "1", 0), now);
    let actions = scheduler.step(now);
    assert_eq!(
        message(&actions[0]),
        "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: \
         1 No preemption victims found for incoming pod."
    );
    assert_eq!(scheduler.bound(&PodUid::new("1"), Ok(()), now), None);
    scheduler.update(pending("1", "1", 0), now);
    scheduler.update(placed("1", "1", "a"), now);
    assert_eq!(scheduler.pending(), (1, 0));
}

#[test]
fn when_a_pod_goes_another_that_waits_for_its_room_is_tried() {
    let now = Instant::now();
    let mut scheduler = scheduler([node("a", "1"), placed("1", "1", "a"), pending("2", "1", 0)], now);
    assert!(matches!(scheduler.step(now)[..], [Action::Report(_)]));
    assert!(!scheduler.is_ready(now));
    scheduler.update(gone("1"), now);
    assert_eq!(scheduler.step(now), [bind("2", "a")]);
}

#[test]
fn the_same_failure_is_reported_once() {
    let now = Instant::now();
    let mut scheduler = scheduler([node("a", "1"), pending("1", "2", 0)], now);
    let actions = scheduler.step(now);
    let [Action::Report(first)] = &actions[..] else { panic!("{actions:?}") };
    assert!(first.condition.is_some() && first.event.is_some());
    scheduler.update(node("a", "1500m"), now);
    let actions = scheduler.step(now);
    let [Action::Report(second)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((&second.condition, &second.event), (&None, &None));
    let later = now + TELL_AGAIN;
    scheduler.update(node("a", "1600m"), later);
    let actions = scheduler.step(later);
    let [Action::Report(third)] = &actions[..] else { panic!("{actions:?}") };
    assert!(third.condition.is_none() && third.event.is_some());
}

#[test]
fn after_a_failed_binding_the_room_is_free_and_the_pod_is_tried_again_later() {
    let now = Instant::now();
    let mut scheduler = scheduler([node("a", "1"), pending("1", "1", 0)], now);
    scheduler.step(now);
    let refused = Err(BindFailure::Refused("binding rejected: no".to_owned()));
    let report = scheduler.bound(&PodUid::new("1"), refused, now).unwrap();
    assert_eq!(message(&report), "binding rejected: no");
    assert!(!scheduler.is_ready(now));
    let later = scheduler.next_wake().unwrap();
    assert_eq!(scheduler.step(later), [bind("1", "a")]);
}

#[test]
fn a_pod_deleted_while_it_is_bound_leaves_nothing_behind() {
    let now = Instant::now();
    let mut scheduler = scheduler([node("a", "1"), pending("1", "1", 0)], now);
    scheduler.step(now);
    scheduler.update(gone("1"), now);
    assert_eq!(scheduler.bound(&PodUid::new("1"), Err(BindFailure::Gone), now), None);
    assert_eq!(scheduler.pending(), (0, 0));
    scheduler.update(pending("2", "1", 0), now);
    assert_eq!(scheduler.step(now), [bind("2", "a")]);
}

#[test]
fn a_binding_that_succeeded_unseen_is_not_repeated() {
    let now = Instant::now();
    let mut scheduler = scheduler([node("a", "1"), pending("1", "1", 0)], now);
    scheduler.step(now);
    scheduler.update(placed("1", "1", "a"), now);
    let refused = Err(BindFailure::Refused("timeout".to_owned()));
    assert_eq!(scheduler.bound(&PodUid::new("1"), refused, now), None);
    assert_eq!(scheduler.pending(), (0, 0));
}

#[test]
fn what_is_missing_on_a_new_list_is_gone() {
    let now = Instant::now();
    let mut scheduler = scheduler([node("a", "1"), placed("1", "1", "a"), pending("2", "1", 0)], now);
    scheduler.step(now);
    scheduler.update(Update::Listed(Kind::Pod, HashSet::from([Key::Pod(PodUid::new("2"))])), now);
    assert_eq!(scheduler.step(now), [bind("2", "a")]);
    scheduler.update(Update::Listed(Kind::Node, HashSet::new()), now);
    scheduler.update(pending("3", "1", 0), now);
    assert_eq!(message(&scheduler.step(now)[0]), "no nodes available to schedule pods");
}

#[test]
fn a_greater_pod_displaces_a_lesser_one_and_gets_its_room() {
    let now = Instant::now();
    let mut scheduler = scheduler([node("a", "1"), placed("1", "1", "a"), pending("2", "1", 9)], now);
    let actions = scheduler.step(now);
    let [Action::Report(report), Action::Preempt { pod: greater, preemption }] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(report.nominated, Some(Some(NodeName::new("a"))));
    assert_eq!(report.event.as_deref(), Some("0/1 nodes are available: 1 Insufficient cpu."));
    assert_eq!((greater.uid.as_str(), preemption.victims[0].uid.as_str()), ("2", "1"));
    scheduler.update(pending("3", "1", 0), now);
    scheduler.update(gone("1"), now);
    let actions = [scheduler.step(now), scheduler.step(now)].concat();
    let bound: Vec<_> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Bind { pod, .. } => Some(pod.uid.as_str()),
            Action::AskForVolumes { .. }
            | Action::Report(_)
            | Action::Preempt { .. }
            | Action::Free { .. } => None,
        })
        .collect();
    assert_eq!(bound, ["2"]);
}

#[test]
fn a_node_heartbeat_wakes_nobody() {
    let now = Instant::now();
    let mut scheduler = scheduler([node("a", "1"), pending("1", "2", 0)], now);
    scheduler.step(now);
    scheduler.update(node("a", "1"), now);
    assert!(!scheduler.is_ready(now));
    scheduler.update(node("a", "2"), now);
    assert!(scheduler.is_ready(now));
}

#[test]
fn a_pod_whose_claim_waits_for_it_is_bound_when_its_volume_has_come_to_its_node() {
    use crate::names::ObjectName;
    use crate::volume::{Claim, Class, SELECTED_NODE, Volume};
    let now = Instant::now();
    let name = || ObjectName::new("default", "data");
    let claim = |value: Value| {
        Update::Seen(Box::new(Object::Claim(name(), Claim::read(&from_value(value).unwrap()))))
    };
    let class = json!({"metadata": {}, "provisioner": "p", "volumeBindingMode": "WaitForFirstConsumer"});
    let class =
        Update::Seen(Box::new(Object::Class("late".into(), Class::read(&from_value(class).unwrap()))));
    let mut wants = json_pod("1", "1", 0);
    wants["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]);
    let wants = PendingPod::read(&from_value(wants).unwrap()).unwrap();
    let wanted = Update::Seen(Box::new(Object::Pending(wants, Standing::default())));
    let unbound = json!({"metadata": {}, "spec": {"storageClassName": "late"}});
    let mut scheduler = scheduler([node("a", "1"), class, claim(unbound), wanted], now);
    let actions = scheduler.step(now);
    let [Action::AskForVolumes { node, plan, .. }] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!((node.as_str(), plan.provision.as_slice()), ("a", [name()].as_slice()));
    let uid = PodUid::new("1");
    assert_eq!(scheduler.asked(&uid, Ok(()), now), None);
    assert_eq!(scheduler.step(now), []);
    assert!(!scheduler.is_ready(now));
    let annotations = json!({SELECTED_NODE: "a"});
    scheduler.update(
        claim(json!({"metadata": {"annotations": annotations}, "spec": {"storageClassName": "late"}})),
        now,
    );
    assert_eq!(scheduler.step(now), []);
    let volume = Volume::read(&from_value(json!({"metadata": {}, "spec": {}})).unwrap());
    scheduler.update(Update::Seen(Box::new(Object::Volume("pv".into(), volume))), now);
    let bound = json!({"storageClassName": "late", "volumeName": "pv"});
    scheduler.update(
        claim(json!({"metadata": {"annotations": annotations}, "spec": bound, "status": {"phase": "Bound"}})),
        now,
    );
    assert!(scheduler.is_ready(now));
    let actions = scheduler.step(now);
    assert!(matches!(actions.as_slice(), [Action::Bind { node, .. }] if node.as_str() == "a"), "{actions:?}");
    assert_eq!(scheduler.bound(&uid, Ok(()), now), None);
    assert_eq!(scheduler.pending(), (0, 0));
}

fn gpus(names: &[&str]) -> Update {
    let devices: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
    let pool = json!({"name": "p", "generation": 1, "resourceSliceCount": 1});
    let spec = json!({"driver": "d", "nodeName": "a", "pool": pool, "devices": devices});
    let slice = from_value(json!({"metadata": {"name": "s"}, "spec": spec})).unwrap();
    let slice = crate::device::slice::Slice::read(&slice).unwrap();
    Update::Seen(Box::new(Object::Slice("s".into(), Arc::new(slice))))
}

fn gpu_claim(name: &str, revision: u64, status: Value) -> Update {
    let request =
        json!({"name": "r", "exactly": {"deviceClassName": "c", "allocationMode": "ExactCount", "count": 1}});
    let meta =
        json!({"name": name, "namespace": "default", "uid": name, "resourceVersion": revision.to_string()});
    let claim = json!({"metadata": meta, "spec": {"devices": {"requests": [request]}}, "status": status});
    let (name, claim) = crate::informer::device_claim(&from_value(claim).unwrap()).unwrap();
    Update::Seen(Box::new(Object::DeviceClaim(name, claim)))
}

fn claims_gpu(uid: &str) -> Update {
    let mut pod = json_pod(uid, "1", 0);
    pod["spec"]["resourceClaims"] = json!([{"name": "gpu", "resourceClaimName": uid}]);
    let pod = PendingPod::read(&from_value(pod).unwrap()).unwrap();
    Update::Seen(Box::new(Object::Pending(pod, Standing::default())))
}

#[test]
fn a_device_is_given_once_and_when_it_is_free_another_pod_gets_it() {
    let now = Instant::now();
    let mut scheduler = scheduler([node("a", "4")], now);
    let class = from_value(json!({"metadata": {"name": "c"}, "spec": {}})).unwrap();
    let class = crate::device::class::Class::read(&class).unwrap();
    scheduler.update(Update::Seen(Box::new(Object::DeviceClass("c".into(), Arc::new(class)))), now);
    for update in [gpus(&["g"]), gpu_claim("1", 1, json!({})), gpu_claim("2", 1, json!({}))] {
        scheduler.update(update, now);
    }
    scheduler.update(claims_gpu("1"), now);
    scheduler.update(claims_gpu("2"), now);
    let actions = scheduler.step(now);
    let [Action::Bind { claims, .. }] = actions.as_slice() else { panic!("{actions:?}") };
    let allocation = claims[0].allocation.clone().unwrap();
    assert_eq!(allocation.devices.as_ref().unwrap().results.as_ref().unwrap()[0].device, "g");
    let actions = scheduler.step(now);
    assert_eq!(
        message(&actions[0]),
        "0/1 nodes are available: 1 cannot allocate all claims. still not schedulable, preemption: \
         0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    );
    // What was written is known before the watch tells of it.
    let status =
        json!({"allocation": allocation, "reservedFor": [{"resource": "pods", "name": "1", "uid": "1"}]});
    let Update::Seen(object) = gpu_claim("1", 2, status) else { panic!("it is seen") };
    let Object::DeviceClaim(name, claim) = *object else { panic!("it is a claim") };
    scheduler.written(vec![(name, claim)], now);
    assert_eq!(scheduler.bound(&PodUid::new("1"), Ok(()), now), None);
    let later = now + Duration::from_secs(60);
    let actions = scheduler.step(later);
    assert!(matches!(actions.as_slice(), [Action::Report(_)]), "{actions:?}");
    scheduler.update(gpu_claim("1", 3, json!({})), later);
    let later = later + Duration::from_secs(60);
    let actions = scheduler.step(later);
    assert!(
        matches!(actions.as_slice(), [Action::Bind { pod, .. }] if pod.uid.as_str() == "2"),
        "{actions:?}"
    );
}

#[test]
fn a_claim_that_nobody_uses_and_that_keeps_a_pod_from_its_nodes_is_freed() {
    let now = Instant::now();
    let mut scheduler = scheduler([node("a", "4")], now);
    let field = json!({"key": "metadata.name", "operator": "In", "values": ["elsewhere"]});
    let allocation = json!({"nodeSelector": {"nodeSelectorTerms": [{"matchFields": [field]}]}});
    scheduler.update(gpu_claim("1", 7, json!({"allocation": allocation})), now);
    scheduler.update(claims_gpu("1"), now);
    let actions = scheduler.step(now);
    assert_eq!(
        message(&actions[0]),
        "0/1 nodes are available: 1 resourceclaim not available on the node. deallocation of ResourceClaim completed, \
         preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    );
    assert_eq!(actions[1], Action::Free { claim: ObjectName::new("default", "1"), revision: 7 });
}

#[test]
fn a_pod_is_not_tried_before_its_claims_are_made_of_their_templates() {
    let now = Instant::now();
    let mut scheduler = scheduler([node("a", "4")], now);
    let mut pod = json_pod("1", "1", 0);
    pod["spec"]["resourceClaims"] = json!([{"name": "gpu", "resourceClaimTemplateName": "t"}]);
    let seen = |pod: &Value| {
        let pod = PendingPod::read(&from_value(pod.clone()).unwrap()).unwrap();
        Update::Seen(Box::new(Object::Pending(pod, Standing::default())))
    };
    scheduler.update(seen(&pod), now);
    assert!(!scheduler.is_ready(now));
    pod["status"] = json!({"resourceClaimStatuses": [{"name": "gpu"}]});
    scheduler.update(seen(&pod), now);
    assert!(matches!(scheduler.step(now)[..], [Action::Bind { .. }]), "it needs none after all");
}
