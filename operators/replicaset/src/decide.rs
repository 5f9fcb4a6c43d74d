//! Which pods a ReplicaSet takes over, gives up, creates and deletes (pure).

use k8s_openapi::jiff::Timestamp;

use crate::ranking::sort_by_loss;
use crate::validate::{Pod, ValidatedReplicaSet};

/// How many pods are created or deleted at most in one go.
const BURST: usize = 500;

/// What to do.
#[derive(Debug)]
pub struct Plan {
    /// Pods that nobody manages and that the selector selects.
    pub adopt: Vec<Pod>,
    /// Pods that the selector no longer selects.
    pub release: Vec<Pod>,
    /// How to come to the number that is asked for.
    pub scale: Scale,
}

/// How to come to the number of pods that is asked for.
#[derive(Debug)]
pub enum Scale {
    /// It is reached.
    Reached,
    /// The watch has not told of everything that was done before.
    Unsettled,
    /// The ReplicaSet is being deleted.
    Deleted,
    /// So many are missing.
    Create(usize),
    /// These are too many.
    Delete(Vec<Pod>),
}

/// Decides.
pub fn decide(valid: &ValidatedReplicaSet, now: Timestamp) -> Plan {
    let selects = |pod: &Pod| valid.selection.matches(&pod.1.labels);
    let living = !valid.set.terminating;
    let adopt: Vec<Pod> =
        valid.orphans.iter().filter(|pod| living && !pod.1.terminating && selects(pod)).cloned().collect();
    let release: Vec<Pod> = valid.own.iter().filter(|pod| living && !selects(pod)).cloned().collect();
    let mut active = claimed(valid, &adopt);
    active.retain(|pod| pod.1.is_active());
    let wanted = usize::try_from(valid.set.replicas).unwrap_or(0);
    let scale = if !living {
        Scale::Deleted
    } else if !valid.settled {
        Scale::Unsettled
    } else if active.len() < wanted {
        Scale::Create((wanted - active.len()).min(BURST))
    } else if active.len() > wanted {
        let surplus = (active.len() - wanted).min(BURST);
        sort_by_loss(&mut active, &valid.related_on_node, now);
        active.truncate(surplus);
        Scale::Delete(active)
    } else {
        Scale::Reached
    };
    Plan { adopt, release, scale }
}

/// The pods that count as the ReplicaSet's own, once `adopted` are.
pub fn claimed(valid: &ValidatedReplicaSet, adopted: &[Pod]) -> Vec<Pod> {
    let own = valid.own.iter().filter(|pod| valid.selection.matches(&pod.1.labels));
    own.chain(adopted).cloned().collect()
}

#[cfg(test)]
mod tests;
