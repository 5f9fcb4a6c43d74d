//! What a pod asks for.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;

use crate::resources::{Quantities, Resources};

/// What a container that asks for no CPU counts with when nodes are scored.
const DEFAULT_MILLI_CPU: i64 = 100;
/// What a container that asks for no memory counts with when nodes are scored.
const DEFAULT_MEMORY: i64 = 200 << 20;

/// What a pod asks for, as it is and as it counts in scores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// What it asks for.
    pub actual: Resources,
    /// Its CPU, where each container asks for at least a little: otherwise all pods that ask for nothing would
    /// land on one node.
    pub scored_milli_cpu: i64,
    /// Its memory, likewise.
    pub scored_memory: i64,
}

/// Whether an init container keeps running beside the containers.
pub fn is_sidecar(container: &core::Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

impl Requests {
    /// Adds up what a pod asks for: the containers and sidecars together, or the largest init container with
    /// the sidecars started before it, whichever is more; then what the runtime takes. Amounts for the pod as
    /// a whole replace the sum.
    pub fn of(pod: &core::Pod) -> Self {
        let Some(spec) = &pod.spec else { return Requests::default() };
        let sizes = Sizes::of(pod);
        let whole = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let actual = sizes.total(spec, whole, |_| {});
        let scored = sizes.total(spec, whole, |container| {
            if container.milli_cpu == 0 && !whole.is_some_and(|whole| whole.contains_key("cpu")) {
                container.milli_cpu = DEFAULT_MILLI_CPU;
            }
            if container.memory == 0 && !whole.is_some_and(|whole| whole.contains_key("memory")) {
                container.memory = DEFAULT_MEMORY;
            }
        });
        Requests { scored_milli_cpu: scored.milli_cpu, scored_memory: scored.memory, actual }
    }
}

/// What the node has granted so far, by container: while a container is being resized the larger counts.
struct Sizes<'a> {
    granted: BTreeMap<&'a str, &'a core::ContainerStatus>,
    /// What the pod has been given as a whole.
    whole: Option<&'a Quantities>,
    /// What of it is in force.
    in_force: Option<&'a Quantities>,
    infeasible: bool,
}

impl<'a> Sizes<'a> {
    fn of(pod: &'a core::Pod) -> Self {
        let status = pod.status.as_ref();
        let containers = status.and_then(|status| status.container_statuses.as_ref());
        let inits = status.and_then(|status| status.init_container_statuses.as_ref());
        let granted = containers
            .into_iter()
            .chain(inits)
            .flatten()
            .filter(|status| status.resources.is_some() || status.allocated_resources.is_some())
            .map(|status| (status.name.as_str(), status))
            .collect();
        let conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
        let infeasible = conditions.into_iter().any(|condition| {
            condition.type_ == "PodResizePending" && condition.reason.as_deref() == Some("Infeasible")
        });
        let whole = status.and_then(|status| status.allocated_resources.as_ref());
        let in_force = status.and_then(|status| status.resources.as_ref());
        let in_force = in_force.and_then(|resources| resources.requests.as_ref());
        Sizes { granted, whole, in_force, infeasible }
    }

    fn container(&self, container: &core::Container) -> Resources {
        let wanted = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let Some(status) = self.granted.get(container.name.as_str()) else { return Resources::read(wanted) };
        let actual = status.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let mut size = Resources::read(actual);
        size.raise(&Resources::read(status.allocated_resources.as_ref()));
        if !self.infeasible {
            size.raise(&Resources::read(wanted));
        }
        size
    }

