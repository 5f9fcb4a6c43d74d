//! (pure) Limits of local storage: of each emptyDir, of the pod as a whole, of each container.

use k8s_openapi::api::core::v1::Container;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use keelson_api::quantity::Amount;

use crate::disk_usage::PodUsage;
use crate::pod::{Kind, PodModel};

fn amount(quantity: &Quantity) -> Option<Amount> {
    Amount::parse(&quantity.0).ok().filter(|amount| amount.quantity().value() > 0)
}

fn exceeds(bytes: u64, limit: Amount) -> bool {
    i128::from(bytes) > limit.quantity().value()
}

fn container_limit(container: &Container) -> Option<Amount> {
    amount(container.resources.as_ref()?.limits.as_ref()?.get("ephemeral-storage")?)
}

/// What the containers that have a limit may use together: those that run beside each other, or the most that an init
/// container may beside the sidecars before it. Overhead comes on top.
fn pod_limit(pod: &PodModel) -> Option<Amount> {
    let add = |sum: Option<Amount>, one: Option<Amount>| match (sum, one) {
        (Some(sum), Some(one)) => Some(sum.plus(one)),
        (sum, one) => sum.or(one),
    };
    let larger = |one: Option<Amount>, other: Option<Amount>| match (one, other) {
        (Some(one), Some(other)) => Some(one.max(other)),
        (one, other) => one.or(other),
    };
    let (mut sidecars, mut most) = (None, None);
    for member in pod.init() {
        let here = add(sidecars, container_limit(&member.container));
        if member.kind == Kind::Sidecar {
            sidecars = here;
        }
        most = larger(most, here);
    }
    let own = |sum, member: &crate::pod::Member| add(sum, container_limit(&member.container));
    let together = pod.of(Kind::Regular).fold(sidecars, own);
    let sum = larger(together, most)?;
    let overhead = pod.spec().overhead.as_ref().and_then(|all| all.get("ephemeral-storage"));
    Some(overhead.and_then(amount).map_or(sum, |overhead| sum.plus(overhead)))
}

/// What is exceeded, as it is counted and in the words of other kubelets; the first limit of several.
pub(super) fn exceeded(pod: &PodModel, usage: &PodUsage) -> Option<(&'static str, String)> {
    for volume in pod.spec().volumes.iter().flatten() {
        let size = volume.empty_dir.as_ref().and_then(|source| source.size_limit.as_ref()).and_then(amount);
        let used = usage.volumes.get(&volume.name);
        if let Some((size, used)) = size.zip(used)
            && exceeds(used.usage.bytes, size)
        {
            let name = &volume.name;
            let text = format!("Usage of EmptyDir volume {name:?} exceeds the limit \"{size}\". ");
            return Some(("emptydirfs.limit", text));
        }
    }
    if let Some(limit) = pod_limit(pod).filter(|limit| exceeds(usage.ephemeral_storage().bytes, *limit)) {
        let text =
            format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. ");
        return Some(("ephemeralpodfs.limit", text));
    }
    pod.of(Kind::Regular).find_map(|member| {
        let limit = container_limit(&member.container)?;
        let used = usage.containers.get(member.name())?;
        let bytes = (used.logs + used.layer.unwrap_or_default()).bytes;
        let name = member.name();
        let text = || format!("Container {name} exceeded its local ephemeral storage limit \"{limit}\". ");
        exceeds(bytes, limit).then(|| ("ephemeralcontainerfs.limit", text()))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::disk_usage::{ContainerUsage, Usage, VolumeUsage};

    fn pod(spec: &Value) -> PodModel {
        let pod = json!({ "metadata": { "name": "p", "namespace": "n", "uid": "u" }, "spec": spec });
        PodModel::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
    }

    fn used(logs: u64, layer: u64, volume: u64) -> PodUsage {
        let usage = |mebibytes: u64| Usage { bytes: mebibytes << 20, inodes: 1 };
        let container = ContainerUsage { logs: usage(logs), layer: Some(usage(layer)) };
        let volume = VolumeUsage { usage: usage(volume), in_memory: false };
        PodUsage {
            containers: [("a".to_owned(), container)].into(),
            volumes: [("cache".to_owned(), volume)].into(),
            ..PodUsage::default()
        }
    }

    #[test]
    fn each_limit_is_named_in_its_own_words() {
        let limited = |name: &str, size: &str| json!({ "name": name, "resources": { "limits": { "ephemeral-storage": size } } });
        let volumes = json!([{ "name": "cache", "emptyDir": { "sizeLimit": "10Mi" } }]);
        let spec = json!({ "containers": [limited("a", "20Mi"), limited("b", "30Mi")], "volumes": volumes });
        let pod = pod(&spec);
        let cases = [
            (used(5, 5, 10), None),
            (used(0, 0, 11), Some("Usage of EmptyDir volume \"cache\" exceeds the limit \"10Mi\". ")),
            (
                used(50, 0, 1),
                Some("Pod ephemeral local storage usage exceeds the total limit of containers 50Mi. "),
            ),
            (used(15, 6, 1), Some("Container a exceeded its local ephemeral storage limit \"20Mi\". ")),
        ];
        for (usage, message) in cases {
            let told = exceeded(&pod, &usage);
            assert_eq!(told.as_ref().map(|(_, text)| text.as_str()), message);
        }
    }

    #[test]
    fn a_pod_without_limits_exceeds_none() {
        let spec =
            json!({ "containers": [{ "name": "a" }], "volumes": [{ "name": "cache", "emptyDir": {} }] });
        assert_eq!(exceeded(&pod(&spec), &used(1 << 20, 1 << 20, 1 << 20)), None);
    }
}
