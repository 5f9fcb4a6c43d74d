use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSetStatus};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use keelson_operator_kit::ObjectKey;
use pretty_assertions::assert_eq;
use serde_json::{Value, from_value, json};

use super::{Plan, decide};
use crate::observe::Observed;
use crate::progress;
use crate::replica_set::{Owner, SetView};
use crate::revision::{DESIRED_REPLICAS, MAX_REPLICAS, REVISION};
use crate::template::Fingerprint;
use crate::validate::{Set, validate};

fn now() -> Timestamp {
    Timestamp::from_second(1_000_000).unwrap()
}

/// A Deployment of image `new` with 4 pods, one more and one fewer allowed.
fn deployment(change: Value) -> Deployment {
    let mut json = json!({
        "metadata": {"name": "web", "namespace": "a", "uid": "d", "resourceVersion": "7", "generation": 2},
        "spec": {
            "replicas": 4,
            "progressDeadlineSeconds": 600,
            "revisionHistoryLimit": 1,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": "25%"}},
            "template": template("new"),
        },
    });
    merge(&mut json, change);
    from_value(json).unwrap()
}

fn merge(into: &mut Value, change: Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (key, value) in change {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, change) => *into = change,
    }
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn set(image: &str, revision: i64, replicas: i32, available: i32) -> Set {
    let annotations = [(REVISION, revision), (DESIRED_REPLICAS, 4), (MAX_REPLICAS, 5)];
    let view = SetView {
        uid: image.to_owned(),
        resource_version: "1".to_owned(),
        owner: Some(Owner { uid: "d".to_owned(), name: "web".to_owned() }),
        labels: [("app".to_owned(), "web".to_owned())].into(),
        annotations: annotations.map(|(key, number)| (key.to_owned(), number.to_string())).into(),
        created: now() - SignedDuration::from_secs(1000 - revision),
        terminating: false,
        generation: 1,
        template: Fingerprint::of(&from_value(template(image)).unwrap()),
        replicas,
        min_ready_seconds: 0,
        status: ReplicaSetStatus {
            replicas,
            available_replicas: Some(available),
            ready_replicas: Some(available),
            observed_generation: Some(1),
            ..ReplicaSetStatus::default()
        },
    };
    (ObjectKey::new("a", &format!("web-{image}")), Arc::new(view))
}

fn plan(deployment: Deployment, own: Vec<Set>, running: &[&str]) -> Plan {
    let observed = Observed {
        key: ObjectKey::new("a", "web"),
        object: Arc::new(deployment),
        own,
        orphans: Vec::new(),
        running: running.iter().map(|uid| (*uid).to_owned()).collect(),
    };
    decide(&validate(observed).unwrap(), now())
}

fn sizes(plan: &Plan) -> Vec<(&str, i32)> {
    let sizes = plan.changes.iter().filter_map(|change| Some((change.set.0.name(), change.replicas?)));
    sizes.collect()
}

fn progressing(plan: &Plan) -> (String, String) {
    let conditions = plan.report.status.conditions.as_deref().unwrap();
    let condition = progress::find(conditions, progress::PROGRESSING).unwrap();
    (condition.status.clone(), condition.reason.clone().unwrap())
}

#[test]
fn the_first_replica_set_gets_all_pods_and_revision_one() {
    let plan = plan(deployment(json!({})), Vec::new(), &[]);
    let new = plan.create.as_ref().unwrap();
    assert_eq!(new.replicas, 4);
    assert_eq!(new.name, format!("web-{}", new.hash));
    assert_eq!(new.annotations[REVISION], "1");
    assert_eq!(new.annotations[MAX_REPLICAS], "5");
    assert_eq!(plan.revision.as_deref(), Some("1"));
    assert_eq!(progressing(&plan), ("True".to_owned(), "NewReplicaSetCreated".to_owned()));
}

#[test]
fn a_new_template_begins_with_the_surge_while_what_may_be_missing_goes() {
    let plan = plan(deployment(json!({})), vec![set("old", 1, 4, 4)], &["old"]);
    assert_eq!(plan.create.as_ref().unwrap().replicas, 1);
    assert_eq!(plan.create.as_ref().unwrap().annotations[REVISION], "2");
    assert_eq!(sizes(&plan), [("web-old", 3)]);
}

#[test]
fn old_pods_go_only_as_new_ones_become_available() {
    let waiting = plan(deployment(json!({})), vec![set("old", 1, 3, 3), set("new", 2, 2, 0)], &[]);
    assert_eq!(sizes(&waiting), []);
    let going = plan(deployment(json!({})), vec![set("old", 1, 3, 3), set("new", 2, 2, 2)], &[]);
    assert_eq!(sizes(&going), [("web-old", 1)]);
}

