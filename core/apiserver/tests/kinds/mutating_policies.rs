//! Policies that change objects, through the whole server.

use http::Method;
use keelson_apiserver::Identity;
use serde_json::{Value, json};

use crate::harness::Server;
use crate::hook_server::{HookServer, patched};

const API: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// A policy for objects of the core group, with one mutation.
fn policy(name: &str, resource: &str, patch_type: &str, expression: &str) -> Value {
    let field = if patch_type == "JSONPatch" { "jsonPatch" } else { "applyConfiguration" };
    let rule = json!({"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": [resource]});
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy", "metadata": {"name": name},
        "spec": {"matchConstraints": {"resourceRules": [rule]}, "reinvocationPolicy": "Never",
            "mutations": [{"patchType": patch_type, field: {"expression": expression}}]}})
}

fn binding(policy: &str, spec: Value) -> Value {
    let mut whole = json!({"policyName": policy});
    for (field, value) in spec.as_object().unwrap() {
        whole[field] = value.clone();
    }
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": format!("{policy}-binding")}, "spec": whole})
}

async fn configure(server: &Server, policy: Value, spec: Value) {
    let name = policy["metadata"]["name"].as_str().unwrap().to_owned();
    server.post(&format!("{API}/mutatingadmissionpolicies"), policy).await.ok();
    server.post(&format!("{API}/mutatingadmissionpolicybindings"), binding(&name, spec)).await.ok();
}

async fn refused(server: &Server, policy: Value) -> String {
    server.post(&format!("{API}/mutatingadmissionpolicies"), policy).await.fails(422)
}

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "main", "image": "main"}]}})
}

#[tokio::test]
async fn a_configuration_is_merged_into_the_object_and_filled_in() {
    let server = Server::start().await;
    let mut sidecar = policy(
        "sidecar",
        "pods",
        "ApplyConfiguration",
        "Object{spec: Object.spec{initContainers: [Object.spec.initContainers{name: 'mesh', image: variables.image, restartPolicy: 'Always'}]}}",
    );
    sidecar["spec"]["variables"] =
        json!([{"name": "image", "expression": "'mesh:' + object.spec.containers[0].image"}]);
    sidecar["spec"]["matchConditions"] = json!([{"name": "once",
        "expression": "!object.spec.?initContainers.orValue([]).exists(it, it.name == 'mesh')"}]);
    sidecar["spec"]["matchConstraints"]["objectSelector"] = json!({"matchLabels": {"mesh": "yes"}});
    configure(&server, sidecar, json!({})).await;
    assert!(server.post(PODS, pod("plain")).await.ok()["spec"].get("initContainers").is_none());
    let mut own = pod("own");
    own["metadata"]["labels"] = json!({"mesh": "yes"});
    own["spec"]["initContainers"] = json!([{"name": "first", "image": "first"}]);
    let made = server.post(PODS, own).await.ok();
    let injected = &made["spec"]["initContainers"];
    assert_eq!((injected[0]["name"].as_str(), injected[1]["name"].as_str()), (Some("first"), Some("mesh")));
    assert_eq!(
        (&injected[1]["image"], &injected[1]["imagePullPolicy"]),
        (&json!("mesh:main"), &json!("IfNotPresent"))
    );
    // What a policy sets belongs to nobody.
    let managed = made["metadata"]["managedFields"].to_string();
    assert!(managed.contains("first") && !managed.contains("mesh\\\"}"), "{managed}");
}

#[tokio::test]
async fn a_patch_is_applied_unless_its_test_fails() {
    let server = Server::start().await;
    let expression = "[JSONPatch{op: 'test', path: '/data/kind', value: 'a'},
        JSONPatch{op: 'add', path: '/metadata/labels', value: Object.metadata.labels{}},
        JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('example.com/by'), value: request.userInfo.username},
        JSONPatch{op: 'move', from: '/data/kind', path: '/data/was'}]";
    configure(&server, policy("label", "configmaps", "JSONPatch", expression), json!({})).await;
    let made = server.post(MAPS, map("a", json!({"kind": "a"}))).await.ok();
    assert_eq!(made["metadata"]["labels"], json!({"example.com/by": "kubernetes-admin"}));
    assert_eq!(made["data"], json!({"was": "a"}));
    let made = server.post(MAPS, map("b", json!({"kind": "b"}))).await.ok();
    assert_eq!((made["metadata"].get("labels"), &made["data"]), (None, &json!({"kind": "b"})));
    let refused = server.post(MAPS, map("none", json!({"x": "y"}))).await;
    assert_eq!(refused.1["reason"], "Invalid", "{}", refused.1);
    let message = refused.fails(403);
    assert!(
        message.starts_with("policy 'label' with binding 'label-binding' denied request: JSONPath: "),
        "{message}"
    );
    server.delete(&format!("{MAPS}/a"), json!({})).await.ok();
}

