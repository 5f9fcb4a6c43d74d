//! What is written is read by the published types.

use k8s_pb::api::apps::v1::Deployment;
use k8s_pb::api::core::v1::{Event, Node, Pod, PodList};
use k8s_pb::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_pb::apimachinery::pkg::apis::meta::v1::WatchEvent;
use k8s_pb::apimachinery::pkg::runtime::Unknown;
use pretty_assertions::assert_eq;
use prost::Message as _;
use serde_json::{Value, json};

use crate::protobuf::{MAGIC, Message, document, envelope, item, watch_frame};

fn unwrap(bytes: &[u8]) -> (String, Vec<u8>) {
    let unknown = Unknown::decode(bytes.strip_prefix(MAGIC).unwrap()).unwrap();
    (unknown.type_meta.unwrap().kind.unwrap(), unknown.raw.unwrap())
}

fn typed<T: prost::Message + Default>(value: Value) -> T {
    let (kind, raw) = unwrap(&document(value.to_string().as_bytes()).unwrap());
    assert_eq!(kind, value["kind"].as_str().unwrap());
    T::decode(&raw[..]).unwrap()
}

#[test]
fn a_pod_is_read_with_its_embedded_sources_quantities_and_ports() {
    let pod: Pod = typed(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "creationTimestamp": "2026-01-02T03:04:05Z", "labels": {"k": "v"},
            "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {}}}], "deletionTimestamp": null},
        "spec": {
            "volumes": [{"name": "c", "configMap": {"name": "cm", "defaultMode": 420}}, {"name": "e", "emptyDir": {}}],
            "containers": [{"name": "x", "image": "i", "resources": {"limits": {"cpu": 2, "memory": "1Gi"}},
                "livenessProbe": {"httpGet": {"port": "http", "path": "/"}, "periodSeconds": 0},
                "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}],
            "terminationGracePeriodSeconds": 0, "hostNetwork": false,
        },
        "status": {"podIPs": [{"ip": "10.0.0.1"}], "phase": "Running"},
    }));
    let metadata = pod.metadata.unwrap();
    assert_eq!(metadata.creation_timestamp.unwrap().seconds, Some(1_767_323_045));
    assert_eq!(metadata.labels["k"], "v");
    assert_eq!(
        metadata.managed_fields[0].fields_v1.as_ref().unwrap().raw.as_deref(),
        Some(&br#"{"f:spec":{}}"#[..])
    );
    assert!(metadata.deletion_timestamp.is_none());
    let spec = pod.spec.unwrap();
    let config = spec.volumes[0].volume_source.as_ref().unwrap().config_map.as_ref().unwrap();
    assert_eq!(config.local_object_reference.as_ref().unwrap().name.as_deref(), Some("cm"));
    assert!(spec.volumes[1].volume_source.as_ref().unwrap().empty_dir.is_some());
    assert_eq!(spec.termination_grace_period_seconds, Some(0));
    let container = &spec.containers[0];
    let limits = &container.resources.as_ref().unwrap().limits;
    assert_eq!(limits["cpu"].string.as_deref(), Some("2"));
    let probe = container.liveness_probe.as_ref().unwrap();
    let port = probe.handler.as_ref().unwrap().http_get.as_ref().unwrap().port.clone().unwrap();
    assert_eq!((port.r#type, port.str_val.as_deref()), (Some(1), Some("http")));
    let secret = container.env[0].value_from.as_ref().unwrap().secret_key_ref.as_ref().unwrap();
    assert_eq!(secret.local_object_reference.as_ref().unwrap().name.as_deref(), Some("s"));
    assert_eq!(pod.status.unwrap().pod_ips[0].ip.as_deref(), Some("10.0.0.1"));
}

#[test]
fn a_deployment_a_node_and_an_event_are_read() {
    let deployment: Deployment =
        typed(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 3, "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 1}}}}));
    let spec = deployment.spec.unwrap();
    assert_eq!(spec.replicas, Some(3));
    let rolling = spec.strategy.unwrap().rolling_update.unwrap();
    assert_eq!(rolling.max_surge.unwrap().str_val.as_deref(), Some("25%"));
    assert_eq!(rolling.max_unavailable.unwrap().int_val, Some(1));
    let node: Node = typed(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"},
        "status": {"capacity": {"cpu": "4"}, "images": [{"names": ["a", "b"], "sizeBytes": 5_000_000_000_i64}]}}));
    let status = node.status.unwrap();
    assert_eq!(status.capacity["cpu"].string.as_deref(), Some("4"));
    assert_eq!(status.images[0].size_bytes, Some(5_000_000_000));
    let event: Event = typed(json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"},
        "eventTime": "1969-12-31T23:59:58.500000Z", "lastTimestamp": "2026-01-01T00:00:00Z",
        "involvedObject": {"apiVersion": "v1", "kind": "Pod"}, "count": 2}));
    let time = event.event_time.unwrap();
    assert_eq!((time.seconds, time.nanos), (Some(-2), Some(500_000_000)));
    assert_eq!(event.involved_object.unwrap().api_version.as_deref(), Some("v1"));
}

