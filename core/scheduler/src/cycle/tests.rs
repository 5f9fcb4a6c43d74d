use std::sync::Arc;

use pretty_assertions::assert_eq;
use serde_json::{Value, from_value, json};

use super::preemption::{NoPreemption, Preemption, preempt, refusal};
use super::*;
use crate::cache::Cache;
use crate::labels::Labels;
use crate::names::{NamespaceName, NodeName, ObjectName, PodUid};
use crate::volume::attachment::Attachment;
use crate::volume::limits::Limits;
use crate::volume::{Claim, Volume};

const HOSTNAME: &str = "kubernetes.io/hostname";

/// A cluster, and the decisions about pods that come one after the other and stay.
#[derive(Default)]
struct Cluster {
    cache: Cache,
    framework: Framework,
    rotation: Rotation,
    pods: usize,
}

fn merged(mut base: Value, with: Value) -> Value {
    match (&mut base, with) {
        (Value::Object(base), Value::Object(with)) => {
            for (key, value) in with {
                let before = base.remove(&key).unwrap_or(Value::Null);
                base.insert(key, merged(before, value));
            }
        }
        (base, with) => *base = with,
    }
    base
}

fn node(name: &str, with: Value) -> NodeInfo {
    let base = json!({
        "metadata": {"name": name, "labels": {HOSTNAME: name}},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}},
    });
    NodeInfo::read(&from_value(merged(base, with)).unwrap()).unwrap()
}

fn pod(name: &str, with: Value) -> PendingPod {
    let base = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {"containers": [{"name": "c"}]},
    });
    PendingPod::read(&from_value(merged(base, with)).unwrap()).unwrap()
}

fn asks(cpu: &str) -> Value {
    json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
}

fn app(name: &str) -> Value {
    json!({"metadata": {"labels": {"app": name}}})
}

fn required(kind: &str, app: &str, key: &str) -> Value {
    let term = json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}});
    json!({"spec": {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}})
}

fn important(priority: i32) -> Value {
    json!({"spec": {"priority": priority}})
}

fn on_node(name: &str) -> Value {
    json!({"spec": {"nodeSelector": {HOSTNAME: name}}})
}

impl Cluster {
    fn of(nodes: impl IntoIterator<Item = NodeInfo>) -> Self {
        let mut cluster = Cluster::default();
        for node in nodes {
            cluster.cache.set_node(node);
        }
        cluster
    }

    fn try_pod(&mut self, pod: &PendingPod) -> Result<Suggestion, Failure> {
        schedule(&self.framework, self.cache.view(), pod, 0, &mut self.rotation)
    }

    /// The node that a new pod gets, or why it gets none.
    fn add(&mut self, with: Value) -> Result<String, String> {
        self.pods += 1;
        let pod = pod(&format!("pod-{}", self.pods), with);
        match self.try_pod(&pod) {
            Ok(found) => {
                self.cache.assume(pod.info.clone(), found.node.clone());
                Ok(found.node.to_string())
            }
            Err(Failure::NoNodes) => Err(fit_error::NO_NODES.to_owned()),
            Err(Failure::Unfit(error)) => Err(error.to_string()),
        }
    }

    fn preempt(&mut self, pod: &PendingPod) -> Result<Preemption, NoPreemption> {
        let Err(Failure::Unfit(error)) = self.try_pod(pod) else { panic!("the pod fits") };
        preempt(&self.framework, self.cache.view(), pod, &error, None)
    }
}

#[test]
fn without_nodes_there_is_no_place() {
    assert_eq!(Cluster::default().add(json!({})), Err("no nodes available to schedule pods".into()));
}

#[test]
fn pods_go_to_the_emptier_node_until_all_are_full() {
    let mut cluster = Cluster::of([node("a", json!({})), node("b", json!({}))]);
    let places: Vec<_> = (0..4).map(|_| cluster.add(asks("2")).unwrap()).collect();
    assert_eq!(places.iter().filter(|name| *name == "a").count(), 2);
    assert_ne!(places[0], places[1]);
    assert_eq!(cluster.add(asks("2")), Err("0/2 nodes are available: 2 Insufficient cpu.".into()));
    assert!(cluster.add(json!({})).is_ok());
}

