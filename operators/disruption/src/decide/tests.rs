use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use keelson_operator_kit::ObjectKey;
use pretty_assertions::assert_eq;
use serde_json::{Value, from_value, json};

use super::{DISRUPTION_ALLOWED, Plan, decide, failed, is_same};
use crate::observe::{Observed, PodView};
use crate::validate::validate;

fn now() -> Timestamp {
    Timestamp::from_second(1_000_000).unwrap()
}

fn pod(name: &str, ready: bool) -> (ObjectKey, Arc<PodView>) {
    let pod = PodView {
        reference: ObjectReference { name: Some(name.to_owned()), ..ObjectReference::default() },
        labels: [].into(),
        owner: Some(OwnerReference::default()),
        ready,
        terminating: false,
    };
    (ObjectKey::new("a", name), Arc::new(pod))
}

fn plan(spec: Value, status: Value, pods: Vec<(ObjectKey, Arc<PodView>)>, managed: i32) -> Plan {
    let metadata = json!({"name": "web", "namespace": "a", "generation": 3});
    let budget: PodDisruptionBudget =
        from_value(json!({"metadata": metadata, "spec": spec, "status": status})).unwrap();
    let key = ObjectKey::new("a", "web");
    let observed = Observed { key, object: Arc::new(budget), pods, managed: Ok(managed) };
    decide(&validate(observed).unwrap(), now())
}

fn numbers(plan: &Plan) -> [Option<i32>; 4] {
    let status = &plan.status;
    [status.expected_pods, status.desired_healthy, status.current_healthy, status.disruptions_allowed]
}

#[test]
fn shares_are_of_what_managers_ask_for_and_numbers_of_what_is_there() {
    let pods = || vec![pod("a", true), pod("b", true), pod("c", false)];
    let share = plan(json!({"minAvailable": "50%"}), json!({}), pods(), 4);
    assert_eq!(numbers(&share), [Some(4), Some(2), Some(2), Some(0)]);
    let max = plan(json!({"maxUnavailable": 3}), json!({}), pods(), 4);
    assert_eq!(numbers(&max), [Some(4), Some(1), Some(2), Some(1)]);
    let min = plan(json!({"minAvailable": 1}), json!({}), pods(), 0);
    assert_eq!(numbers(&min), [Some(3), Some(1), Some(2), Some(1)]);
    let condition = &min.status.conditions.as_ref().unwrap()[0];
    assert_eq!((condition.type_.as_str(), condition.status.as_str()), (DISRUPTION_ALLOWED, "True"));
    assert_eq!((condition.reason.as_str(), condition.observed_generation), ("SufficientPods", Some(3)));
}

#[test]
fn without_pods_nothing_may_go() {
    let none = plan(json!({"minAvailable": 0}), json!({}), Vec::new(), 0);
    assert_eq!(numbers(&none), [Some(0), Some(0), Some(0), Some(0)]);
}

#[test]
fn a_pod_whose_eviction_was_allowed_does_not_count_for_two_minutes() {
    let at = |seconds: i64| json!({"disruptedPods": {"a": (now() - SignedDuration::from_secs(seconds)).to_string()}});
    let pods = || vec![pod("a", true), pod("b", true)];
    let soon = plan(json!({"minAvailable": 1}), at(100), pods(), 0);
    assert_eq!(numbers(&soon), [Some(2), Some(1), Some(1), Some(0)]);
    assert_eq!(soon.recheck_in.unwrap().as_secs(), 20);
    assert!(soon.status.disrupted_pods.unwrap().contains_key("a"));
    let late = plan(json!({"minAvailable": 1}), at(121), pods(), 0);
    assert_eq!(numbers(&late), [Some(2), Some(1), Some(2), Some(1)]);
    assert_eq!(late.status.disrupted_pods, None);
    assert_eq!(late.not_deleted[0].name.as_deref(), Some("a"));
}

#[test]
fn a_budget_that_cannot_be_calculated_allows_nothing() {
    let good = plan(json!({"minAvailable": 0}), json!({}), vec![pod("a", true)], 0).status;
    assert_eq!(good.disruptions_allowed, Some(1));
    let bad = failed(&good, 3, "no scale".to_owned(), now());
    assert_eq!(bad.disruptions_allowed, Some(0));
    assert_eq!(bad.conditions.as_ref().unwrap()[0].reason, "SyncFailed");
    let later = failed(&bad, 3, "no scale".to_owned(), now() + SignedDuration::from_secs(5));
    assert!(is_same(&bad, &later));
}
