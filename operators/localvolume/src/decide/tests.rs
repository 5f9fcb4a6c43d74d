use serde_json::json;

use super::*;

fn claim(with: Value) -> PersistentVolumeClaim {
    let mut spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "local", "resources": {"requests": {"storage": "1Gi"}}});
    spec.as_object_mut().unwrap().extend(with.as_object().cloned().unwrap());
    let annotations = json!({BY: PROVISIONER, SELECTED_NODE: "n1"});
    let meta = json!({"name": "c", "namespace": "d", "uid": "u", "annotations": annotations});
    serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap()
}

fn class() -> StorageClass {
    serde_json::from_value(crate::volume::class(true)).unwrap()
}

fn node() -> NodeView {
    NodeView { hostname: Some("host-1".to_owned()), folder: Some("/data/volumes".to_owned()) }
}

#[test]
fn a_claim_gets_a_folder_on_the_chosen_node_and_no_other_can_mount_it() {
    let ClaimPlan::Make(volume) = for_claim(&claim(json!({})), Some(&class()), Some(&node())) else {
        panic!("no volume")
    };
    let volume: PersistentVolume = serde_json::from_value(volume).unwrap();
    assert_eq!(volume.name_any(), "pvc-u");
    assert_eq!(volume.finalizers(), [FOLDER]);
    assert_eq!(node_of(&volume), Some("n1"));
    let spec = serde_json::to_value(volume.spec.unwrap()).unwrap();
    assert_eq!(spec["local"]["path"], "/data/volumes/pvc-u");
    assert_eq!(
        spec["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0]["values"][0],
        "host-1"
    );
    assert_eq!(spec["claimRef"]["uid"], "u");
    assert_eq!(spec["persistentVolumeReclaimPolicy"], "Delete");
}

#[test]
fn what_a_folder_cannot_be_is_refused() {
    let refused = |with: Value| match for_claim(&claim(with), Some(&class()), Some(&node())) {
        ClaimPlan::Refuse(why) => why,
        other => panic!("{other:?}"),
    };
    assert!(refused(json!({"volumeMode": "Block"})).contains("volumeMode Block"));
    assert!(refused(json!({"accessModes": ["ReadWriteMany"]})).contains("ReadWriteMany"));
    assert!(refused(json!({"selector": {}})).contains("selector"));
    let bare = NodeView { folder: None, ..node() };
    assert!(matches!(for_claim(&claim(json!({})), Some(&class()), Some(&bare)), ClaimPlan::Refuse(_)));
    assert!(matches!(for_claim(&claim(json!({})), Some(&class()), None), ClaimPlan::ChooseAgain(_)));
}

#[test]
fn a_claim_without_a_node_or_with_a_volume_is_left() {
    let mut waiting = claim(json!({}));
    waiting.annotations_mut().remove(SELECTED_NODE);
    assert_eq!(for_claim(&waiting, Some(&class()), Some(&node())), ClaimPlan::Leave);
    let bound = claim(json!({"volumeName": "pvc-u"}));
    assert_eq!(for_claim(&bound, Some(&class()), Some(&node())), ClaimPlan::Leave);
}

#[test]
fn a_released_volume_is_deleted_and_let_go_when_its_node_is_gone() {
    let ClaimPlan::Make(made) = for_claim(&claim(json!({})), Some(&class()), Some(&node())) else {
        panic!("no volume")
    };
    let with = |policy: &str, phase: &str, ending: bool| -> PersistentVolume {
        let mut made = made.clone();
        made["spec"]["persistentVolumeReclaimPolicy"] = json!(policy);
        made["status"] = json!({"phase": phase});
        if ending {
            made["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        serde_json::from_value(made).unwrap()
    };
    assert_eq!(for_volume(&with("Delete", "Bound", false), true), VolumePlan::Leave);
    assert_eq!(for_volume(&with("Delete", "Released", false), true), VolumePlan::Delete);
    assert_eq!(for_volume(&with("Retain", "Released", false), true), VolumePlan::Leave);
    assert_eq!(for_volume(&with("Delete", "Released", true), true), VolumePlan::Leave);
    assert_eq!(for_volume(&with("Delete", "Released", true), false), VolumePlan::LetGo);
}
