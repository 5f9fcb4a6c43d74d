//! What makes pods, and what guards them.

use serde_json::{Value, json};

use crate::harness::Server;

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn deployment(selected: &str) -> Value {
    json!({"metadata": {"name": "web"}, "spec": {
        "selector": {"matchLabels": {"app": selected}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}},
    }})
}

#[tokio::test]
async fn a_deployment_selects_its_own_template_for_ever() {
    let server = Server::start().await;
    let message = server.post(DEPLOYMENTS, deployment("other")).await.fails(422);
    assert_eq!(
        message,
        r#"Deployment.apps "web" is invalid: spec.template.metadata.labels: Invalid value: {"app":"web"}: `selector` does not match template `labels`"#
    );
    server.post(DEPLOYMENTS, deployment("web")).await.ok();
    let path = format!("{DEPLOYMENTS}/web");
    let message =
        server.merge(&path, json!({"spec": {"selector": {"matchLabels": {"more": "x"}}}})).await.fails(422);
    assert!(message.contains("field is immutable"), "{message}");
    let scaled = server.merge(&path, json!({"spec": {"replicas": 3}})).await.ok();
    assert_eq!(scaled["metadata"]["generation"], 2);
    let noted = server.merge(&path, json!({"metadata": {"annotations": {"a": "b"}}})).await.ok();
    assert_eq!(noted["metadata"]["generation"], 3);
    let labelled = server.merge(&path, json!({"metadata": {"labels": {"a": "b"}}})).await.ok();
    assert_eq!(labelled["metadata"]["generation"], 3);
}

#[tokio::test]
async fn a_job_finds_its_pods_by_its_own_uid() {
    let server = Server::start().await;
    let path = "/apis/batch/v1/namespaces/default/jobs";
    let mut body = json!({"metadata": {"name": "j"}, "spec": {"template": {"spec": {"containers": [{"name": "c", "image": "x"}]}}}});
    let message = server.post(path, body.clone()).await.fails(422);
    assert!(
        message.contains(
            r#"spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never""#
        ),
        "{message}"
    );
    body["spec"]["template"]["spec"]["restartPolicy"] = "Never".into();
    let job = server.post(path, body).await.ok();
    let uid = &job["metadata"]["uid"];
    assert_eq!(job["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"], *uid);
    assert_eq!(job["spec"]["template"]["metadata"]["labels"]["job-name"], "j");
}

#[tokio::test]
async fn a_budget_says_what_stays_or_what_may_go_but_not_both() {
    let server = Server::start().await;
    let spec = json!({"minAvailable": 1, "maxUnavailable": "10%", "selector": {"matchLabels": {"a": "b"}}});
    let path = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let message = server.post(path, json!({"metadata": {"name": "p"}, "spec": spec})).await.fails(422);
    assert!(message.ends_with("minAvailable and maxUnavailable cannot be both set"), "{message}");
}
