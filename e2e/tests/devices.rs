//! Claims to devices, and ranges of Services' addresses, as kubectl sees them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use keelson_e2e::{LONG, Server, eventually};

const CLAIMS: &str = r#"
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: gpus}
spec: {selectors: [{cel: {expression: 'device.driver == "gpu.example.com"'}}]}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: one}
spec:
  spec:
    devices:
      requests:
      - name: gpu
        exactly:
          deviceClassName: gpus
          selectors: [{cel: {expression: 'device.capacity["gpu.example.com"].memory.compareTo(quantity("1Gi")) >= 0'}}]
---
apiVersion: resource.k8s.io/v1
kind: ResourceSlice
metadata: {name: n1-gpus}
spec:
  driver: gpu.example.com
  nodeName: n1
  pool: {name: n1, resourceSliceCount: 1, generation: 1}
  devices:
  - name: gpu-0
    attributes: {model: {string: fast}, version: {version: 1.2.3}}
    capacity: {memory: {value: 4Gi}}
"#;

const CLAIM: &str = r#"
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {name: mine}
spec:
  devices:
    requests:
    - name: gpu
      exactly: {deviceClassName: gpus, count: 1}
    constraints: [{requests: [gpu], matchAttribute: gpu.example.com/model}]
"#;

#[test]
fn kubectl_claims_devices_and_is_told_what_is_wrong() {
    let server = Server::start().unwrap();
    server.kubectl_with(&["apply", "-f", "-"], CLAIMS).unwrap();
    server.kubectl_with(&["apply", "-f", "-"], CLAIM).unwrap();
    let refused =
        |manifest: &str| server.kubectl_with(&["apply", "-f", "-"], manifest).unwrap_err().to_string();
    let told = refused(&CLAIM.replace("count: 1", "count: 2"));
    assert!(told.contains("field is immutable"), "{told}");
    let other = CLAIM.replace("mine", "other");
    let told = refused(&other.replace("[gpu]", "[cpu]"));
    let text = "spec.devices.constraints[0].requests[0]: Invalid value: \"cpu\": must be the name of a request in the claim";
    assert!(told.contains(text), "{told}");
    let told = refused(&CLAIMS.replace("device.driver ==", "device.drivers =="));
    assert!(told.contains("undefined field 'drivers'"), "{told}");
    let told = refused(&CLAIMS.replace("1.2.3", "v1"));
    assert!(told.contains("must be a string compatible with semver.org spec 2.0.0"), "{told}");
}

#[test]
fn kubectl_deletes_a_range_when_its_addresses_are_gone() {
    let server = Server::start().unwrap();
    let manifest = "{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: more}, spec: {cidrs: [10.50.0.0/24]}}";
    server.kubectl_with(&["apply", "-f", "-"], manifest).unwrap();
    server.kubectl(&["wait", "servicecidr/more", "--for=condition=Ready"]).unwrap();
    server.kubectl(&["create", "service", "clusterip", "web", "--tcp=80", "--clusterip=10.50.0.9"]).unwrap();
    server.kubectl(&["delete", "servicecidr", "more", "--wait=false"]).unwrap();
    server.kubectl(&["wait", "servicecidr/more", "--for=condition=Ready=False"]).unwrap();
    let reason = "jsonpath={.status.conditions[0].reason} {.metadata.finalizers[0]}";
    let shown = server.kubectl(&["get", "servicecidr", "more", "-o", reason]).unwrap();
    assert_eq!(shown, "Terminating networking.k8s.io/service-cidr-finalizer");
    server.kubectl(&["delete", "service", "web"]).unwrap();
    eventually("the range to go", LONG, || Ok(server.kubectl_fails(&["get", "servicecidr", "more"]).ok()))
        .unwrap();
}
