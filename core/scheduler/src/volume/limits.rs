//! How many volumes of each storage driver a node can have (CSINode), and which volumes its pods have (pure).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::storage::v1::CSINode;

use super::Volumes;
use crate::names::ObjectName;
use crate::pod::PodInfo;

/// How many volumes of each driver a node can have; a driver that does not say is not among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits(HashMap<Box<str>, usize>);

/// A volume, made or to be made: its driver, and what tells it from others of the driver.
pub type Attachable = (Arc<str>, Attached);

/// What tells volumes of a driver apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Attached {
    /// The driver's name of it.
    Handle(Arc<str>),
    /// The claim for which it will be made.
    Claim(ObjectName),
    /// The attachment of a volume of which nothing else is known.
    Attachment(Arc<str>),
}

impl Limits {
    /// Reads what drivers say of a node.
    pub fn read(node: &CSINode) -> Self {
        let limit = |driver: &k8s_openapi::api::storage::v1::CSINodeDriver| {
            let count = driver.allocatable.as_ref()?.count?;
            Some((driver.name.as_str().into(), usize::try_from(count).ok()?))
        };
        Limits(node.spec.drivers.iter().filter_map(limit).collect())
    }

    /// Whether the node can have `wanted` besides what it has.
    pub fn allow(&self, wanted: &HashSet<Attachable>, has: &HashSet<Attachable>) -> bool {
        let news: Vec<&Attachable> = wanted.difference(has).collect();
        let count = |driver: &str| {
            let news = news.iter().filter(|(of, _)| **of == *driver).count();
            // What is there already is there, also if it is too much.
            if news == 0 { 0 } else { news + has.iter().filter(|(of, _)| **of == *driver).count() }
        };
        self.0.iter().all(|(driver, most)| count(driver) <= *most)
    }
}

impl Volumes {
    /// The volumes of drivers that a pod has or is to have.
    pub fn attachable<'a>(&'a self, pod: &'a PodInfo) -> impl Iterator<Item = Attachable> + 'a {
        pod.claims.iter().filter_map(|wanted| {
            let name = ObjectName { namespace: pod.name.namespace.clone(), name: Arc::clone(&wanted.name) };
            let claim = self.claims.get(&name)?;
            let volume = claim.volume.as_ref().or_else(|| {
                // One was chosen, and nobody has seen that yet.
                self.taken.iter().find(|(_, of)| **of == name).map(|(volume, _)| volume)
            });
            if let Some(volume) = volume.and_then(|volume| self.volumes.get(volume)) {
                let (driver, handle) = volume.driver.clone()?;
                return Some((driver, Attached::Handle(handle)));
            }
            let class = self.classes.get(&claim.class)?;
            Some((Arc::clone(&class.provisioner), Attached::Claim(name)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    #[test]
    fn a_node_takes_as_many_volumes_of_a_driver_as_it_says_and_those_it_has_already() {
        let drivers = json!([
            {"name": "d", "nodeID": "n", "allocatable": {"count": 2}},
            {"name": "free", "nodeID": "n"},
        ]);
        let limits =
            Limits::read(&from_value(json!({"metadata": {}, "spec": {"drivers": drivers}})).unwrap());
        let set = |names: &[(&str, &str)]| -> HashSet<Attachable> {
            names.iter().map(|(driver, name)| ((*driver).into(), Attached::Handle((*name).into()))).collect()
        };
        let full = set(&[("d", "1"), ("d", "2")]);
        assert!(limits.allow(&set(&[("d", "2")]), &set(&[("d", "1")])));
        assert!(!limits.allow(&set(&[("d", "3")]), &full));
        assert!(limits.allow(&set(&[("d", "1")]), &full));
        assert!(limits.allow(&set(&[("free", "1"), ("unknown", "1")]), &full));
        assert!(!limits.allow(&set(&[("d", "1"), ("d", "2"), ("d", "3")]), &set(&[])));
    }
}
