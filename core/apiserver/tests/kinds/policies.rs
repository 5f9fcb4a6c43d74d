//! Admission policies and match conditions through the whole server.

use http::Method;
use keelson_apiserver::Identity;
use serde_json::{Value, json};

use crate::harness::Server;
use crate::hook_server::{HookServer, answer};

const API: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn policy(name: &str, spec: Value) -> Value {
    let rule = json!({"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]});
    let mut whole = json!({"matchConstraints": {"resourceRules": [rule]}});
    for (field, value) in spec.as_object().unwrap() {
        whole[field] = value.clone();
    }
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name}, "spec": whole})
}

fn binding(policy: &str, spec: Value) -> Value {
    let mut whole = json!({"policyName": policy, "validationActions": ["Deny"]});
    for (field, value) in spec.as_object().unwrap() {
        whole[field] = value.clone();
    }
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": format!("{policy}-binding")}, "spec": whole})
}

async fn configure(server: &Server, policy: Value, binding: Value) {
    server.post(&format!("{API}/validatingadmissionpolicies"), policy).await.ok();
    server.post(&format!("{API}/validatingadmissionpolicybindings"), binding).await.ok();
}

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

#[tokio::test]
async fn a_policy_refuses_what_does_not_hold_with_its_message_and_reason() {
    let server = Server::start().await;
    let spec = json!({
        "variables": [{"name": "size", "expression": "int(object.data.size)"}],
        "matchConditions": [{"name": "has-size", "expression": "'size' in object.data"}],
        "validations": [
            {"expression": "variables.size <= 5", "messageExpression": "'too large: ' + string(variables.size)"},
            {"expression": "variables.size != 3", "message": "not three", "reason": "Forbidden"},
        ],
    });
    configure(&server, policy("small", spec), binding("small", json!({}))).await;
    server.post(MAPS, map("none", json!({"a": "b"}))).await.ok();
    server.post(MAPS, map("fine", json!({"size": "4"}))).await.ok();
    let by = "ValidatingAdmissionPolicy 'small' with binding 'small-binding' denied request";
    let refused = server.post(MAPS, map("large", json!({"size": "9"}))).await.fails(422);
    assert_eq!(refused, format!("configmaps \"large\" is forbidden: {by}: too large: 9"));
    let refused = server.post(MAPS, map("three", json!({"size": "3"}))).await.fails(403);
    assert_eq!(refused, format!("configmaps \"three\" is forbidden: {by}: not three"));
    let refused = server.post(MAPS, map("odd", json!({"size": "x"}))).await.fails(422);
    assert!(refused.contains("expression 'variables.size <= 5' resulted in error: "), "{refused}");
    let path = format!("{API}/validatingadmissionpolicybindings/small-binding");
    server.delete(&path, json!({})).await.ok();
    server.post(MAPS, map("large", json!({"size": "9"}))).await.ok();
}

#[tokio::test]
async fn parameters_come_from_objects_that_a_binding_names() {
    let server = Server::start().await;
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConditions": [{"name": "other", "expression": "object.metadata.name != 'limits'"}],
        "validations": [{"expression": "size(object.data) <= int(params.data.max)"}],
    });
    let reference = json!({"paramRef": {"name": "limits", "parameterNotFoundAction": "Deny"}});
    server.post(MAPS, map("limits", json!({"max": "1"}))).await.ok();
    configure(&server, policy("limited", spec), binding("limited", reference)).await;
    server.post(MAPS, map("one", json!({"a": "1"}))).await.ok();
    let refused = server.post(MAPS, map("two", json!({"a": "1", "b": "2"}))).await.fails(422);
    assert!(refused.ends_with("failed expression: size(object.data) <= int(params.data.max)"), "{refused}");
    server.delete(&format!("{MAPS}/limits"), json!({})).await.ok();
    let refused = server.post(MAPS, map("two", json!({"a": "1"}))).await.fails(422);
    assert!(refused.contains("failed to configure binding: no params found for policy binding"), "{refused}");
}

#[tokio::test]
async fn expressions_ask_the_authorizer_about_the_caller() {
    let server = Server::start().await;
    let spec = json!({"validations": [
        {"expression": "authorizer.group('').resource('secrets').namespace('default').check('get').allowed()"}]});
    configure(&server, policy("trusted", spec), binding("trusted", json!({}))).await;
    server.post(MAPS, map("one", json!({}))).await.ok();
}

