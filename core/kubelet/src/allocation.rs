//! (pure) What containers have been given of CPU and memory, which may be less or more than what is asked for since.
//!
//! A pod is given what it asks for when it is taken. When that is changed while it runs, it keeps what it has until the node
//! can give it the other. **Invariant: the status says what each container has got**, so that a kubelet that is started again
//! knows it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use keelson_cri::v1::LinuxContainerResources;

use crate::pod::{Kind, Member, PodModel};
use crate::resources;

/// What can be changed while a container runs.
const COMPUTE: [&str; 2] = ["cpu", "memory"];

/// By container; the pod's as a whole is that of [`WHOLE`].
pub(crate) type Allocation = BTreeMap<String, ResourceRequirements>;

/// What no container is named.
const WHOLE: &str = "";

type Amounts = BTreeMap<String, Quantity>;

/// Containers whose resources may change: those that go on.
fn lasting(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.iter();
    spec.flat_map(|spec| {
        let init = spec.init_containers.iter().flatten();
        let sidecars = init.filter(|one| one.restart_policy.as_deref() == Some("Always"));
        spec.containers.iter().chain(sidecars)
    })
}

/// What the containers of a pod ask for, and the pod as a whole if it does.
pub(crate) fn wanted(pod: &Pod) -> Allocation {
    let whole = pod.spec.as_ref().and_then(|spec| spec.resources.clone());
    let whole = whole.map(|resources| (WHOLE.to_owned(), resources));
    lasting(pod)
        .map(|one| (one.name.clone(), one.resources.clone().unwrap_or_default()))
        .chain(whole)
        .collect()
}

/// What a pod as a whole has been given, if it asks for something.
pub(crate) fn of_whole(pod: &Pod, allocation: &Allocation) -> Option<ResourceRequirements> {
    let mut own = pod.spec.as_ref()?.resources.clone()?;
    if let Some(given) = allocation.get(WHOLE) {
        settle(&mut own, given);
    }
    Some(own)
}

/// What they have got: what the status says, or what they ask for where none has run yet.
pub(crate) fn known(pod: &Pod) -> Allocation {
    let mut found = wanted(pod);
    let status = pod.status.iter();
    let statuses = status.flat_map(|status| {
        let init = status.init_container_statuses.iter().flatten();
        status.container_statuses.iter().flatten().chain(init)
    });
    for one in statuses {
        if let (Some(entry), Some(resources)) = (found.get_mut(&one.name), &one.resources) {
            entry.clone_from(resources);
        }
    }
    let whole = pod.status.as_ref().and_then(|status| status.resources.as_ref());
    if let (Some(entry), Some(resources)) = (found.get_mut(WHOLE), whole) {
        entry.clone_from(resources);
    }
    found
}

/// Whether both give each container the same CPU and memory.
pub(crate) fn is_same(one: &Allocation, other: &Allocation) -> bool {
    let amounts = |resources: &ResourceRequirements| {
        let of = |map: &Option<Amounts>| {
            COMPUTE.map(|name| map.as_ref().and_then(|map| map.get(name)).and_then(resources::amount))
        };
        (of(&resources.requests), of(&resources.limits))
    };
    one.len() == other.len()
        && one.iter().all(|(name, resources)| {
            other.get(name).is_some_and(|other| amounts(resources) == amounts(other))
        })
}

/// Gives a container the CPU and memory that it has got, in place of what it asks for.
pub(crate) fn apply(container: &mut Container, allocation: &Allocation) {
    let Some(given) = allocation.get(&container.name) else { return };
    if container.resources.is_none() && *given == ResourceRequirements::default() {
        return;
    }
    settle(container.resources.get_or_insert_default(), given);
}

fn settle(own: &mut ResourceRequirements, given: &ResourceRequirements) {
    for (own, given) in [(&mut own.requests, &given.requests), (&mut own.limits, &given.limits)] {
        let mut map = own.take().unwrap_or_default();
        for name in COMPUTE {
            match given.as_ref().and_then(|given| given.get(name)) {
                Some(quantity) => drop(map.insert(name.to_owned(), quantity.clone())),
                None => drop(map.remove(name)),
            }
        }
        *own = (!map.is_empty()).then_some(map);
    }
}

/// What of a container's limits is other than what is in force.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Its share of the processors or its limit.
    pub(crate) cpu: bool,
    /// Its memory.
    pub(crate) memory: bool,
}

impl Difference {
    /// Whether anything is.
    pub(crate) fn any(self) -> bool {
        self.cpu || self.memory
    }

