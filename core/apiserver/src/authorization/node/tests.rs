use super::*;
use serde_json::json;

fn pod(name: &str, node: &str, secret: &str) -> Object {
    Object::from_value(json!({
        "metadata": {"name": name, "namespace": "a"},
        "spec": {"nodeName": node, "volumes": [{"name": "v", "secret": {"secretName": secret}}],
            "containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "settings"}}]}]}
    }))
    .unwrap()
}

#[test]
fn a_node_reaches_only_what_its_own_pods_refer_to() {
    let mut graph = Graph::default();
    graph.put_pod(&pod("p", "one", "s"));
    assert!(graph.reaches("one", "a", Reference::Secret("s".into())));
    assert!(graph.reaches("one", "a", Reference::ConfigMap("settings".into())));
    assert!(!graph.reaches("two", "a", Reference::Secret("s".into())));
    assert!(!graph.reaches("one", "b", Reference::Secret("s".into())));
    assert!(!graph.reaches("one", "a", Reference::ConfigMap("s".into())));
}

#[test]
fn a_secret_stays_reachable_until_the_last_pod_that_needs_it_is_gone() {
    let mut graph = Graph::default();
    graph.put_pod(&pod("p", "one", "s"));
    graph.put_pod(&pod("q", "one", "s"));
    graph.put_pod(&pod("q", "one", "s"));
    graph.remove_pod("a", "p");
    assert!(graph.reaches("one", "a", Reference::Secret("s".into())));
    graph.remove_pod("a", "q");
    assert!(!graph.reaches("one", "a", Reference::Secret("s".into())));
    assert!(graph.edges.is_empty());
}
