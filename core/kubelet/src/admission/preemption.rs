//! (pure) Which pods make room for one that the node cannot do without: as few as possible, those that asked for nothing first.

use super::fit::{Misfit, request};
use crate::pod::{PodModel, QosClass};

/// Something that is still missing: its name, and how much.
type Missing = Vec<(String, i128)>;

fn missing(misfits: &[Misfit]) -> Option<Missing> {
    let of = |one: &Misfit| match one {
        Misfit::Insufficient { resource, requested, used, capacity } => {
            Some((resource.clone(), requested - (capacity - used)))
        }
        Misfit::Predicate(..) => None,
    };
    misfits.iter().map(of).collect()
}

fn less(missing: &Missing, pods: &[&PodModel]) -> Missing {
    let left = |(name, amount): &(String, i128)| {
        let given: i128 = pods.iter().map(|pod| request(pod, name)).sum();
        (name.clone(), amount - given)
    };
    missing.iter().map(left).filter(|(_, amount)| *amount > 0).collect()
}

/// How far a pod is from giving what is missing: the sum of the squares of the parts that it does not give.
fn distance(missing: &Missing, pod: &PodModel) -> f64 {
    let part = |(name, amount): &(String, i128)| {
        let left = (amount - request(pod, name)).max(0);
        #[allow(clippy::cast_precision_loss, reason = "a measure for comparison alone")]
        let part = left as f64 / *amount as f64;
        part * part
    };
    missing.iter().map(part).sum()
}

/// The nearest ones, until nothing is missing; nothing when all of them are too few.
fn nearest<'a>(pods: &[&'a PodModel], mut missing: Missing) -> Option<Vec<&'a PodModel>> {
    let mut left = pods.to_vec();
    let mut chosen = Vec::new();
    while !missing.is_empty() {
        let size = |pod: &PodModel| (request(pod, "memory"), request(pod, "cpu"));
        let order = |a: &&&PodModel, b: &&&PodModel| {
            distance(&missing, a).total_cmp(&distance(&missing, b)).then_with(|| size(a).cmp(&size(b)))
        };
        let best = *left.iter().min_by(order)?;
        left.retain(|one| one.uid != best.uid);
        missing = less(&missing, &[best]);
        chosen.push(best);
    }
    Some(chosen)
}

/// The pods that end for a critical one. Nothing when that would not help, or when it is not critical.
pub(crate) fn victims<'a>(
    pod: &PodModel,
    misfits: &[Misfit],
    others: &'a [PodModel],
) -> Option<Vec<&'a PodModel>> {
    let missing = missing(misfits).filter(|_| pod.is_critical())?;
    let priority = |pod: &PodModel| pod.spec().priority.unwrap_or(0);
    let may = |one: &&PodModel| !one.is_critical() || (!one.is_static() && priority(pod) > priority(one));
    let of = |class: QosClass| -> Vec<&PodModel> {
        others.iter().filter(may).filter(|one| one.qos_class() == class).collect()
    };
    let (least, middle, most) = (of(QosClass::BestEffort), of(QosClass::Burstable), of(QosClass::Guaranteed));
    let lower = [middle.clone(), least.clone()].concat();
    let most = nearest(&most, less(&missing, &lower))?;
    let middle = nearest(&middle, less(&missing, &[least.clone(), most.clone()].concat()))?;
    let least = nearest(&least, less(&missing, &[middle.clone(), most.clone()].concat()))?;
    Some([least, middle, most].concat())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fit::{misfits, tests::*};
    use super::*;

    fn names(cpu: &str, others: &[PodModel], priority: i32) -> Option<Vec<String>> {
        let requests = json!({ "cpu": cpu });
        let spec = json!({ "priority": priority, "containers": [{ "name": "a", "resources": { "requests": requests } }] });
        let critical = pod("critical", spec);
        let found = misfits(&critical, &place(), others);
        victims(&critical, &found, others).map(|all| all.iter().map(|one| one.name.clone()).collect())
    }

    #[test]
    fn the_pod_that_gives_just_what_is_missing_makes_room() {
        let others = [asks("large", "1200m", "1Mi"), asks("fits", "600m", "1Mi")];
        assert_eq!(names("700m", &others, 2_000_000_000).unwrap(), ["fits"]);
        assert_eq!(names("1500m", &others, 2_000_000_000).unwrap(), ["large", "fits"]);
        assert_eq!(names("700m", &others, 0), None);
        assert_eq!(names("3", &others, 2_000_000_000), None);
    }
}
