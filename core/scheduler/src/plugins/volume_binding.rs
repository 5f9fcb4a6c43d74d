//! VolumeBinding: a pod waits until its claims are bound, and runs where their volumes can be reached.
//!
//! Claims whose class wants the pod's node first (`WaitForFirstConsumer`) are not bound from here: such a pod waits
//! like one whose claim nobody binds.

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

impl FilterPlugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn helped_by(&self) -> ClusterEvents {
        ClusterEvents::VOLUME | ClusterEvents::NODE_ADDED | ClusterEvents::NODE_LABELS
    }

    fn pre_filter<'a>(&self, pod: &'a PendingPod, view: View<'a>) -> Result<PreFilter<'a>, Rejection> {
        let mut selectors: Vec<Option<&NodeSelector>> = Vec::new();
        for claim in &pod.claims {
            let volume = bound_volume(pod, claim, view).map_err(Rejection::unresolvable)?;
            match view.volume(volume) {
                Some(volume) => selectors.extend(volume.nodes.as_ref().map(Some)),
                None => selectors.push(None),
            }
        }
        if selectors.is_empty() {
            return Ok(PreFilter::skip());
        }
        Ok(PreFilter::check(move |node| {
            selectors.iter().try_for_each(|selector| match selector {
                None => Err(Rejection::unresolvable(NO_VOLUME)),
                Some(selector) if selector.matches(node.name.as_str(), &node.labels) => Ok(()),
                Some(_) => Err(Rejection::unresolvable(OUT_OF_REACH)),
            })
        }))
    }
}

/// The name of the volume that the claim is bound to, or why the pod has to wait.
fn bound_volume<'a>(pod: &PendingPod, wanted: &VolumeClaim, view: View<'a>) -> Result<&'a str, String> {
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
    volume.filter(|_| claim.bound).ok_or_else(|| UNBOUND.to_owned())
}
