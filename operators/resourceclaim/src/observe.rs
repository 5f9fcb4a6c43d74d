//! What is known of pods with claims to devices, of claims, and of templates (client).

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{
    ResourceClaim, ResourceClaimConsumerReference as Consumer, ResourceClaimTemplate,
};
use keelson_operator_kit::informer::Change;
use keelson_operator_kit::pod::is_terminal;
use keelson_operator_kit::{Informer, ObjectKey, Observe, Subject, Watches};
use kube::{Api, ResourceExt};
use parking_lot::Mutex;

/// Says for which of a pod's claims one was made.
pub const POD_CLAIM: &str = "resource.kubernetes.io/pod-claim-name";

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A pod: whether it has its claims.
    Pod,
    /// A claim: whether somebody uses it.
    Claim,
}

/// What is kept of a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodView {
    /// Its UID.
    pub uid: String,
    /// What it claims.
    pub claims: Vec<PodClaim>,
    /// Whether it runs no more, and never will.
    pub over: bool,
    /// Whether it is to go.
    pub ending: bool,
    /// Whether it has a node.
    pub placed: bool,
}

/// An entry of a pod's `spec.resourceClaims`.
#[derive(Clone, Debug, PartialEq)]
pub struct PodClaim {
    /// Its name in the pod.
    pub name: String,
    /// Where the claim comes from.
    pub source: Source,
}

/// Where a pod's claim comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// It is this one.
    Claim(String),
    /// It is made for the pod of a template.
    Template {
        /// The template's name.
        template: String,
        /// What the pod's status says of it: its name, or that it needs none.
        made: Option<Option<String>>,
    },
}

impl PodClaim {
    /// The claim's name, as far as the pod says it.
    pub fn claim(&self) -> Option<&str> {
        match &self.source {
            Source::Claim(name) => Some(name),
            Source::Template { made, .. } => made.as_ref()?.as_deref(),
        }
    }
}

/// What is kept of a claim.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClaimView {
    /// Its UID.
    pub uid: String,
    /// At which revision it is this.
    pub resource_version: String,
    /// Name and UID of the pod for which it was made.
    pub owner: Option<(String, String)>,
    /// For which of the pod's claims it was made.
    pub pod_claim: Option<String>,
    /// Whether it is to go.
    pub ending: bool,
    /// Its finalizers.
    pub finalizers: Vec<String>,
    /// Whether it has devices.
    pub allocated: bool,
    /// Who may use it.
    pub reserved: Vec<Consumer>,
}

/// Claims that were made and are not seen yet: by the pod's UID and the claim's name in it.
type Made = HashMap<(String, String), String>;

/// What is known of the cluster.
#[derive(Default)]
pub struct Known {
    /// Pods with claims.
    pub pods: Informer<PodView>,
    /// Claims.
    pub claims: Informer<ClaimView>,
    /// Templates.
    pub templates: Informer<ResourceClaimTemplate>,
    made: Mutex<Made>,
}

/// Everything that a reconcile reads and writes.
pub type World = keelson_operator_kit::World<Known>;

/// What is kept of a pod; `None` of one without claims.
pub fn pod_view(pod: &Pod) -> Option<PodView> {
    let spec = pod.spec.as_ref()?;
    let statuses = pod.status.as_ref().and_then(|status| status.resource_claim_statuses.as_ref());
    let made = |name: &str| {
        let mut statuses = statuses.into_iter().flatten();
        statuses.find(|status| status.name == name).map(|status| status.resource_claim_name.clone())
    };
    let claims: Vec<PodClaim> = spec
        .resource_claims
        .iter()
        .flatten()
        .filter_map(|claim| {
            let source = match (&claim.resource_claim_name, &claim.resource_claim_template_name) {
                (Some(name), _) => Source::Claim(name.clone()),
                (None, Some(template)) => {
                    Source::Template { template: template.clone(), made: made(&claim.name) }
                }
                (None, None) => return None,
            };
            Some(PodClaim { name: claim.name.clone(), source })
        })
        .collect();
    let placed = spec.node_name.as_ref().is_some_and(|name| !name.is_empty());
    let ending = pod.metadata.deletion_timestamp.is_some();
    let over = is_terminal(pod) || (ending && !placed);
    (!claims.is_empty()).then(|| PodView { uid: pod.uid().unwrap_or_default(), claims, over, ending, placed })
}

/// What is kept of a claim.
pub fn claim_view(claim: &ResourceClaim) -> ClaimView {
    let status = claim.status.as_ref();
    let owner = claim
        .owner_references()
        .iter()
        .find(|owner| owner.controller == Some(true) && owner.api_version == "v1" && owner.kind == "Pod");
    ClaimView {
        uid: claim.uid().unwrap_or_default(),
        resource_version: claim.resource_version().unwrap_or_default(),
        owner: owner.map(|owner| (owner.name.clone(), owner.uid.clone())),
        pod_claim: claim.annotations().get(POD_CLAIM).cloned(),
        ending: claim.metadata.deletion_timestamp.is_some(),
        finalizers: claim.finalizers().to_vec(),
        allocated: status.is_some_and(|status| status.allocation.is_some()),
        reserved: status.and_then(|status| status.reserved_for.clone()).unwrap_or_default(),
    }
}