#[test]
fn a_pod_waits_for_its_claims_to_devices_and_for_their_classes() {
    let mut cluster = Cluster::of([node("a", json!({})), node("b", json!({}))]);
    let claims = json!([{"name": "gpu", "resourceClaimName": "gpu"}]);
    let claims = json!({"spec": {"resourceClaims": claims}});
    let told = cluster.add(claims.clone()).unwrap_err();
    assert_eq!(told, "0/2 nodes are available: resourceclaim.resource.k8s.io \"gpu\" not found.");
    let request = json!({"name": "r", "exactly": {"deviceClassName": "gpus", "allocationMode": "ExactCount", "count": 1}});
    let claim = json!({"metadata": {"name": "gpu", "namespace": "default", "uid": "1"}, "spec": {"devices": {"requests": [request]}}});
    let (name, claim) = crate::informer::device_claim(&from_value(claim).unwrap()).unwrap();
    cluster.cache.devices.set_claim(name, claim);
    let told = cluster.add(claims.clone()).unwrap_err();
    assert_eq!(told, "0/2 nodes are available: request r: device class gpus does not exist.");
    let class = from_value(json!({"metadata": {"name": "gpus"}, "spec": {}})).unwrap();
    let class = crate::device::class::Class::read(&class).unwrap();
    cluster.cache.devices.set_class("gpus".into(), Arc::new(class));
    let told = cluster.add(claims).unwrap_err();
    assert_eq!(told, "0/2 nodes are available: 2 cannot allocate all claims.");
}

#[test]
fn each_reason_is_named_with_the_number_of_nodes() {
    let mut cluster = Cluster::of([
        node("small", json!({"status": {"allocatable": {"cpu": "1"}}})),
        node("full", json!({"status": {"allocatable": {"pods": "0"}}})),
        node("cordoned", json!({"spec": {"unschedulable": true}})),
        node("tainted", json!({"spec": {"taints": [{"key": "a", "value": "b", "effect": "NoExecute"}]}})),
    ]);
    assert_eq!(
        cluster.add(asks("2")),
        Err("0/4 nodes are available: 1 Insufficient cpu, 1 Too many pods, 1 node(s) had untolerated taint(s), \
             1 node(s) were unschedulable."
            .into())
    );
    let tolerant = json!({"spec": {"tolerations": [{"key": "a", "operator": "Exists"}]}});
    assert_eq!(cluster.add(merged(asks("2"), tolerant)), Ok("tainted".into()));
}

#[test]
fn extended_resources_are_counted() {
    let gpu = json!({"status": {"allocatable": {"example.com/gpu": "1"}}});
    let mut cluster = Cluster::of([node("a", gpu), node("b", json!({}))]);
    let requests = json!({"requests": {"example.com/gpu": "1"}});
    let wants = json!({"spec": {"containers": [{"name": "c", "resources": requests}]}});
    assert_eq!(cluster.add(wants.clone()), Ok("a".into()));
    assert_eq!(cluster.add(wants), Err("0/2 nodes are available: 2 Insufficient example.com/gpu.".into()));
}

#[test]
fn a_host_port_is_taken_once_on_each_node() {
    let mut cluster = Cluster::of([node("a", json!({})), node("b", json!({}))]);
    let ports = json!([{"containerPort": 80, "hostPort": 80}]);
    let wants = json!({"spec": {"containers": [{"name": "c", "ports": ports}]}});
    let mut places = [cluster.add(wants.clone()).unwrap(), cluster.add(wants.clone()).unwrap()];
    places.sort();
    assert_eq!(places, ["a", "b"]);
    assert_eq!(
        cluster.add(wants),
        Err("0/2 nodes are available: 2 node(s) didn't have free ports for the requested pod ports.".into())
    );
}

#[test]
fn a_pod_for_one_node_by_field_is_tried_nowhere_else() {
    let mut cluster = Cluster::of([node("a", json!({})), node("b", json!({}))]);
    let field = json!({"key": "metadata.name", "operator": "In", "values": ["b"]});
    let terms = json!({"nodeSelectorTerms": [{"matchFields": [field]}]});
    let wants = json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}});
    let found = cluster.try_pod(&pod("x", wants.clone())).unwrap();
    assert_eq!((found.node.as_str(), found.evaluated), ("b", 1));
    assert_eq!(
        cluster.add(merged(asks("9"), wants)),
        Err(
            "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't satisfy plugin(s) [NodeAffinity]."
                .into()
        )
    );
}

