//! Claims, classes and slices of devices.

use serde_json::{Value, json};

use super::{each_change_has_its_fault, update_faults};

fn claim() -> Value {
    json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": "a", "namespace": "ns"},
        "spec": {"devices": {
            "requests": [
                {"name": "gpu", "exactly": {"deviceClassName": "gpus", "allocationMode": "ExactCount", "count": 1,
                    "selectors": [{"cel": {"expression": "true"}}]}},
                {"name": "nic", "firstAvailable": [
                    {"name": "fast", "deviceClassName": "nics", "allocationMode": "All"},
                    {"name": "slow", "deviceClassName": "nics", "allocationMode": "ExactCount", "count": 2},
                ]},
            ],
            "constraints": [{"requests": ["gpu", "nic/fast"], "matchAttribute": "example.com/numa"}],
            "config": [{"requests": ["nic"], "opaque": {"driver": "nic.example.com", "parameters": {"a": 1}}}],
        }},
    })
}

#[test]
fn each_fault_of_a_claim_has_its_path() {
    let reference = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
    let many: Vec<Value> =
        (0..33).map(|at| json!({"name": format!("r{at}"), "exactly": {"deviceClassName": "c"}})).collect();
    let exactly = "/spec/devices/requests/0/exactly";
    let at = |field: &str| -> &'static str { format!("{exactly}/{field}").leak() };
    let text = |text: String| -> &'static str { text.leak() };
    each_change_has_its_fault(
        &claim(),
        vec![
            (
                "/spec/devices/requests",
                json!(many),
                "spec.devices.requests: Too many: 33: must have at most 32 items",
            ),
            (
                "/spec/devices/requests/1/name",
                json!("gpu"),
                "spec.devices.requests[1]: Duplicate value: \"gpu\"",
            ),
            (
                "/spec/devices/requests/0/name",
                json!("G"),
                "spec.devices.requests[0].name: Invalid value: \"G\": a lowercase RFC 1123 label",
            ),
            (
                exactly,
                Value::Null,
                "spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required",
            ),
            (
                "/spec/devices/requests/1/exactly",
                json!({}),
                "spec.devices.requests[1]: Invalid value: null: exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
            ),
            (
                at("deviceClassName"),
                json!(""),
                "spec.devices.requests[0].exactly.deviceClassName: Required value",
            ),
            (
                at("allocationMode"),
                json!("Some"),
                "spec.devices.requests[0].exactly.allocationMode: Unsupported value: \"Some\": supported values: \"All\", \"ExactCount\"",
            ),
            (
                at("allocationMode"),
                json!("All"),
                "spec.devices.requests[0].exactly.count: Invalid value: 1: must not be specified when allocationMode is 'All'",
            ),
            (
                at("count"),
                json!(-1),
                "spec.devices.requests[0].exactly.count: Invalid value: -1: must be greater than zero",
            ),
            (
                at("selectors/0/cel"),
                Value::Null,
                "spec.devices.requests[0].exactly.selectors[0].cel: Required value",
            ),
            (
                at("selectors/0/cel/expression"),
                json!("x".repeat(10241)),
                "spec.devices.requests[0].exactly.selectors[0].cel.expression: Too long: may not be more than 10240 bytes",
            ),
            (
                at("tolerations"),
                json!([{"operator": "Exists", "value": "v"}]),
                "spec.devices.requests[0].exactly.tolerations[0].value: Invalid value: \"v\": must be empty for operator `Exists`",
            ),
            (
                at("tolerations"),
                json!([{"operator": "Exists", "effect": "Other"}]),
                "spec.devices.requests[0].exactly.tolerations[0].effect: Unsupported value",
            ),
            (
                "/spec/devices/requests/1/firstAvailable/1/name",
                json!("fast"),
                "spec.devices.requests[1].firstAvailable[1]: Duplicate value: \"fast\"",
            ),
            (
                "/spec/devices/constraints/0/requests/0",
                json!("no"),
                text(format!("spec.devices.constraints[0].requests[0]: Invalid value: \"no\": {reference}")),
            ),
            (
                "/spec/devices/constraints/0/requests/1",
                json!("nic/no"),
                text(format!(
                    "spec.devices.constraints[0].requests[1]: Invalid value: \"nic/no\": {reference}"
                )),
            ),
            (
                "/spec/devices/constraints/0/matchAttribute",
                json!("numa"),
                "spec.devices.constraints[0].matchAttribute: Invalid value: \"numa\": a fully qualified name must be a domain and a name separated by a slash",
            ),
            (
                "/spec/devices/constraints/0/matchAttribute",
                Value::Null,
                "spec.devices.constraints[0]: Required value: exactly one of",
            ),
            ("/spec/devices/config/0/opaque", Value::Null, "spec.devices.config[0].opaque: Required value"),
            (
                "/spec/devices/config/0/opaque/driver",
                json!(""),
                "spec.devices.config[0].opaque.driver: Required value",
            ),
            (
                "/spec/devices/config/0/opaque/parameters",
                json!([1]),
                "spec.devices.config[0].opaque.parameters: Invalid value: \"<value omitted>\": must be a valid JSON object",
            ),
            (
                "/spec/devices/config/0/opaque/parameters",
                json!({"a": "x".repeat(10240)}),
                "spec.devices.config[0].opaque.parameters: Too long: may not be more than 10240 bytes",
            ),
        ],
    );
}

