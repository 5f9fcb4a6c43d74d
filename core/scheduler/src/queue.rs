//! Pods that wait for a node.
//!
//! A pod is in one of these places: **gated** (it says itself that it is not ready), **active** (to be tried next,
//! by priority and then by the order of arrival), **backing off** (it failed not long ago) or **unschedulable**
//! (it failed, and nothing has happened since that could help it). One that is being tried is in none.

pub mod event;

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::names::PodUid;
use crate::pod::PendingPod;
use event::ClusterEvents;

/// How long pods wait.
#[derive(Clone, Debug)]
pub struct Config {
    /// How long a pod waits at least after its first failure; twice as long after each further one.
    pub initial_backoff: Duration,
    /// The longest such wait.
    pub max_backoff: Duration,
    /// After how long an unschedulable pod is tried again although nothing happened that could help it.
    pub unschedulable_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            initial_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(10),
            unschedulable_timeout: Duration::from_secs(300),
        }
    }
}

/// A pod with what happened to it.
#[derive(Clone, Debug)]
pub struct QueuedPod {
    /// The pod.
    pub pod: PendingPod,
    /// How often it was tried.
    pub attempts: u32,
    /// What its `PodScheduled` condition says, as far as is known.
    pub condition: Option<Condition>,
    /// The last failure that an Event told of, and when.
    pub told: Option<(String, Instant)>,
}

/// A `PodScheduled` condition that is false.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Its reason.
    pub reason: String,
    /// Its message.
    pub message: String,
}

type ActiveKey = (Reverse<i32>, u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Gated,
    Active(ActiveKey),
    BackingOff(Instant),
    Failed(Instant),
    Unschedulable(Instant, ClusterEvents),
}

#[derive(Debug)]
struct Waiting {
    queued: QueuedPod,
    place: Place,
    /// Until when it has to wait after its last failure.
    patience: Option<Instant>,
}

/// The pods that wait. The clock is the caller's.
#[derive(Debug, Default)]
pub struct Queue {
    config: Config,
    pods: HashMap<PodUid, Waiting>,
    active: BTreeSet<(ActiveKey, PodUid)>,
    /// May be tried early if there is nothing else to do.
    backing_off: BTreeSet<(Instant, PodUid)>,
    /// Were not refused but met an error: are not tried early.
    failed: BTreeSet<(Instant, PodUid)>,
    unschedulable: BTreeSet<(Instant, PodUid)>,
    arrivals: u64,
}

impl Queue {
    /// An empty queue.
    pub fn new(config: Config) -> Self {
        Queue { config, ..Queue::default() }
    }

    /// How many pods wait.
    pub fn len(&self) -> usize {
        self.pods.len()
    }

    /// Whether no pod waits.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    /// Whether the pod waits.
    pub fn contains(&self, uid: &PodUid) -> bool {
        self.pods.contains_key(uid)
    }

    /// All pods that wait.
    pub fn uids(&self) -> impl Iterator<Item = &PodUid> {
        self.pods.keys()
    }

    /// Takes in a pod, or a change of one. A change of what it demands gives an unschedulable pod a new try.
    pub fn update(&mut self, pod: PendingPod, condition: Option<Condition>, now: Instant) {
        let uid = pod.info.uid.clone();
        let Some(mut known) = self.take(&uid) else {
            let queued = QueuedPod { pod, attempts: 0, condition, told: None };
            self.requeue(queued, None, now);
            return;
        };
        let same = known.queued.pod == pod;
        known.queued.pod = pod;
        known.queued.condition = condition;
        match known.place {
            Place::Unschedulable(..) | Place::Gated if !same => {
                self.requeue(known.queued, known.patience, now);
            }
            Place::Active((_, arrival)) => {
                let key = (Reverse(known.queued.pod.info.priority), arrival);
                self.put(Waiting { place: Place::Active(key), ..known });
            }
            Place::Gated | Place::BackingOff(_) | Place::Failed(_) | Place::Unschedulable(..) => {
                self.put(known);
            }
        }
    }

    /// Forgets a pod.
    pub fn remove(&mut self, uid: &PodUid) -> Option<QueuedPod> {
        self.take(uid).map(|waiting| waiting.queued)
    }

    /// The pod to try next. If none is active, one that backs off is tried early.
    pub fn pop(&mut self, now: Instant) -> Option<QueuedPod> {
        self.wake(now);
        let next = self.active.first().map(|(_, uid)| uid);
        let uid = next.or_else(|| self.backing_off.first().map(|(_, uid)| uid))?.clone();
        let mut queued = self.take(&uid)?.queued;
        queued.attempts += 1;
        Some(queued)
    }

