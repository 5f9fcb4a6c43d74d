//! (pure) Which pod ends first, and in what words.
//!
//! Those that use more than they asked for come first, then those of the lowest priority, then those that are furthest above
//! what they asked for. Of processes nothing can be asked for: there the priority comes first.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use keelson_api::quantity::{Amount, canonical};

use super::threshold::{Observations, Resource, Signal, Threshold};
use crate::disk_usage::{PodUsage, Usage};
use crate::pod::PodModel;
use crate::resources;

/// What a pod uses now.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Measure {
    /// The memory that it needs, in bytes.
    pub(super) memory: u64,
    /// Its processes.
    pub(super) processes: u64,
    /// The memory of each of its containers.
    pub(super) containers: BTreeMap<String, u64>,
    /// Its disk.
    pub(super) disk: Arc<PodUsage>,
}

/// A pod that may end.
#[derive(Debug)]
pub(super) struct Candidate<'a> {
    /// Which.
    pub(super) pod: &'a PodModel,
    /// What it uses, if that is known.
    pub(super) measure: Option<Measure>,
}

/// What of a pod lies on the disk that a signal is about.
fn on_disk(usage: &PodUsage, signal: Signal, own_imagefs: bool) -> Usage {
    let of_image = matches!(
        signal,
        Signal::Imagefs | Signal::ImagefsInodes | Signal::Containerfs | Signal::ContainerfsInodes
    );
    let logs = usage.containers.values().map(|one| one.logs).sum::<Usage>();
    let layers = usage.containers.values().filter_map(|one| one.layer).sum::<Usage>();
    match (own_imagefs, of_image) {
        (true, true) => layers,
        (true, false) => logs + usage.local_volumes(),
        (false, _) => logs + layers + usage.local_volumes(),
    }
}

/// By how much a pod is above what it asked for; below it, negative.
fn above(candidate: &Candidate<'_>, signal: Signal, own_imagefs: bool) -> Option<i128> {
    let measure = candidate.measure.as_ref()?;
    let request = |name: &str| resources::request(candidate.pod, name) / 1000;
    Some(match signal.resource() {
        Resource::Memory => i128::from(measure.memory) - request("memory"),
        Resource::EphemeralStorage => {
            let used = on_disk(&measure.disk, signal, own_imagefs).bytes;
            i128::from(used) - request("ephemeral-storage")
        }
        Resource::Inodes => i128::from(on_disk(&measure.disk, signal, own_imagefs).inodes),
        Resource::Pids => i128::from(measure.processes),
    })
}

/// Brings pods into the order in which they end. Of which nothing is known come first.
pub(super) fn rank(candidates: &mut [Candidate<'_>], signal: Signal, own_imagefs: bool) {
    candidates.sort_by_cached_key(|one| {
        let priority = one.pod.spec().priority.unwrap_or(0);
        let above = above(one, signal, own_imagefs);
        let of_pids = signal.resource() == Resource::Pids;
        let exceeds = of_pids || above.is_none_or(|above| above > 0);
        (above.is_some() || of_pids, !exceeds, priority, above.is_some(), Reverse(above))
    });
}

/// A number of bytes as the API writes it.
pub(super) fn bytes_text(bytes: u64) -> String {
    const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if bytes < 1024 {
        return canonical(&bytes.to_string()).unwrap_or_default();
    }
    let (mut number, mut power) = (bytes, 0);
    while number.is_multiple_of(1024) && power + 1 < SUFFIXES.len() {
        number /= 1024;
        power += 1;
    }
    format!("{number}{}", SUFFIXES[power])
}

fn count_text(resource: Resource, number: u64) -> String {
    match resource {
        Resource::Memory | Resource::EphemeralStorage => bytes_text(number),
        Resource::Inodes | Resource::Pids => canonical(&number.to_string()).unwrap_or_default(),
    }
}

/// Why a pod ends, in the words of other kubelets, with the annotations of the event.
pub(super) fn message(
    candidate: &Candidate<'_>,
    due: &[Threshold],
    observed: &Observations,
    resource: Resource,
) -> (String, BTreeMap<String, String>) {
    use super::threshold::Value;
    let word = resource.as_str();
    let mut message = format!("The node was low on resource: {word}. ");
    let first = due.iter().find(|one| one.signal.resource() == resource);
    if let Some((threshold, one)) = first.and_then(|first| Some((first, observed.get(&first.signal)?))) {
        let quantity = match threshold.value {
            Value::Amount(amount) => amount.to_string(),
            Value::Part(_) | Value::PartUpTo(..) => bytes_text(threshold.value.of(one.capacity)),
        };
        let available = count_text(resource, one.available);
        message += &format!("Threshold quantity: {quantity}, available: {available}. ");
    }
    let Some(measure) = &candidate.measure else { return (message, BTreeMap::new()) };
    let mut annotations = BTreeMap::new();
    let asked = |of: Option<&k8s_openapi::api::core::v1::ResourceRequirements>| {
        let asked = of.and_then(|all| all.requests.as_ref()).and_then(|all| all.get(word));
        asked.and_then(|asked| Amount::parse(&asked.0).ok())
    };
    let larger = |what: &str, name: &str, used: u64, request: Amount| {
        format!(
            "{what} {name} was using {}, request is {request}, has larger consumption of {word}. ",
            bytes_text(used)
        )
    };
    let pod = candidate.pod;
    if let Some(request) = asked(pod.resources()).filter(|_| resource == Resource::Memory) {
        message += &larger("Pod", &pod.name, measure.memory, request);
        annotations.insert("offending_pod".to_owned(), pod.name.clone());
        annotations.insert("offending_pod_usage".to_owned(), bytes_text(measure.memory));
    }
    let (mut names, mut usages) = (Vec::new(), Vec::new());
    for member in &pod.members {
        let name = member.name();
        let used = match resource {
            Resource::Memory => measure.containers.get(name).copied(),
            Resource::EphemeralStorage => {
                let used = measure.disk.containers.get(name);
                used.and_then(|used| Some((used.logs + used.layer?).bytes))
            }
            Resource::Inodes | Resource::Pids => None,
        };
        let request = asked(member.container.resources.as_ref()).unwrap_or_default();
        if let Some(used) = used.filter(|used| i128::from(*used) > request.quantity().value())
            && member.kind != crate::pod::Kind::Ephemeral
        {
            message += &larger("Container", name, used, request);
            names.push(name);
            usages.push(bytes_text(used));
        }
    }
    annotations.insert("offending_containers".to_owned(), names.join(","));
    annotations.insert("offending_containers_usage".to_owned(), usages.join(","));
    annotations.insert("starved_resource".to_owned(), word.to_owned());
    (message, annotations)
}

#[cfg(test)]
mod tests;
