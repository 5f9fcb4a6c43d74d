//! (pure) From requests and limits to what the kernel is told.

use k8s_openapi::api::core::v1::{Container, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use keelson_cri::v1::LinuxContainerResources;

use crate::pod::{Kind, PodModel, QosClass};

/// One CPU in shares.
const SHARES_PER_CPU: i128 = 1024;
const MIN_SHARES: i128 = 2;
const MAX_SHARES: i128 = 262_144;
/// The period of quotas, and the least quota, in microseconds.
const PERIOD: i64 = 100_000;
const MIN_QUOTA: i128 = 1000;
/// What the kernel adds to the badness of a process, by the pod's class.
const GUARANTEED_OOM: i64 = -997;
const BEST_EFFORT_OOM: i64 = 1000;
/// Pods of this priority and above belong to the system.
const SYSTEM_CRITICAL: i32 = 2_000_000_000;

/// A quantity in thousandths; `None` when it is none.
pub(crate) fn amount(quantity: &Quantity) -> Option<i128> {
    keelson_api::quantity::Quantity::parse(&quantity.0).ok().map(keelson_api::quantity::Quantity::milli_value)
}

fn find(map: Option<&std::collections::BTreeMap<String, Quantity>>, name: &str) -> Option<i128> {
    map.and_then(|map| map.get(name)).and_then(amount)
}

/// CPU shares of a request, in thousandths of a CPU.
pub(crate) fn shares(milli: i128) -> i64 {
    let shares = (milli * SHARES_PER_CPU / 1000).clamp(MIN_SHARES, MAX_SHARES);
    i64::try_from(shares).unwrap_or(2)
}

/// The quota of a limit in thousandths of a CPU, per [`PERIOD`].
fn quota(milli: i128) -> i64 {
    i64::try_from((milli * i128::from(PERIOD) / 1000).max(MIN_QUOTA)).unwrap_or(i64::MAX)
}

/// The limits of one container. `memory` is the node's, in bytes.
pub(crate) fn of_container(pod: &PodModel, container: &Container, memory: u64) -> LinuxContainerResources {
    let resources = container.resources.clone().unwrap_or_default();
    let (requests, limits) = (resources.requests.as_ref(), resources.limits.as_ref());
    let cpu_limit = find(limits, "cpu").filter(|milli| *milli > 0);
    let cpu_request = find(requests, "cpu").or(cpu_limit).unwrap_or(0);
    let memory_limit = find(limits, "memory").filter(|milli| *milli > 0).map(|milli| milli / 1000);
    LinuxContainerResources {
        cpu_period: if cpu_limit.is_some() { PERIOD } else { 0 },
        cpu_quota: cpu_limit.map_or(0, quota),
        cpu_shares: shares(cpu_request),
        memory_limit_in_bytes: memory_limit.map_or(0, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        oom_score_adj: oom_score(pod, &resources, memory),
        ..LinuxContainerResources::default()
    }
}

/// The sum of the containers that run together, for the sandbox and the pod's control group.
pub(crate) fn of_pod(pod: &PodModel) -> LinuxContainerResources {
    let mut request = 0;
    let mut cpu = Some(0);
    let mut memory = Some(0);
    let together = pod.members.iter().filter(|one| matches!(one.kind, Kind::Regular | Kind::Sidecar));
    for member in together {
        let resources = member.container.resources.clone().unwrap_or_default();
        let limits = resources.limits.as_ref();
        let limit = find(limits, "cpu");
        request += find(resources.requests.as_ref(), "cpu").or(limit).unwrap_or(0);
        cpu = cpu.zip(limit).map(|(sum, limit)| sum + limit);
        memory = memory.zip(find(limits, "memory")).map(|(sum, limit)| sum + limit / 1000);
    }
    LinuxContainerResources {
        cpu_period: PERIOD,
        cpu_quota: cpu.filter(|milli| *milli > 0).map_or(0, quota),
        cpu_shares: shares(request),
        memory_limit_in_bytes: i64::try_from(memory.unwrap_or(0)).unwrap_or(0),
        ..LinuxContainerResources::default()
    }
}

fn oom_score(pod: &PodModel, resources: &ResourceRequirements, memory: u64) -> i64 {
    if pod.spec().priority.is_some_and(|priority| priority >= SYSTEM_CRITICAL) {
        return GUARANTEED_OOM;
    }
    match pod.qos_class() {
        QosClass::Guaranteed => GUARANTEED_OOM,
        QosClass::BestEffort => BEST_EFFORT_OOM,
        QosClass::Burstable => {
            let limit = find(resources.limits.as_ref(), "memory");
            let request = find(resources.requests.as_ref(), "memory").or(limit).unwrap_or(0) / 1000;
            let share = request * 1000 / i128::from(memory.max(1));
            let score = 1000 - i64::try_from(share).unwrap_or(1000);
            // Above every guaranteed pod, below every pod that asks for nothing.
            score.clamp(1000 + GUARANTEED_OOM, BEST_EFFORT_OOM - 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn pod(resources: serde_json::Value) -> PodModel {
        let pod = serde_json::json!({ "metadata": { "name": "p", "namespace": "n", "uid": "u" },
            "spec": { "containers": [{ "name": "a", "resources": resources }] } });
        PodModel::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
    }

    fn limits(resources: serde_json::Value) -> LinuxContainerResources {
        let pod = pod(resources);
        of_container(&pod, &pod.members[0].container, 8 << 30)
    }

    #[test]
    fn requests_become_shares_and_limits_become_quotas() {
        let got = limits(serde_json::json!({
            "requests": { "cpu": "250m", "memory": "2Gi" }, "limits": { "cpu": "500m", "memory": "4Gi" } }));
        assert_eq!((got.cpu_shares, got.cpu_quota, got.cpu_period), (256, 50_000, 100_000));
        assert_eq!((got.memory_limit_in_bytes, got.oom_score_adj), (4 << 30, 750));
    }

    #[test]
    fn a_limit_alone_is_also_the_request_and_nothing_is_the_least_share() {
        let got = limits(serde_json::json!({ "limits": { "cpu": "5m", "memory": "1Gi" } }));
        assert_eq!((got.cpu_shares, got.cpu_quota, got.oom_score_adj), (5, 1000, -997));
        let got = limits(serde_json::json!({}));
        assert_eq!((got.cpu_shares, got.cpu_quota, got.oom_score_adj), (2, 0, 1000));
    }
}
