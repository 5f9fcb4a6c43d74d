//! VolumeBinding: a pod runs where the volumes of its claims can be reached, or where its claims that wait for a first pod
//! (`WaitForFirstConsumer`) can have volumes; it waits while other claims are not bound.

use crate::cache::View;
use crate::framework::{FilterPlugin, PreFilter, Rejection};
use crate::names::ObjectName;
use crate::pod::{PendingPod, VolumeClaim};
use crate::queue::event::ClusterEvents;
use crate::selector::NodeSelector;

/// The plugin.
pub(super) struct VolumeBinding;

const UNBOUND: &str = "pod has unbound immediate PersistentVolumeClaims";
const OUT_OF_REACH: &str = "node(s) didn't match PersistentVolume's node affinity";
const NO_VOLUME: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
const NONE_TO_BIND: &str = "node(s) didn't find available persistent volumes to bind";

/// What a claim asks of a node.
enum Demand<'a> {
    /// It is bound to this volume.
    Reach(&'a str),
    /// It waits for its first pod.
    Late,
}

impl FilterPlugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn helped_by(&self) -> ClusterEvents {
        ClusterEvents::VOLUME | ClusterEvents::NODE_ADDED | ClusterEvents::NODE_LABELS
    }

    fn pre_filter<'a>(&self, pod: &'a PendingPod, view: View<'a>) -> Result<PreFilter<'a>, Rejection> {
        let mut selectors: Vec<Option<&NodeSelector>> = Vec::new();
        let mut late = false;
        for claim in &pod.info.claims {
            match demand(pod, claim, view).map_err(Rejection::unresolvable)? {
                Demand::Late => late = true,
                Demand::Reach(volume) => match view.volume(volume) {
                    Some(volume) => selectors.extend(volume.nodes.as_ref().map(Some)),
                    None => selectors.push(None),
                },
            }
        }
        if selectors.is_empty() && !late {
            return Ok(PreFilter::skip());
        }
        Ok(PreFilter::check(move |node| {
            selectors.iter().try_for_each(|selector| match selector {
                None => Err(Rejection::unresolvable(NO_VOLUME)),
                Some(selector) if selector.matches(node.name.as_str(), &node.labels) => Ok(()),
                Some(_) => Err(Rejection::unresolvable(OUT_OF_REACH)),
            })?;
            if late && view.volumes().plan(pod, node).is_none() {
                return Err(Rejection::unresolvable(NONE_TO_BIND));
            }
            Ok(())
        }))
    }
}

/// What a claim asks of a node, or why the pod has to wait.
fn demand<'a>(pod: &PendingPod, wanted: &VolumeClaim, view: View<'a>) -> Result<Demand<'a>, String> {
    let name = &wanted.name;
    let key = ObjectName { namespace: pod.info.name.namespace.clone(), name: name.clone() };
    let Some(claim) = view.claim(&key) else {
        return Err(if wanted.ephemeral {
            format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}")
        } else {
            format!("persistentvolumeclaim {name:?} not found")
        });
    };
    let volume = claim.volume.as_deref();
    if claim.lost {
        let volume = volume.unwrap_or_default();
        return Err(format!(
            "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"
        ));
    }
    if claim.deleting {
        return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
    }
    match volume.filter(|_| claim.bound) {
        Some(volume) => Ok(Demand::Reach(volume)),
        None if view.volumes().is_late(claim) => Ok(Demand::Late),
        None => Err(UNBOUND.to_owned()),
    }
}
