use pretty_assertions::assert_eq;
use serde_json::{Value, from_value, json};

use super::*;

const DRIVER: &str = "gpu.example.com";

fn node(name: &str) -> NodeInfo {
    let labels = json!({"zone": name});
    NodeInfo::read(&from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap()).unwrap()
}

fn slice(name: &str, reach: Value, pool: Value, devices: Value) -> (Arc<str>, Arc<Slice>) {
    let mut spec = json!({"driver": DRIVER, "pool": pool, "devices": devices});
    spec.as_object_mut().unwrap().extend(reach.as_object().unwrap().clone());
    let slice = from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
    (name.into(), Arc::new(Slice::read(&slice).unwrap()))
}

fn pool(name: &str, generation: i64, count: i64) -> Value {
    json!({"name": name, "generation": generation, "resourceSliceCount": count})
}

fn gpu(name: &str, model: &str, numa: i64) -> Value {
    json!({"name": name, "attributes": {"model": {"string": model}, "numa": {"int": numa}}})
}

/// Devices of nodes `a` and `b`: two of a large model and one of a small one on `a`, a small one on `b`.
fn devices() -> Devices {
    let mut devices = Devices::default();
    let of_a = json!([gpu("a0", "large", 0), gpu("a1", "small", 0), gpu("a2", "large", 1)]);
    for (name, slice) in [
        slice("a", json!({"nodeName": "a"}), pool("a", 1, 1), of_a),
        slice("b", json!({"nodeName": "b"}), pool("b", 1, 1), json!([gpu("b0", "small", 0)])),
    ] {
        devices.set_slice(name, slice);
    }
    class(
        &mut devices,
        "gpus",
        json!({"selectors": [{"cel": {"expression": "device.driver == 'gpu.example.com'"}}]}),
    );
    devices
}

fn class(devices: &mut Devices, name: &str, spec: Value) {
    let class = from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
    devices.set_class(name.into(), Arc::new(Class::read(&class).unwrap()));
}

fn read_claim(name: &str, spec: Value, status: Value) -> (ObjectName, Arc<Claim>) {
    let meta = json!({"name": name, "namespace": "n", "uid": name, "resourceVersion": "1"});
    let claim = from_value(json!({"metadata": meta, "spec": {"devices": spec}, "status": status})).unwrap();
    (ObjectName::new("n", name), Arc::new(Claim::read(&claim)))
}

fn pod(claims: &[&str]) -> PendingPod {
    let claims: Vec<_> = claims.iter().map(|name| json!({"name": name, "resourceClaimName": name})).collect();
    let spec = json!({"containers": [], "resourceClaims": claims});
    let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec});
    PendingPod::read(&from_value(pod).unwrap()).unwrap()
}

fn exactly(name: &str, with: Value) -> Value {
    let mut wanted = json!({"deviceClassName": "gpus", "allocationMode": "ExactCount", "count": 1});
    wanted.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
    json!({"name": name, "exactly": wanted})
}

fn model(model: &str) -> Value {
    json!([{"cel": {"expression": format!("device.attributes['gpu.example.com'].model == '{model}'")}}])
}

/// What a node has for a claim: request and device of each.
fn found(devices: &mut Devices, spec: Value, on: &str) -> Result<Vec<String>, String> {
    let (name, claim) = read_claim("c", spec, json!({}));
    devices.remove_claim(&name);
    devices.set_claim(name, claim);
    let pod = pod(&["c"]);
    let found = devices.allocator(&pod).unwrap().allocate(&node(on))?;
    let results =
        found.into_iter().flatten().flat_map(|one| one.devices.unwrap().results.unwrap_or_default());
    Ok(results.map(|one| format!("{}={}", one.request, one.device)).collect())
}

fn requests(requests: &[Value]) -> Value {
    json!({"requests": requests})
}

#[test]
fn a_node_gives_its_own_devices_that_the_request_is_after() {
    let mut devices = devices();
    let small = requests(&[exactly("r", json!({"selectors": model("small")}))]);
    assert_eq!(found(&mut devices, small.clone(), "a").unwrap(), ["r=a1"]);
    assert_eq!(found(&mut devices, small.clone(), "b").unwrap(), ["r=b0"]);
    assert!(found(&mut devices, small, "c").unwrap().is_empty());
    let two = requests(&[exactly("r", json!({"count": 2, "selectors": model("large")}))]);
    assert_eq!(found(&mut devices, two.clone(), "a").unwrap(), ["r=a0", "r=a2"]);
    assert!(found(&mut devices, two, "b").unwrap().is_empty());
    let all = requests(&[exactly("r", json!({"allocationMode": "All"}))]);
    assert_eq!(found(&mut devices, all.clone(), "a").unwrap(), ["r=a0", "r=a1", "r=a2"]);
    assert!(found(&mut devices, all, "c").unwrap().is_empty());
}

#[test]
fn a_search_goes_back_where_a_first_choice_leaves_nothing_for_the_rest() {
    let mut devices = devices();
    let any_then_small = requests(&[
        exactly("any", json!({"count": 2})),
        exactly("small", json!({"selectors": model("small")})),
    ]);
    assert_eq!(found(&mut devices, any_then_small, "a").unwrap(), ["any=a0", "any=a2", "small=a1"]);
}