#[test]
fn a_claim_gets_devices_once_and_consumers_as_long_as_it_lasts() {
    let result = json!({"request": "gpu", "driver": "gpu.example.com", "pool": "node-1", "device": "gpu-0"});
    let mut had = claim();
    had["status"] = json!({"allocation": {"devices": {"results": [result]}}});
    let consumer = |uid: &str| json!({"resource": "pods", "name": "p", "uid": uid});
    let found = |old: &Value, changes: &[(&str, Value)]| update_faults(old, "status", changes);
    assert_eq!(found(&claim(), &[("/status", had["status"].clone())]), Vec::<String>::new());
    assert_eq!(
        found(&had, &[("/status/reservedFor", json!([consumer("1"), consumer("2")]))]),
        Vec::<String>::new()
    );
    for (old, pointer, value, expected) in [
        (
            &claim(),
            "/status/reservedFor",
            json!([consumer("1")]),
            "status.reservedFor: Forbidden: may not be specified when `allocated` is not set",
        ),
        (
            &had,
            "/status/reservedFor",
            json!([consumer("1"), consumer("1")]),
            "status.reservedFor[1]: Duplicate value: \"1\"",
        ),
        (
            &had,
            "/status/reservedFor",
            json!([{"resource": "pods", "name": "p"}]),
            "status.reservedFor[0].uid: Required value",
        ),
        (
            &had,
            "/status/allocation/devices/results/0/device",
            json!("gpu-1"),
            "status.allocation: Invalid value: ",
        ),
        (
            &claim(),
            "/status/allocation",
            json!({"devices": {"results": [{"request": "x", "driver": "d", "pool": "p", "device": "d"}]}}),
            "status.allocation.devices.results[0].request: Invalid value: \"x\": must be the name of a request",
        ),
        (
            &claim(),
            "/status/allocation",
            json!({"devices": {"results": [{"request": "gpu", "driver": "d", "pool": "", "device": "d", "shareID": "x"}]}}),
            "status.allocation.devices.results[0].shareID: Invalid value: \"x\": error validating uid: invalid UUID length: 1",
        ),
        (
            &had,
            "/status/devices",
            json!([{"driver": "other", "pool": "p", "device": "d"}]),
            "status.devices[0]: Invalid value: \"other/p/d\": must be an allocated device in the claim",
        ),
        (
            &had,
            "/status/devices",
            json!([{"driver": "gpu.example.com", "pool": "node-1", "device": "gpu-0", "conditions": [{"type": "Ready", "status": "Yes"}]}]),
            "status.devices[0].conditions[0].status: Unsupported value: \"Yes\"",
        ),
        (
            &had,
            "/status/devices",
            json!([{"driver": "gpu.example.com", "pool": "node-1", "device": "gpu-0", "networkData": {"ips": ["10.0.0.1"]}}]),
            "status.devices[0].networkData.ips[0]: Invalid value: \"10.0.0.1\": must be a valid address in CIDR form",
        ),
    ] {
        let faults = found(old, &[(pointer, value)]);
        assert!(faults.iter().any(|it| it.starts_with(expected)), "found {faults:#?}\nexpected {expected}");
    }
}

