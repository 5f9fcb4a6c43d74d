//! What a worker remembers of its pod beyond what the API and the runtime hold: tries under way and failures.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::backoff::Backoff;
use crate::probe::ProbeStates;

/// A reason with its text, as statuses show them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Why {
    /// One word.
    pub(crate) reason: String,
    /// The rest.
    pub(crate) message: String,
}

impl Why {
    /// A reason with its text.
    pub(crate) fn new(reason: &str, message: impl Into<String>) -> Self {
        Self { reason: reason.to_owned(), message: message.into() }
    }
}

/// Something that has to be done once, and may fail.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Step {
    /// Not done.
    #[default]
    Open,
    /// Done.
    Done,
    /// Failed; tried again at the given time.
    Failed {
        /// When it is tried again.
        retry: Timestamp,
        /// How often it has failed in a row.
        failures: u32,
    },
}

impl Step {
    /// What a failure makes of it: the pause doubles from a second to two minutes.
    pub(crate) fn failed(&self, now: Timestamp) -> Self {
        let failures = match self {
            Self::Failed { failures, .. } => failures.saturating_add(1),
            Self::Open | Self::Done => 1,
        };
        let pause = SignedDuration::from_secs((1 << failures.min(7)).min(120) / 2);
        Self::Failed { retry: now.checked_add(pause).unwrap_or(Timestamp::MAX), failures }
    }
}

/// The image of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Image {
    /// Not looked for since the container ended last.
    #[default]
    Unknown,
    /// There.
    Present {
        /// The runtime's identifier.
        id: String,
        /// The user that it names, when that is a number.
        uid: Option<i64>,
        /// The user that it names, when that is a name.
        username: String,
    },
    /// Not to be had.
    Failed {
        /// Why.
        why: Why,
        /// When it failed.
        at: Timestamp,
    },
}

/// Why a container waits whose hook after the start has failed.
pub(crate) const POST_START_HOOK_ERROR: &str = "PostStartHookError";

/// The hook after a container's start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hook {
    /// Still runs.
    Running,
    /// Has failed: the container is killed.
    Failed(String),
    /// Has ended well, or there is none.
    Done,
}

/// One container.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ContainerMemory {
    /// Waits between its starts.
    pub(crate) restarts: Backoff,
    /// Waits between pulls of its image.
    pub(crate) pulls: Backoff,
    /// Its image.
    pub(crate) image: Image,
    /// Why it could not be made or started, and when.
    pub(crate) failed: Option<(Why, Timestamp)>,
    /// The instance that was ended since the container's image is another: another one follows whatever the policy.
    pub(crate) redefined: Option<String>,
    /// The hook of an instance of a container, by the instance's identifier.
    pub(crate) hook: Option<(String, Hook)>,
    /// Last words of instances that ended, by the instance's identifier.
    pub(crate) last_words: BTreeMap<String, String>,
    /// Its probes.
    pub(crate) probes: ProbeStates,
}

impl ContainerMemory {
    /// An instance could not be made or started.
    pub(crate) fn start_failed(&mut self, why: Why, now: Timestamp) {
        if why.reason == "CreateContainerError" {
            // It may be that the image has gone since it was found.
            self.image = Image::Unknown;
        }
        self.failed = Some((why, now));
    }
}

/// Something that is being done; one of a kind at a time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Task {
    /// Making the volumes' content.
    Volumes,
    /// Making a sandbox.
    RunSandbox,
    /// Stopping a sandbox.
    StopSandbox(String),
    /// Looking for a container's image, and pulling it.
    Image(String),
    /// Making and starting a container.
    Start(String),
    /// The hook after a container's start.
    Hook(String),
    /// The hook before an instance's end.
    PreStop(String),
    /// Ending an instance.
    Kill(String),
    /// Removing instances and sandboxes that are over.
    Remove,
    /// Changing limits.
    Resize,
    /// A probe of a container.
    Probe(String, crate::probe::ProbeKind),
    /// Giving the devices of claims back.
    Unprepare,
    /// Taking away volumes, folders and control group.
    CleanUp,
    /// Writing the status.
    Status,
    /// Deleting the object.
    Delete,
}

/// Why a pod ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// The API has a deletion timestamp.
    Deleted,
    /// The API does not know the pod any more.
    Gone,
    /// Its containers are done, or it was over before this kubelet saw it.
    Completed,
    /// The node ends it: too long a run, or refused.
    Evicted(Why),
}

/// An end that has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Termination {
    /// Why.
    pub(crate) end: End,
    /// When the last container has to be gone.
    pub(crate) deadline: Timestamp,
    /// What was granted in all.
    pub(crate) grace: Duration,
}

/// How it went with the kills of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FailedKills {
    /// How often they failed.
    pub(crate) count: u32,
    /// When the next try is made.
    pub(crate) retry: Timestamp,
}

/// Why there is no network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NetworkFault {
    /// The runtime's words.
    pub(crate) text: String,
    /// When it is told again.
    pub(crate) tell_again: Timestamp,
}

