//! Pods: what is filled in, what is refused, what may change.

use serde_json::{Value, json};

use crate::harness::Server;

const PODS: &str = "/api/v1/namespaces/default/pods";

fn pod(spec: Value) -> Value {
    json!({"metadata": {"name": "a"}, "spec": spec})
}

#[tokio::test]
async fn a_new_pod_gets_its_class_its_token_and_its_tolerations() {
    let server = Server::start().await;
    let spec = json!({"containers": [{"name": "c", "image": "x", "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}}}]});
    let made = server.post(PODS, pod(spec)).await.ok();
    assert_eq!(made["status"], json!({"phase": "Pending", "qosClass": "Guaranteed"}));
    assert_eq!(made["metadata"]["generation"], 1);
    let resources = &made["spec"]["containers"][0]["resources"];
    assert_eq!(
        *resources,
        json!({"limits": {"cpu": "500m", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}})
    );
    let volume = made["spec"]["volumes"][0]["name"].as_str().unwrap();
    assert!(volume.starts_with("kube-api-access-"), "{volume}");
    assert_eq!(made["spec"]["tolerations"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn every_fault_of_a_pod_is_told_at_once() {
    let server = Server::start().await;
    let spec = json!({"restartPolicy": "Sometimes", "containers": [
        {"name": "c", "image": "x", "volumeMounts": [{"name": "none", "mountPath": "/x"}],
            "livenessProbe": {"periodSeconds": 1}, "ports": [{"containerPort": 99999}]},
        {"name": "c", "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}},
    ]});
    let message = server.post(PODS, pod(spec)).await.fails(422);
    for part in [
        r#"Pod "a" is invalid: ["#,
        r#"spec.containers[0].volumeMounts[0].name: Not found: "none""#,
        "spec.containers[0].livenessProbe: Required value: must specify a handler type",
        "spec.containers[0].ports[0].containerPort: Invalid value: 99999: must be between 1 and 65535, inclusive",
        r#"spec.containers[1].name: Duplicate value: "c""#,
        "spec.containers[1].image: Required value",
        r#"spec.containers[1].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1"#,
        r#"spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never""#,
    ] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
}

#[tokio::test]
async fn a_pods_image_may_change_but_its_command_may_not_and_each_path_writes_its_own_part() {
    let server = Server::start().await;
    let made = server.post(PODS, pod(json!({"containers": [{"name": "c", "image": "x:1"}]}))).await.ok();
    let path = format!("{PODS}/a");
    let mut changed = made.clone();
    changed["spec"]["containers"][0]["image"] = "x:2".into();
    changed["status"]["phase"] = "Running".into();
    let changed = server.put(&path, changed).await.ok();
    assert_eq!(
        (&changed["status"]["phase"], &changed["metadata"]["generation"]),
        (&json!("Pending"), &json!(2))
    );
    let mut refused = changed.clone();
    refused["spec"]["containers"][0]["command"] = json!(["sh"]);
    let message = server.put(&path, refused.clone()).await.fails(422);
    assert!(
        message.starts_with(
            "Pod \"a\" is invalid: spec: Forbidden: pod updates may not change fields other than"
        ),
        "{message}"
    );
    refused["status"] = json!({"phase": "Running"});
    let status = server.put(&format!("{path}/status"), refused).await.ok();
    assert_eq!(status["spec"], changed["spec"]);
    assert_eq!(status["status"], json!({"phase": "Running", "qosClass": "BestEffort"}));
    assert_eq!(status["metadata"]["generation"], 2);
}

#[tokio::test]
async fn an_ephemeral_container_comes_by_its_own_path_and_stays() {
    let server = Server::start().await;
    server.post(PODS, pod(json!({"containers": [{"name": "c", "image": "x:1"}]}))).await.ok();
    let path = format!("{PODS}/a/ephemeralcontainers");
    let debugger = json!({"name": "debugger", "image": "busybox", "targetContainerName": "c", "stdin": true});
    let added = server
        .merge(&path, json!({"spec": {"ephemeralContainers": [debugger], "nodeName": "other"}}))
        .await
        .ok();
    assert_eq!(added["spec"]["ephemeralContainers"][0]["imagePullPolicy"], "Always");
    assert_eq!(added["spec"].get("nodeName"), None);
    let message = server.merge(&path, json!({"spec": {"ephemeralContainers": []}})).await.fails(422);
    assert!(message.contains(r#"existing ephemeral containers "debugger" may not be removed"#), "{message}");
    let wrong = json!({"name": "c", "image": "busybox", "resources": {"limits": {"cpu": "1"}}});
    let message = server
        .json_patch(&path, json!([{"op": "add", "path": "/spec/ephemeralContainers/-", "value": wrong}]))
        .await
        .fails(422);
    assert!(message.contains(r#"spec.ephemeralContainers[1].name: Duplicate value: "c""#), "{message}");
    assert!(message.contains("resources: Forbidden: cannot be set for an Ephemeral Container"), "{message}");
}

#[tokio::test]
async fn a_json_patch_may_name_the_revision_that_it_is_for() {
    let server = Server::start().await;
    let made = server.post(PODS, pod(json!({"containers": [{"name": "c", "image": "x:1"}]}))).await.ok();
    let path = format!("{PODS}/a");
    let first = made["metadata"]["resourceVersion"].clone();
    server.merge(&path, json!({"metadata": {"labels": {"a": "b"}}})).await.ok();
    let label = json!({"op": "add", "path": "/metadata/labels/c", "value": "d"});
    let named = json!([{"op": "replace", "path": "/metadata/resourceVersion", "value": first}, label]);
    assert!(server.json_patch(&path, named).await.fails(409).contains("the object has been modified"));
    let tested = json!([{"op": "test", "path": "/metadata/resourceVersion", "value": first}, label]);
    assert_eq!(server.json_patch(&path, tested).await.0, 422);
    server.json_patch(&path, json!([label])).await.ok();
}

#[tokio::test]
async fn a_pod_is_resized_by_its_own_path_and_counted() {
    let server = Server::start().await;
    let resources = json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}});
    let spec = json!({"containers": [{"name": "c", "image": "x:1", "resources": resources}]});
    server.post(PODS, pod(spec)).await.ok();
    let path = format!("{PODS}/a");
    let resized = json!({"spec": {"containers": [{"name": "c", "image": "y", "resources": {"requests": {"cpu": 0.2}, "limits": {"cpu": "1"}}}]}});
    let made = server.merge(&format!("{path}/resize"), resized.clone()).await.ok();
    let container = &made["spec"]["containers"][0];
    assert_eq!(
        (&container["resources"]["requests"]["cpu"], &container["image"]),
        (&json!("200m"), &json!("x:1"))
    );
    assert_eq!(made["metadata"]["generation"], 2);
    let message = server.merge(&path, resized).await.fails(422);
    assert!(message.contains("pod updates may not change fields other than"), "{message}");
    let more = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1", "example.com/a": "1"}}}]}});
    let message = server.merge(&format!("{path}/resize"), more).await.fails(422);
    assert!(message.contains("only cpu and memory resources are mutable"), "{message}");
}

#[tokio::test]
async fn what_no_node_acts_on_is_refused_and_what_stands_for_a_field_becomes_it() {
    let server = Server::start().await;
    let with = |annotations: Value, extra: Value| {
        let mut spec = json!({"containers": [{"name": "c", "image": "x"}]});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({"metadata": {"name": "a", "annotations": annotations}, "spec": spec})
    };
    let nfs = json!({"volumes": [{"name": "v", "nfs": {"server": "s", "path": "/"}}]});
    let message = server.post(PODS, with(json!({}), nfs.clone())).await.fails(422);
    let expected = "spec.volumes[0].nfs: Forbidden: volumes of type nfs are not supported; use a volume of a CSI driver such as nfs.csi.k8s.io";
    assert!(message.contains(expected), "{message}");

    let armour = "container.apparmor.security.beta.kubernetes.io/c";
    let group = json!({"schedulingGroup": {"podGroupName": "g"}});
    let made = server.post(PODS, with(json!({armour: "localhost/own"}), group)).await.ok();
    assert_eq!(made["spec"].get("schedulingGroup"), None);
    let profile = json!({"type": "Localhost", "localhostProfile": "own"});
    assert_eq!(made["spec"]["containers"][0]["securityContext"]["appArmorProfile"], profile);

    let path = format!("{PODS}/a");
    let annotate = |key: &str, value: Value| json!({"metadata": {"annotations": {key: value}}});
    for (patch, expected) in [
        (annotate(armour, Value::Null), "may not remove or update AppArmor annotations"),
        (annotate("kubernetes.io/config.mirror", "x".into()), "may not add mirror pod annotation"),
        (annotate("controller.kubernetes.io/pod-deletion-cost", "much".into()), "must be a 32bit integer"),
    ] {
        let message = server.merge(&path, patch.clone()).await.fails(422);
        assert!(message.contains(expected), "{message}");
        let status = format!("{path}/status");
        assert!(server.merge(&status, patch).await.fails(422).contains(expected));
    }
}
