//! Rules in the schemas of definitions.

use serde_json::{Value, json};

use crate::harness::Server;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const BOATS: &str = "/apis/sea.example.com/v1/namespaces/default/boats";

/// A definition whose `spec` has these properties and rules, and whose root has others.
fn boats(properties: Value, rules: Value, root_rules: Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "boats.sea.example.com"},
        "spec": {
            "group": "sea.example.com", "scope": "Namespaced",
            "names": {"plural": "boats", "singular": "boat", "kind": "Boat", "listKind": "BoatList"},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {
                    "type": "object", "x-kubernetes-validations": root_rules,
                    "properties": {
                        "spec": {"type": "object", "properties": properties, "x-kubernetes-validations": rules},
                        "status": {"type": "object", "properties": {"knots": {"type": "integer"}},
                            "x-kubernetes-validations": [{"rule": "self.knots < 50", "message": "too fast"}]},
                    },
                }},
            }],
        },
    })
}

fn sizes() -> Value {
    json!({"least": {"type": "integer"}, "most": {"type": "integer"}, "name": {"type": "string", "maxLength": 20}})
}

fn boat(spec: Value) -> Value {
    json!({"apiVersion": "sea.example.com/v1", "kind": "Boat", "metadata": {"name": "a"}, "spec": spec})
}

#[tokio::test]
async fn rules_are_evaluated_when_an_object_is_written() {
    let server = Server::start().await;
    let rules = json!([
        {"rule": "self.least <= self.most"},
        {"rule": "!has(self.name) || self.name != 'titanic'", "message": "unlucky", "reason": "FieldValueForbidden", "fieldPath": ".name"},
        {"rule": "self.most < 100", "messageExpression": "'most is ' + string(self.most)"},
        {"rule": "self.least == oldSelf.least", "message": "least does not change"},
    ]);
    let root = json!([{"rule": "self.metadata.name.startsWith('a')"}]);
    server.post(DEFINITIONS, boats(sizes(), rules, root)).await.ok();
    let message = server.post(BOATS, boat(json!({"least": 3, "most": 2}))).await.fails(422);
    assert_eq!(
        message,
        "Boat.sea.example.com \"a\" is invalid: spec: Invalid value: \"object\": failed rule: self.least <= self.most"
    );
    let message =
        server.post(BOATS, boat(json!({"least": 1, "most": 200, "name": "titanic"}))).await.fails(422);
    assert!(message.contains("spec.name: Forbidden: unlucky"), "{message}");
    assert!(message.contains("spec: Invalid value: \"object\": most is 200"), "{message}");
    let mut other = boat(json!({"least": 1, "most": 2}));
    other["metadata"]["name"] = "b".into();
    let message = server.post(BOATS, other).await.fails(422);
    assert!(
        message.contains("<nil>: Invalid value: \"object\": failed rule: self.metadata.name.startsWith('a')"),
        "{message}"
    );
    let message = server.post(BOATS, boat(json!({"least": 1}))).await.fails(422);
    assert!(
        message.contains(
            "spec: Invalid value: \"object\": no such key: most evaluating rule: self.least <= self.most"
        ),
        "{message}"
    );
    // What has the wrong form is not looked at by rules.
    let message = server.post(BOATS, boat(json!({"least": "x", "most": 2}))).await.fails(422);
    assert!(
        message.contains("some validation rules were not checked because the object was invalid"),
        "{message}"
    );
    assert!(!message.contains("failed rule"), "{message}");
    server.post(BOATS, boat(json!({"least": 1, "most": 2}))).await.ok();
    let path = format!("{BOATS}/a");
    let message = server.merge(&path, json!({"spec": {"least": 2}})).await.fails(422);
    assert!(message.contains("least does not change"), "{message}");
    server.merge(&path, json!({"spec": {"most": 9}})).await.ok();
    let message = server.merge(&format!("{path}/status"), json!({"status": {"knots": 60}})).await.fails(422);
    assert!(message.contains("status: Invalid value: \"object\": too fast"), "{message}");
    let applied = json!({"apiVersion": "sea.example.com/v1", "kind": "Boat", "spec": {"most": 500}});
    let message = server.apply(&path, "fieldManager=me&force=true", applied).await.fails(422);
    assert!(message.contains("most is 500"), "{message}");
}