    /// Whether the container takes it only by beginning anew.
    pub(crate) fn restarts(self, container: &Container) -> bool {
        let policy = |name: &str| {
            let mut policies = container.resize_policy.iter().flatten();
            policies.any(|one| one.resource_name == name && one.restart_policy == "RestartContainer")
        };
        (self.cpu && policy("cpu")) || (self.memory && policy("memory"))
    }
}

/// How what a member has been given differs from what is in force for an instance of it. A runtime that does not say what is has it.
pub(crate) fn difference(
    pod: &PodModel,
    member: &Member,
    in_force: Option<&LinuxContainerResources>,
) -> Difference {
    let Some(have) = in_force.filter(|_| matches!(member.kind, Kind::Regular | Kind::Sidecar)) else {
        return Difference::default();
    };
    let want = resources::compute(pod, &member.container);
    let limit = |value: i64| value.max(0);
    Difference {
        cpu: (want.cpu_shares, limit(want.cpu_quota)) != (have.cpu_shares.max(2), limit(have.cpu_quota)),
        memory: limit(want.memory_limit_in_bytes) != limit(have.memory_limit_in_bytes),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: &Value, got: Option<&Value>) -> Pod {
        let container = json!({ "name": "a", "resources": spec,
            "resizePolicy": [{ "resourceName": "memory", "restartPolicy": "RestartContainer" }] });
        let statuses: Vec<Value> =
            got.iter().map(|got| json!({ "name": "a", "resources": got, "ready": true, "restartCount": 0, "image": "", "imageID": "" })).collect();
        let pod = json!({ "metadata": { "name": "p", "namespace": "n", "uid": "u" },
            "spec": { "containers": [container] }, "status": { "containerStatuses": statuses } });
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn a_pod_keeps_what_it_has_got_until_it_is_given_the_other() {
        let (small, large) = (
            json!({ "limits": { "cpu": "1" } }),
            json!({ "limits": { "cpu": "2" }, "requests": { "cpu": "500m" } }),
        );
        let resized = pod(&large, Some(&small));
        assert!(!is_same(&wanted(&resized), &known(&resized)));
        assert!(is_same(&wanted(&resized), &known(&pod(&large, None))));
        let mut container = resized.spec.as_ref().unwrap().containers[0].clone();
        apply(&mut container, &known(&resized));
        assert_eq!(container.resources.unwrap(), serde_json::from_value(small).unwrap());
    }

    #[test]
    fn a_pod_as_a_whole_keeps_what_it_has_got_too() {
        let limits = |cpu: &str| json!({ "limits": { "cpu": cpu, "hugepages-2Mi": "2Mi" } });
        let pod = json!({ "metadata": { "name": "p", "namespace": "n", "uid": "u" },
            "spec": { "resources": limits("2"), "containers": [{ "name": "a" }] }, "status": { "resources": limits("1") } });
        let pod: Pod = serde_json::from_value(pod).unwrap();
        assert!(!is_same(&wanted(&pod), &known(&pod)));
        let model = PodModel::new(Arc::new(pod.clone())).unwrap();
        assert_eq!(model.resources(), Some(&serde_json::from_value(limits("1")).unwrap()));
        let given = PodModel::given(Arc::new(pod.clone()), &wanted(&pod)).unwrap();
        assert_eq!(resources::of_pod(&given).cpu_quota, 200_000);
        assert_eq!(resources::of_pod(&model).cpu_quota, 100_000);
    }

    #[test]
    fn a_container_begins_anew_only_for_what_it_says() {
        let wants = |resources: &Value| PodModel::new(Arc::new(pod(resources, None))).unwrap();
        let differs = |pod: &PodModel, have| difference(pod, &pod.members[0], have);
        let have = LinuxContainerResources {
            cpu_shares: 512,
            cpu_quota: 50_000,
            memory_limit_in_bytes: 1 << 20,
            ..Default::default()
        };
        let limits = |cpu: &str, memory: &str| wants(&json!({ "limits": { "cpu": cpu, "memory": memory } }));
        let same = limits("500m", "1Mi");
        assert!(!differs(&same, Some(&have)).any() && !differs(&same, None).any());
        let more_cpu = limits("1", "1Mi");
        let found = differs(&more_cpu, Some(&have));
        assert!(found.cpu && !found.memory && !found.restarts(&more_cpu.members[0].container));
        let more_memory = limits("500m", "2Mi");
        assert!(differs(&more_memory, Some(&have)).restarts(&more_memory.members[0].container));
    }
}
