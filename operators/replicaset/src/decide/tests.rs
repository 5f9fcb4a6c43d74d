use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use keelson_operator_kit::ObjectKey;
use serde_json::{from_value, json};

use super::{Scale, decide};
use crate::act::{Applied, Error, Failure};
use crate::pod::{Owner, Phase, PodView};
use crate::replica_set::ReplicaSetView;
use crate::status::{FAILED_CREATE, REPLICA_FAILURE, is_same, status};
use crate::validate::{Pod, ValidatedReplicaSet};

fn now() -> Timestamp {
    Timestamp::from_second(1_000_000).unwrap()
}

fn ago(seconds: i64) -> Timestamp {
    now() - SignedDuration::from_secs(seconds)
}

fn pod(name: &str, change: impl FnOnce(&mut PodView)) -> Pod {
    let mut pod = PodView {
        uid: name.to_owned(),
        owner: Some(Owner { uid: "set".to_owned(), name: "web".to_owned() }),
        labels: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
        phase: Phase::Running,
        ready: true,
        ready_since: Some(ago(100)),
        terminating: false,
        node: Some("n1".to_owned()),
        restarts: 0,
        deletion_cost: 0,
        created: ago(100),
    };
    change(&mut pod);
    (ObjectKey::new("a", name), Arc::new(pod))
}

fn set(replicas: i32, own: Vec<Pod>, orphans: Vec<Pod>) -> ValidatedReplicaSet {
    let object: ReplicaSet = from_value(json!({
        "metadata": {"name": "web", "namespace": "a", "uid": "set", "generation": 3},
        "spec": {
            "replicas": replicas, "minReadySeconds": 10, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web", "tier": "front"}}},
        },
        "status": {"replicas": 0},
    }))
    .unwrap();
    let view = ReplicaSetView::read(object).unwrap();
    ValidatedReplicaSet {
        key: ObjectKey::new("a", "web"),
        selection: view.selection.clone().unwrap(),
        set: Arc::new(view),
        own,
        orphans,
        related_on_node: HashMap::new(),
        settled: true,
    }
}

fn names(pods: &[Pod]) -> Vec<&str> {
    pods.iter().map(|(key, _)| key.name()).collect()
}

fn deleted(valid: &ValidatedReplicaSet) -> Vec<String> {
    match decide(valid, now()).scale {
        Scale::Delete(pods) => names(&pods).into_iter().map(str::to_owned).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn pods_that_end_are_replaced() {
    let own = vec![
        pod("a", |_| {}),
        pod("b", |pod| pod.terminating = true),
        pod("c", |pod| pod.phase = Phase::Terminal),
    ];
    assert!(matches!(decide(&set(3, own, vec![]), now()).scale, Scale::Create(2)));
}

#[test]
fn nothing_is_created_twice_while_the_watch_is_behind() {
    let mut valid = set(3, vec![], vec![]);
    valid.settled = false;
    assert!(matches!(decide(&valid, now()).scale, Scale::Unsettled));
}

#[test]
fn an_adopted_pod_counts_and_one_with_other_labels_is_released() {
    let other = |pod: &mut PodView| drop(pod.labels.insert("app".to_owned(), "other".to_owned()));
    let orphans = vec![
        pod("mine", |pod| pod.owner = None),
        pod("other", |pod| {
            pod.owner = None;
            other(pod);
        }),
        pod("ending", |pod| {
            pod.owner = None;
            pod.terminating = true;
        }),
    ];
    let plan = decide(&set(2, vec![pod("a", |_| {}), pod("b", other)], orphans), now());
    assert_eq!(names(&plan.adopt), ["mine"]);
    assert_eq!(names(&plan.release), ["b"]);
    assert!(matches!(plan.scale, Scale::Reached));
}

#[test]
fn a_replica_set_that_is_deleted_does_nothing() {
    let mut valid = set(2, vec![], vec![pod("mine", |pod| pod.owner = None)]);
    Arc::get_mut(&mut valid.set).unwrap().terminating = true;
    let plan = decide(&valid, now());
    assert!(matches!(plan.scale, Scale::Deleted));
    assert!(plan.adopt.is_empty());
}

#[test]
fn the_pods_that_matter_least_are_deleted_first() {
    let own = vec![
        pod("old", |pod| pod.created = ago(100_000)),
        pod("restarted", |pod| pod.restarts = 3),
        pod("young", |pod| pod.ready_since = Some(ago(2))),
        pod("crowded", |pod| pod.node = Some("n2".to_owned())),
        pod("cheap", |pod| pod.deletion_cost = -1),
        pod("unready", |pod| {
            pod.ready = false;
            pod.ready_since = None;
        }),
        pod("pending", |pod| {
            pod.phase = Phase::Pending;
            pod.ready = false;
        }),
        pod("unassigned", |pod| {
            pod.node = None;
            pod.phase = Phase::Pending;
        }),
    ];
    let mut valid = set(0, own, vec![]);
    valid.related_on_node = HashMap::from([("n1".to_owned(), 1), ("n2".to_owned(), 2)]);
    let order = ["unassigned", "pending", "unready", "cheap", "crowded", "young", "restarted", "old"];
    assert_eq!(deleted(&valid), order);
    Arc::get_mut(&mut valid.set).unwrap().replicas = 6;
    assert_eq!(deleted(&valid), order[..2]);
}

#[test]
fn status_counts_and_waits_for_the_next_available_pod() {
    let own = vec![
        pod("a", |pod| drop(pod.labels.insert("tier".to_owned(), "front".to_owned()))),
        pod("b", |pod| pod.ready_since = Some(ago(4))),
        pod("c", |pod| pod.ready = false),
        pod("d", |pod| pod.terminating = true),
    ];
    let report = status(&set(3, own, vec![]), &Applied::default(), now());
    let status = report.status;
    assert_eq!(
        (
            status.replicas,
            status.fully_labeled_replicas,
            status.ready_replicas,
            status.available_replicas,
            status.terminating_replicas,
            status.observed_generation,
        ),
        (3, Some(1), Some(2), Some(1), Some(1), Some(3))
    );
    assert_eq!(report.available_in.map(|after| after.as_secs()), Some(6));
}

#[test]
fn a_failure_is_a_condition_until_it_is_over() {
    let mut valid = set(1, vec![], vec![]);
    let failure = Failure { reason: FAILED_CREATE, error: Error::NoTemplate };
    let failed = status(&valid, &Applied { adopted: vec![], failure: Some(failure) }, now()).status;
    let condition = &failed.conditions.as_ref().unwrap()[0];
    assert_eq!(
        (condition.type_.as_str(), condition.reason.as_deref()),
        (REPLICA_FAILURE, Some(FAILED_CREATE))
    );
    Arc::get_mut(&mut valid.set).unwrap().status = failed.clone();
    let over = status(&valid, &Applied::default(), now()).status;
    assert_eq!(over.conditions, None);
    assert!(!is_same(&failed, &over));
}
