//! Volumes for claims that wait for their first pod: chosen with the pod's node, and waited for before the pod is bound (pure).

use std::sync::Arc;

use super::{Claim, Volume, Volumes};
use crate::names::{NodeName, ObjectName};
use crate::node::NodeInfo;
use crate::pod::PendingPod;

/// What is to become of the claims of a pod on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Volumes, and the claims that get them.
    pub bind: Vec<(Arc<str>, ObjectName)>,
    /// Claims for which a volume is to be made on the node.
    pub provision: Vec<ObjectName>,
}

/// How far a pod's claims are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All are bound to volumes that the node can reach.
    Done,
    /// Some are not yet.
    Waiting,
    /// They will not be: the pod has to be looked at anew.
    Failed(String),
}

/// A pod that has its node, and waits for its volumes there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The node.
    pub node: NodeName,
    /// All of the pod's claims.
    pub claims: Vec<ObjectName>,
    /// What was decided.
    pub plan: Plan,
    /// Claims that were seen with the node's name.
    pub seen: Vec<ObjectName>,
}

impl Volumes {
    /// Whether a claim waits for the first pod that uses it.
    pub fn is_late(&self, claim: &Claim) -> bool {
        !claim.bound
            && claim.volume.is_none()
            && self.classes.get(&claim.class).is_some_and(|class| class.late)
    }

    fn late_claims<'a>(&'a self, pod: &PendingPod) -> Vec<(ObjectName, &'a Claim)> {
        let name = |name: &Arc<str>| ObjectName {
            namespace: pod.info.name.namespace.clone(),
            name: Arc::clone(name),
        };
        let claims = pod.info.claims.iter().map(|claim| name(&claim.name));
        let mut late: Vec<(ObjectName, &Claim)> =
            claims.filter_map(|name| self.claims.get(&name).map(|claim| (name, claim))).collect();
        late.retain(|(_, claim)| self.is_late(claim));
        late.sort_by(|(a, first), (b, second)| {
            first.wish.bytes.cmp(&second.wish.bytes).then_with(|| a.cmp(b))
        });
        late.dedup_by(|(a, _), (b, _)| a == b);
        late
    }

    fn suits(&self, name: &Arc<str>, volume: &Volume, claim: (&ObjectName, &Claim), node: &NodeInfo) -> bool {
        let (claim_name, claim) = claim;
        let wish = &claim.wish;
        let reserved = match (&volume.claim, self.taken.get(name)) {
            (_, Some(taken)) => taken == claim_name,
            (None, None) => volume.available,
            (Some((of, uid)), None) => of == claim_name && (uid.is_empty() || *uid == claim.uid),
        };
        reserved
            && volume.class == claim.class
            && volume.bytes >= wish.bytes
            && volume.block == wish.block
            && volume.attributes == wish.attributes
            && wish.modes.iter().all(|mode| volume.modes.contains(mode))
            && wish.selector.as_ref().is_none_or(|selector| selector.matches(&volume.labels))
            && volume.nodes.as_ref().is_none_or(|nodes| nodes.matches(node.name.as_str(), &node.labels))
    }

    /// What is to become of a pod's waiting claims on a node; `None` where the node cannot have volumes for all.
    pub fn plan(&self, pod: &PendingPod, node: &NodeInfo) -> Option<Plan> {
        let mut plan = Plan::default();
        for (name, claim) in self.late_claims(pod) {
            let selected = self.selected.get(&name).or(claim.selected.as_ref());
            if let Some(selected) = selected {
                if *selected != node.name {
                    return None;
                }
                plan.provision.push(name);
                continue;
            }
            let free =
                |(volume, _): &(&Arc<str>, &Volume)| !plan.bind.iter().any(|(taken, _)| taken == *volume);
            let suiting =
                self.volumes.iter().filter(|(volume, it)| self.suits(volume, it, (&name, claim), node));
            let order =
                |(volume, it): &(&Arc<str>, &Volume)| (it.claim.is_none(), it.bytes, Arc::clone(volume));
            if let Some((volume, _)) = suiting.filter(free).min_by_key(order) {
                plan.bind.push((Arc::clone(volume), name));
                continue;
            }
            let class = self.classes.get(&claim.class)?;
            let reaches =
                class.nodes.as_ref().is_none_or(|nodes| nodes.matches(node.name.as_str(), &node.labels));
            if !class.provisioned || !reaches {
                return None;
            }
            plan.provision.push(name);
        }
        Some(plan)
    }

    /// Takes a decision as made until [`Volumes::forget`].
    pub fn assume(&mut self, pending: &Pending) {
        for name in &pending.plan.provision {
            self.selected.insert(name.clone(), pending.node.clone());
        }
        for (volume, claim) in &pending.plan.bind {
            self.taken.insert(Arc::clone(volume), claim.clone());
        }
    }

    /// A pod no longer waits: the API has what was decided, or it does not hold.
    pub fn forget(&mut self, pending: &Pending) {
        for name in &pending.plan.provision {
            self.selected.remove(name);
        }
        for (volume, _) in &pending.plan.bind {
            self.taken.remove(volume);
        }
    }

    /// How far the claims of a pod are that waits for them.
    pub fn progress(&self, pending: &mut Pending, node: Option<&NodeInfo>) -> Progress {
        let Some(node) = node else {
            return Progress::Failed(format!("node {:?} is gone", pending.node.as_str()));
        };
        let mut all = true;
        for name in &pending.claims {
            let Some(claim) = self.claims.get(name).filter(|claim| !claim.deleting) else {
                return Progress::Failed(format!("persistentvolumeclaim {:?} is gone", name.name));
            };
            if let (true, Some(volume)) = (claim.bound, &claim.volume) {
                match self.volumes.get(volume) {
                    None => all = false,
                    Some(found)
                        if found
                            .nodes
                            .as_ref()
                            .is_none_or(|it| it.matches(node.name.as_str(), &node.labels)) => {}
                    Some(_) => {
                        return Progress::Failed(format!(
                            "pv {volume:?} node affinity doesn't match node {:?}",
                            node.name.as_str()
                        ));
                    }
                }
                continue;
            }
            all = false;
            if !pending.plan.provision.contains(name) {
                continue;
            }
            match &claim.selected {
                Some(selected) if *selected != pending.node => {
                    return Progress::Failed(format!(
                        "another node was selected for persistentvolumeclaim {:?}",
                        name.name
                    ));
                }
                Some(_) if pending.seen.contains(name) => {}
                Some(_) => pending.seen.push(name.clone()),
                // Who makes volumes asks for another node in this way.
                None if pending.seen.contains(name) => {
                    return Progress::Failed(format!(
                        "selected node of persistentvolumeclaim {:?} was reset",
                        name.name
                    ));
                }
                None => {}
            }
        }
        if all { Progress::Done } else { Progress::Waiting }
    }
}

#[cfg(test)]
mod tests;
