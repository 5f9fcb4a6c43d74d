use pretty_assertions::assert_eq;
use serde_json::json;

use super::*;
use crate::audit::content;

fn event() -> Event {
    let at: Timestamp = "2026-11-21T10:00:00.5Z".parse().unwrap();
    Event {
        level: Level::RequestResponse,
        audit_id: "id".into(),
        stage: Stage::ResponseComplete,
        request_uri: "/api/v1/namespaces/a/configmaps".into(),
        verb: "create".into(),
        user: User { username: "ann".into(), groups: vec!["dev".into()], ..User::default() },
        impersonated_user: None,
        authentication_metadata: None,
        source_ips: vec!["127.0.0.1".into()],
        user_agent: "kubectl".into(),
        object_ref: Some(ObjectReference { resource: "configmaps".into(), ..ObjectReference::default() }),
        response_status: Some(ResponseStatus::of_code(201)),
        request_object: content::of_value(&json!({"metadata": {"name": "c"}})),
        response_object: content::of_json(b"{\"kind\":\n\"ConfigMap\"}"),
        request_received_timestamp: at,
        stage_timestamp: at + Duration::from_micros(1_500_001),
        annotations: BTreeMap::new(),
    }
}

fn document(event: &Event) -> Value {
    serde_json::from_slice(&event.to_json().unwrap()).unwrap()
}

#[test]
fn an_event_is_one_line_with_upstreams_fields() {
    let text = event().to_json().unwrap();
    assert!(!text.contains(&b'\n'));
    assert_eq!(
        document(&event()),
        json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "RequestResponse", "auditID": "id",
            "stage": "ResponseComplete", "requestURI": "/api/v1/namespaces/a/configmaps", "verb": "create",
            "user": {"username": "ann", "groups": ["dev"]}, "sourceIPs": ["127.0.0.1"], "userAgent": "kubectl",
            "objectRef": {"resource": "configmaps"}, "responseStatus": {"metadata": {}, "code": 201},
            "requestObject": {"metadata": {"name": "c"}}, "responseObject": {"kind": "ConfigMap"},
            "requestReceivedTimestamp": "2026-11-21T10:00:00.500000Z",
            "stageTimestamp": "2026-11-21T10:00:02.000001Z"
        })
    );
}

#[test]
fn a_list_holds_events_without_their_kind() {
    let (one, two) = (event().to_json().unwrap(), event().truncated().to_json().unwrap());
    let list: Value = serde_json::from_slice(&Event::list([one.as_slice(), two.as_slice()])).unwrap();
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("EventList"), &json!("audit.k8s.io/v1")));
    assert_eq!(list["items"][0]["responseObject"]["kind"], "ConfigMap");
    assert_eq!(list["items"][1]["annotations"], json!({"audit.k8s.io/truncated": "true"}));
    assert!(list["items"][0].get("kind").is_none() && list["items"][1].get("requestObject").is_none());
    assert_eq!(serde_json::from_slice::<Value>(&Event::list([])).unwrap()["items"], json!([]));
}

#[test]
fn a_slow_request_tells_where_its_time_went() {
    let mut slow = event();
    slow.annotate_latency(&[("authorization", Duration::from_micros(1500)), ("etcd", Duration::ZERO)]);
    let expected = [("authorization", "1.5ms"), ("total", "1.500001s")]
        .map(|(key, value)| (format!("apiserver.latency.k8s.io/{key}"), value.to_owned()));
    assert_eq!(slow.annotations, BTreeMap::from(expected));
    let mut quick = Event { stage_timestamp: slow.request_received_timestamp, ..event() };
    quick.annotate_latency(&[("authorization", SLOW)]);
    assert_eq!(quick.annotations, BTreeMap::new());
}

#[test]
fn times_are_written_as_upstream_does() {
    for (nanos, text) in [
        (0, "0s"),
        (15, "15ns"),
        (1_500, "1.5µs"),
        (512_340_000, "512.34ms"),
        (62_500_000_000, "1m2.5s"),
        (3_600_000_000_000, "1h0m0s"),
    ] {
        assert_eq!(duration(Duration::from_nanos(nanos)), text);
    }
}

#[test]
fn a_line_for_people_cannot_be_broken_by_what_is_in_it() {
    let mut event = event();
    event.user_agent = "a\"\n2026 AUDIT:".into();
    event.user.groups = vec!["a".into(), "b".into()];
    event.response_status = None;
    assert_eq!(
        event.to_line(),
        r#"2026-11-21T10:00:00.5Z AUDIT: id="id" stage="ResponseComplete" ip="127.0.0.1" method="create" user="ann" groups="\"a\",\"b\"" as="<self>" asgroups="<lookup>" user-agent="a\"\n2026 AUDIT:" namespace="<none>" uri="/api/v1/namespaces/a/configmaps" response="<deferred>""#
    );
}

#[test]
fn a_long_name_of_a_program_is_cut() {
    assert_eq!(user_agent("kubectl"), "kubectl");
    let cut = user_agent(&"ä".repeat(600));
    assert_eq!(cut, format!("{}...TRUNCATED", "ä".repeat(512)));
}

#[test]
fn managed_fields_are_left_out_everywhere() {
    let own = || json!({"metadata": {"name": "a", "managedFields": [{}]}});
    let bare = json!({"metadata": {"name": "a"}});
    let mut list = json!({"kind": "PodList", "items": [own(), own()]});
    content::remove_managed_fields(&mut list);
    assert_eq!(list["items"], json!([bare, bare]));
    let mut table = json!({"kind": "Table", "rows": [{"cells": [], "object": own()}]});
    content::remove_managed_fields(&mut table);
    assert_eq!(table["rows"][0]["object"], bare);
    let mut object = own();
    content::remove_managed_fields(&mut object);
    assert_eq!(object, bare);
}

#[test]
fn a_status_is_told_from_an_object() {
    let text = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "m",
        "reason": "Invalid", "details": {"name": "a"}, "code": 422});
    let mut status = content::status(text.to_string().as_bytes()).unwrap();
    assert_eq!((status.code, status.reason.as_str(), &status.details["name"]), (422, "Invalid", &json!("a")));
    status.guard();
    assert_eq!(
        (status.message.as_str(), &status.details, status.reason.as_str()),
        ("", &Value::Null, "Invalid")
    );
    assert_eq!(content::status(br#"{"kind":"Pod","apiVersion":"v1","status":{"phase":"Running"}}"#), None);
}