#[test]
fn a_definition_is_read_with_the_schemas_that_are_more_than_one_thing() {
    let schema = json!({"type": "object", "properties": {
        "a": {"type": "array", "items": {"type": "integer", "minimum": 0}, "default": [1], "enum": [null, {"x": 1}]},
        "b": {"additionalProperties": {"type": "string"}}, "c": {"additionalProperties": false}}});
    let definition: CustomResourceDefinition = typed(json!({"apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition", "metadata": {"name": "a.b"},
        "spec": {"group": "b", "versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]}}));
    let schema = definition.spec.unwrap().versions[0].schema.clone().unwrap().open_apiv3_schema.unwrap();
    let a = &schema.properties["a"];
    assert_eq!(a.items.as_ref().unwrap().schema.as_ref().unwrap().minimum, Some(0.0));
    assert_eq!(a.default.as_ref().unwrap().raw.as_deref(), Some(&b"[1]"[..]));
    assert_eq!(a.r#enum.len(), 2);
    let b = schema.properties["b"].additional_properties.as_ref().unwrap();
    assert_eq!((b.allows, b.schema.as_ref().unwrap().r#type.as_deref()), (Some(true), Some("string")));
    assert_eq!(schema.properties["c"].additional_properties.as_ref().unwrap().allows, Some(false));
}

#[test]
fn a_list_is_its_head_and_the_messages_of_its_items() {
    let pod = Message::of("v1", "Pod").unwrap();
    let head =
        Message::of("v1", "PodList").unwrap().encode(br#"{"metadata":{"resourceVersion":"7"}}"#).unwrap();
    let mut items = Vec::new();
    for name in ["a", "b"] {
        let json = json!({"kind": "Pod", "metadata": {"name": name}}).to_string();
        item(&pod.encode(json.as_bytes()).unwrap(), &mut items);
    }
    let (kind, raw) = unwrap(&envelope("v1", "PodList", &[&head, &items]));
    let list = PodList::decode(&raw[..]).unwrap();
    assert_eq!(kind, "PodList");
    assert_eq!(list.metadata.unwrap().resource_version.as_deref(), Some("7"));
    let names: Vec<_> =
        list.items.iter().map(|it| it.metadata.as_ref().unwrap().name.clone().unwrap()).collect();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn a_watch_frame_is_a_length_and_an_event_around_a_whole_document() {
    let json = json!({"metadata": {"name": "a".repeat(200)}}).to_string();
    let raw = Message::of("v1", "Pod").unwrap().encode(json.as_bytes()).unwrap();
    let frame = watch_frame("ADDED", &envelope("v1", "Pod", &[&raw]));
    let (length, event) = frame.split_at(4);
    assert_eq!(u32::from_be_bytes(length.try_into().unwrap()) as usize, event.len());
    let event = WatchEvent::decode(event).unwrap();
    assert_eq!(event.r#type.as_deref(), Some("ADDED"));
    let (kind, raw) = unwrap(&event.object.unwrap().raw.unwrap());
    assert_eq!(
        (kind.as_str(), Pod::decode(&raw[..]).unwrap().metadata.unwrap().name.unwrap().len()),
        ("Pod", 200)
    );
}
