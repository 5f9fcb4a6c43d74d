//! Pods that this node refuses: because it could only run them otherwise than they ask (pure, as all but `ledger` is), because it is short
//! of something, or because they do not fit beside those that it has taken (`fit`, `preemption`, `ledger`).

use k8s_openapi::api::core::v1::{AppArmorProfile, Taint};

use crate::eviction::Shortage;
use crate::memory::Why;
use crate::pod::{PodModel, QosClass};
use crate::sysctl;

mod fit;
mod ledger;
mod node_affinity;
mod preemption;

pub(crate) use fit::{Misfit, foreign};
pub(crate) use ledger::Ledger;
pub(crate) use preemption::victims;

/// What keeps pods without requests from a node that is short of memory.
const MEMORY_TAINT: &str = "node.kubernetes.io/memory-pressure";
/// How annotations, the older way, name a profile.
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// What stands before the reason in the status, and not in the event.
pub(crate) const REJECTED: &str = "Pod was rejected: ";

/// Why the node refuses a pod: a word for its status and its event, and the rest.
/// `sysctls` are the kernel parameters that its owner allows; without them they are not looked at.
pub(crate) fn refusal(pod: &PodModel, sysctls: Option<&[String]>) -> Option<(&'static str, Why)> {
    let (reason, message) = match sysctls.and_then(|allowed| sysctl::refusal(pod, allowed)) {
        Some(message) => ("SysctlForbidden", message),
        None if wants_app_armor(pod) && !app_armor_is_enabled() => {
            ("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host".to_owned())
        }
        None => return None,
    };
    Some((reason, Why::new(reason, format!("{REJECTED}{message}"))))
}

/// Why a node that is short of something does not take a pod. Those that it cannot do without it takes all the same; of those
/// that have asked for memory a shortage of that alone keeps none away.
pub(crate) fn pressed(pod: &PodModel, shortage: Shortage) -> Option<Why> {
    let conditions = shortage.conditions();
    if conditions.is_empty() || pod.is_critical() {
        return None;
    }
    let (key, effect) = (MEMORY_TAINT.to_owned(), "NoSchedule".to_owned());
    let taint = Taint { key, effect, ..Taint::default() };
    let mut tolerations = pod.spec().tolerations.iter().flatten();
    let tolerated = tolerations.any(|one| node_affinity::tolerates(one, &taint));
    if conditions == ["MemoryPressure"] && (pod.qos_class() != QosClass::BestEffort || tolerated) {
        return None;
    }
    Some(Why::new("Evicted", format!("The node had condition: [{}]. ", conditions.join(" "))))
}

fn app_armor_is_enabled() -> bool {
    let told = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    told.is_ok_and(|text| text.trim_start().starts_with('Y'))
        && std::path::Path::new("/sys/kernel/security/apparmor").exists()
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
        refusal(&pod, Some(&[])).map(|(reason, _)| reason)
    }

    #[test]
    fn a_node_that_is_short_of_memory_takes_those_that_have_asked_for_some() {
        let pressed = |spec: &Value, shortage| {
            let pod = json!({ "metadata": { "name": "p", "namespace": "n", "uid": "u" }, "spec": spec });
            let pod = PodModel::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap();
            super::pressed(&pod, shortage).map(|why| why.message)
        };
        let memory = Shortage { memory: true, ..Shortage::default() };
        let disk = Shortage { disk: true, ..memory };
        let plain = json!({ "containers": [{ "name": "a" }] });
        let asks =
            json!({ "containers": [{ "name": "a", "resources": { "requests": { "memory": "1Mi" } } }] });
        let tolerant = json!({ "containers": [{ "name": "a" }], "tolerations": [{ "key": MEMORY_TAINT, "operator": "Exists" }] });
        let critical = json!({ "containers": [{ "name": "a" }], "priority": 2_000_000_000 });
        assert_eq!(pressed(&plain, Shortage::default()), None);
        assert_eq!(pressed(&plain, memory).as_deref(), Some("The node had condition: [MemoryPressure]. "));
        let both = "The node had condition: [DiskPressure MemoryPressure]. ";
        assert_eq!(pressed(&asks, disk).as_deref(), Some(both));
        for (spec, shortage) in [(&asks, memory), (&tolerant, memory), (&critical, disk)] {
            assert_eq!(pressed(spec, shortage), None);
        }
    }

    #[test]
    fn a_pod_that_wants_a_profile_that_nobody_enforces_is_refused() {
        if app_armor_is_enabled() {
            return;
        }
        let spec = |kind: &str| json!({ "containers": [{ "name": "a", "securityContext": { "appArmorProfile": { "type": kind } } }] });
        assert_eq!(reason(&spec("RuntimeDefault"), &json!({})), Some("AppArmor"));
        assert_eq!(reason(&spec("Unconfined"), &json!({})), None);
        let annotations = json!({ "container.apparmor.security.beta.kubernetes.io/a": "runtime/default" });
        assert_eq!(reason(&spec("Unconfined"), &annotations), Some("AppArmor"));
    }
}