    fn total(
        &self,
        spec: &core::PodSpec,
        whole: Option<&Quantities>,
        at_least: impl Fn(&mut Resources),
    ) -> Resources {
        let size = |container: &core::Container| {
            let mut size = self.container(container);
            at_least(&mut size);
            size
        };
        let mut total = Resources::default();
        for container in &spec.containers {
            total.add(&size(container));
        }
        let mut sidecars = Resources::default();
        let mut starting = Resources::default();
        for container in spec.init_containers.iter().flatten() {
            let mut size = size(container);
            if is_sidecar(container) {
                total.add(&size);
                sidecars.add(&size);
                starting.raise(&sidecars);
            } else {
                size.add(&sidecars);
                starting.raise(&size);
            }
        }
        total.raise(&starting);
        if let Some(whole) = whole {
            let wanted = (self.whole.is_none() || !self.infeasible).then_some(whole);
            let mut set = Resources::read(self.whole);
            set.raise(&Resources::read(self.in_force));
            set.raise(&Resources::read(wanted));
            let is_set =
                |name: &str| [self.whole, wanted].into_iter().flatten().any(|all| all.contains_key(name));
            if is_set("cpu") {
                total.milli_cpu = set.milli_cpu;
            }
            if is_set("memory") {
                total.memory = set.memory;
            }
            for (name, amount) in set.others {
                match total.others.iter_mut().find(|(have, _)| *have == name) {
                    Some((_, have)) => *have = amount,
                    None => total.others.push((name, amount)),
                }
            }
            total.others.sort();
        }
        total.add(&Resources::read(spec.overhead.as_ref()));
        total
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn of(spec: Value) -> Requests {
        Requests::of(&from_value(json!({"metadata": {}, "spec": spec})).unwrap())
    }

    fn container(cpu: &str) -> Value {
        json!({"name": cpu, "resources": {"requests": {"cpu": cpu, "memory": "1Mi"}}})
    }

    fn sidecar(cpu: &str) -> Value {
        json!({"name": cpu, "restartPolicy": "Always", "resources": {"requests": {"cpu": cpu, "memory": "1Mi"}}})
    }

    #[test]
    fn containers_add_up_and_the_largest_init_container_counts_if_it_is_more() {
        let containers = [container("1"), container("2")];
        assert_eq!(of(json!({"containers": containers})).actual.milli_cpu, 3000);
        let small = of(json!({"containers": containers, "initContainers": [container("2500m")]}));
        assert_eq!(small.actual.milli_cpu, 3000);
        let large = of(json!({"containers": containers, "initContainers": [container("4")]}));
        assert_eq!(large.actual.milli_cpu, 4000);
    }

    #[test]
    fn a_sidecar_counts_beside_the_containers_and_beside_later_init_containers() {
        let pod = of(json!({
            "containers": [container("1")],
            "initContainers": [sidecar("500m"), container("2")],
        }));
        assert_eq!(pod.actual.milli_cpu, 2500);
        let pod = of(json!({
            "containers": [container("1")],
            "initContainers": [container("1200m"), sidecar("500m")],
        }));
        assert_eq!(pod.actual.milli_cpu, 1500);
    }

    #[test]
    fn a_pod_that_is_resized_as_a_whole_counts_with_the_larger_amount() {
        let of = |reason: &str, given: Value, in_force: Value| {
            let pod = json!({"metadata": {}, "spec": {"containers": [container("1")], "resources": {"requests": {"cpu": "3"}}},
                "status": {"allocatedResources": given, "resources": {"requests": in_force},
                    "conditions": [{"type": "PodResizePending", "status": "True", "reason": reason}]}});
            Requests::of(&from_value(pod).unwrap()).actual.milli_cpu
        };
        let two = || json!({"cpu": "2"});
        assert_eq!((of("Deferred", two(), two()), of("Infeasible", two(), two())), (3000, 2000));
        assert_eq!(of("Deferred", two(), json!({"cpu": "4"})), 4000, "what is not given back yet");
        let memory = || json!({"memory": "1Gi"});
        assert_eq!(of("Infeasible", memory(), memory()), 1000, "the sum of its containers");
    }

    #[test]
    fn the_overhead_is_added_and_amounts_for_the_pod_replace_the_sum() {
        let pod = of(json!({
            "containers": [container("1")],
            "resources": {"requests": {"cpu": "3"}},
            "overhead": {"cpu": "10m"},
        }));
        assert_eq!((pod.actual.milli_cpu, pod.actual.memory), (3010, 1 << 20));
    }

    #[test]
    fn a_container_that_asks_for_nothing_still_counts_in_scores() {
        let pod = of(json!({"containers": [{"name": "a"}, {"name": "b"}]}));
        assert!(pod.actual.is_zero());
        assert_eq!((pod.scored_milli_cpu, pod.scored_memory), (200, 400 << 20));
    }

    #[test]
    fn while_a_container_is_resized_the_larger_amount_counts() {
        let pod = json!({
            "metadata": {},
            "spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}]},
            "status": {"containerStatuses": [{
                "name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "allocatedResources": {"cpu": "2"},
            }]},
        });
        assert_eq!(Requests::of(&from_value(pod).unwrap()).actual.milli_cpu, 2000);
    }
}