/// All that a worker remembers.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Memory {
    /// Whether the volumes have their content, of the newest state of the pod.
    pub(crate) volumes: Step,
    /// They had it once, and stay where they are.
    pub(crate) mounted: bool,
    /// Why there is no network now, if the pod needs one.
    pub(crate) network_fault: Option<NetworkFault>,
    /// When the pod began, by the node's own time.
    pub(crate) started: Option<Timestamp>,
    /// Whether the last try at a sandbox failed.
    pub(crate) sandbox: Step,
    /// How long its containers wait between their starts.
    pub(crate) restarts: Backoff,
    /// By container.
    pub(crate) containers: BTreeMap<String, ContainerMemory>,
    /// What is being done.
    pub(crate) tasks: BTreeSet<Task>,
    /// The end, once it has begun.
    pub(crate) termination: Option<Termination>,
    /// Why the node ended the pod, when something else has asked for its end since.
    pub(crate) evicted: Option<Why>,
    /// The node has not taken the pod.
    pub(crate) refused: bool,
    /// Why the pod has not been given what it asks for now.
    pub(crate) resize_pending: Option<Why>,
    /// It has been given something else, and that is not in force everywhere.
    pub(crate) resize_due: bool,
    /// The generation of the pod with what it has been given, until that is in force and has been told.
    pub(crate) resizing: Option<i64>,
    /// Why that could not be brought into force, and when it is tried again.
    pub(crate) resize_failed: Option<(String, Timestamp)>,
    /// The message of the condition `DisruptionTarget`.
    pub(crate) disruption: Option<String>,
    /// Devices of claims were given back.
    pub(crate) unprepared: bool,
    /// Volumes, folders and control group are away.
    pub(crate) cleaned: bool,
    /// When a failed clean-up, giving back, removal or stop is tried again.
    pub(crate) retry: Option<Timestamp>,
    /// When instances that are being killed will be gone at the latest.
    pub(crate) kill_deadlines: BTreeMap<String, Timestamp>,
    /// Containers whose instances go since the pod begins anew, until they have another, with the newest one that goes.
    pub(crate) renewed: BTreeMap<String, Option<String>>,
    /// Instances whose hook before their end has run.
    pub(crate) prepared: BTreeSet<String>,
    /// Instances that could not be killed.
    pub(crate) failed_kills: BTreeMap<String, FailedKills>,
    /// Sandboxes that were stopped: all that they held is given back.
    pub(crate) stopped_sandboxes: BTreeSet<String>,
    /// How its devices fare, by container.
    pub(crate) devices: BTreeMap<String, Vec<k8s_openapi::api::core::v1::ResourceStatus>>,
    /// The status after the end is with the API.
    pub(crate) last_status_written: bool,
}

impl Memory {
    /// What is remembered of a container.
    pub(crate) fn container(&mut self, name: &str) -> &mut ContainerMemory {
        let fresh = || ContainerMemory { restarts: self.restarts.clone(), ..ContainerMemory::default() };
        self.containers.entry(name.to_owned()).or_insert_with(fresh)
    }

    /// Begins the pod's end, or makes one that has begun stronger or shorter: it never becomes weaker or longer.
    pub(crate) fn end(&mut self, end: End, grace: Duration, now: Timestamp) {
        let deadline = now.checked_add(grace).unwrap_or(Timestamp::MAX);
        let Some(known) = &mut self.termination else {
            self.termination = Some(Termination { end, deadline, grace });
            return;
        };
        let stronger = match (&known.end, &end) {
            (End::Gone, _) => false,
            (_, End::Gone) => true,
            (End::Completed | End::Evicted(_), End::Deleted) => true,
            (_, End::Deleted | End::Completed | End::Evicted(_)) => false,
        };
        match (&known.end, &end) {
            (End::Evicted(why), _) if stronger => self.evicted = Some(why.clone()),
            (End::Deleted, End::Evicted(why)) => _ = self.evicted.get_or_insert_with(|| why.clone()),
            _ => {}
        }
        if stronger {
            known.end = end;
        }
        if grace < known.grace {
            known.grace = grace;
            known.deadline = known.deadline.min(deadline);
        }
    }

    /// Whether the node has begun the pod's end, whatever else has asked for it since.
    pub(crate) fn is_evicted(&self) -> bool {
        let by_node = |one: &Termination| matches!(one.end, End::Evicted(_));
        self.evicted.is_some() || self.termination.as_ref().is_some_and(by_node)
    }

    /// Whether the pod ends since its containers are done.
    pub(crate) fn is_completed(&self) -> bool {
        self.termination.as_ref().is_some_and(|one| one.end == End::Completed)
    }

    /// Whether a task is under way.
    pub(crate) fn busy(&self, task: &Task) -> bool {
        self.tasks.contains(task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn evicted(reason: &str) -> End {
        End::Evicted(Why::new(reason, ""))
    }

    #[test]
    fn a_pod_that_ends_slowly_ends_sooner_when_the_node_cannot_wait() {
        let mut memory = Memory::default();
        memory.end(End::Deleted, Duration::from_secs(3600), at(100));
        assert!(!memory.is_evicted());
        memory.end(evicted("Evicted"), Duration::from_secs(1), at(200));
        let ending = Termination { end: End::Deleted, deadline: at(201), grace: Duration::from_secs(1) };
        assert_eq!(memory.termination, Some(ending.clone()));
        assert_eq!(memory.evicted, Some(Why::new("Evicted", "")));
        // Nothing makes it longer again.
        memory.end(evicted("Other"), Duration::from_secs(60), at(210));
        assert_eq!(memory.termination, Some(ending));
        assert_eq!(memory.evicted, Some(Why::new("Evicted", "")));
    }

    #[test]
    fn an_eviction_is_remembered_when_the_pod_is_deleted_meanwhile() {
        let mut memory = Memory::default();
        memory.end(evicted("Evicted"), Duration::from_secs(30), at(100));
        assert!(memory.is_evicted());
        memory.end(End::Deleted, Duration::from_secs(60), at(101));
        assert_eq!(memory.termination.as_ref().unwrap().end, End::Deleted);
        assert_eq!(memory.termination.as_ref().unwrap().deadline, at(130));
        assert!(memory.is_evicted());
        memory.end(End::Gone, Duration::from_secs(60), at(102));
        assert_eq!(memory.termination.as_ref().unwrap().end, End::Gone);
    }
}