#[tokio::test]
async fn what_cannot_be_changed_is_denied_or_ignored_as_the_policy_says() {
    let metrics = keelson_metrics::Registry::default();
    let counted = metrics.clone();
    let server = Server::start_with(move |config| config.metrics = counted).await;
    let by = |name: &str| format!("policy '{name}' with binding '{name}-binding' denied request: ");
    for (name, expression, why) in [
        (
            "atomic",
            "Object{spec: Object.spec{nodeSelector: {'a': 'b'}}}",
            "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.nodeSelector",
        ),
        (
            "unknown",
            "Object{spec: Object.spec{nope: 1}}",
            "error applying patch: failed to convert patch object to typed object: .spec.nope: field not declared in schema",
        ),
        (
            "misnamed",
            "Object{spec: Object.metadata{}}",
            "type mismatch: unexpected type name \"Object.metadata\", expected \"Object.spec\", which matches field name path from root Object type",
        ),
        (
            "missing",
            "Object{spec: Object.spec{hostname: object.spec.nope}}",
            "expression 'Object{spec: Object.spec{hostname: object.spec.nope}}' resulted in error: no such key: nope",
        ),
    ] {
        configure(&server, policy(name, "pods", "ApplyConfiguration", expression), json!({})).await;
        assert_eq!(server.post(PODS, pod("a")).await.fails(403), format!("{}{why}", by(name)));
        let path = format!("{API}/mutatingadmissionpolicies/{name}");
        server.merge(&path, json!({"spec": {"failurePolicy": "Ignore"}})).await.ok();
        server.post(&format!("{PODS}?dryRun=All"), pod("a")).await.ok();
    }
    let metrics = metrics.expose(keelson_metrics::Format::Text);
    let counted = "apiserver_mutating_admission_policy_check_total{error_type=\"invalid_error\",policy=\"missing\",policy_binding=\"missing-binding\"} 2";
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn parameters_are_chosen_by_name_or_label_each_for_one_change() {
    let server = Server::start().await;
    let mut labels = policy(
        "labels",
        "configmaps",
        "ApplyConfiguration",
        "Object{metadata: Object.metadata{labels: params.data}}",
    );
    labels["spec"]["paramKind"] = json!({"apiVersion": "v1", "kind": "ConfigMap"});
    labels["spec"]["matchConditions"] =
        json!([{"name": "other", "expression": "!object.metadata.name.startsWith('params')"}]);
    let selector = json!({"matchLabels": {"param": "yes"}});
    let reference = json!({"paramRef": {"selector": selector, "parameterNotFoundAction": "Deny"}});
    configure(&server, labels, reference).await;
    let refused = server.post(MAPS, map("none", json!({}))).await;
    assert_eq!(refused.1["reason"], "Forbidden");
    assert_eq!(
        refused.fails(403),
        "policy 'labels' with binding 'labels-binding' denied request: failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"
    );
    let path = format!("{API}/mutatingadmissionpolicybindings/labels-binding");
    server.merge(&path, json!({"spec": {"paramRef": {"parameterNotFoundAction": "Allow"}}})).await.ok();
    server.post(MAPS, map("none", json!({}))).await.ok();
    for (name, data) in [("params-a", json!({"a": "1"})), ("params-b", json!({"b": "2"}))] {
        let mut param = map(name, data);
        param["metadata"]["labels"] = json!({"param": "yes"});
        server.post(MAPS, param).await.ok();
    }
    let made = server.post(MAPS, map("both", json!({}))).await.ok();
    assert_eq!(made["metadata"]["labels"], json!({"a": "1", "b": "2"}));
}

#[tokio::test]
async fn policies_go_before_webhooks_and_see_their_changes_if_they_ask_for_it() {
    let hooks = HookServer::start(|_, review| {
        assert_eq!(review["request"]["object"]["data"]["policy"], "was here");
        patched(review, json!([{"op": "add", "path": "/data/hook", "value": "was here"}]))
    })
    .await;
    let server = Server::start().await;
    let hook = json!({"name": "change.example.com", "clientConfig": hooks.client_config("x"), "sideEffects": "None",
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
        "admissionReviewVersions": ["v1"]});
    let configuration = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "w"}, "webhooks": [hook]});
    server.post(&format!("{API}/mutatingwebhookconfigurations"), configuration).await.ok();
    let seen = |name: &str| {
        policy(
            name,
            "configmaps",
            "ApplyConfiguration",
            &format!(
                "Object{{data: Object.data{{policy: 'was here', {name}: string('hook' in object.data)}}}}"
            ),
        )
    };
    let mut again = seen("again");
    again["spec"]["reinvocationPolicy"] = "IfNeeded".into();
    configure(&server, again, json!({})).await;
    configure(&server, seen("once"), json!({})).await;
    let made = server.post(MAPS, map("a", json!({"x": "y"}))).await.ok();
    let expected =
        json!({"x": "y", "policy": "was here", "hook": "was here", "again": "true", "once": "false"});
    assert_eq!(made["data"], expected);
}

