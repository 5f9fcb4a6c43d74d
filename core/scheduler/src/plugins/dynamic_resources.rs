//! DynamicResources: a pod runs where its claims to devices can be reached, or where there are devices for those that have
//! none yet.

use crate::cache::View;
use crate::device::claim::{Claim, Request};
use crate::framework::{FilterPlugin, PreFilter, Rejection};
use crate::pod::{DeviceClaim, PendingPod};
use crate::queue::event::ClusterEvents;

/// The plugin.
pub(super) struct DynamicResources;

const IN_USE: &str = "resourceclaim in use";
const OUT_OF_REACH: &str = "resourceclaim not available on the node";
const NO_DEVICES: &str = "cannot allocate all claims";

impl FilterPlugin for DynamicResources {
    fn name(&self) -> &'static str {
        "DynamicResources"
    }

    fn helped_by(&self) -> ClusterEvents {
        ClusterEvents::DEVICE | ClusterEvents::NODE_ADDED | ClusterEvents::NODE_LABELS
    }

    fn pre_filter<'a>(&self, pod: &'a PendingPod, view: View<'a>) -> Result<PreFilter<'a>, Rejection> {
        if pod.device_claims.is_empty() {
            return Ok(PreFilter::skip());
        }
        let mut allocated = Vec::new();
        for wanted in &pod.device_claims {
            let claim = usable(pod, wanted, view).map_err(Rejection::unresolvable)?;
            if claim.allocation.is_some() {
                allocated.push(claim);
            }
        }
        let allocator = view.devices().allocator(pod);
        Ok(PreFilter::check(move |node| {
            if let Some(allocator) = &allocator {
                let found = allocator.allocate(node).map_err(Rejection::unresolvable)?;
                found.ok_or_else(|| Rejection::unresolvable(NO_DEVICES))?;
            }
            if allocated.iter().all(|claim| claim.is_available_on(node)) {
                Ok(())
            } else {
                Err(Rejection::unresolvable(OUT_OF_REACH))
            }
        }))
    }
}

/// A claim that the pod may use, or why it has to wait.
fn usable<'a>(pod: &PendingPod, wanted: &DeviceClaim, view: View<'a>) -> Result<&'a Claim, String> {
    let name = pod.sibling(&wanted.name);
    let devices = view.devices();
    let Some(claim) = devices.claim(&name) else {
        return Err(format!("resourceclaim.resource.k8s.io {:?} not found", wanted.name));
    };
    if claim.deleting {
        return Err(format!("resourceclaim {:?} is being deleted", wanted.name));
    }
    if wanted.own && claim.owner.as_ref() != Some(&pod.info.uid) {
        let pod = &pod.info.name;
        return Err(format!("ResourceClaim {name} was not created for pod {pod} (pod is not owner)"));
    }
    if !claim.is_reserved_for(&pod.info.uid) && !claim.has_room() {
        return Err(IN_USE.to_owned());
    }
    if claim.allocation.is_none() {
        if devices.is_in_flight(&name) {
            return Err(format!("resource claim {name} is in the process of being allocated"));
        }
        claim.requests.iter().try_for_each(|request| has_classes(request, view))?;
    }
    Ok(claim)
}

fn has_classes(request: &Request, view: View<'_>) -> Result<(), String> {
    let missing = request.alternatives.iter().find(|wanted| view.devices().class(&wanted.class).is_none());
    missing.map_or(Ok(()), |wanted| {
        let name = request.full_name(wanted);
        Err(format!("request {name}: device class {} does not exist", wanted.class))
    })
}
