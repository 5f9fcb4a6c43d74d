use serde_json::json;

use super::*;

fn keys(spec: serde_json::Value) -> Vec<String> {
    let pod: Pod = serde_json::from_value(
        json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}),
    )
    .unwrap();
    let text = |key: Key| match key {
        Key::ConfigMap { namespace, name } => format!("configmap {namespace}/{name}"),
        Key::Secret { namespace, name } => format!("secret {namespace}/{name}"),
        Key::Services { namespace } => format!("services {namespace}"),
    };
    reference::of(&pod).into_iter().map(text).collect()
}

#[test]
fn what_volumes_and_variables_name_is_referred_to_once() {
    let found = keys(json!({
        "imagePullSecrets": [{"name": "pull"}],
        "volumes": [
            {"name": "a", "configMap": {"name": "one"}},
            {"name": "b", "secret": {"secretName": "two"}},
            {"name": "c", "projected": {"sources": [{"configMap": {"name": "one"}}, {"secret": {"name": "three"}}]}},
        ],
        "containers": [{
            "name": "c",
            "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "four", "key": "k"}}}],
            "envFrom": [{"secretRef": {"name": "two"}}],
        }],
    }));
    let expected = [
        "configmap n/four",
        "configmap n/one",
        "secret n/pull",
        "secret n/three",
        "secret n/two",
        "services default",
        "services n",
    ];
    assert_eq!(found, expected);
}

#[test]
fn without_service_links_only_the_api_servers_service_is_needed() {
    assert_eq!(keys(json!({"enableServiceLinks": false, "containers": []})), ["services default"]);
}
