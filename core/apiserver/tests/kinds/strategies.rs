//! What the server fills in, leaves out and keeps, kind by kind.

use serde_json::{Value, json};

use crate::harness::Server;

const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";

fn pod_spec() -> Value {
    json!({"containers": [{"name": "c", "image": "i", "stdin": false, "command": [],
        "env": [{"name": "A", "value": ""}], "resources": {"limits": {"cpu": 1}}}],
        "hostNetwork": false, "tolerations": [], "volumes": [{"name": "v"}],
        "schedulingGroup": {"podGroupName": "g"}})
}

#[tokio::test]
async fn a_pod_gets_more_than_a_template_of_pods() {
    let server = Server::start().await;
    let pod = server.post(PODS, json!({"metadata": {"name": "p"}, "spec": pod_spec()})).await.ok();
    let (spec, container) = (&pod["spec"], &pod["spec"]["containers"][0]);
    assert_eq!(spec["enableServiceLinks"], true);
    assert_eq!(container["resources"], json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}));
    assert_eq!(spec["volumes"][0], json!({"name": "v", "emptyDir": {}}));
    assert!(spec.get("hostNetwork").is_none() && spec.get("schedulingGroup").is_none(), "{spec}");
    assert_eq!(container["env"], json!([{"name": "A"}]));
    assert!(container.get("stdin").is_none() && container.get("command").is_none(), "{container}");

    let template = json!({"metadata": {"creationTimestamp": null, "labels": {"a": "b"}}, "spec": pod_spec()});
    let deployment = json!({"metadata": {"name": "d", "annotations": {}},
        "spec": {"replicas": 0, "paused": false, "selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let made = server.post(DEPLOYMENTS, deployment).await.ok();
    let template = &made["spec"]["template"];
    assert_eq!(template["metadata"], json!({"labels": {"a": "b"}}));
    assert!(template["spec"].get("enableServiceLinks").is_none(), "{template}");
    assert_eq!(template["spec"]["containers"][0]["resources"], json!({"limits": {"cpu": "1"}}));
    assert_eq!((&made["spec"]["replicas"], &made["status"]), (&json!(0), &json!({})));
    assert!(made["spec"].get("paused").is_none() && made["metadata"].get("annotations").is_none(), "{made}");
}

#[tokio::test]
async fn what_says_nothing_makes_no_difference_to_an_object() {
    let server = Server::start().await;
    let made = server.post(PODS, json!({"metadata": {"name": "p"}, "spec": pod_spec()})).await.ok();
    let again =
        server.merge(&format!("{PODS}/p"), json!({"spec": {"hostIPC": false, "nodeName": ""}})).await.ok();
    assert_eq!(again["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    // Yet who applies a zero takes back what another one has set.
    let config = |paused: bool| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"paused": paused,
            "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
    };
    let path = format!("{DEPLOYMENTS}/d");
    let first = server.apply(&path, "fieldManager=one", config(true)).await.ok();
    assert_eq!(first["spec"]["paused"], true);
    server.apply(&path, "fieldManager=two", config(false)).await.fails(409);
    let taken = server.apply(&path, "fieldManager=two&force=true", config(false)).await.ok();
    assert!(taken["spec"].get("paused").is_none(), "{taken}");
}

#[tokio::test]
async fn a_job_keeps_its_pods_unless_its_deletion_says_otherwise() {
    let server = Server::start().await;
    let template = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}});
    let made =
        server.post(JOBS, json!({"metadata": {"name": "j"}, "spec": {"template": template}})).await.ok();
    assert_eq!((&made["spec"]["backoffLimit"], &made["status"]), (&json!(6), &json!({})));
    let ending = server.delete(&format!("{JOBS}/j"), json!({})).await.ok();
    assert_eq!(ending["metadata"]["finalizers"], json!(["orphan"]));
    let cron = json!({"metadata": {"name": "k"},
        "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": template}}}});
    let cron = server.post("/apis/batch/v1/namespaces/default/cronjobs", cron).await.ok();
    let job = cron["spec"]["jobTemplate"]["spec"].as_object().unwrap();
    assert_eq!(job.keys().collect::<Vec<_>>(), ["template"]);
}

