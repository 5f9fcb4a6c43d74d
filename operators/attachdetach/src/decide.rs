//! What is to be attached to a node, and detached from it (pure).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::Timestamp;

use crate::name;
use crate::view::{Attacher, AttachmentView, Health, NodeView, Reach};

/// How long a volume has to be unwanted before it is taken from an unhealthy node that does not say that it no longer uses it.
pub const LONGEST_UNMOUNT: Duration = Duration::from_secs(360);
/// How long a driver is waited for before pods are told.
pub const LONGEST_ATTACH: Duration = Duration::from_secs(120);

/// A volume that pods of the node want attached.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// The driver.
    pub driver: String,
    /// What the driver calls the volume.
    pub handle: String,
    /// The PersistentVolume.
    pub volume: String,
    /// How many nodes may have it at once.
    pub reach: Reach,
    /// The pods, for Events.
    pub pods: Vec<ObjectReference>,
}

/// Who has a volume on other nodes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Elsewhere {
    /// It is attached to some.
    pub attached: bool,
    /// Pods there that want it.
    pub pods: Vec<ObjectReference>,
}

/// What is known when a node is looked at. Attachments go by their names.
pub struct Situation<'a> {
    /// The node's name.
    pub name: &'a str,
    /// The node; `None` of one that is gone.
    pub node: Option<&'a NodeView>,
    /// What its pods want.
    pub wanted: &'a BTreeMap<String, Wanted>,
    /// What there is.
    pub found: &'a BTreeMap<String, Arc<AttachmentView>>,
    /// The handles of the PersistentVolumes of what there is, as far as they are known.
    pub handles: &'a BTreeMap<String, String>,
    /// Who has a volume on other nodes.
    pub elsewhere: &'a dyn Fn(&Wanted) -> Elsewhere,
    /// For how long nobody has wanted an attachment.
    pub unwanted_for: &'a dyn Fn(&str) -> Duration,
    /// The time.
    pub now: Timestamp,
}

/// An attachment that is to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct Attach {
    /// Its name.
    pub name: String,
    /// The driver.
    pub driver: String,
    /// The PersistentVolume.
    pub volume: String,
    /// The pods that want it.
    pub pods: Vec<ObjectReference>,
}

/// Whether a node is asked before a volume is taken from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// It must not use it.
    Asked,
    /// It is unhealthy, and nobody has wanted the volume for long; or it is out of service.
    Assumed,
}

/// An attachment that is to go.
#[derive(Clone, Debug, PartialEq)]
pub struct Detach {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Whether the node is asked.
    pub consent: Consent,
}

/// Something that pods are told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum News {
    /// Their volume was attached.
    Attached,
    /// It was not, at some time, for a reason.
    Failed(String, Option<Timestamp>),
    /// Another node has it.
    Elsewhere(String),
}

/// What a pod is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// The pod.
    pub pod: ObjectReference,
    /// The PersistentVolume.
    pub volume: String,
    /// What.
    pub news: News,
}

/// What is to be done for a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// What the node is to be told is attached; `None` where it was told.
    pub report: Option<BTreeSet<String>>,
    /// What is to go, after that.
    pub detach: Vec<Detach>,
    /// What is to be made.
    pub attach: Vec<Attach>,
    /// What pods are told, each time that it is new.
    pub told: Vec<Told>,
    /// When the node has to be looked at again although nothing changed.
    pub next: Option<Duration>,
}

impl Plan {
    fn look_after(&mut self, wait: Duration) {
        self.next = Some(self.next.map_or(wait, |next| next.min(wait)));
    }

    fn tell(&mut self, wanted: &Wanted, news: &News) {
        let told = |pod: &ObjectReference| Told {
            pod: pod.clone(),
            volume: wanted.volume.clone(),
            news: news.clone(),
        };
        self.told.extend(wanted.pods.iter().map(told));
    }
}

/// Decides for a node.
pub fn decide(situation: &Situation<'_>) -> Plan {
    let mut plan = Plan::default();
    if situation.node.is_some_and(|node| node.attacher == Attacher::Kubelet) {
        return plan;
    }
    let in_use = in_use(situation);
    let mut attached = BTreeSet::new();
    for (name, view) in situation.found {
        let wanted = situation.wanted.get(name);
        let leaves = match wanted {
            Some(_) => None,
            None if view.ending => None,
            None => consent(situation, name, in_use.contains(name), &mut plan),
        };
        if let Some(consent) = leaves {
            plan.detach.push(Detach { name: name.clone(), uid: view.uid.clone(), consent });
        } else if view.attached && !view.ending {
            attached.extend(volume_name(situation, name, view));
        }
        if let Some(wanted) = wanted {
            progress(situation, name, view, wanted, &mut plan);
        }
    }
    if let Some(node) = situation.node {
        for (name, wanted) in situation.wanted {
            if !situation.found.contains_key(name) {
                attach(situation, name, wanted, &mut plan);
            }
        }
        // What others have attached is theirs.
        let foreign = |name: &&String| name::attachment_of_volume(name, situation.name).is_none();
        attached.extend(node.attached.iter().filter(foreign).cloned());
        plan.report = (attached != node.attached).then_some(attached);
    }
    plan
}

