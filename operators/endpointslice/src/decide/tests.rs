use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use keelson_operator_kit::ObjectKey;
use pretty_assertions::assert_eq;
use serde_json::{Value, from_value, json};

use super::{HEADLESS, Legacy, Plan, decide};
use crate::observe::Observed;
use crate::pod::{NamedPort, PodView};
use crate::service::ServiceView;
use crate::validate::validate;

type Pods = Vec<(ObjectKey, Arc<PodView>)>;

fn pod(name: &str, ip: &str, change: impl FnOnce(&mut PodView)) -> (ObjectKey, Arc<PodView>) {
    let mut pod = PodView {
        uid: name.to_owned(),
        labels: BTreeMap::new(),
        addresses: vec![ip.parse().unwrap()],
        ready: true,
        terminating: false,
        node: Some("n1".to_owned()),
        host: None,
        ports: vec![NamedPort { name: "web".to_owned(), protocol: "TCP".to_owned(), number: 8080 }],
    };
    change(&mut pod);
    (ObjectKey::new("a", name), Arc::new(pod))
}

fn service(spec: Value) -> ServiceView {
    let metadata = json!({"name": "web", "namespace": "a", "uid": "s"});
    let service: Service = from_value(json!({"metadata": metadata, "spec": spec})).unwrap();
    ServiceView::read(service).unwrap()
}

fn plan(spec: Value, pods: Pods, slices: Vec<EndpointSlice>) -> Plan {
    decide(validate(Observed {
        key: ObjectKey::new("a", "web"),
        service: Some(Arc::new(service(spec))),
        pods,
        zones: BTreeMap::from([("n1".to_owned(), Arc::new("east".to_owned()))]),
        slices: slices.into_iter().map(Arc::new).collect(),
        endpoints: None,
    }))
}

fn spec() -> Value {
    json!({"clusterIP": "10.96.0.9", "selector": {"a": "b"}, "ports": [{"port": 80, "targetPort": "web"}]})
}

/// A slice as the API has made it.
fn made(slice: &EndpointSlice, name: &str) -> EndpointSlice {
    let mut slice = slice.clone();
    slice.metadata.name = Some(name.to_owned());
    slice.metadata.uid = Some(name.to_owned());
    slice
}

fn names(slice: &EndpointSlice) -> Vec<String> {
    let pods = slice.endpoints.iter().flatten().filter_map(|one| one.target_ref.as_ref()?.name.clone());
    pods.collect()
}

#[test]
fn an_endpoint_says_where_it_is_and_whether_it_serves() {
    let pods = vec![
        pod("a", "10.0.0.1", |_| {}),
        pod("b", "10.0.0.2", |pod| pod.terminating = true),
        pod("c", "10.0.0.3", |pod| pod.ready = false),
    ];
    let plan = plan(spec(), pods, Vec::new());
    let slice = &plan.create[0];
    assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(8080));
    let endpoints = slice.endpoints.as_ref().unwrap();
    assert_eq!(endpoints[0].zone.as_deref(), Some("east"));
    let conditions = endpoints.iter().map(|endpoint| {
        let conditions = endpoint.conditions.as_ref().unwrap();
        (conditions.ready.unwrap(), conditions.serving.unwrap(), conditions.terminating.unwrap())
    });
    let expected = [(true, true, false), (false, true, true), (false, false, false)];
    assert_eq!(conditions.collect::<Vec<_>>(), expected);
    let Legacy::Create(endpoints) = plan.endpoints else { panic!("{:?}", plan.endpoints) };
    let subset = &endpoints.subsets.as_ref().unwrap()[0];
    let ips = |list: &Option<Vec<k8s_openapi::api::core::v1::EndpointAddress>>| {
        list.iter().flatten().map(|address| address.ip.clone()).collect::<Vec<_>>()
    };
    assert_eq!(ips(&subset.addresses), ["10.0.0.1"]);
    assert_eq!(ips(&subset.not_ready_addresses), ["10.0.0.3"]);
}

#[test]
fn a_pod_that_goes_leaves_the_others_where_they_are() {
    let pods: Pods = (0..150).map(|n| pod(&format!("p{n:03}"), &format!("10.0.0.{n}"), |_| {})).collect();
    let first = plan(spec(), pods.clone(), Vec::new());
    assert_eq!(first.create.iter().map(|it| names(it).len()).collect::<Vec<_>>(), [100, 50]);
    let slices = vec![made(&first.create[0], "s0"), made(&first.create[1], "s1")];
    let same = plan(spec(), pods.clone(), slices.clone());
    assert_eq!((same.create.len(), same.update.len(), same.delete.len()), (0, 0, 0));
    let fewer = plan(spec(), pods[1..].to_vec(), slices.clone());
    assert_eq!((fewer.create.len(), fewer.update.len(), fewer.delete.len()), (0, 1, 0));
    assert_eq!(names(&fewer.update[0]).len(), 99);
    let mut replaced = pods[1..].to_vec();
    replaced.push(pod("x", "10.0.1.1", |_| {}));
    let replaced = plan(spec(), replaced, slices);
    assert_eq!(replaced.update.len(), 1);
    assert_eq!(names(&replaced.update[0]).last().map(String::as_str), Some("x"));
}

#[test]
fn a_service_without_pods_has_one_empty_slice_which_its_first_pod_takes() {
    let empty = plan(spec(), Vec::new(), Vec::new());
    assert_eq!(empty.create.len(), 1);
    assert_eq!(names(&empty.create[0]).len(), 0);
    let slice = made(&empty.create[0], "s0");
    let same = plan(spec(), Vec::new(), vec![slice.clone()]);
    assert_eq!((same.create.len(), same.update.len(), same.delete.len()), (0, 0, 0));
    let first = plan(spec(), vec![pod("a", "10.0.0.1", |_| {})], vec![slice]);
    assert_eq!((first.create.len(), first.delete.len()), (0, 0));
    assert_eq!(names(&first.update[0]), ["a"]);
}

#[test]
fn pods_with_other_numbers_for_a_named_port_have_a_slice_of_their_own() {
    let pods = vec![pod("a", "10.0.0.1", |_| {}), pod("b", "10.0.0.2", |pod| pod.ports[0].number = 9090)];
    let numbers = |slice: &EndpointSlice| slice.ports.as_ref().unwrap()[0].port.unwrap();
    let plan = plan(spec(), pods, Vec::new());
    assert_eq!(plan.create.iter().map(numbers).collect::<Vec<_>>(), [8080, 9090]);
}

#[test]
fn a_headless_service_is_marked_and_may_publish_pods_that_are_not_ready() {
    let spec = json!({"clusterIP": "None", "selector": {"a": "b"}, "publishNotReadyAddresses": true});
    let plan = plan(spec, vec![pod("a", "10.0.0.1", |pod| pod.ready = false)], Vec::new());
    let slice = &plan.create[0];
    assert!(slice.metadata.labels.as_ref().unwrap().contains_key(HEADLESS));
    let conditions = slice.endpoints.as_ref().unwrap()[0].conditions.as_ref().unwrap();
    assert_eq!((conditions.ready, conditions.serving), (Some(true), Some(false)));
}

#[test]
fn endpoints_of_a_service_without_a_selector_are_left_alone() {
    let plan = plan(json!({"ports": [{"port": 80}]}), Vec::new(), Vec::new());
    assert!(plan.create.is_empty() && matches!(plan.endpoints, Legacy::Keep));
}