#[test]
fn old_pods_that_do_not_work_go_first() {
    let sets = vec![set("older", 1, 2, 0), set("old", 2, 2, 2), set("new", 3, 1, 1)];
    let plan = plan(deployment(json!({})), sets, &[]);
    assert_eq!(sizes(&plan), [("web-older", 0)]);
}

#[test]
fn in_the_middle_of_a_rollout_each_gets_its_share_of_a_new_size() {
    let sets = vec![set("old", 1, 3, 3), set("new", 2, 2, 0)];
    let plan = plan(deployment(json!({"spec": {"replicas": 9}})), sets, &[]);
    assert_eq!(sizes(&plan), [("web-old", 6), ("web-new", 4)]);
    assert_eq!(plan.changes[0].annotations[DESIRED_REPLICAS], "9");
}

#[test]
fn recreate_waits_until_the_last_old_pod_has_ended() {
    let strategy = json!({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": null}}});
    let first = plan(deployment(strategy.clone()), vec![set("old", 1, 4, 4)], &["old"]);
    assert_eq!((first.create, first.changes.len()), (None, 1));
    let waiting = plan(deployment(strategy.clone()), vec![set("old", 1, 0, 0)], &["old"]);
    assert_eq!((waiting.create, waiting.changes.len()), (None, 0));
    let last = plan(deployment(strategy), vec![set("old", 1, 0, 0)], &[]);
    assert_eq!(last.create.unwrap().replicas, 4);
}

#[test]
fn a_template_that_comes_back_takes_its_replica_set_again() {
    let sets = vec![set("new", 1, 0, 0), set("old", 2, 4, 4)];
    let plan = plan(deployment(json!({})), sets, &[]);
    assert_eq!(plan.create, None);
    assert_eq!(plan.revision.as_deref(), Some("3"));
    assert_eq!(sizes(&plan), [("web-new", 1)]);
}

#[test]
fn a_paused_deployment_makes_nothing_but_is_resized() {
    let paused = json!({"spec": {"paused": true, "replicas": 6}});
    let plan = plan(deployment(paused), vec![set("old", 1, 4, 4)], &[]);
    assert_eq!(plan.create, None);
    assert_eq!(sizes(&plan), [("web-old", 6)]);
    assert_eq!(progressing(&plan), ("Unknown".to_owned(), "DeploymentPaused".to_owned()));
}

#[test]
fn a_complete_rollout_deletes_the_oldest_empty_sets_beyond_the_limit() {
    let status = json!({"status": {"observedGeneration": 2, "replicas": 4, "updatedReplicas": 4, "availableReplicas": 4}});
    let sets = vec![set("older", 1, 0, 0), set("old", 2, 0, 0), set("new", 3, 4, 4)];
    let plan = plan(deployment(status), sets, &[]);
    assert_eq!(plan.delete.iter().map(|(key, _)| key.name()).collect::<Vec<_>>(), ["web-older"]);
    assert_eq!(progressing(&plan), ("True".to_owned(), "NewReplicaSetAvailable".to_owned()));
}

#[test]
fn a_rollout_that_stands_still_for_too_long_has_timed_out() {
    let since = |seconds: i64| {
        json!({"status": {"replicas": 5, "updatedReplicas": 2, "availableReplicas": 3, "readyReplicas": 3, "conditions": [{
            "type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated",
            "lastUpdateTime": (now() - SignedDuration::from_secs(seconds)).to_string(),
        }]}})
    };
    let sets = || vec![set("old", 1, 3, 3), set("new", 2, 2, 0)];
    let moving = plan(deployment(since(599)), sets(), &[]);
    assert_eq!(progressing(&moving).1, "ReplicaSetUpdated");
    assert_eq!(moving.report.deadline_in.unwrap().as_secs(), 2);
    let late = plan(deployment(since(601)), sets(), &[]);
    assert_eq!(progressing(&late), ("False".to_owned(), "ProgressDeadlineExceeded".to_owned()));
    assert_eq!(late.report.deadline_in, None);
}

#[test]
fn a_deployment_that_goes_moves_nothing() {
    let going = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let plan = plan(deployment(going), vec![set("old", 1, 4, 4)], &[]);
    assert_eq!((plan.create, plan.changes.len(), plan.delete.len()), (None, 0, 0));
}
