//! (pure) From requests and limits to what the kernel is told.

use k8s_openapi::api::core::v1::{Container, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use keelson_cri::v1::{HugepageLimit, LinuxContainerResources};

use crate::pod::{Kind, Member, PodModel, QosClass};

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

/// What limits depend on beside the pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Main memory, in bytes.
    pub(crate) memory: u64,
    /// Resource names of the huge pages that the kernel has, as `hugepages-2Mi`.
    pub(crate) huge_pages: Vec<String>,
    /// Control groups are of version 2.
    pub(crate) unified: bool,
    /// They bound swap too.
    pub(crate) swap: bool,
    /// How many processes and threads a pod may have.
    pub(crate) pod_pids: u64,
}

/// The shares and limits of CPU and memory of one container. Where it has no limit of its own the pod's is its own too.
pub(crate) fn compute(pod: &PodModel, container: &Container) -> LinuxContainerResources {
    let (requests, limits) = match &container.resources {
        Some(resources) => (resources.requests.as_ref(), resources.limits.as_ref()),
        None => (None, None),
    };
    let of_pod = pod.resources().and_then(|resources| resources.limits.as_ref());
    let limit = |name: &str| {
        let own = find(limits, name).filter(|milli| *milli > 0);
        own.or_else(|| find(of_pod, name).filter(|milli| *milli > 0))
    };
    let cpu_limit = limit("cpu");
    let cpu_request = find(requests, "cpu").or(cpu_limit).unwrap_or(0);
    let memory_limit = limit("memory").map(|milli| milli / 1000);
    LinuxContainerResources {
        cpu_period: if cpu_limit.is_some() { PERIOD } else { 0 },
        cpu_quota: cpu_limit.map_or(0, quota),
        cpu_shares: shares(cpu_request),
        memory_limit_in_bytes: memory_limit.map_or(0, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        ..LinuxContainerResources::default()
    }
}

/// Memory with swap, in version 1's words: no more than without, so that none of it is swap; 0 where nothing is to be said.
pub(crate) fn without_swap(limits: &LinuxContainerResources, machine: &Machine) -> i64 {
    if machine.swap && !machine.unified { limits.memory_limit_in_bytes } else { 0 }
}

/// The limits of one container.
pub(crate) fn of_container(
    pod: &PodModel,
    container: &Container,
    machine: &Machine,
) -> LinuxContainerResources {
    let resources = container.resources.clone().unwrap_or_default();
    let limits = resources.limits.as_ref();
    let mut unified = std::collections::HashMap::new();
    if machine.unified {
        // All of the container's processes end when one has to.
        unified.insert("memory.oom.group".to_owned(), "1".to_owned());
        if machine.swap {
            unified.insert("memory.swap.max".to_owned(), "0".to_owned());
        }
    }
    let limited = compute(pod, container);
    LinuxContainerResources {
        oom_score_adj: oom_score(pod, container, machine.memory),
        hugepage_limits: huge_pages(pod, limits, machine),
        unified,
        memory_swap_limit_in_bytes: without_swap(&limited, machine),
        ..limited
    }
}

type Amounts = std::collections::BTreeMap<String, Quantity>;

/// A limit for each size of pages that there is: what is asked for by the container or its pod, or none.
fn huge_pages(pod: &PodModel, limits: Option<&Amounts>, machine: &Machine) -> Vec<HugepageLimit> {
    let of_pod = pod.resources().and_then(|resources| resources.limits.as_ref());
    let limit = |name: &String| {
        let bytes = find(limits, name).or_else(|| find(of_pod, name)).unwrap_or(0) / 1000;
        // The kernel's name of the size, as 2MB.
        let size = name.strip_prefix("hugepages-")?.strip_suffix('i')?;
        Some(HugepageLimit { page_size: format!("{size}B"), limit: u64::try_from(bytes).unwrap_or(0) })
    };
    machine.huge_pages.iter().filter_map(limit).collect()
}

/// What a pod asks for or is allowed to have in all, in thousandths: what its containers have together, or the most that
/// one of its init containers has beside the sidecars before it; what the pod itself says goes before that. The overhead
/// comes on top. `None` when nothing is said.
fn total(pod: &PodModel, name: &str, of: impl Fn(&ResourceRequirements) -> Option<i128>) -> Option<i128> {
    let amount = |member: &Member| member.container.resources.as_ref().and_then(&of);
    let add = |sum: Option<i128>, one: Option<i128>| sum.map_or(one, |sum| Some(sum + one.unwrap_or(0)));
    let (mut sidecars, mut most) = (None, None);
    for member in pod.init() {
        if member.kind == Kind::Sidecar {
            sidecars = add(sidecars, amount(member));
        }
        let here = if member.kind == Kind::Sidecar { sidecars } else { add(sidecars, amount(member)) };
        most = most.max(here);
    }
    let together = pod.of(Kind::Regular).fold(sidecars, |sum, member| add(sum, amount(member)));
    let own = pod.resources().and_then(&of);
    let sum = own.or(together.max(most))?;
    Some(sum + find(pod.spec().overhead.as_ref(), name).unwrap_or(0))
}

/// What the sandbox itself has, if the pod's class says so.
pub(crate) fn overhead(pod: &PodModel) -> Option<LinuxContainerResources> {
    let overhead = pod.spec().overhead.as_ref().filter(|all| !all.is_empty())?;
    let cpu = find(Some(overhead), "cpu");
    let memory = find(Some(overhead), "memory").map_or(0, |milli| milli / 1000);
    Some(LinuxContainerResources {
        cpu_shares: cpu.map_or(0, shares),
        cpu_period: if cpu.is_some() { PERIOD } else { 0 },
        cpu_quota: cpu.map_or(0, quota),
        memory_limit_in_bytes: i64::try_from(memory).unwrap_or(i64::MAX),
        ..LinuxContainerResources::default()
    })
}

/// A pod's request, in thousandths.
pub(crate) fn request(pod: &PodModel, name: &str) -> i128 {
    let of = |resources: &ResourceRequirements| {
        find(resources.requests.as_ref(), name).or_else(|| find(resources.limits.as_ref(), name))
    };
    total(pod, name, of).unwrap_or(0)
}

/// A pod's limit, in thousandths; `None` when one of its containers has none, and the pod itself neither.
fn limit(pod: &PodModel, name: &str) -> Option<i128> {
    let of =
        |resources: &ResourceRequirements| find(resources.limits.as_ref(), name).filter(|amount| *amount > 0);
    let limited = |member: &Member| member.container.resources.as_ref().and_then(of).is_some();
    let all = pod.members.iter().filter(|member| member.kind != Kind::Ephemeral).all(limited);
    let own = pod.resources().and_then(of).is_some();
    if all || own { total(pod, name, of) } else { None }
}

/// What all containers of a pod have together, for the sandbox and the pod's control group.
pub(crate) fn of_pod(pod: &PodModel) -> LinuxContainerResources {
    let memory = limit(pod, "memory").map_or(0, |milli| milli / 1000);
    LinuxContainerResources {
        cpu_period: PERIOD,
        cpu_quota: limit(pod, "cpu").map_or(0, quota),
        cpu_shares: shares(request(pod, "cpu")),
        memory_limit_in_bytes: i64::try_from(memory).unwrap_or(i64::MAX),
        ..LinuxContainerResources::default()
    }
}

/// The bytes of memory that a container asks for.
fn memory_of(container: &Container) -> i128 {
    let resources = container.resources.as_ref();
    let limit = resources.and_then(|all| find(all.limits.as_ref(), "memory"));
    resources.and_then(|all| find(all.requests.as_ref(), "memory")).or(limit).unwrap_or(0) / 1000
}

/// What the pod asks for beyond its containers, shared equally among them.
fn memory_beside(pod: &PodModel) -> i128 {
    let requests = pod.resources().and_then(|resources| resources.requests.as_ref());
    let Some(own) = find(requests, "memory").map(|milli| milli / 1000) else { return 0 };
    let members: Vec<_> = pod.members.iter().filter(|member| member.kind != Kind::Ephemeral).collect();
    let lasting = members.iter().filter(|member| member.kind != Kind::Init);
    let together: i128 = lasting.map(|member| memory_of(&member.container)).sum();
    (own - together).max(0) / i128::try_from(members.len().max(1)).unwrap_or(1)
}

/// The badness of a process by the memory that its container asks for, of so much.
fn oom_share(pod: &PodModel, container: &Container, memory: u64) -> i64 {
    let request = memory_of(container) + memory_beside(pod);
    let share = request * 1000 / i128::from(memory.max(1));
    1000 - i64::try_from(share).unwrap_or(1000)
}

fn oom_score(pod: &PodModel, container: &Container, memory: u64) -> i64 {
    let class = pod.spec().priority_class_name.as_deref();
    if pod.is_critical() && class == Some("system-node-critical") {
        return GUARANTEED_OOM;
    }
    match pod.qos_class() {
        QosClass::Guaranteed => GUARANTEED_OOM,
        QosClass::BestEffort => BEST_EFFORT_OOM,
        QosClass::Burstable => {
            let mut score = oom_share(pod, container, memory);
            let kind = pod.member(&container.name).map(|member| member.kind);
            if kind == Some(Kind::Sidecar) {
                // It goes no sooner than any that it serves.
                let served = pod.of(Kind::Regular).map(|one| oom_share(pod, &one.container, memory));
                score = served.max().map_or(score, |served| score.min(served));
            }
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
        let machine = Machine {
            memory: 8 << 30,
            huge_pages: vec!["hugepages-2Mi".to_owned(), "hugepages-1Gi".to_owned()],
            unified: true,
            swap: true,
            pod_pids: 100,
        };
        of_container(&pod, &pod.members[0].container, &machine)
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

    #[test]
    fn huge_pages_that_nobody_asked_for_are_none() {
        let got = limits(serde_json::json!({ "limits": { "hugepages-2Mi": "6Mi" } }));
        let limits: Vec<_> =
            got.hugepage_limits.iter().map(|one| (one.page_size.as_str(), one.limit)).collect();
        assert_eq!(limits, [("2MB", 6 << 20), ("1GB", 0)]);
        assert_eq!(got.unified["memory.oom.group"], "1");
        assert_eq!(got.unified["memory.swap.max"], "0");
    }

    #[test]
    fn a_sidecar_goes_no_sooner_than_those_that_it_serves_and_what_the_node_needs_goes_last() {
        use serde_json::json;
        let asks = |name: &str, memory: &str| json!({ "name": name, "resources": { "requests": { "memory": memory } } });
        let score = |class: &str, priority: i32, name: &str| {
            let mut sidecar = asks("s", "0");
            sidecar["restartPolicy"] = json!("Always");
            let pod = json!({ "metadata": { "name": "p", "namespace": "n", "uid": "u" },
                "spec": { "priorityClassName": class, "priority": priority, "initContainers": [sidecar, asks("i", "0")],
                    "containers": [asks("a", "2Gi"), asks("b", "4Gi")] } });
            let pod = PodModel::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap();
            let machine = Machine { memory: 8 << 30, ..Machine::default() };
            of_container(&pod, &pod.member(name).unwrap().container, &machine).oom_score_adj
        };
        assert_eq!(
            (score("", 0, "a"), score("", 0, "b"), score("", 0, "s"), score("", 0, "i")),
            (750, 500, 750, 999)
        );
        assert_eq!(score("system-node-critical", 2_000_001_000, "a"), -997);
        assert_eq!(score("system-cluster-critical", 2_000_000_000, "a"), 750);
    }

    #[test]
    fn no_memory_is_swapped() {
        let pod = pod(serde_json::json!({ "limits": { "memory": "1Gi" } }));
        let of = |unified, swap| {
            let machine = Machine { unified, swap, ..Machine::default() };
            of_container(&pod, &pod.members[0].container, &machine).memory_swap_limit_in_bytes
        };
        assert_eq!((of(false, true), of(false, false), of(true, true)), (1 << 30, 0, 0));
    }

    fn whole(spec: serde_json::Value) -> (i64, i64, i64) {
        let pod =
            serde_json::json!({ "metadata": { "name": "p", "namespace": "n", "uid": "u" }, "spec": spec });
        let pod = of_pod(&PodModel::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap());
        (pod.cpu_shares, pod.cpu_quota, pod.memory_limit_in_bytes >> 20)
    }

    #[test]
    fn a_pod_has_what_its_containers_have_together_or_the_largest_of_its_init_containers() {
        use serde_json::json;
        let one = |name: &str, cpu: &str| json!({ "name": name, "resources": { "limits": { "cpu": cpu, "memory": "10Mi" } } });
        let mut sidecar = one("s", "500m");
        sidecar["restartPolicy"] = json!("Always");
        let both = json!([one("a", "250m"), one("b", "250m")]);
        assert_eq!(whole(json!({ "containers": both })), (512, 50_000, 20));
        let init = json!([sidecar, one("i", "2")]);
        assert_eq!(whole(json!({ "containers": both, "initContainers": init })), (2560, 250_000, 30));
        let unlimited = json!([one("a", "250m"), { "name": "b" }]);
        assert_eq!(whole(json!({ "containers": unlimited })), (256, 0, 0));
        let overhead = json!({ "cpu": "250m", "memory": "4Mi" });
        assert_eq!(whole(json!({ "containers": both, "overhead": overhead })), (768, 75_000, 24));
    }

    #[test]
    fn a_container_without_limits_has_its_pods_and_its_share_of_what_the_pod_asks_for_beside() {
        use serde_json::json;
        let resources = json!({ "requests": { "memory": "3Gi" }, "limits": { "cpu": "2", "memory": "4Gi" } });
        let own = json!({ "name": "b", "resources": { "requests": { "cpu": "1", "memory": "1Gi" }, "limits": { "cpu": "1" } } });
        let pod = json!({ "metadata": { "name": "p", "namespace": "n", "uid": "u" },
            "spec": { "resources": resources, "containers": [{ "name": "a" }, own] } });
        let pod = PodModel::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap();
        let machine = Machine { memory: 8 << 30, ..Machine::default() };
        let of = |name: &str| {
            let found = of_container(&pod, &pod.member(name).unwrap().container, &machine);
            (found.cpu_shares, found.cpu_quota, found.memory_limit_in_bytes >> 30, found.oom_score_adj)
        };
        assert_eq!(of("a"), (2048, 200_000, 4, 875));
        assert_eq!(of("b"), (1024, 100_000, 4, 750));
    }

    #[test]
    fn what_the_pod_itself_is_limited_to_goes_before_its_containers() {
        use serde_json::json;
        let resources = json!({ "requests": { "cpu": "1" }, "limits": { "cpu": "2", "memory": "64Mi" } });
        let spec = json!({ "resources": resources, "containers": [{ "name": "a" }, { "name": "b" }] });
        assert_eq!(whole(spec), (1024, 200_000, 64));
    }
}