    /// Whether [`Queue::pop`] would give a pod.
    pub fn is_ready(&self, now: Instant) -> bool {
        !self.active.is_empty()
            || !self.backing_off.is_empty()
            || self.next_wake().is_some_and(|wake| wake <= now)
    }

    /// When a pod will be ready if nothing happens.
    pub fn next_wake(&self) -> Option<Instant> {
        let failed = self.failed.first().map(|(until, _)| *until);
        let forgotten =
            self.unschedulable.first().map(|(since, _)| *since + self.config.unschedulable_timeout);
        failed.into_iter().chain(forgotten).min()
    }

    /// Puts back a pod that no node takes, until one of `wanted` happens.
    pub fn put_unschedulable(&mut self, queued: QueuedPod, wanted: ClusterEvents, now: Instant) {
        let patience = Some(now + self.backoff(queued.attempts));
        self.put(Waiting { queued, place: Place::Unschedulable(now, wanted), patience });
    }

    /// Puts back a pod that met an error, to be tried again after a while.
    pub fn put_failed(&mut self, queued: QueuedPod, now: Instant) {
        let until = now + self.backoff(queued.attempts);
        self.put(Waiting { queued, place: Place::Failed(until), patience: Some(until) });
    }

    /// Gives the unschedulable pods that wait for one of `events` a new try; says how many.
    pub fn moved_by(&mut self, events: ClusterEvents, now: Instant) -> usize {
        if events == ClusterEvents::NONE || self.unschedulable.is_empty() {
            return 0;
        }
        let waits_for = |uid: &&PodUid| match self.pods.get(*uid).map(|waiting| waiting.place) {
            Some(Place::Unschedulable(_, wanted)) => wanted.intersects(events),
            Some(Place::Gated | Place::Active(_) | Place::BackingOff(_) | Place::Failed(_)) | None => false,
        };
        let moved: Vec<PodUid> =
            self.unschedulable.iter().map(|(_, uid)| uid).filter(waits_for).cloned().collect();
        for uid in &moved {
            if let Some(waiting) = self.take(uid) {
                self.requeue(waiting.queued, waiting.patience, now);
            }
        }
        moved.len()
    }

    fn backoff(&self, attempts: u32) -> Duration {
        let doublings = attempts.saturating_sub(1).min(16);
        self.config.initial_backoff.saturating_mul(1 << doublings).min(self.config.max_backoff)
    }

    /// Activates what has waited long enough.
    fn wake(&mut self, now: Instant) {
        let timeout = self.config.unschedulable_timeout;
        while let Some(uid) = due(&self.failed, Duration::ZERO, now)
            .or_else(|| due(&self.backing_off, Duration::ZERO, now))
            .or_else(|| due(&self.unschedulable, timeout, now))
        {
            if let Some(waiting) = self.take(&uid) {
                self.requeue(waiting.queued, None, now);
            }
        }
    }

    fn requeue(&mut self, queued: QueuedPod, patience: Option<Instant>, now: Instant) {
        let place = match patience {
            _ if !queued.pod.gates.is_empty() => Place::Gated,
            Some(until) if until > now => Place::BackingOff(until),
            Some(_) | None => {
                self.arrivals += 1;
                Place::Active((Reverse(queued.pod.info.priority), self.arrivals))
            }
        };
        self.put(Waiting { queued, place, patience });
    }

    fn put(&mut self, waiting: Waiting) {
        let uid = waiting.queued.pod.info.uid.clone();
        match waiting.place {
            Place::Gated => {}
            Place::Active(key) => drop(self.active.insert((key, uid.clone()))),
            Place::BackingOff(until) => drop(self.backing_off.insert((until, uid.clone()))),
            Place::Failed(until) => drop(self.failed.insert((until, uid.clone()))),
            Place::Unschedulable(since, _) => drop(self.unschedulable.insert((since, uid.clone()))),
        }
        self.pods.insert(uid, waiting);
    }

    fn take(&mut self, uid: &PodUid) -> Option<Waiting> {
        let (uid, waiting) = self.pods.remove_entry(uid)?;
        match waiting.place {
            Place::Gated => {}
            Place::Active(key) => drop(self.active.remove(&(key, uid))),
            Place::BackingOff(until) => drop(self.backing_off.remove(&(until, uid))),
            Place::Failed(until) => drop(self.failed.remove(&(until, uid))),
            Place::Unschedulable(since, _) => drop(self.unschedulable.remove(&(since, uid))),
        }
        Some(waiting)
    }
}

/// The first of the pods that has waited for `wait` since its time.
fn due(pods: &BTreeSet<(Instant, PodUid)>, wait: Duration, now: Instant) -> Option<PodUid> {
    pods.first().filter(|(time, _)| *time + wait <= now).map(|(_, uid)| uid.clone())
}

#[cfg(test)]
mod tests;
