//! One stored object in two versions.

use serde_json::json;

use crate::harness::Server;

const CORE: &str = "/api/v1/namespaces/default/events";
const NEW: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

#[tokio::test]
async fn an_event_is_one_object_in_both_groups() {
    let server = Server::start().await;
    let event = json!({
        "metadata": {"name": "a"}, "regarding": {"kind": "Pod", "namespace": "default", "name": "p"}, "note": "text",
        "reason": "Started", "type": "Normal", "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "example.com/c", "reportingInstance": "i", "action": "Start",
    });
    let created = server.post(NEW, event).await.ok();
    assert_eq!(created["apiVersion"], "events.k8s.io/v1");
    assert_eq!(created["note"], "text");
    let core = server.get(&format!("{CORE}/a")).await.ok();
    assert_eq!((&core["apiVersion"], &core["message"]), (&json!("v1"), &json!("text")));
    assert_eq!(core["involvedObject"]["name"], "p");
    assert_eq!(core["metadata"]["uid"], created["metadata"]["uid"]);
    server.merge(&format!("{CORE}/a"), json!({"message": "newer", "count": 2})).await.ok();
    let patched = server
        .merge(
            &format!("{NEW}/a"),
            json!({"series": {"count": 3, "lastObservedTime": "2026-01-01T00:00:01.000000Z"}}),
        )
        .await
        .ok();
    assert_eq!((&patched["note"], &patched["deprecatedCount"]), (&json!("newer"), &json!(2)));
    let listed = server.get(&format!("{NEW}?fieldSelector=regarding.name%3Dp")).await.ok();
    assert_eq!(listed["items"][0]["series"]["count"], 3);
    assert_eq!(listed["items"][0]["kind"], "Event");
    let none = server.get(&format!("{CORE}?fieldSelector=involvedObject.name%3Dother")).await.ok();
    assert_eq!(none["items"], json!([]));
    let message = server.post(NEW, json!({"metadata": {"name": "b"}, "reason": "r"})).await.fails(422);
    assert!(message.contains("eventTime: Required value"), "{message}");
}

#[tokio::test]
async fn an_autoscaler_is_served_in_both_versions() {
    let server = Server::start().await;
    let v1 = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    let v2 = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let body = json!({"metadata": {"name": "web"}, "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 60,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}}});
    server.post(v1, body).await.ok();
    let new = server.get(&format!("{v2}/web")).await.ok();
    assert_eq!(new["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 60);
    let old = server.get(&format!("{v1}/web")).await.ok();
    assert_eq!(old["spec"]["targetCPUUtilizationPercentage"], 60);
    assert_eq!(old["apiVersion"], "autoscaling/v1");
}
