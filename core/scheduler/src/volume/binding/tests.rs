use serde_json::{Value, from_value, json};

use super::super::Class;
use super::*;

const HOSTNAME: &str = "kubernetes.io/hostname";

fn node(name: &str) -> NodeInfo {
    NodeInfo::read(&from_value(json!({"metadata": {"name": name, "labels": {HOSTNAME: name}}})).unwrap())
        .unwrap()
}

fn class(provisioner: &str) -> Class {
    let class =
        json!({"metadata": {}, "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"});
    Class::read(&from_value(class).unwrap())
}

fn claim(with: Value) -> Claim {
    let mut claim = json!({
        "metadata": {"uid": "u"},
        "spec": {"storageClassName": "late", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    });
    for (key, value) in with.as_object().unwrap() {
        claim[key] = value.clone();
    }
    Claim::read(&from_value(claim).unwrap())
}

fn volume(node: &str, size: &str) -> Volume {
    let expression = json!({"key": HOSTNAME, "operator": "In", "values": [node]});
    let affinity = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}});
    let spec = json!({"storageClassName": "late", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": size}, "nodeAffinity": affinity});
    Volume::read(
        &from_value(json!({"metadata": {}, "spec": spec, "status": {"phase": "Available"}})).unwrap(),
    )
}

fn pod() -> PendingPod {
    let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]);
    let pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "p"}, "spec": {"containers": [], "volumes": volumes}});
    PendingPod::read(&from_value(pod).unwrap()).unwrap()
}

fn name() -> ObjectName {
    ObjectName::new("d", "data")
}

fn volumes(provisioner: &str, with: Value) -> Volumes {
    let mut all = Volumes::default();
    all.classes.insert("late".into(), class(provisioner));
    all.claims.insert(name(), claim(with));
    all
}

fn pending(all: &Volumes) -> Pending {
    let plan = all.plan(&pod(), &node("a")).unwrap();
    Pending { node: NodeName::new("a"), claims: vec![name()], plan, seen: Vec::new() }
}

#[test]
fn the_smallest_volume_that_the_node_reaches_is_bound_and_given_once() {
    let mut all = volumes("kubernetes.io/no-provisioner", json!({}));
    assert_eq!(all.plan(&pod(), &node("a")), None);
    for (name, node, size) in
        [("large", "a", "9Gi"), ("fits", "a", "2Gi"), ("small", "a", "1Mi"), ("far", "b", "1Gi")]
    {
        all.volumes.insert(name.into(), volume(node, size));
    }
    let chosen = pending(&all);
    assert_eq!(chosen.plan, Plan { bind: vec![("fits".into(), name())], provision: vec![] });
    all.assume(&chosen);
    let other = ObjectName::new("d", "other");
    all.taken.insert("large".into(), other);
    assert_eq!(all.plan(&pod(), &node("a")).unwrap().bind, [("fits".into(), name())]);
    all.taken.insert("fits".into(), ObjectName::new("d", "third"));
    assert_eq!(all.plan(&pod(), &node("a")), None);
}

#[test]
fn a_claim_that_is_being_provisioned_keeps_its_node() {
    let mut all = volumes("example.com/p", json!({}));
    let chosen = pending(&all);
    assert_eq!(chosen.plan, Plan { bind: vec![], provision: vec![name()] });
    all.assume(&chosen);
    assert_eq!(all.plan(&pod(), &node("b")), None);
    all.forget(&chosen);
    assert!(all.plan(&pod(), &node("b")).is_some());
    let selected = json!({"metadata": {"annotations": {super::super::SELECTED_NODE: "b"}}});
    all.claims.insert(name(), claim(selected));
    assert_eq!(all.plan(&pod(), &node("a")), None);
}

#[test]
fn a_pod_waits_until_its_claims_are_bound_where_it_is() {
    let mut all = volumes("example.com/p", json!({}));
    let mut waiting = pending(&all);
    assert_eq!(all.progress(&mut waiting, Some(&node("a"))), Progress::Waiting);
    let selected = json!({"metadata": {"annotations": {super::super::SELECTED_NODE: "a"}}});
    all.claims.insert(name(), claim(selected));
    assert_eq!(all.progress(&mut waiting, Some(&node("a"))), Progress::Waiting);
    let mut reset = waiting.clone();
    all.claims.insert(name(), claim(json!({})));
    assert!(
        matches!(all.progress(&mut reset, Some(&node("a"))), Progress::Failed(why) if why.contains("was reset"))
    );
    let bound = json!({"spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}});
    all.claims.insert(name(), claim(bound));
    assert_eq!(all.progress(&mut waiting, Some(&node("a"))), Progress::Waiting);
    all.volumes.insert("pv".into(), volume("a", "1Gi"));
    assert_eq!(all.progress(&mut waiting, Some(&node("a"))), Progress::Done);
    all.volumes.insert("pv".into(), volume("b", "1Gi"));
    assert!(matches!(all.progress(&mut waiting, Some(&node("a"))), Progress::Failed(_)));
}
