//! Which claims a pod lacks (pure).

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::ResourceExt;

/// What is to be done for a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// These claims are to be made.
    pub make: Vec<PersistentVolumeClaim>,
    /// Names of claims that are somebody else's.
    pub foreign: Vec<String>,
}

/// The name of the claim for a volume of a pod.
pub fn claim_name(pod: &Pod, volume: &Volume) -> String {
    format!("{}-{}", pod.name_any(), volume.name)
}

fn is_of(claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    let uid = pod.uid().unwrap_or_default();
    claim.owner_references().iter().any(|owner| owner.controller == Some(true) && owner.uid == uid)
}

/// Decides for a pod; `find` gives the claim of a name in its namespace.
pub fn decide<'a>(pod: &Pod, find: impl Fn(&str) -> Option<&'a PersistentVolumeClaim>) -> Plan {
    let mut plan = Plan::default();
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if pod.metadata.deletion_timestamp.is_some() || matches!(phase, Some("Succeeded" | "Failed")) {
        return plan;
    }
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let Some(template) = volume.ephemeral.as_ref().and_then(|it| it.volume_claim_template.as_ref())
        else {
            continue;
        };
        let name = claim_name(pod, volume);
        match find(&name) {
            Some(claim) if is_of(claim, pod) => {}
            Some(_) => plan.foreign.push(name),
            None => {
                let meta = template.metadata.clone().unwrap_or_default();
                let owner = OwnerReference {
                    api_version: "v1".to_owned(),
                    kind: "Pod".to_owned(),
                    name: pod.name_any(),
                    uid: pod.uid().unwrap_or_default(),
                    controller: Some(true),
                    block_owner_deletion: Some(true),
                };
                plan.make.push(PersistentVolumeClaim {
                    metadata: ObjectMeta {
                        name: Some(name),
                        namespace: pod.namespace(),
                        labels: meta.labels,
                        annotations: meta.annotations,
                        owner_references: Some(vec![owner]),
                        ..ObjectMeta::default()
                    },
                    spec: Some(template.spec.clone()),
                    status: None,
                });
            }
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Pod {
        let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": spec});
        let volumes = json!([{"name": "v", "ephemeral": {"volumeClaimTemplate": template}}, {"name": "e", "emptyDir": {}}]);
        let spec = json!({"containers": [], "volumes": volumes});
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}))
            .unwrap()
    }

    #[test]
    fn a_pod_gets_the_claim_of_its_template_once_and_never_somebody_elses() {
        let plan = decide(&pod(), |_| None);
        let [claim] = plan.make.as_slice() else { panic!("{plan:?}") };
        assert_eq!((claim.name_any().as_str(), claim.labels()["a"].as_str()), ("p-v", "b"));
        assert_eq!(decide(&pod(), |_| Some(claim)), Plan::default());
        let mut foreign = claim.clone();
        foreign.metadata.owner_references = None;
        let plan = decide(&pod(), |_| Some(&foreign));
        assert_eq!((plan.make.len(), plan.foreign), (0, vec!["p-v".to_owned()]));
        let mut ended = pod();
        ended.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert_eq!(decide(&ended, |_| None), Plan::default());
    }
}
