//! The scheduler as a state machine without IO: updates and outcomes in, actions out.
//!
//! A pod goes from the queue into a decision; with a node it is assumed there and an [`Action::Bind`] goes out, and
//! until [`Scheduler::bound`] tells how that ended it is among those being bound. Without a node it goes back to the
//! queue and an [`Action::Report`] says why.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cache::Cache;
use crate::config::Config;
use crate::cycle::fit_error::{FitError, NO_NODES, Rejected};
use crate::cycle::preemption::{self, NoPreemption, Preemption};
use crate::cycle::{Failure, Rotation, schedule};
use crate::device::Reservation;
use crate::device::claim::Claim as DeviceClaim;
use crate::framework::Framework;
use crate::informer::{Key, Kind, Object, Update};
use crate::names::{NodeName, ObjectName, PodUid};
use crate::pod::PodInfo;
use crate::queue::event::ClusterEvents;
use crate::queue::{Condition, Queue, QueuedPod};
use crate::volume::binding::{Pending, Plan, Progress};

/// `reason` of the condition when no node takes the pod.
const UNSCHEDULABLE: &str = "Unschedulable";
/// `reason` of the condition when something went wrong.
const SCHEDULER_ERROR: &str = "SchedulerError";
/// The same failure is told in an Event again only after this long.
const TELL_AGAIN: Duration = Duration::from_secs(300);

/// How long a pod waits for its volumes.
const VOLUME_PATIENCE: Duration = Duration::from_secs(600);

/// Something to do at the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write the pod's places in its claims to devices, bind it to the node, and tell [`Scheduler::bound`].
    Bind {
        /// The pod.
        pod: Arc<PodInfo>,
        /// Its node.
        node: NodeName,
        /// Its places in its claims.
        claims: Vec<Reservation>,
    },
    /// Take the devices from a claim that nobody uses.
    Free {
        /// The claim.
        claim: ObjectName,
        /// At which revision nobody does.
        revision: u64,
    },
    /// Say which volumes the pod's claims get, or where they are to be made, and tell [`Scheduler::asked`].
    AskForVolumes {
        /// The pod.
        pod: Arc<PodInfo>,
        /// Its node.
        node: NodeName,
        /// What is to be said.
        plan: Plan,
    },
    /// Say why a pod has no node.
    Report(Report),
    /// Delete the victims, and tell [`Scheduler::preempted`].
    Preempt {
        /// The pod for which room is made.
        pod: Arc<PodInfo>,
        /// Where, and who has to go.
        preemption: Preemption,
    },
}

/// Why a pod has no node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The pod.
    pub pod: Arc<PodInfo>,
    /// The condition, where it differs from the one that the pod has.
    pub condition: Option<Condition>,
    /// The message of an Event, where one is due.
    pub event: Option<String>,
    /// The node that is now reserved for it, or that none is any more; `None` where nothing changed.
    pub nominated: Option<Option<NodeName>>,
}

/// Why a pod could not be bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindFailure {
    /// The pod is gone.
    Gone,
    /// Something else; the text is for people.
    Refused(String),
}

/// A pod that has its node and waits for its volumes.
#[derive(Debug)]
struct Expecting {
    pod: Arc<PodInfo>,
    pending: Pending,
    until: Instant,
    /// What was decided is written.
    asked: bool,
}

#[derive(Debug)]
struct Binding {
    queued: QueuedPod,
    gone: bool,
    claims: Vec<Reservation>,
}

/// The scheduler.
pub struct Scheduler {
    config: Config,
    framework: Framework,
    cache: Cache,
    queue: Queue,
    rotation: Rotation,
    binding: HashMap<PodUid, Binding>,
    /// Of those being bound, pods whose volumes are not there yet.
    expecting: HashMap<PodUid, Expecting>,
    /// Claims or volumes have changed since the pods that wait for them were looked at.
    volumes_changed: bool,
    listed: HashSet<Kind>,
}

impl Scheduler {
    /// A scheduler that knows nothing yet.
    pub fn new(config: Config) -> Self {
        Scheduler {
            queue: Queue::new(config.queue.clone()),
            config,
            framework: Framework::default(),
            cache: Cache::default(),
            rotation: Rotation::default(),
            binding: HashMap::new(),
            expecting: HashMap::new(),
            volumes_changed: false,
            listed: HashSet::new(),
        }
    }

    /// Whether a decision can be made now: everything was listed once, and a pod waits.
    pub fn is_ready(&self, now: Instant) -> bool {
        self.listed.len() == Kind::ALL.len() && (self.queue.is_ready(now) || self.is_volume_due(now))
    }