/// The attachments of which the node says that it uses the volumes.
fn in_use(situation: &Situation<'_>) -> BTreeSet<String> {
    let volumes = situation.node.into_iter().flat_map(|node| &node.in_use);
    volumes.filter_map(|volume| name::attachment_of_volume(volume, situation.name)).collect()
}

/// The name of the volume of an attachment, also where its PersistentVolume is gone.
fn volume_name(situation: &Situation<'_>, attachment: &str, view: &AttachmentView) -> Option<String> {
    if let Some(handle) = situation.handles.get(attachment) {
        return Some(name::volume(&view.driver, handle));
    }
    let mut known = situation.node?.attached.iter();
    let is_it = |volume: &&String| {
        name::attachment_of_volume(volume, situation.name).is_some_and(|name| name == attachment)
    };
    known.find(is_it).cloned()
}

/// Whether a volume that nobody wants is taken from the node.
fn consent(situation: &Situation<'_>, name: &str, in_use: bool, plan: &mut Plan) -> Option<Consent> {
    let (health, out_of_service) =
        situation.node.map_or((Health::Silent, false), |node| (node.health, node.out_of_service));
    // Nothing is known of what a node uses that is gone, or was made anew and has said nothing yet.
    if health != Health::Silent && !in_use {
        return Some(if out_of_service { Consent::Assumed } else { Consent::Asked });
    }
    if out_of_service {
        return Some(Consent::Assumed);
    }
    if health == Health::Well {
        return None;
    }
    let left = LONGEST_UNMOUNT.saturating_sub((situation.unwanted_for)(name));
    if left.is_zero() {
        return Some(Consent::Assumed);
    }
    plan.look_after(left);
    None
}

/// How far an attachment is that pods wait for.
fn progress(situation: &Situation<'_>, name: &str, view: &AttachmentView, wanted: &Wanted, plan: &mut Plan) {
    if view.ending {
        return;
    }
    if view.attached {
        let volume = volume_name(situation, name, view);
        let was_told =
            situation.node.is_none_or(|node| volume.is_none_or(|volume| node.attached.contains(&volume)));
        if !was_told {
            plan.tell(wanted, &News::Attached);
        }
        return;
    }
    if let Some((message, time)) = &view.error {
        plan.tell(wanted, &News::Failed(message.clone(), *time));
        return;
    }
    let waited = Duration::try_from(situation.now.duration_since(view.created)).unwrap_or_default();
    let left = LONGEST_ATTACH.saturating_sub(waited);
    if left.is_zero() {
        let (driver, handle) = (&wanted.driver, &wanted.handle);
        let message = format!(
            "timed out waiting for external-attacher of {driver} CSI driver to attach volume {handle}"
        );
        plan.tell(wanted, &News::Failed(message, None));
    } else {
        plan.look_after(left);
    }
}

/// Attaches a volume, unless another node has it.
fn attach(situation: &Situation<'_>, name: &str, wanted: &Wanted, plan: &mut Plan) {
    if wanted.reach == Reach::Exclusive {
        let elsewhere = (situation.elsewhere)(wanted);
        if elsewhere.attached {
            for pod in &wanted.pods {
                let news = News::Elsewhere(whose(pod, &elsewhere.pods));
                plan.told.push(Told { pod: pod.clone(), volume: wanted.volume.clone(), news });
            }
            return;
        }
    }
    plan.attach.push(Attach {
        name: name.to_owned(),
        driver: wanted.driver.clone(),
        volume: wanted.volume.clone(),
        pods: wanted.pods.clone(),
    });
}

/// Why a pod does not get a volume that other pods have. Names of pods are for those in their namespace.
fn whose(pod: &ObjectReference, others: &[ObjectReference]) -> String {
    if others.is_empty() {
        return "Volume is already exclusively attached to one node and can't be attached to another"
            .to_owned();
    }
    let near = others.iter().filter(|other| other.namespace == pod.namespace);
    let names: Vec<&str> = near.filter_map(|other| other.name.as_deref()).collect();
    let far = others.len() - names.len();
    match (names.is_empty(), far) {
        (true, _) => format!("Volume is already used by {far} pod(s) in different namespaces"),
        (false, 0) => format!("Volume is already used by pod(s) {}", names.join(", ")),
        (false, _) => format!(
            "Volume is already used by pod(s) {} and {far} pod(s) in different namespaces",
            names.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests;