#[tokio::test]
async fn a_replacement_creates_what_its_kind_lets_it_and_asks_for_a_revision() {
    let server = Server::start().await;
    let class = json!({"metadata": {"name": "fast"}, "handler": "fast"});
    let path = "/apis/node.k8s.io/v1/runtimeclasses/fast";
    server.put(path, class.clone()).await.ok();
    let message = server.put(path, class).await.fails(422);
    assert!(message.contains("metadata.resourceVersion: Invalid value: 0: must be specified"), "{message}");
    let budget = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 0}});
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    server.put(&format!("{budgets}/b"), budget.clone()).await.fails(404);
    let made = server.post(budgets, budget).await.ok();
    assert_eq!(made["spec"]["minAvailable"], 0);
    let counts =
        json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0});
    assert_eq!(made["status"], counts);
    server
        .put(&format!("{budgets}/b/status"), json!({"metadata": {"name": "b"}, "status": counts}))
        .await
        .fails(422);
}

#[tokio::test]
async fn with_a_status_goes_what_its_kind_allows_of_the_metadata() {
    let server = Server::start().await;
    server.post(PODS, json!({"metadata": {"name": "p"}, "spec": pod_spec()})).await.ok();
    let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "1"}]);
    let change = json!({"metadata": {"labels": {"a": "b"}, "finalizers": ["x.io/y"], "ownerReferences": owner},
        "status": {"phase": "Running"}});
    let written = server.merge(&format!("{PODS}/p/status"), change).await.ok();
    let metadata = &written["metadata"];
    assert_eq!((&metadata["labels"]["a"], &metadata["finalizers"][0]), (&json!("b"), &json!("x.io/y")));
    assert!(metadata.get("ownerReferences").is_none(), "{metadata}");
}

#[tokio::test]
async fn volumes_accounts_and_namespaces_say_what_the_server_says_of_them() {
    let server = Server::start().await;
    let volume = json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/tmp"}}});
    let volume = server.post("/api/v1/persistentvolumes", volume).await.ok();
    assert_eq!(volume["status"]["phase"], "Pending");
    let created = volume["status"]["lastPhaseTransitionTime"].as_str().unwrap();
    assert!(created.ends_with('Z'), "{created}");
    assert_eq!(volume["spec"]["hostPath"], json!({"path": "/tmp", "type": ""}));
    let snapshot = json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "s"});
    let claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"], "dataSource": snapshot,
        "resources": {"requests": {"storage": "1Gi"}}}});
    let claim = server.post("/api/v1/namespaces/default/persistentvolumeclaims", claim).await.ok();
    assert_eq!(
        (&claim["spec"]["dataSourceRef"], &claim["status"]),
        (&snapshot, &json!({"phase": "Pending"}))
    );
    let account =
        json!({"metadata": {"name": "a"}, "secrets": [{"name": "s", "namespace": "other", "uid": "1"}]});
    let account = server.post("/api/v1/namespaces/default/serviceaccounts", account).await.ok();
    assert_eq!(account["secrets"], json!([{"name": "s"}]));
    let namespace = json!({"metadata": {"name": "n"}, "spec": {"finalizers": ["x.io/y"]}});
    let namespace = server.post("/api/v1/namespaces", namespace).await.ok();
    assert_eq!(namespace["spec"]["finalizers"], json!(["x.io/y", "kubernetes"]));
}

#[tokio::test]
async fn stateful_sets_and_claims_for_devices_are_filled_in() {
    let server = Server::start().await;
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}}});
    let set = json!({"metadata": {"name": "s"}, "spec": {"serviceName": "s", "selector": {"matchLabels": {"a": "b"}},
        "template": template, "volumeClaimTemplates": [claim]}});
    let path = "/apis/apps/v1/namespaces/default/statefulsets";
    let made = server.post(path, set).await.ok();
    let claim = &made["spec"]["volumeClaimTemplates"][0];
    assert_eq!((&claim["kind"], &claim["apiVersion"]), (&json!("PersistentVolumeClaim"), &json!("v1")));
    assert_eq!(
        (&claim["spec"]["volumeMode"], &claim["status"]["phase"]),
        (&json!("Filesystem"), &json!("Pending"))
    );
    assert_eq!(
        made["spec"]["updateStrategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})
    );
    server.merge(&format!("{path}/s"), json!({"spec": {"replicas": 2}})).await.ok();
    let devices = json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu.example.com"}}]});
    let claim = json!({"metadata": {"name": "g"}, "spec": {"devices": devices}});
    let claim = server.post("/apis/resource.k8s.io/v1/namespaces/default/resourceclaims", claim).await.ok();
    let asked = &claim["spec"]["devices"]["requests"][0]["exactly"];
    assert_eq!((&asked["allocationMode"], &asked["count"]), (&json!("ExactCount"), &json!(1)));
    assert_eq!(claim["status"], json!({}));
}
