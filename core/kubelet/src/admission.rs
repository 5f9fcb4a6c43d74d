//! (pure) Pods that this node refuses, because it could only run them otherwise than they ask.

use k8s_openapi::api::core::v1::AppArmorProfile;

use crate::memory::Why;
use crate::pod::PodModel;
use crate::sysctl;

/// How annotations, the older way, name a profile.
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Why the node refuses a pod: a word for its status and its event, and the rest.
pub(crate) fn refusal(pod: &PodModel) -> Option<(&'static str, Why)> {
    let (reason, message) = match sysctl::refusal(pod) {
        Some(message) => ("SysctlForbidden", message),
        None if wants_app_armor(pod) => {
            ("AppArmor", "Cannot enforce AppArmor: this node's runtime does not support it".to_owned())
        }
        None if pod.spec().resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()) => {
            ("FailedPrepareDynamicResources", "this node prepares no devices for claims".to_owned())
        }
        None => return None,
    };
    Some((reason, Why::new(reason, format!("Pod was rejected: {message}"))))
}

/// Whether a profile is asked for that would have to be loaded.
fn wants_app_armor(pod: &PodModel) -> bool {
    let confines = |profile: Option<&AppArmorProfile>| profile.is_some_and(|one| one.type_ != "Unconfined");
    let of_pod = pod.spec().security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref());
    let of_container = pod.members.iter().any(|member| {
        let context = member.container.security_context.as_ref();
        confines(context.and_then(|context| context.app_armor_profile.as_ref()))
    });
    let annotations = pod.pod.metadata.annotations.iter().flatten();
    let annotated = annotations
        .into_iter()
        .any(|(key, value)| key.starts_with(APP_ARMOR) && !value.is_empty() && value != "unconfined");
    confines(of_pod) || of_container || annotated
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    fn reason(spec: &Value, annotations: &Value) -> Option<&'static str> {
        let pod = json!({ "metadata": { "name": "p", "namespace": "n", "uid": "u", "annotations": annotations },
            "spec": spec });
        let pod = PodModel::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap();
        refusal(&pod).map(|(reason, _)| reason)
    }

    #[test]
    fn a_pod_that_claims_devices_is_refused() {
        let claims = json!([{ "name": "gpu", "resourceClaimName": "gpu" }]);
        let spec = json!({ "containers": [{ "name": "a" }], "resourceClaims": claims });
        assert_eq!(reason(&spec, &json!({})), Some("FailedPrepareDynamicResources"));
    }

    #[test]
    fn a_pod_that_wants_a_profile_that_nobody_enforces_is_refused() {
        let spec = |kind: &str| json!({ "containers": [{ "name": "a", "securityContext": { "appArmorProfile": { "type": kind } } }] });
        assert_eq!(reason(&spec("RuntimeDefault"), &json!({})), Some("AppArmor"));
        assert_eq!(reason(&spec("Unconfined"), &json!({})), None);
        let annotations = json!({ "container.apparmor.security.beta.kubernetes.io/a": "runtime/default" });
        assert_eq!(reason(&spec("Unconfined"), &annotations), Some("AppArmor"));
    }
}
