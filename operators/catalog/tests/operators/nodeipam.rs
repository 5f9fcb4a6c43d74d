//! Nodes get ranges of pod addresses.

use k8s_openapi::api::core::v1::{Event, Node};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

use crate::cluster::{Cluster, until};

fn node(name: &str, range: Option<&str>) -> Node {
    let ranges = range.map(|range| vec![range]);
    serde_json::from_value(
        json!({"metadata": {"name": name}, "spec": {"podCIDR": range, "podCIDRs": ranges}}),
    )
    .unwrap()
}

#[tokio::test]
async fn a_node_without_a_range_gets_one_that_nobody_has_and_is_told_when_there_is_none() {
    let cluster = Cluster::start().await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let post = PostParams::default();
    nodes.create(&post, &node("own", Some("10.42.0.0/24"))).await.unwrap();
    nodes.create(&post, &node("brought", Some("10.42.1.0/24"))).await.unwrap();
    nodes.create(&post, &node("early", None)).await.unwrap();
    cluster.install(&["nodeipam"]).await;
    let range_of = |name: &'static str| {
        let nodes = nodes.clone();
        move || {
            let nodes = nodes.clone();
            async move { nodes.get(name).await.unwrap().spec.unwrap_or_default().pod_cidrs }
        }
    };
    let given = |range: &str| Some(vec![range.to_owned()]);
    until("a range", range_of("early"), |it| *it == given("10.42.2.0/24")).await;
    nodes.create(&post, &node("late", None)).await.unwrap();
    until("a range", range_of("late"), |it| *it == given("10.42.3.0/24")).await;
    // What is given back rests for a while.
    nodes.delete("late", &DeleteParams::default()).await.unwrap();
    nodes.create(&post, &node("later", None)).await.unwrap();
    until("a range", range_of("later"), |it| *it == given("10.42.4.0/24")).await;
    assert_eq!(range_of("brought")().await, given("10.42.1.0/24"));

    nodes.create(&post, &node("large", Some("10.42.0.0/16"))).await.unwrap();
    let known = || async { nodes.get_opt("large").await.unwrap() };
    until("there", known, Option::is_some).await;
    nodes.create(&post, &node("without", None)).await.unwrap();
    let events: Api<Event> = Api::all(cluster.client.clone());
    let told = || async {
        let all = events.list(&kube::api::ListParams::default()).await.unwrap().items;
        let of_node = |it: &Event| it.involved_object.name.as_deref() == Some("without");
        all.into_iter().filter(of_node).filter_map(|it| it.reason).collect::<Vec<_>>()
    };
    until("told", told, |it| it.iter().any(|reason| reason == "CIDRNotAvailable")).await;
    nodes.delete("large", &DeleteParams::default()).await.unwrap();
    until("a range", range_of("without"), |it| *it == given("10.42.5.0/24")).await;
    cluster.end().await;
}
