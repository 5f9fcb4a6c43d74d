use pretty_assertions::assert_eq;

use super::*;
use crate::disk_usage::{ContainerUsage, VolumeUsage};
use crate::pod::PodModel;

fn figures() -> PodFigures {
    let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"containers": [{"name": "c"}]},
        "status": {"startTime": "2026-01-02T03:04:05Z"}});
    let mut group = Group::default();
    group.cpu.total = 7;
    group.memory.working_set = 30;
    group.memory.limit = Some(100);
    PodFigures {
        model: Arc::new(PodModel::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap()),
        path: "/podu".into(),
        group: group.clone(),
        rate: Some(3),
        interfaces: Some(vec![Interface { name: "eth0".into(), ..Interface::default() }]),
        containers: vec![Container {
            name: "c".into(),
            id: "i".into(),
            image: "image".into(),
            started_at: Timestamp::from_second(60).unwrap(),
            path: "/podu/i".into(),
            group,
            rate: None,
        }],
    }
}

fn disks() -> Disks {
    let found = FileSystem { capacity: 1000, available: 400, inodes: 100, inodes_free: 60, withheld: 0 };
    let usage = |bytes| Usage { bytes, inodes: 1 };
    let of_pod = PodUsage {
        containers: [("c".to_owned(), ContainerUsage { logs: usage(5), layer: Some(usage(6)) })].into(),
        volumes: [("v".to_owned(), VolumeUsage { usage: usage(7), in_memory: true })].into(),
        ..PodUsage::default()
    };
    let claim =
        ClaimFigures { volume: "d".into(), namespace: "n".into(), claim: "data".into(), file_system: found };
    Disks {
        node: found,
        logs: found,
        layers: FileSystem { capacity: 2000, ..found },
        pods: [("u".to_owned(), Arc::new(of_pod))].into(),
        claims: [("u".to_owned(), vec![claim])].into(),
    }
}

#[test]
fn a_pod_tells_of_its_containers_volumes_and_network() {
    let found = pod(Timestamp::UNIX_EPOCH, &figures(), Some(&disks()));
    assert_eq!(found["podRef"], json!({"name": "p", "namespace": "n", "uid": "u"}));
    assert_eq!(found["startTime"], "2026-01-02T03:04:05Z");
    assert_eq!(
        found["cpu"],
        json!({"time": "1970-01-01T00:00:00Z", "usageNanoCores": 3, "usageCoreNanoSeconds": 7})
    );
    assert_eq!(found["memory"]["availableBytes"], 70);
    let container = &found["containers"][0];
    assert_eq!((&container["name"], &container["startTime"]), (&json!("c"), &json!("1970-01-01T00:01:00Z")));
    assert_eq!((&container["logs"]["usedBytes"], &container["rootfs"]["usedBytes"]), (&json!(5), &json!(6)));
    let capacity = |part: &str| container[part]["capacityBytes"].clone();
    assert_eq!(
        (capacity("logs"), capacity("rootfs")),
        (json!(1000), json!(2000)),
        "layers may be on another disk"
    );
    assert!(container["cpu"].get("usageNanoCores").is_none());
    assert_eq!(found["network"]["interfaces"][0]["name"], "eth0");
    assert_eq!(found["ephemeral-storage"]["usedBytes"], 11);
    let volumes = found["volume"].as_array().unwrap();
    assert_eq!((&volumes[0]["name"], &volumes[0]["usedBytes"]), (&json!("v"), &json!(7)));
    assert!(volumes[0].get("capacityBytes").is_none());
    assert_eq!(volumes[1]["pvcRef"], json!({"name": "data", "namespace": "n"}));
    assert_eq!(volumes[1]["usedBytes"], 600);
}

#[test]
fn processor_and_memory_can_be_had_alone() {
    let found = pod(Timestamp::UNIX_EPOCH, &figures(), None);
    let names: Vec<&String> = found.as_object().unwrap().keys().collect();
    assert_eq!(names, ["containers", "cpu", "memory", "podRef", "startTime"]);
}