#[test]
fn a_node_selector_must_match_and_a_preference_decides() {
    let disk = |kind: &str| json!({"metadata": {"labels": {"disk": kind}}});
    let mut cluster = Cluster::of([node("hdd", disk("hdd")), node("ssd", disk("ssd"))]);
    assert_eq!(cluster.add(json!({"spec": {"nodeSelector": {"disk": "hdd"}}})), Ok("hdd".into()));
    assert_eq!(
        cluster.add(json!({"spec": {"nodeSelector": {"disk": "tape"}}})),
        Err("0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.".into())
    );
    let liked = json!({"matchExpressions": [{"key": "disk", "operator": "In", "values": ["hdd"]}]});
    let prefers = json!({"spec": {"affinity": {"nodeAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": liked}],
    }}}});
    assert_eq!(cluster.add(prefers), Ok("hdd".into()));
}

#[test]
fn anti_affinity_keeps_pods_apart_in_both_directions() {
    let mut cluster = Cluster::of([node("a", json!({})), node("b", json!({}))]);
    let apart = merged(app("db"), required("podAntiAffinity", "db", HOSTNAME));
    let first = cluster.add(apart.clone()).unwrap();
    let second = cluster.add(apart.clone()).unwrap();
    assert_ne!(first, second);
    assert_eq!(
        cluster.add(apart),
        Err("0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules.".into())
    );
    assert_eq!(
        cluster.add(app("db")),
        Err("0/2 nodes are available: 2 node(s) didn't satisfy existing pods anti-affinity rules.".into())
    );
}

#[test]
fn affinity_follows_pods_and_the_first_of_its_kind_may_start() {
    let zone = |zone: &str| json!({"metadata": {"labels": {"zone": zone}}});
    let mut cluster = Cluster::of([node("a", zone("1")), node("b", zone("2"))]);
    let near = required("podAffinity", "web", "zone");
    assert_eq!(
        cluster.add(near.clone()),
        Err("0/2 nodes are available: 2 node(s) didn't match pod affinity rules.".into())
    );
    let together = merged(app("web"), near.clone());
    let first = cluster.add(together.clone()).unwrap();
    for _ in 0..3 {
        assert_eq!(cluster.add(together.clone()), Ok(first.clone()));
    }
    assert_eq!(cluster.add(near), Ok(first));
}

#[test]
fn affinity_looks_into_namespaces_by_their_labels() {
    let mut cluster = Cluster::of([node("a", json!({})), node("b", json!({}))]);
    cluster.cache.namespaces.insert(NamespaceName::new("shop"), Labels::from([("team", "x")]));
    let place = cluster.add(merged(app("web"), json!({"metadata": {"namespace": "shop"}}))).unwrap();
    let near = |namespaces: Value| {
        let selector = json!({"matchLabels": {"app": "web"}});
        let term = merged(json!({"topologyKey": HOSTNAME, "labelSelector": selector}), namespaces);
        json!({"spec": {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}})
    };
    assert_eq!(
        cluster.add(near(json!({"namespaceSelector": {"matchLabels": {"team": "x"}}}))),
        Ok(place.clone())
    );
    assert_eq!(cluster.add(near(json!({"namespaces": ["shop"]}))), Ok(place));
    assert!(cluster.add(near(json!({}))).is_err());
}

#[test]
fn preferred_affinity_decides_between_nodes_that_fit() {
    let mut cluster = Cluster::of([node("a", json!({})), node("b", json!({}))]);
    let place = cluster.add(app("cache")).unwrap();
    let term = json!({"topologyKey": HOSTNAME, "labelSelector": {"matchLabels": {"app": "cache"}}});
    let prefers = |kind: &str| {
        let weighted = json!([{"weight": 100, "podAffinityTerm": term}]);
        json!({"spec": {"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": weighted}}}})
    };
    assert_eq!(cluster.add(prefers("podAffinity")), Ok(place.clone()));
    assert_ne!(cluster.add(prefers("podAntiAffinity")), Ok(place));
}

fn spread(key: &str, when: &str) -> Value {
    let constraint = json!({
        "maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": when,
        "labelSelector": {"matchLabels": {"app": "web"}},
    });
    merged(app("web"), json!({"spec": {"topologySpreadConstraints": [constraint]}}))
}

#[test]
fn a_hard_spread_constraint_is_never_broken() {
    let zone = |zone: &str| json!({"metadata": {"labels": {"zone": zone}}});
    let tiny = json!({"status": {"allocatable": {"pods": "1"}}});
    let mut cluster =
        Cluster::of([node("a", zone("1")), node("b", merged(zone("2"), tiny)), node("c", json!({}))]);
    let hard = spread("zone", "DoNotSchedule");
    let mut places: Vec<_> = (0..3).map(|_| cluster.add(hard.clone()).unwrap()).collect();
    places.sort();
    assert_eq!(places, ["a", "a", "b"]);
    assert_eq!(
        cluster.add(hard),
        Err("0/3 nodes are available: 1 Too many pods, 1 node(s) didn't match pod topology spread constraints, \
             1 node(s) didn't match pod topology spread constraints (missing required label)."
            .into())
    );
}