#[test]
fn constraints_bind_devices_together_or_keep_them_apart() {
    let mut devices = devices();
    let two = exactly("r", json!({"count": 2}));
    let same = json!({"requests": [two], "constraints": [{"matchAttribute": "gpu.example.com/numa"}]});
    assert_eq!(found(&mut devices, same, "a").unwrap(), ["r=a0", "r=a1"]);
    let other = json!({"requests": [two], "constraints": [{"distinctAttribute": "gpu.example.com/numa"}]});
    assert_eq!(found(&mut devices, other, "a").unwrap(), ["r=a0", "r=a2"]);
    let unknown = json!({"requests": [two], "constraints": [{"matchAttribute": "gpu.example.com/x"}]});
    assert!(found(&mut devices, unknown, "a").unwrap().is_empty());
}

#[test]
fn the_first_alternative_that_can_be_had_is_taken() {
    let mut devices = devices();
    let sub = |name: &str, of: &str, count: i64| json!({"name": name, "deviceClassName": "gpus", "allocationMode": "ExactCount", "count": count, "selectors": model(of)});
    let list = requests(&[
        json!({"name": "r", "firstAvailable": [sub("large", "large", 2), sub("small", "small", 1)]}),
    ]);
    assert_eq!(found(&mut devices, list.clone(), "a").unwrap(), ["r/large=a0", "r/large=a2"]);
    assert_eq!(found(&mut devices, list, "b").unwrap(), ["r/small=b0"]);
}

#[test]
fn a_device_is_given_once_but_those_who_administrate_see_it_too() {
    let mut devices = devices();
    let allocation =
        json!({"devices": {"results": [{"request": "r", "driver": DRIVER, "pool": "b", "device": "b0"}]}});
    let (name, claim) = read_claim("other", json!({}), json!({"allocation": allocation}));
    devices.set_claim(name.clone(), claim);
    let any = requests(&[exactly("r", json!({}))]);
    assert!(found(&mut devices, any.clone(), "b").unwrap().is_empty());
    let admin = requests(&[exactly("r", json!({"adminAccess": true}))]);
    assert_eq!(found(&mut devices, admin, "b").unwrap(), ["r=b0"]);
    assert!(devices.remove_claim(&name));
    assert_eq!(found(&mut devices, any, "b").unwrap(), ["r=b0"]);
}

#[test]
fn only_the_latest_state_of_a_pool_counts_and_only_when_it_is_complete() {
    let mut devices = devices();
    let any = requests(&[exactly("r", json!({}))]);
    let here = json!({"nodeName": "b"});
    let (name, newer) = slice("b-2", here.clone(), pool("b", 2, 2), json!([gpu("b1", "small", 0)]));
    devices.set_slice(name, newer);
    assert!(found(&mut devices, any.clone(), "b").unwrap().is_empty(), "one of two slices is there");
    let all = requests(&[exactly("r", json!({"allocationMode": "All"}))]);
    assert_eq!(
        found(&mut devices, all, "b").unwrap_err(),
        "claim n/c, request r: asks for all devices, but resource pool gpu.example.com/b is currently being updated"
    );
    let (name, more) = slice("b-3", here.clone(), pool("b", 2, 2), json!([gpu("b2", "small", 0)]));
    devices.set_slice(name, more);
    assert_eq!(found(&mut devices, any.clone(), "b").unwrap(), ["r=b1"]);
    let (name, twice) = slice("b-3", here, pool("b", 2, 2), json!([gpu("b1", "small", 0)]));
    devices.set_slice(name, twice);
    assert_eq!(found(&mut devices, any.clone(), "b").unwrap_err(), "invalid resource pools were encountered");
    devices.remove_slice("b-2");
    devices.remove_slice("b-3");
    assert_eq!(found(&mut devices, any, "b").unwrap(), ["r=b0"]);
}

#[test]
fn devices_of_several_nodes_say_so_in_the_result() {
    let mut devices = devices();
    let requirement = json!({"key": "zone", "operator": "In", "values": ["c"]});
    let said = json!({"nodeSelectorTerms": [{"matchExpressions": [requirement]}]});
    let (name, shared) =
        slice("net", json!({"nodeSelector": said}), pool("net", 1, 1), json!([gpu("n0", "net", 0)]));
    devices.set_slice(name, shared);
    let (name, claim) =
        read_claim("c", requests(&[exactly("r", json!({"selectors": model("net")}))]), json!({}));
    devices.set_claim(name, claim);
    let pod = pod(&["c"]);
    let allocator = devices.allocator(&pod).unwrap();
    assert_eq!(allocator.allocate(&node("a")), Ok(None));
    let found = allocator.allocate(&node("c")).unwrap().unwrap();
    assert_eq!(json!(found[0].node_selector), said);
    let reserved = devices.reserve(&pod, &node("c")).unwrap();
    assert_eq!((reserved.len(), &reserved[0].allocation), (1, &Some(found[0].clone())));
    devices.assume(&reserved);
    assert!(devices.is_in_flight(&ObjectName::new("n", "c")) && devices.taken().len() == 1);
    devices.forget(&reserved);
    assert!(devices.taken().is_empty());
}