    /// When a decision can be made if nothing happens.
    pub fn next_wake(&self) -> Option<Instant> {
        let patience = self.expecting.values().map(|one| one.until).min();
        self.queue.next_wake().into_iter().chain(patience).min()
    }

    /// How many pods wait, and how many are being bound.
    pub fn pending(&self) -> (usize, usize) {
        (self.queue.len(), self.binding.len())
    }

    /// Takes in what the API says.
    pub fn update(&mut self, update: Update, now: Instant) {
        let events = match update {
            Update::Seen(object) => self.seen(*object, now),
            Update::Gone(key) => self.gone(&key),
            Update::Listed(kind, keys) => self.keep_only(kind, &keys),
        };
        self.volumes_changed |= events.intersects(ClusterEvents::VOLUME | ClusterEvents::NODE_GONE);
        self.queue.moved_by(events, now);
    }

    fn seen(&mut self, object: Object, now: Instant) -> ClusterEvents {
        match object {
            Object::Node(node) => self.cache.set_node(node),
            Object::Placed(pod, node) => {
                self.queue.remove(&pod.uid);
                self.cache.denominate(&pod.uid);
                self.cache.place(pod, node)
            }
            Object::Pending(pod, standing) => {
                let uid = &pod.info.uid;
                if let Some(binding) = self.binding.get_mut(uid) {
                    binding.queued.pod = pod;
                } else if !self.cache.is_placed(uid) {
                    if let Some(node) = standing.nominated
                        && self.cache.nomination(uid).is_none()
                    {
                        self.cache.nominate(pod.info.clone(), node);
                    }
                    self.queue.update(pod, standing.condition, now);
                }
                ClusterEvents::NONE
            }
            Object::Namespace(name, labels) => {
                let before = self.cache.namespaces.insert(name, labels.clone());
                if before.as_ref() == Some(&labels) { ClusterEvents::NONE } else { ClusterEvents::NAMESPACE }
            }
            Object::Claim(name, claim) => {
                let before = self.cache.volumes.claims.insert(name, claim.clone());
                if before.as_ref() == Some(&claim) { ClusterEvents::NONE } else { ClusterEvents::VOLUME }
            }
            Object::Volume(name, volume) => {
                let before = self.cache.volumes.volumes.insert(name, volume.clone());
                if before.as_ref() == Some(&volume) { ClusterEvents::NONE } else { ClusterEvents::VOLUME }
            }
            Object::Class(name, class) => {
                let before = self.cache.volumes.classes.insert(name, class.clone());
                if before.as_ref() == Some(&class) { ClusterEvents::NONE } else { ClusterEvents::VOLUME }
            }
            Object::Limits(name, limits) => {
                let before = self.cache.volumes.limits.insert(name, limits.clone());
                if before.as_ref() == Some(&limits) { ClusterEvents::NONE } else { ClusterEvents::VOLUME }
            }
            Object::Attachment(name, attachment) => {
                self.cache.volumes.attachments.insert(name, attachment);
                ClusterEvents::NONE
            }
            Object::DeviceClaim(name, claim) => devices_if(self.cache.devices.set_claim(name, claim)),
            Object::Slice(name, slice) => devices_if(self.cache.devices.set_slice(name, slice)),
            Object::DeviceClass(name, class) => devices_if(self.cache.devices.set_class(name, class)),
        }
    }

    fn gone(&mut self, key: &Key) -> ClusterEvents {
        match key {
            Key::Node(name) => self.cache.remove_node(name),
            Key::Pod(uid) => {
                self.queue.remove(uid);
                self.cache.denominate(uid);
                if let Some(binding) = self.binding.get_mut(uid) {
                    binding.gone = true;
                }
                // Nobody will tell of one that only waits.
                if self.expecting.get(uid).is_some_and(|one| one.asked) {
                    self.forget_volumes(uid);
                    self.unbind(uid);
                }
                self.cache.remove_pod(uid)
            }
            Key::Namespace(name) => {
                self.cache.namespaces.remove(name);
                ClusterEvents::NONE
            }
            Key::Claim(name) => {
                self.cache.volumes.claims.remove(name);
                self.volumes_changed = true;
                ClusterEvents::NONE
            }
            Key::Volume(name) => {
                self.cache.volumes.volumes.remove(name);
                ClusterEvents::NONE
            }
            Key::Class(name) => {
                self.cache.volumes.classes.remove(name);
                ClusterEvents::NONE
            }
            Key::Limits(name) => {
                self.cache.volumes.limits.remove(name);
                ClusterEvents::VOLUME
            }
            Key::Attachment(name) => {
                self.cache.volumes.attachments.remove(name);
                ClusterEvents::VOLUME
            }
            Key::DeviceClaim(name) => devices_if(self.cache.devices.remove_claim(name)),
            Key::Slice(name) => devices_if(self.cache.devices.remove_slice(name)),
            Key::DeviceClass(name) => {
                self.cache.devices.remove_class(name);
                ClusterEvents::NONE
            }
        }
    }

