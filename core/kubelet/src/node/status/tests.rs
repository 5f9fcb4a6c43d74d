use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::NodeSystemInfo;

use super::*;
use crate::testing::config;

fn runtime(network: Option<(&str, &str)>) -> v1::StatusResponse {
    let condition = |kind: &str, fault: Option<(&str, &str)>| v1::RuntimeCondition {
        r#type: kind.to_owned(),
        status: fault.is_none(),
        reason: fault.map(|(reason, _)| reason.to_owned()).unwrap_or_default(),
        message: fault.map(|(_, message)| message.to_owned()).unwrap_or_default(),
    };
    let conditions = vec![condition("RuntimeReady", None), condition("NetworkReady", network)];
    v1::StatusResponse { status: Some(v1::RuntimeStatus { conditions }), ..v1::StatusResponse::default() }
}

fn built(
    runtime: Result<v1::StatusResponse, String>,
    shortage: Shortage,
    before: Option<&NodeStatus>,
    second: i64,
) -> (NodeStatus, Vec<&'static str>) {
    let sample = Sample {
        leaving: false,
        capacity: BTreeMap::new(),
        allocatable: BTreeMap::new(),
        info: NodeSystemInfo::default(),
        images: Vec::new(),
        runtime,
        blind: None,
    };
    build(&config(), sample, shortage, Vec::new(), before, Timestamp::from_second(second).unwrap())
}

fn words(status: &NodeStatus) -> Vec<(&str, &str, &str)> {
    let all = status.conditions.iter().flatten();
    all.map(|one| (one.type_.as_str(), one.status.as_str(), one.reason.as_deref().unwrap())).collect()
}

#[test]
fn a_sound_node_says_so_in_four_conditions() {
    let (status, events) = built(Ok(runtime(None)), Shortage::default(), None, 1);
    let expected = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID"),
        ("Ready", "True", "KubeletReady"),
    ];
    assert_eq!(words(&status), expected);
    assert_eq!(
        events,
        ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID", "NodeReady"]
    );
    assert_eq!(status.daemon_endpoints.unwrap().kubelet_endpoint.unwrap().port, 10250);
}

#[test]
fn a_node_is_not_ready_without_its_runtime_or_network() {
    let fault = ("NetworkPluginNotReady", "no bridge");
    let (status, events) = built(Ok(runtime(Some(fault))), Shortage::default(), None, 1);
    let ready = condition_of(&status, "Ready").unwrap();
    assert_eq!(
        ready.message.as_deref().unwrap(),
        "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:no bridge"
    );
    assert!(!is_ready(&status) && !events.contains(&"NodeNotReady"));
    let (status, _) = built(Err("gone".into()), Shortage::default(), None, 1);
    assert!(!is_ready(&status));
    let (status, _) = built(Ok(v1::StatusResponse::default()), Shortage::default(), None, 1);
    assert!(!is_ready(&status));
}

#[test]
fn a_condition_keeps_the_time_of_its_transition_until_it_changes() {
    let (first, _) = built(Ok(runtime(None)), Shortage::default(), None, 1);
    let (second, events) = built(Ok(runtime(None)), Shortage::default(), Some(&first), 2);
    assert!(events.is_empty() && is_same(&first, &second) && first != second);
    let disk = Shortage { disk: true, ..Shortage::default() };
    let (third, events) = built(Err("gone".into()), disk, Some(&second), 3);
    assert_eq!(events, ["NodeHasDiskPressure", "NodeNotReady"]);
    assert!(!is_same(&second, &third));
    let since = |status: &NodeStatus, kind| {
        condition_of(status, kind).unwrap().last_transition_time.as_ref().unwrap().0.as_second()
    };
    assert_eq!((since(&third, "MemoryPressure"), since(&third, "DiskPressure")), (1, 3));
}

#[test]
fn another_boot_than_before_is_a_restart_of_the_machine() {
    let of = |boot: &str| NodeStatus {
        node_info: Some(NodeSystemInfo { boot_id: boot.to_owned(), ..NodeSystemInfo::default() }),
        ..NodeStatus::default()
    };
    assert_eq!(rebooted(&of("a"), &of("b")).as_deref(), Some("b"));
    assert_eq!(rebooted(&of("a"), &of("a")), None);
    assert_eq!(rebooted(&of(""), &of("a")), None);
}

#[test]
fn a_node_says_which_volumes_are_in_use_once_a_kubelet_has_written_its_status() {
    let of = |status: serde_json::Value| is_of_kubelet(&serde_json::from_value(status).unwrap());
    let info = |version: &str| {
        let mut info = serde_json::Map::new();
        for field in [
            "architecture",
            "bootID",
            "containerRuntimeVersion",
            "kernelVersion",
            "kubeProxyVersion",
            "machineID",
            "operatingSystem",
            "osImage",
            "systemUUID",
        ] {
            info.insert(field.to_owned(), "".into());
        }
        info.insert("kubeletVersion".to_owned(), version.into());
        serde_json::json!({"nodeInfo": info})
    };
    assert!(of(info("v1.36.0")) && !of(info("")));
    // Others tell of nodes that have never told anything.
    assert!(!of(serde_json::json!({"conditions": [{"type": "Ready", "status": "Unknown"}]})));
}