#[test]
fn a_soft_spread_constraint_outweighs_the_emptier_node() {
    let mut cluster = Cluster::of([node("a", json!({})), node("b", json!({}))]);
    let soft = spread(HOSTNAME, "ScheduleAnyway");
    let first = cluster.add(merged(asks("100m"), soft.clone())).unwrap();
    let other = if first == "a" { "b" } else { "a" };
    cluster.add(merged(asks("1"), on_node(other))).unwrap();
    assert_eq!(cluster.add(merged(asks("100m"), soft)), Ok(other.to_owned()));
}

#[test]
fn siblings_are_spread_without_any_constraint() {
    let mut cluster = Cluster::of((0..4).map(|at| node(&format!("n{at}"), json!({}))));
    let owner =
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true});
    let with_owner = json!({"metadata": {"ownerReferences": [owner]}});
    let mut places: Vec<_> = (0..4).map(|_| cluster.add(with_owner.clone()).unwrap()).collect();
    places.sort();
    assert_eq!(places, ["n0", "n1", "n2", "n3"]);
}

#[test]
fn a_node_that_has_the_image_is_better() {
    let image = json!({"status": {"images": [{"names": ["big:latest"], "sizeBytes": 900_000_000}]}});
    let mut cluster = Cluster::of([node("a", json!({})), node("b", image), node("c", json!({}))]);
    let wants = json!({"spec": {"containers": [{"name": "c", "image": "big"}]}});
    assert_eq!(cluster.add(wants), Ok("b".into()));
}

#[test]
fn a_soft_taint_is_avoided_while_there_is_another_node() {
    let taint = json!({"spec": {"taints": [{"key": "a", "effect": "PreferNoSchedule"}]}});
    let mut cluster = Cluster::of([node("a", taint), node("b", json!({}))]);
    assert_eq!(cluster.add(asks("3")), Ok("b".into()));
    assert_eq!(cluster.add(asks("3")), Ok("a".into()));
}

#[test]
fn a_pod_waits_for_its_claims_and_follows_their_volumes() {
    let mut cluster = Cluster::of([node("a", json!({})), node("b", json!({}))]);
    let wants = json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}});
    let refused = |text: &str| Err(format!("0/2 nodes are available: {text}."));
    assert_eq!(cluster.add(wants.clone()), refused("persistentvolumeclaim \"data\" not found"));
    let claim = |value: Value| Claim::read(&from_value(value).unwrap());
    let name = ObjectName::new("default", "data");
    let unbound = json!({"metadata": {}, "status": {"phase": "Pending"}});
    cluster.cache.volumes.claims.insert(name.clone(), claim(unbound));
    assert_eq!(cluster.add(wants.clone()), refused("pod has unbound immediate PersistentVolumeClaims"));
    let bound = json!({"metadata": {}, "spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}});
    cluster.cache.volumes.claims.insert(name, claim(bound));
    let expression = json!({"key": HOSTNAME, "operator": "In", "values": ["b"]});
    let affinity = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}});
    let volume =
        Volume::read(&from_value(json!({"metadata": {}, "spec": {"nodeAffinity": affinity}})).unwrap());
    cluster.cache.volumes.volumes.insert("pv".into(), volume);
    assert_eq!(cluster.add(wants), Ok("b".into()));
}