#[tokio::test]
async fn what_is_wrong_with_a_policy_is_told_when_it_is_written() {
    let server = Server::start().await;
    let apply = |expression: &str| policy("p", "pods", "ApplyConfiguration", expression);
    let told = refused(&server, apply("Object{")).await;
    assert!(
        told.contains("spec.mutations[0].applyConfiguration.expression: Invalid value: \"Object{\": compilation failed: ERROR: <input>:1:8: Syntax error: "),
        "{told}"
    );
    for (patch_type, expression, why) in [
        ("ApplyConfiguration", "'a'", "must evaluate to Object but got string"),
        ("ApplyConfiguration", "object", "must evaluate to Object but got dyn"),
        ("JSONPatch", "JSONPatch{op: 'add'}", "must evaluate to list(JSONPatch) but got JSONPatch"),
        ("JSONPatch", "[Object{}]", "must evaluate to list(JSONPatch) but got list(Object)"),
    ] {
        let told = refused(&server, policy("p", "pods", patch_type, expression)).await;
        assert!(told.ends_with(&format!("expression: Invalid value: {expression:?}: {why}")), "{told}");
    }
    let told = refused(&server, apply("Object{spec: Object.spec{hostname: params.x}}")).await;
    assert!(told.contains("undeclared reference to 'params' (in container '')"), "{told}");
    let mut unknown = apply("Object{}");
    unknown["spec"]["matchConditions"] = json!([{"name": "a", "expression": "request.nope == 1"}]);
    let told = refused(&server, unknown).await;
    assert!(
        told.contains("spec.matchConditions[0].expression") && told.contains("undefined field 'nope'"),
        "{told}"
    );
    let mut empty = apply("Object{}");
    empty["spec"] = json!({"mutations": [{"patchType": "JSONPatch", "applyConfiguration": {"expression": "Object{}"}}],
        "variables": [{"name": "in", "expression": "1"}],
        "matchConstraints": {"resourceRules": [{"operations": ["DELETE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}});
    let told = refused(&server, empty).await;
    for part in [
        "spec.mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch",
        "spec.mutations[0].applyConfiguration: Invalid value: \"{applyConfiguration}\": must not be specified when patchType is JSONPatch",
        "spec.reinvocationPolicy: Required value",
        "spec.variables[0].name: Invalid value: \"in\": name is not a valid CEL identifier",
        "spec.matchConstraints.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\"",
    ] {
        assert!(told.contains(part), "{told}");
    }
}

#[tokio::test]
async fn nobody_changes_objects_by_parameters_that_they_may_not_read() {
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
        (format!("{API}/mutatingadmissionpolicies"), format!("{API}/mutatingadmissionpolicybindings"));
    let mut peek = policy(
        "peek",
        "configmaps",
        "ApplyConfiguration",
        "Object{data: Object.data{key: string(params.data.key)}}",
    );
    peek["spec"]["paramKind"] = json!({"apiVersion": "v1", "kind": "Secret"});
    let refused = server.act(ann(), Method::POST, &policies, peek.clone()).await.fails(422);
    assert!(
        refused.contains("spec.paramKind: Forbidden: user \"ann\" must have \"get\" permission"),
        "{refused}"
    );
    server.post(&policies, peek).await.ok();
    let reference =
        json!({"paramRef": {"name": "s", "namespace": "default", "parameterNotFoundAction": "Allow"}});
    let refused = server.act(ann(), Method::POST, &bindings, binding("peek", reference)).await.fails(422);
    assert!(refused.contains("on the object referenced by paramRef"), "{refused}");
}

#[tokio::test]
async fn a_scale_and_an_object_of_a_custom_resource_are_changed_too() {
    let server = Server::start().await;
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "size": {"type": "integer"}, "parts": {"type": "array", "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"], "items": {"type": "object", "required": ["name"], "properties": {
                "name": {"type": "string"}, "size": {"type": "integer", "default": 7}}}}}}}});
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
    server.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await.ok();
    let mut things = policy(
        "things",
        "things",
        "ApplyConfiguration",
        "Object{spec: Object.spec{parts: [Object.spec.parts{name: 'b'}]}}",
    );
    things["spec"]["matchConstraints"]["resourceRules"][0]["apiGroups"] = json!(["example.com"]);
    configure(&server, things, json!({})).await;
    let thing = json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "a"},
        "spec": {"parts": [{"name": "a", "size": 1}]}});
    let made = server.post("/apis/example.com/v1/namespaces/default/things", thing).await.ok();
    assert_eq!(made["spec"]["parts"], json!([{"name": "a", "size": 1}, {"name": "b", "size": 7}]));
    let mut least = policy(
        "least",
        "deployments/scale",
        "JSONPatch",
        "[JSONPatch{op: 'replace', path: '/spec/replicas', value: 2}]",
    );
    least["spec"]["matchConstraints"]["resourceRules"][0]["apiGroups"] = json!(["apps"]);
    configure(&server, least, json!({})).await;
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 5, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "c"}]}}}});
    let path = "/apis/apps/v1/namespaces/default/deployments";
    server.post(path, deployment).await.ok();
    let scaled = server.merge(&format!("{path}/d/scale"), json!({"spec": {"replicas": 9}})).await.ok();
    assert_eq!(scaled["spec"]["replicas"], 2);
}