#[tokio::test]
async fn what_does_not_compile_is_refused_and_what_does_not_fit_a_kind_is_told_in_the_status() {
    let server = Server::start().await;
    let path = format!("{API}/validatingadmissionpolicies");
    let broken = policy("broken", json!({"validations": [{"expression": "object.data +"}]}));
    let refused = server.post(&path, broken).await.fails(422);
    assert!(
        refused.contains(
            "spec.validations[0].expression: Invalid value: \"object.data +\": compilation failed: "
        ),
        "{refused}"
    );
    let odd = policy("odd", json!({"validations": [{"expression": "object.spec.replicas > 1"}]}));
    let made = server.post(&path, odd).await.ok();
    assert_eq!(made["status"]["observedGeneration"], 1);
    let warning = &made["status"]["typeChecking"]["expressionWarnings"][0];
    assert_eq!(warning["fieldRef"], "spec.validations[0].expression");
    assert!(warning["warning"].as_str().unwrap().starts_with("v1, Kind=ConfigMap: ERROR: "), "{warning}");
    let fine = policy("fine", json!({"validations": [{"expression": "object.data.size() < 5"}]}));
    assert_eq!(server.post(&path, fine).await.ok()["status"]["typeChecking"], json!({}));
}

#[tokio::test]
async fn a_webhook_is_asked_only_where_its_conditions_hold() {
    let hooks = HookServer::start(|_, review| answer(review, json!({"allowed": false}))).await;
    let server = Server::start().await;
    let hook = |expression: &str| {
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "v"}, "webhooks": [{"name": "deny.example.com", "clientConfig": hooks.client_config("x"),
                "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
                "sideEffects": "None", "admissionReviewVersions": ["v1"],
                "matchConditions": [{"name": "skip", "expression": expression}]}]})
    };
    let path = format!("{API}/validatingwebhookconfigurations");
    let refused = server.post(&path, hook("object.metadata.name +")).await.fails(422);
    assert!(refused.contains("webhooks[0].matchConditions[0].expression: Invalid value"), "{refused}");
    server.post(&path, hook("object.metadata.name != 'skip-me' && request.operation == 'CREATE'")).await.ok();
    server.post(MAPS, map("skip-me", json!({}))).await.ok();
    server.post(MAPS, map("other", json!({}))).await.fails(400);
    assert_eq!(hooks.take_requests().len(), 1);
}

#[tokio::test]
async fn nobody_has_parameters_read_that_they_may_not_read() {
    let server = Server::start().await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let rule = json!({"apiGroups": ["admissionregistration.k8s.io"], "resources": ["*"], "verbs": ["*"]});
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "policies"}, "rules": [rule]});
    server.post(&format!("{rbac}/clusterroles"), role).await.ok();
    let grant = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "policies"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "policies"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann"}]});
    server.post(&format!("{rbac}/clusterrolebindings"), grant).await.ok();
    let ann = || Identity::user("ann", &[]);
    let (policies, bindings) =
        (format!("{API}/validatingadmissionpolicies"), format!("{API}/validatingadmissionpolicybindings"));
    let spec = json!({"paramKind": {"apiVersion": "v1", "kind": "Secret"},
        "validations": [{"expression": "false", "messageExpression": "string(params.data.key)"}]});
    let refused = server.act(ann(), Method::POST, &policies, policy("peek", spec.clone())).await.fails(422);
    let wants = "on all objects of the referenced paramKind (kind=Secret, apiVersion=v1)";
    assert!(
        refused.contains(&format!(
            "spec.paramKind: Forbidden: user \"ann\" must have \"get\" permission {wants}"
        )),
        "{refused}"
    );
    server.post(&policies, policy("peek", spec)).await.ok();
    let reference =
        json!({"paramRef": {"name": "s", "namespace": "default", "parameterNotFoundAction": "Allow"}});
    let refused = server.act(ann(), Method::POST, &bindings, binding("peek", reference)).await.fails(422);
    assert!(refused.contains("on the object referenced by paramRef"), "{refused}");
    server.act(ann(), Method::POST, &bindings, binding("peek", json!({}))).await.ok();
}