    /// After a new list: what is not on it went while nobody watched.
    fn keep_only(&mut self, kind: Kind, keys: &HashSet<Key>) -> ClusterEvents {
        self.listed.insert(kind);
        let known: Vec<Key> = match kind {
            Kind::Node => self.cache.node_names().into_iter().map(Key::Node).collect(),
            Kind::Pod => {
                let placed = self.cache.placed().filter(|uid| !self.binding.contains_key(*uid));
                placed.chain(self.queue.uids()).cloned().map(Key::Pod).collect()
            }
            Kind::Namespace => self.cache.namespaces.keys().cloned().map(Key::Namespace).collect(),
            Kind::Claim => self.cache.volumes.claims.keys().cloned().map(Key::Claim).collect(),
            Kind::Volume => self.cache.volumes.volumes.keys().cloned().map(Key::Volume).collect(),
            Kind::Class => self.cache.volumes.classes.keys().cloned().map(Key::Class).collect(),
            Kind::Limits => self.cache.volumes.limits.keys().cloned().map(Key::Limits).collect(),
            Kind::Attachment => {
                self.cache.volumes.attachments.names().cloned().map(Key::Attachment).collect()
            }
            Kind::DeviceClaim => self.cache.devices.claim_names().cloned().map(Key::DeviceClaim).collect(),
            Kind::Slice => self.cache.devices.slice_names().cloned().map(Key::Slice).collect(),
            Kind::DeviceClass => self.cache.devices.class_names().cloned().map(Key::DeviceClass).collect(),
        };
        let lost = known.iter().filter(|key| !keys.contains(*key));
        lost.fold(ClusterEvents::NONE, |events, key| events | self.gone(key))
    }

    /// Decides about the next pod, or about those that wait for their volumes.
    pub fn step(&mut self, now: Instant) -> Vec<Action> {
        if self.is_volume_due(now) {
            return self.look_at_volumes(now);
        }
        let Some(queued) = self.queue.pop(now) else { return Vec::new() };
        let share = self.config.percentage_of_nodes_to_score;
        let found = schedule(&self.framework, self.cache.view(), &queued.pod, share, &mut self.rotation);
        match found {
            Ok(found) => {
                let pod = queued.pod.info.clone();
                let claims = match self.devices_for(&queued, &found.node) {
                    Ok(claims) => claims,
                    Err(message) => {
                        let events = ClusterEvents::DEVICE | ClusterEvents::NODE_ADDED;
                        return vec![self.put_back(queued, message, events, None, now)];
                    }
                };
                self.cache.devices.assume(&claims);
                self.cache.denominate(&pod.uid);
                self.cache.assume(pod.clone(), found.node.clone());
                let pending = self.volumes_for(&queued, &found.node);
                let binding = Binding { queued, gone: false, claims: claims.clone() };
                self.binding.insert(pod.uid.clone(), binding);
                let Some(pending) = pending else {
                    return vec![Action::Bind { pod, node: found.node, claims }];
                };
                let plan = pending.plan.clone();
                self.cache.volumes.assume(&pending);
                let expecting =
                    Expecting { pod: pod.clone(), pending, until: now + VOLUME_PATIENCE, asked: false };
                self.expecting.insert(pod.uid.clone(), expecting);
                vec![Action::AskForVolumes { pod, node: found.node, plan }]
            }
            Err(Failure::NoNodes) => {
                let events = ClusterEvents::NODE_ADDED;
                vec![self.put_back(queued, NO_NODES.to_owned(), events, None, now)]
            }
            Err(Failure::Unfit(error)) => self.unfit(queued, error, now),
        }
    }