#[test]
fn each_fault_of_a_slice_has_its_path() {
    let good = json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": "s"},
        "spec": {"driver": "gpu.example.com", "nodeName": "n", "pool": {"name": "n", "resourceSliceCount": 1, "generation": 1},
            "devices": [{"name": "gpu-0", "attributes": {"model": {"string": "x"}, "other.org/v": {"version": "1.2.3"}},
                "capacity": {"memory": {"value": "4Gi"}}}]},
    });
    let many =
        |count: usize| json!((0..count).map(|at| json!({"name": format!("d{at}")})).collect::<Vec<_>>());
    let mut tainted = many(65);
    tainted[0]["taints"] = json!([{"key": "a", "effect": "NoSchedule"}]);
    each_change_has_its_fault(
        &good,
        vec![
            ("/spec/devices", many(129), "spec.devices: Too many: 129: must have at most 128 items"),
            ("/spec/devices", tainted, "spec.devices: Too many: 65: must have at most 64 items"),
            (
                "/spec/nodeName",
                Value::Null,
                "spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required",
            ),
            (
                "/spec/allNodes",
                json!(true),
                "spec: Invalid value: \"{`nodeName`, `allNodes`}\": exactly one of",
            ),
            (
                "/spec/allNodes",
                json!(false),
                "spec.allNodes: Invalid value: false: must be either unset or set to true",
            ),
            (
                "/spec/pool/resourceSliceCount",
                json!(0),
                "spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero",
            ),
            (
                "/spec/pool/generation",
                json!(-1),
                "spec.pool.generation: Invalid value: -1: must be greater than or equal to zero",
            ),
            (
                "/spec/sharedCounters",
                json!([{"name": "c", "counters": {"n": {"value": "1"}}}]),
                "spec: Invalid value: \"\": only one of `sharedCounters` or `devices` is allowed",
            ),
            (
                "/spec/devices/0/attributes",
                json!({"a/b/c": {"int": 1}}),
                "spec.devices[0].attributes: Invalid value: \"a/b/c\": must not contain more than one slash",
            ),
            (
                "/spec/devices/0/attributes",
                json!({"1x": {"int": 1}}),
                "spec.devices[0].attributes: Invalid value: \"1x\": a valid C identifier",
            ),
            (
                "/spec/devices/0/attributes",
                json!({"a": {}}),
                "spec.devices[0].attributes[a]: Invalid value: \"\": exactly one value must be specified",
            ),
            (
                "/spec/devices/0/attributes",
                json!({"a": {"version": "1"}}),
                "spec.devices[0].attributes[a].version: Invalid value: \"1\": must be a string compatible with semver.org spec 2.0.0",
            ),
            (
                "/spec/devices/0/nodeName",
                json!("n"),
                "spec.devices[0]: Invalid value: null: `nodeName`, `nodeSelector` and `allNodes` can only be set",
            ),
            (
                "/spec/devices/0/capacity/memory/requestPolicy",
                json!({"default": "1Gi"}),
                "spec.devices[0].capacity[memory].requestPolicy: Forbidden: allowMultipleAllocations must be true",
            ),
            (
                "/spec/devices/0/taints",
                json!([{"key": "a"}]),
                "spec.devices[0].taints[0].effect: Required value",
            ),
            (
                "/spec/devices/0/bindingConditions",
                json!(["a"]),
                "spec.devices[0].bindingFailureConditions: Invalid value: null: bindingFailureConditions are required",
            ),
        ],
    );
    let mut shared = good.clone();
    shared["spec"]["devices"][0]["allowMultipleAllocations"] = true.into();
    let policy = |policy: Value| ("/spec/devices/0/capacity/memory/requestPolicy", policy);
    let range = |range: Value| policy(json!({"default": "1Gi", "validRange": range})).1;
    each_change_has_its_fault(
        &shared,
        vec![
            (
                policy(Value::Null).0,
                json!({"validValues": ["1Gi"]}),
                "spec.devices[0].capacity[memory].requestPolicy.default: Required value: required when validValues is defined",
            ),
            (
                policy(Value::Null).0,
                json!({"default": "1Gi", "validValues": ["2Gi"]}),
                "spec.devices[0].capacity[memory].requestPolicy.validValues: Invalid value: \"1Gi\": default value is not valid",
            ),
            (
                policy(Value::Null).0,
                range(json!({"min": "5Gi"})),
                "spec.devices[0].capacity[memory].requestPolicy.validRange.min: Invalid value: \"5Gi\": min is larger than capacity value: 4Gi",
            ),
            (
                policy(Value::Null).0,
                range(json!({"min": "512Mi", "step": "300Mi"})),
                "spec.devices[0].capacity[memory].requestPolicy.validRange.step: Invalid value: \"1Gi\": value is not a multiple of a given step (300Mi) from (512Mi)",
            ),
        ],
    );
    assert_eq!(
        update_faults(&good, "", &[("/spec/driver", json!("other")), ("/spec/nodeName", json!("m"))]),
        [
            "spec.driver: Invalid value: \"other\": field is immutable",
            "spec.nodeName: Invalid value: \"m\": field is immutable"
        ]
    );
}