#[test]
fn a_node_takes_no_more_volumes_of_a_driver_than_that_says_pods_that_share_one_count_once() {
    let mut cluster = Cluster::of([node("a", json!({}))]);
    for name in ["1", "2"] {
        let bound = json!({"metadata": {}, "spec": {"volumeName": name}, "status": {"phase": "Bound"}});
        let claim = Claim::read(&from_value(bound).unwrap());
        cluster.cache.volumes.claims.insert(ObjectName::new("default", name), claim);
        let csi = json!({"driver": "d", "volumeHandle": name});
        let volume = Volume::read(&from_value(json!({"metadata": {}, "spec": {"csi": csi}})).unwrap());
        cluster.cache.volumes.volumes.insert(name.into(), volume);
    }
    let drivers = json!([{"name": "d", "nodeID": "n", "allocatable": {"count": 1}}]);
    let limits = Limits::read(&from_value(json!({"metadata": {}, "spec": {"drivers": drivers}})).unwrap());
    cluster.cache.volumes.limits.insert(NodeName::new("a"), limits);
    let wants = |claim: &str| json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}});
    assert_eq!(cluster.add(wants("1")), Ok("a".into()));
    assert_eq!(cluster.add(wants("1")), Ok("a".into()));
    let refused = cluster.add(wants("2")).unwrap_err();
    assert!(refused.starts_with("0/1 nodes are available: 1 node(s) exceed max volume count."), "{refused}");

    // One that no pod has any more keeps its place until it is detached, and others do not get it.
    for name in ["pod-1", "pod-2"] {
        cluster.cache.remove_pod(&PodUid::new(name));
    }
    let spec = json!({"attacher": "d", "nodeName": "a", "source": {"persistentVolumeName": "1"}});
    let left = Attachment::read(&from_value(json!({"metadata": {}, "spec": spec})).unwrap()).unwrap();
    cluster.cache.volumes.attachments.insert("left".into(), left);
    assert!(cluster.add(wants("2")).unwrap_err().contains("exceed max volume count"));
    assert_eq!(cluster.add(wants("1")), Ok("a".into()));
}

#[test]
fn in_a_large_cluster_the_search_ends_early_and_goes_on_from_there() {
    let mut cluster = Cluster::of((0..1000).map(|at| node(&format!("n{at}"), json!({}))));
    let found = cluster.try_pod(&pod("x", json!({}))).unwrap();
    assert_eq!((found.evaluated, found.feasible), (420, 420));
    assert_eq!(cluster.rotation.start, 420);
    assert_eq!(enough(99, 0), 99);
    assert_eq!(enough(100, 0), 100);
    assert_eq!(enough(5000, 0), 500);
    assert_eq!(enough(1000, 30), 300);
}

#[test]
fn the_fewest_and_least_important_pods_have_to_go() {
    let mut cluster = Cluster::of([node("a", json!({})), node("b", json!({}))]);
    for (name, cpu, priority) in [("a", "3", 5), ("a", "1", 1), ("b", "2", 3), ("b", "2", 2)] {
        cluster.add(merged(asks(cpu), merged(on_node(name), important(priority)))).unwrap();
    }
    let found = |preemption: Preemption| {
        let names: Vec<String> = preemption.victims.iter().map(|pod| pod.name.name.to_string()).collect();
        (preemption.node.to_string(), names.join(" "))
    };
    let one = cluster.preempt(&pod("x", merged(asks("2"), important(10)))).map(found);
    assert_eq!(one, Ok(("b".into(), "pod-4".into())));
    let all = cluster.preempt(&pod("x", merged(asks("4"), important(10)))).map(found);
    assert_eq!(all, Ok(("b".into(), "pod-3 pod-4".into())));
    let same = cluster.preempt(&pod("x", merged(asks("2"), important(1))));
    assert_eq!(same, Err(NoPreemption::NoHelp));
}

#[test]
fn a_pod_that_must_not_displace_others_does_not() {
    let mut cluster = Cluster::of([node("a", json!({}))]);
    cluster.add(asks("4")).unwrap();
    let meek = json!({"spec": {"priority": 9, "preemptionPolicy": "Never"}});
    assert_eq!(cluster.preempt(&pod("x", merged(asks("1"), meek))), Err(NoPreemption::Never));
}

#[test]
fn it_is_said_where_displacing_pods_would_not_help() {
    let cordoned = json!({"spec": {"unschedulable": true}});
    let mut cluster = Cluster::of([node("a", json!({})), node("b", cordoned)]);
    cluster.add(asks("4")).unwrap();
    let Err(Failure::Unfit(error)) = cluster.try_pod(&pod("x", asks("1"))) else { panic!("the pod fits") };
    assert_eq!(
        refusal(&error, NoPreemption::NoHelp),
        "preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, \
         1 Preemption is not helpful for scheduling."
    );
}

#[test]
fn room_that_was_made_for_a_pod_is_not_given_to_a_lesser_one() {
    let mut cluster = Cluster::of([node("a", json!({}))]);
    let greater = pod("greater", merged(asks("3"), important(10)));
    cluster.cache.nominate(Arc::clone(&greater.info), NodeName::new("a"));
    assert!(cluster.add(asks("2")).is_err());
    assert!(cluster.try_pod(&greater).is_ok());
    assert_eq!(cluster.add(merged(asks("2"), important(11))), Ok("a".into()));
    assert!(cluster.try_pod(&greater).is_err());
}
