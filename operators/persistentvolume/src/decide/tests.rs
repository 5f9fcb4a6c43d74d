use serde_json::{Value, json};

use super::*;

fn volume(name: &str, size: &str, with: Value) -> Arc<PersistentVolume> {
    let mut object = json!({
        "metadata": {"name": name},
        "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "slow",
            "persistentVolumeReclaimPolicy": "Delete", "hostPath": {"path": "/x"}},
        "status": {"phase": "Available"},
    });
    json_patch(&mut object, with);
    Arc::new(serde_json::from_value(object).unwrap())
}

fn claim(with: Value) -> PersistentVolumeClaim {
    let mut object = json!({
        "metadata": {"name": "c", "namespace": "n", "uid": "u"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "slow", "resources": {"requests": {"storage": "1Gi"}}},
    });
    json_patch(&mut object, with);
    serde_json::from_value(object).unwrap()
}

fn json_patch(base: &mut Value, with: Value) {
    match (base, with) {
        (Value::Object(base), Value::Object(with)) => {
            for (key, value) in with {
                json_patch(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, with) => *base = with,
    }
}

fn class(mode: &str) -> StorageClass {
    let class =
        json!({"metadata": {"name": "slow"}, "provisioner": "example.com/p", "volumeBindingMode": mode});
    serde_json::from_value(class).unwrap()
}

fn decided(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    class: Option<&StorageClass>,
) -> ClaimPlan {
    for_claim(claim, &Surroundings { volumes, class, default_class: None, waiting_pods: &[] })
}

fn bound_to(plan: &ClaimPlan) -> Option<String> {
    match plan {
        ClaimPlan::Bind(volume) => Some(volume.name_any()),
        _ => None,
    }
}

fn reason(plan: ClaimPlan) -> &'static str {
    match plan {
        ClaimPlan::Wait(Some(telling)) | ClaimPlan::HandOver(_, telling) | ClaimPlan::Lose(telling) => {
            telling.reason
        }
        other => panic!("{other:?} tells nothing"),
    }
}

#[test]
fn a_claim_gets_the_smallest_volume_that_suits_or_the_one_that_is_reserved_for_it() {
    let other = json!({"spec": {"storageClassName": "fast"}});
    let volumes = [
        volume("large", "9Gi", json!({})),
        volume("fits", "2Gi", json!({})),
        volume("small", "1Mi", json!({})),
        volume("other", "1Gi", other),
        volume("taken", "1Gi", json!({"spec": {"claimRef": {"namespace": "n", "name": "d", "uid": "v"}}})),
        volume("released", "1Gi", json!({"status": {"phase": "Released"}})),
        volume("going", "1Gi", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})),
    ];
    assert_eq!(bound_to(&decided(&claim(json!({})), &volumes, None)), Some("fits".to_owned()));
    let mut volumes = volumes.to_vec();
    volumes.push(volume("mine", "5Gi", json!({"spec": {"claimRef": {"namespace": "n", "name": "c"}}})));
    assert_eq!(bound_to(&decided(&claim(json!({})), &volumes, None)), Some("mine".to_owned()));
    let labelled = claim(json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}}));
    let labels = [
        volume("plain", "1Gi", json!({})),
        volume("labelled", "8Gi", json!({"metadata": {"labels": {"a": "b"}}})),
    ];
    assert_eq!(bound_to(&decided(&labelled, &labels, None)), Some("labelled".to_owned()));
}

#[test]
fn a_claim_of_a_late_class_waits_until_a_node_is_selected_and_then_is_handed_over() {
    let late = class("WaitForFirstConsumer");
    let volumes = [volume("free", "2Gi", json!({}))];
    assert_eq!(reason(decided(&claim(json!({})), &volumes, Some(&late))), "WaitForFirstConsumer");
    let selected = claim(json!({"metadata": {"annotations": {SELECTED_NODE: "a"}}}));
    assert_eq!(reason(decided(&selected, &[], Some(&late))), "ExternalProvisioning");
    assert_eq!(reason(decided(&claim(json!({})), &[], Some(&class("Immediate")))), "ExternalProvisioning");
    assert_eq!(reason(decided(&claim(json!({})), &[], None)), "ProvisioningFailed");
    assert_eq!(
        reason(decided(&claim(json!({"spec": {"storageClassName": ""}})), &[], None)),
        "FailedBinding"
    );
}