    fn unfit(&mut self, queued: QueuedPod, mut error: FitError, now: Instant) -> Vec<Action> {
        let pod = queued.pod.info.clone();
        let before = self.cache.nomination(&pod.uid).cloned();
        let view = self.cache.view();
        let preemption = preemption::preempt(&self.framework, view, &queued.pod, &error, before.as_ref());
        let nominated = match &preemption {
            Ok(preemption) => Some(preemption.node.clone()),
            Err(NoPreemption::Terminating) => before.clone(),
            Err(NoPreemption::Never | NoPreemption::NoHelp) => None,
        };
        match &nominated {
            Some(node) => self.cache.nominate(pod.clone(), node.clone()),
            None => self.cache.denominate(&pod.uid),
        }
        let free = self.claim_to_free(&queued, &error);
        if let Err(why) = preemption {
            let refusal = preemption::refusal(&error, why);
            let claims = devices_note(&queued, &error, free.is_some());
            error.preemption = Some(claims.map_or(refusal.clone(), |note| format!("{note}, {refusal}")));
        }
        let change = (nominated != before).then_some(nominated);
        let events = self.framework.helped_by(error.refused_by) | ClusterEvents::NODE_ADDED;
        let events = if preemption.is_ok() { events | ClusterEvents::POD_GONE } else { events };
        let mut actions = vec![self.put_back(queued, error.to_string(), events, change, now)];
        actions.extend(free);
        actions.extend(preemption.ok().map(|preemption| Action::Preempt { pod, preemption }));
        actions
    }

    /// The pod's places in its claims to devices, for its node.
    fn devices_for(&mut self, queued: &QueuedPod, node: &NodeName) -> Result<Vec<Reservation>, String> {
        if queued.pod.device_claims.is_empty() {
            return Ok(Vec::new());
        }
        let view = self.cache.view();
        let found = view.position(node.as_str()).and_then(|at| view.node(at));
        view.devices().reserve(&queued.pod, found.ok_or_else(|| format!("node {node} is gone"))?)
    }

    /// A claim that keeps the pod from nodes, although nobody uses it.
    fn claim_to_free(&mut self, queued: &QueuedPod, error: &FitError) -> Option<Action> {
        if queued.pod.device_claims.is_empty() || !matches!(error.rejected, Rejected::Each { .. }) {
            return None;
        }
        let view = self.cache.view();
        let nodes: Vec<_> = view.nodes().collect();
        let (claim, known) = view.devices().to_free(&queued.pod, nodes.iter().copied())?;
        Some(Action::Free { claim, revision: known.revision })
    }

    /// A pod is bound, or will not be: its claims are written, or their devices are free.
    fn unbind(&mut self, uid: &PodUid) -> Option<Binding> {
        let binding = self.binding.remove(uid)?;
        self.cache.devices.forget(&binding.claims);
        Some(binding)
    }

    /// Takes in claims as they were written for a pod, before their watch tells of them.
    pub fn written(&mut self, claims: Vec<(ObjectName, Arc<DeviceClaim>)>, now: Instant) {
        for (name, claim) in claims {
            let events = devices_if(self.cache.devices.written(name, claim));
            self.queue.moved_by(events, now);
        }
    }

    fn put_back(
        &mut self,
        mut queued: QueuedPod,
        message: String,
        helped_by: ClusterEvents,
        nominated: Option<Option<NodeName>>,
        now: Instant,
    ) -> Action {
        let report = report(&mut queued, UNSCHEDULABLE, message, nominated, now);
        self.queue.put_unschedulable(queued, helped_by, now);
        Action::Report(report)
    }

    /// What is to become of the pod's claims on its node; `None` where all are bound.
    fn volumes_for(&mut self, queued: &QueuedPod, node: &NodeName) -> Option<Pending> {
        if queued.pod.info.claims.is_empty() {
            return None;
        }
        let view = self.cache.view();
        let plan = view.volumes().plan(&queued.pod, view.node(view.position(node.as_str())?)?)?;
        if plan == Plan::default() {
            return None;
        }
        let namespace = &queued.pod.info.name.namespace;
        let name = |name: &Arc<str>| ObjectName { namespace: namespace.clone(), name: name.clone() };
        let claims = queued.pod.info.claims.iter().map(|claim| name(&claim.name)).collect();
        Some(Pending { node: node.clone(), claims, plan, seen: Vec::new() })
    }

    fn forget_volumes(&mut self, uid: &PodUid) {
        if let Some(expecting) = self.expecting.remove(uid) {
            self.cache.volumes.forget(&expecting.pending);
        }
    }

    fn is_volume_due(&self, now: Instant) -> bool {
        let mut expecting = self.expecting.values().filter(|one| one.asked);
        expecting.any(|one| self.volumes_changed || one.until <= now)
    }