#[tokio::test]
async fn what_was_so_before_a_rule_came_stays_allowed() {
    let server = Server::start().await;
    let properties = json!({"size": {"type": "integer", "x-kubernetes-validations": []}, "name": {"type": "string"},
        "crew": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"],
            "items": {"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}, "age": {"type": "integer"}}}}});
    let mut definition = boats(properties, json!([]), json!([]));
    server.post(DEFINITIONS, definition.clone()).await.ok();
    let crew = json!([{"id": "a", "age": 3}, {"id": "b", "age": 40}]);
    server.post(BOATS, boat(json!({"size": 9, "crew": crew}))).await.ok();
    let spec = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    spec["size"]["x-kubernetes-validations"] = json!([{"rule": "self < 5"}]);
    spec["crew"]["items"]["properties"]["age"]["minimum"] = json!(18);
    spec["crew"]["maxItems"] = json!(10);
    server
        .merge(&format!("{DEFINITIONS}/boats.sea.example.com"), json!({"spec": definition["spec"]}))
        .await
        .ok();
    let path = format!("{BOATS}/a");
    server.merge(&path, json!({"spec": {"name": "x"}})).await.ok();
    // The item keeps its fault at another place.
    let crew = json!([{"id": "c", "age": 30}, {"id": "a", "age": 3}]);
    server.merge(&path, json!({"spec": {"crew": crew}})).await.ok();
    let message = server.merge(&path, json!({"spec": {"size": 8}})).await.fails(422);
    assert!(message.contains("spec.size: Invalid value: \"integer\": failed rule: self < 5"), "{message}");
    let message = server.merge(&path, json!({"spec": {"crew": [{"id": "a", "age": 4}]}})).await.fails(422);
    assert!(message.contains("spec.crew[0].age"), "{message}");
}

#[tokio::test]
async fn rules_that_cannot_be_are_refused_with_the_definition() {
    let server = Server::start().await;
    let root = "spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0]";
    for (rule, fault) in [
        (
            json!({"rule": "self.missing > 1"}),
            ".rule: Invalid value: {\"rule\":\"self.missing > 1\"}: compilation failed: ERROR: <input>:1:5: undefined field 'missing'",
        ),
        (
            json!({"rule": "self.most"}),
            ".rule: Invalid value: {\"rule\":\"self.most\"}: cel expression must evaluate to a bool",
        ),
        (json!({"rule": " "}), ".rule: Required value: rule is not specified"),
        (
            json!({"rule": "true", "message": "a\nb"}),
            ".message: Invalid value: \"a\\nb\": message must not contain line breaks",
        ),
        (json!({"rule": "true", "messageExpression": "1"}), ".messageExpression: Invalid value: "),
        (json!({"rule": "true", "reason": "Nope"}), ".reason: Unsupported value: \"Nope\""),
        (
            json!({"rule": "true", "fieldPath": ".nowhere"}),
            ".fieldPath: Invalid value: \".nowhere\": fieldPath must be a valid path",
        ),
        (json!({"rule": "true", "optionalOldSelf": true}), ".optionalOldSelf: Invalid value: true"),
    ] {
        let message = server.post(DEFINITIONS, boats(sizes(), json!([rule]), json!([]))).await.fails(422);
        assert!(message.contains(&format!("{root}{fault}")), "{message}");
    }
    let lists = json!({"a": {"type": "array", "items": {"type": "string"}}});
    let rule = json!([{"rule": "self.a.all(x, self.a.all(y, x == y))"}]);
    let message = server.post(DEFINITIONS, boats(lists.clone(), rule, json!([]))).await.fails(422);
    assert!(
        message.contains(&format!(
            "{root}.rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x"
        )),
        "{message}"
    );
    let lists = json!({"a": {"type": "array", "items": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}}});
    let message = server.post(DEFINITIONS, boats(lists, json!([]), json!([]))).await.fails(422);
    assert!(message.contains("oldSelf cannot be used on the uncorrelatable portion of the schema within spec.validation.openAPIV3Schema.properties[spec].properties[a]"), "{message}");
}