#[test]
fn a_claim_without_a_class_gets_the_default_and_one_that_wants_none_does_not() {
    let around = Surroundings { volumes: &[], class: None, default_class: Some("local"), waiting_pods: &[] };
    let silent = claim(json!({"spec": {"storageClassName": null}}));
    assert_eq!(for_claim(&silent, &around), ClaimPlan::Classify("local".to_owned()));
    let none = claim(json!({"spec": {"storageClassName": ""}}));
    assert_eq!(reason(for_claim(&none, &around)), "FailedBinding");
}

#[test]
fn a_volume_that_a_claim_names_must_suit_and_be_free() {
    let named = claim(json!({"spec": {"volumeName": "v"}}));
    assert_eq!(decided(&named, &[], None), ClaimPlan::Wait(None));
    assert_eq!(bound_to(&decided(&named, &[volume("v", "1Gi", json!({}))], None)), Some("v".to_owned()));
    assert_eq!(reason(decided(&named, &[volume("v", "1Mi", json!({}))], None)), "VolumeMismatch");
    let taken = json!({"spec": {"claimRef": {"namespace": "n", "name": "d", "uid": "v"}}});
    assert_eq!(reason(decided(&named, &[volume("v", "1Gi", taken)], None)), "FailedBinding");
}

#[test]
fn a_bound_claim_whose_volume_is_gone_is_lost() {
    let bound =
        claim(json!({"metadata": {"annotations": {BIND_COMPLETED: "yes"}}, "spec": {"volumeName": "v"}}));
    assert_eq!(reason(decided(&bound, &[], None)), "ClaimLost");
    let other = json!({"spec": {"claimRef": {"namespace": "n", "name": "d", "uid": "v"}}});
    assert_eq!(reason(decided(&bound, &[volume("v", "1Gi", other)], None)), "ClaimMisbound");
    let own = json!({"spec": {"claimRef": {"namespace": "n", "name": "c", "uid": "u"}}});
    assert_eq!(bound_to(&decided(&bound, &[volume("v", "1Gi", own)], None)), Some("v".to_owned()));
}

#[test]
fn a_volume_whose_claim_is_gone_is_released_and_then_its_policy_decides() {
    let of = |phase: &str, policy: &str, annotations: Value| {
        let claim = json!({"namespace": "n", "name": "c", "uid": "u"});
        let spec = json!({"claimRef": claim, "persistentVolumeReclaimPolicy": policy});
        volume(
            "v",
            "1Gi",
            json!({"metadata": {"annotations": annotations}, "spec": spec, "status": {"phase": phase}}),
        )
    };
    let decide = |phase: &str, policy: &str, made: Value| for_volume(&of(phase, policy, made), None);
    let made = json!({PROVISIONED_BY: "example.com/p"});
    assert_eq!(decide("Bound", "Delete", made.clone()), VolumePlan::Phase("Released"));
    assert_eq!(decide("Released", "Delete", made), VolumePlan::Leave);
    assert_eq!(decide("Released", "Retain", json!({})), VolumePlan::Leave);
    assert!(
        matches!(decide("Released", "Delete", json!({})), VolumePlan::Fail(telling) if telling.reason == "VolumeFailedDelete")
    );
    assert!(
        matches!(decide("Released", "Recycle", json!({})), VolumePlan::Fail(telling) if telling.reason == "VolumeFailedRecycle")
    );
    let own = claim(json!({"spec": {"volumeName": "v"}}));
    assert_eq!(for_volume(&of("Available", "Retain", json!({})), Some(&own)), VolumePlan::Phase("Bound"));
    let elsewhere = claim(json!({"spec": {"volumeName": "w"}}));
    let chosen = json!({BOUND_BY_CONTROLLER: "yes"});
    assert_eq!(
        for_volume(&of("Bound", "Retain", chosen), Some(&elsewhere)),
        VolumePlan::Unbind { reserved: false }
    );
    assert_eq!(
        for_volume(&volume("v", "1Gi", json!({"status": {"phase": ""}})), None),
        VolumePlan::Phase("Available")
    );
}