    /// Binds pods whose volumes have come, and takes up anew those whose volumes will not.
    fn look_at_volumes(&mut self, now: Instant) -> Vec<Action> {
        self.volumes_changed = false;
        let mut actions = Vec::new();
        let asked: Vec<PodUid> =
            self.expecting.iter().filter(|(_, one)| one.asked).map(|(uid, _)| uid.clone()).collect();
        for uid in asked {
            let Some(expecting) = self.expecting.get_mut(&uid) else { continue };
            let view = self.cache.view();
            let node = view.position(expecting.pending.node.as_str()).and_then(|at| view.node(at));
            match view.volumes().progress(&mut expecting.pending, node) {
                Progress::Done => {
                    let claims = self.binding.get(&uid).map(|binding| binding.claims.clone());
                    actions.push(Action::Bind {
                        pod: expecting.pod.clone(),
                        node: expecting.pending.node.clone(),
                        claims: claims.unwrap_or_default(),
                    });
                    self.forget_volumes(&uid);
                }
                Progress::Waiting if now < expecting.until => {}
                Progress::Waiting => {
                    let why = "binding volumes: context deadline exceeded".to_owned();
                    actions.extend(self.bound(&uid, Err(BindFailure::Refused(why)), now));
                }
                Progress::Failed(why) => {
                    let why = format!("binding volumes: {why}");
                    actions.extend(self.bound(&uid, Err(BindFailure::Refused(why)), now));
                }
            }
        }
        actions
    }

    /// Takes in whether it could be said which volumes a pod needs.
    pub fn asked(&mut self, uid: &PodUid, result: Result<(), BindFailure>, now: Instant) -> Option<Action> {
        if result.is_err() || self.binding.get(uid).is_none_or(|binding| binding.gone) {
            let result = result.and(Err(BindFailure::Gone));
            return self.bound(uid, result, now);
        }
        if let Some(expecting) = self.expecting.get_mut(uid) {
            expecting.asked = true;
            self.volumes_changed = true;
        }
        None
    }

    /// Takes in how binding a pod has ended.
    pub fn bound(&mut self, uid: &PodUid, result: Result<(), BindFailure>, now: Instant) -> Option<Action> {
        self.forget_volumes(uid);
        let binding = self.unbind(uid)?;
        let failure = result.err()?;
        let events = self.cache.forget(uid) | devices_if(!binding.claims.is_empty());
        self.queue.moved_by(events, now);
        let message = match failure {
            BindFailure::Gone => return None,
            BindFailure::Refused(message) => message,
        };
        if binding.gone || self.cache.is_placed(uid) {
            return None;
        }
        let mut queued = binding.queued;
        let report = report(&mut queued, SCHEDULER_ERROR, message, None, now);
        self.queue.put_failed(queued, now);
        Some(Action::Report(report))
    }

    /// Takes in whether the victims for a pod could be deleted; if not, it is tried again soon.
    pub fn preempted(&mut self, uid: &PodUid, deleted: bool, now: Instant) {
        if deleted {
            return;
        }
        self.cache.denominate(uid);
        if let Some(queued) = self.queue.remove(uid) {
            self.queue.put_failed(queued, now);
        }
    }
}

fn devices_if(helps: bool) -> ClusterEvents {
    if helps { ClusterEvents::DEVICE } else { ClusterEvents::NONE }
}

/// What is said of the claims of a pod that no node takes.
fn devices_note(queued: &QueuedPod, error: &FitError, freed: bool) -> Option<&'static str> {
    if queued.pod.device_claims.is_empty() {
        return None;
    }
    Some(match error.rejected {
        Rejected::All(_) => "no new claims to deallocate",
        Rejected::Each { .. } if freed => "deallocation of ResourceClaim completed",
        Rejected::Each { .. } => "still not schedulable",
    })
}

/// Says only what is new: the condition where it changed, the Event where it was not told lately.
fn report(
    queued: &mut QueuedPod,
    reason: &str,
    message: String,
    nominated: Option<Option<NodeName>>,
    now: Instant,
) -> Report {
    let condition = Condition { reason: reason.to_owned(), message };
    let told = queued.told.as_ref();
    let told = told.is_some_and(|(text, at)| *text == condition.message && now < *at + TELL_AGAIN);
    let event = (!told).then(|| condition.message.clone());
    if let Some(text) = &event {
        queued.told = Some((text.clone(), now));
    }
    let changed = queued.condition.as_ref() != Some(&condition);
    queued.condition = Some(condition.clone());
    Report { pod: queued.pod.info.clone(), condition: changed.then_some(condition), event, nominated }
}

#[cfg(test)]
mod tests;