impl Observe for Known {
    type Subject = Subject<Kind>;

    fn watch(watches: &mut Watches<'_, Self>) {
        watches.all(|it| &it.pods, |pod| pod_view(&pod), pod_changed);
        watches.all(|it| &it.claims, |claim| Some(claim_view(&claim)), claim_changed);
        watches.all(
            |it| &it.templates,
            Some,
            |world, change| {
                if change.new.is_some() {
                    let waits = |claim: &PodClaim| waits_for(claim, change.key.name());
                    add_pods(world, &change.key, |pod| pod.claims.iter().any(waits));
                }
            },
        );
    }
}

fn pod_changed(world: &World, change: &Change<PodView>) {
    // What a pod that is over or gone holds is free.
    let is_over = change.new.as_ref().is_none_or(|pod| pod.over);
    let views = [&change.old, &change.new];
    if is_over {
        for claim in views.into_iter().flatten().flat_map(|pod| &pod.claims).filter_map(PodClaim::claim) {
            world.queue.add(Subject::new(Kind::Claim, change.key.sibling(claim)));
        }
    }
    match &change.new {
        Some(_) => world.queue.add(Subject::new(Kind::Pod, change.key.clone())),
        None => {
            if let Some(old) = &change.old {
                world.known.made.lock().retain(|(uid, _), _| *uid != old.uid);
            }
        }
    }
}

fn claim_changed(world: &World, change: &Change<ClaimView>) {
    let views = [&change.old, &change.new];
    for view in views.into_iter().flatten() {
        if let (Some((_, uid)), Some(name)) = (&view.owner, &view.pod_claim) {
            world.known.made.lock().remove(&(uid.clone(), name.clone()));
        }
    }
    if change.new.is_some() {
        world.queue.add(Subject::new(Kind::Claim, change.key.clone()));
    }
    let name = change.key.name();
    add_pods(world, &change.key, |pod| pod.claims.iter().any(|claim| claim.claim() == Some(name)));
}

fn add_pods(world: &World, of: &ObjectKey, concerned: impl Fn(&PodView) -> bool) {
    for (key, pod) in world.known.pods.in_namespace(of.namespace()) {
        if concerned(&pod) {
            world.queue.add(Subject::new(Kind::Pod, key));
        }
    }
}

impl Known {
    /// Remembers that a claim was made, until it is seen.
    pub fn remember(&self, uid: &str, pod_claim: &str, claim: String) {
        self.made.lock().insert((uid.to_owned(), pod_claim.to_owned()), claim);
    }

    /// The claim that was made for a pod's claim, whether or not the pod says so.
    pub fn made(&self, key: &ObjectKey, uid: &str, pod_claim: &str) -> Option<String> {
        let claims = self.claims.in_namespace(key.namespace());
        let is_it = |claim: &ClaimView| {
            claim.owner.as_ref().is_some_and(|(_, owner)| owner == uid)
                && claim.pod_claim.as_deref() == Some(pod_claim)
        };
        let seen = claims.into_iter().find(|(_, claim)| is_it(claim)).map(|(key, _)| key.name().to_owned());
        seen.or_else(|| self.made.lock().get(&(uid.to_owned(), pod_claim.to_owned())).cloned())
    }
}

/// Those of a claim's users that still may use it; who is not known is asked for.
pub async fn users(world: &World, key: &ObjectKey, claim: &ClaimView) -> Result<Vec<Consumer>, kube::Error> {
    let mut users = Vec::with_capacity(claim.reserved.len());
    for user in &claim.reserved {
        // Others than pods are for others to remove.
        let is_pod = user.api_group.as_deref().unwrap_or_default().is_empty() && user.resource == "pods";
        if !is_pod || may_use(world, &key.sibling(&user.name), &user.uid).await? {
            users.push(user.clone());
        }
    }
    Ok(users)
}

async fn may_use(world: &World, pod: &ObjectKey, uid: &str) -> Result<bool, kube::Error> {
    if let Some(known) = world.known.pods.get(pod) {
        return Ok(known.uid == uid && !known.over);
    }
    let api: Api<Pod> = Api::namespaced(world.client.clone(), pod.namespace());
    let found = api.get_metadata_opt(pod.name()).await?;
    Ok(found.is_some_and(|found| found.uid().is_some_and(|known| known == uid)))
}

fn waits_for(claim: &PodClaim, name: &str) -> bool {
    match &claim.source {
        Source::Claim(_) => false,
        Source::Template { template, .. } => template == name,
    }
}