#[test]
fn what_classes_and_claims_tell_drivers_is_kept_for_the_requests_it_is_about() {
    let mut devices = devices();
    let opaque = |a: i64| json!({"driver": DRIVER, "parameters": {"a": a}});
    class(&mut devices, "gpus", json!({"config": [{"opaque": opaque(1)}]}));
    let spec = json!({
        "requests": [exactly("x", json!({})), exactly("y", json!({}))],
        "config": [{"requests": ["y"], "opaque": opaque(2)}, {"opaque": opaque(3)}],
    });
    let (name, claim) = read_claim("c", spec, json!({}));
    devices.set_claim(name, claim);
    let pod = pod(&["c"]);
    let found = devices.allocator(&pod).unwrap().allocate(&node("a")).unwrap().unwrap();
    let config = found[0].devices.as_ref().unwrap().config.clone();
    assert_eq!(
        json!(config),
        json!([
            {"source": "FromClass", "opaque": opaque(1)},
            {"source": "FromClaim", "requests": ["y"], "opaque": opaque(2)},
            {"source": "FromClaim", "opaque": opaque(3)},
        ])
    );
    let node_name = &found[0].node_selector.as_ref().unwrap().node_selector_terms[0].match_fields;
    assert_eq!(json!(node_name), json!([{"key": "metadata.name", "operator": "In", "values": ["a"]}]));
}

#[test]
fn taints_keep_those_away_who_do_not_tolerate_them() {
    let mut devices = devices();
    let mut tainted = gpu("b0", "small", 0);
    tainted["taints"] = json!([{"key": "sick", "value": "yes", "effect": "NoSchedule"}]);
    let (name, slice) = slice("b", json!({"nodeName": "b"}), pool("b", 1, 1), json!([tainted]));
    devices.set_slice(name, slice);
    let with = |tolerations: Value| requests(&[exactly("r", json!({"tolerations": tolerations}))]);
    assert!(found(&mut devices, with(json!([])), "b").unwrap().is_empty());
    let other = json!([{"key": "sick", "operator": "Equal", "value": "no"}]);
    assert!(found(&mut devices, with(other), "b").unwrap().is_empty());
    assert_eq!(found(&mut devices, with(json!([{"operator": "Exists"}])), "b").unwrap(), ["r=b0"]);
}

#[test]
fn what_is_not_done_here_is_left_alone_or_refused() {
    let mut devices = devices();
    let mut part = gpu("b0", "small", 0);
    part["consumesCounters"] = json!([{"counterSet": "s", "counters": {"c": {"value": "1"}}}]);
    let mut bound = gpu("b1", "small", 0);
    bound["bindingConditions"] = json!(["ready"]);
    let (name, slice) = slice("b", json!({"nodeName": "b"}), pool("b", 1, 1), json!([part, bound]));
    devices.set_slice(name, slice);
    assert!(found(&mut devices, requests(&[exactly("r", json!({}))]), "b").unwrap().is_empty());
    let share = requests(&[exactly("r", json!({"capacity": {"requests": {"memory": "1Gi"}}}))]);
    assert_eq!(
        found(&mut devices, share, "a").unwrap_err(),
        "claim n/c, request r: capacity is requested, but the feature is disabled"
    );
    let fault = requests(&[exactly(
        "r",
        json!({"selectors": [{"cel": {"expression": "device.attributes['x'].y"}}]}),
    )]);
    assert_eq!(
        found(&mut devices, fault, "b"),
        Ok(Vec::new()),
        "an expression is not asked about devices that cannot be given"
    );
    let fault = requests(&[exactly(
        "r",
        json!({"selectors": [{"cel": {"expression": "device.attributes['x'].y"}}]}),
    )]);
    assert_eq!(
        found(&mut devices, fault, "a").unwrap_err(),
        "claim n/c: selector #0 on device gpu.example.com/a/a0: CEL runtime error: no such key: y"
    );
    let many = requests(&[exactly("r", json!({"count": 33}))]);
    assert_eq!(
        found(&mut devices, many, "a").unwrap_err(),
        "claim n/c: number of requested devices 33 exceeds the claim limit of 32"
    );
}

#[test]
fn what_is_older_than_what_is_known_changes_nothing() {
    let mut devices = Devices::default();
    let (name, claim) = read_claim("c", json!({}), json!({}));
    let newer = Arc::new(Claim {
        revision: 2,
        reserved: vec![PodUid::new("u")],
        ..Claim::read(
            &from_value(json!({"metadata": {"uid": "c"}, "spec": {}, "status": {"allocation": {}}})).unwrap(),
        )
    });
    assert!(devices.set_claim(name.clone(), newer));
    assert!(!devices.set_claim(name.clone(), claim));
    assert!(devices.is_reserved_for(&name, &PodUid::new("u")));
}
