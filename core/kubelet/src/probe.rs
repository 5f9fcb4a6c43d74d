//! Probes: the state of each (pure), and how one is made (client).
//!
//! A worker asks [`due`] when to probe next, and gives what came out to [`ProbeState::record`]. Results belong to one
//! instance of a container; a new instance begins anew.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Probe;

use crate::pod::Member;
use crate::runtime_view::Instance;

mod grpc;
pub(crate) mod run;

/// What a probe decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ProbeKind {
    /// Whether the container has come up; the others wait for it.
    Startup,
    /// Whether it has to be restarted.
    Liveness,
    /// Whether it takes traffic.
    Readiness,
}

impl ProbeKind {
    /// All, in the order in which they matter.
    pub(crate) const ALL: [Self; 3] = [Self::Startup, Self::Liveness, Self::Readiness];

    /// The word in events.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// What one run of a probe said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// All is well.
    Success,
    /// All is well, with something to tell.
    Warning(String),
    /// The container says no.
    Failure(String),
    /// The probe could not be made; that decides nothing.
    Error(String),
}

/// The state of one probe of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ProbeState {
    /// The instance that all this is about.
    instance: String,
    /// The result in force.
    result: Option<bool>,
    /// The last finding, and how often it came in a row.
    row: Option<(bool, i32)>,
    /// When the next run is due.
    next: Option<Timestamp>,
}

/// What a finding has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// Nothing.
    Unchanged,
    /// The result is another now.
    Changed,
    /// The finding is of an instance that is not looked at any more.
    Stale,
}

/// The states of all probes of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ProbeStates {
    startup: ProbeState,
    liveness: ProbeState,
    readiness: ProbeState,
}

/// The probe of a kind, if the container has one.
pub(crate) fn specification(member: &Member, kind: ProbeKind) -> Option<&Probe> {
    match kind {
        ProbeKind::Startup => member.container.startup_probe.as_ref(),
        ProbeKind::Liveness => member.container.liveness_probe.as_ref(),
        ProbeKind::Readiness => member.container.readiness_probe.as_ref(),
    }
}

fn seconds(value: Option<i32>, default: i32, least: i32) -> SignedDuration {
    SignedDuration::from_secs(value.unwrap_or(default).max(least).into())
}

fn later(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

impl ProbeState {
    /// The result for this instance, once there is one.
    pub(crate) fn result(&self, instance: &str) -> Option<bool> {
        self.result.filter(|_| self.instance == instance)
    }

    /// Takes over a result that was known before this kubelet started.
    pub(crate) fn seed(&mut self, instance: &str, result: bool) {
        if self.instance != instance {
            *self = Self { instance: instance.to_owned(), result: Some(result), ..Self::default() };
        }
    }

    /// A run begins: the next one is due a period later.
    pub(crate) fn begin(&mut self, instance: &str, probe: &Probe, now: Timestamp) {
        if self.instance != instance {
            *self = Self { instance: instance.to_owned(), ..Self::default() };
        }
        self.next = Some(later(now, seconds(probe.period_seconds, 10, 1)));
    }

    /// What a run said.
    pub(crate) fn record(&mut self, instance: &str, probe: &Probe, finding: &Finding) -> Recorded {
        if self.instance != instance {
            return Recorded::Stale;
        }
        let success = match finding {
            Finding::Success | Finding::Warning(_) => true,
            Finding::Failure(_) => false,
            Finding::Error(_) => return Recorded::Unchanged,
        };
        let count = match self.row {
            Some((last, count)) if last == success => count.saturating_add(1),
            Some(_) | None => 1,
        };
        self.row = Some((success, count));
        let threshold = if success { probe.success_threshold } else { probe.failure_threshold };
        let threshold = threshold.unwrap_or(if success { 1 } else { 3 });
        if count < threshold || self.result == Some(success) {
            return Recorded::Unchanged;
        }
        self.result = Some(success);
        Recorded::Changed
    }
}

impl ProbeStates {
    /// One of them.
    pub(crate) fn get(&self, kind: ProbeKind) -> &ProbeState {
        match kind {
            ProbeKind::Startup => &self.startup,
            ProbeKind::Liveness => &self.liveness,
            ProbeKind::Readiness => &self.readiness,
        }
    }

    /// One of them.
    pub(crate) fn get_mut(&mut self, kind: ProbeKind) -> &mut ProbeState {
        match kind {
            ProbeKind::Startup => &mut self.startup,
            ProbeKind::Liveness => &mut self.liveness,
            ProbeKind::Readiness => &mut self.readiness,
        }
    }

    /// Whether a running instance has come up.
    pub(crate) fn started(&self, member: &Member, instance: &Instance) -> bool {
        instance.is_running()
            && (member.container.startup_probe.is_none() || self.startup.result(&instance.id) == Some(true))
    }

    /// Whether a running instance takes traffic.
    pub(crate) fn ready(&self, member: &Member, instance: &Instance) -> bool {
        self.started(member, instance)
            && (member.container.readiness_probe.is_none()
                || self.readiness.result(&instance.id) == Some(true))
    }

    /// The probe for whose failure an instance has to be killed.
    pub(crate) fn failed(&self, instance: &str) -> Option<ProbeKind> {
        let failed = |kind: ProbeKind| self.get(kind).result(instance) == Some(false);
        [ProbeKind::Startup, ProbeKind::Liveness].into_iter().find(|kind| failed(*kind))
    }

    /// When a probe has to be made next; `None` while it has no reason to.
    pub(crate) fn due(
        &self,
        kind: ProbeKind,
        member: &Member,
        instance: &Instance,
        terminating: bool,
    ) -> Option<Timestamp> {
        let probe = specification(member, kind)?;
        if !instance.is_running() {
            return None;
        }
        let state = self.get(kind);
        let wanted = match kind {
            ProbeKind::Startup => !terminating && state.result(&instance.id).is_none(),
            ProbeKind::Liveness => {
                !terminating
                    && self.started(member, instance)
                    && state.result(&instance.id) != Some(false)
                    && self.startup.result(&instance.id) != Some(false)
            }
            ProbeKind::Readiness => self.started(member, instance),
        };
        let first = later(instance.since, seconds(probe.initial_delay_seconds, 0, 0));
        let next = state.next.filter(|_| state.instance == instance.id).unwrap_or(first);
        wanted.then_some(next.max(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::PodModel;
    use crate::runtime_view::ContainerState;
    use std::sync::Arc;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn pod(container: serde_json::Value) -> PodModel {
        let pod = serde_json::json!({ "metadata": { "name": "p", "namespace": "n", "uid": "u" },
            "spec": { "containers": [container] } });
        PodModel::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
    }

    fn running(id: &str) -> Instance {
        crate::runtime_view::fixture(id, "a", 0, ContainerState::Running { started_at: at(100) })
    }

    #[test]
    fn a_result_changes_after_as_many_findings_in_a_row_as_its_threshold() {
        let probe = Probe { failure_threshold: Some(2), success_threshold: Some(2), ..Probe::default() };
        let mut state = ProbeState::default();
        state.begin("x", &probe, at(100));
        let failure = Finding::Failure("no".to_owned());
        assert_eq!(state.record("x", &probe, &Finding::Success), Recorded::Unchanged);
        assert_eq!(state.record("x", &probe, &failure), Recorded::Unchanged);
        assert_eq!(state.record("x", &probe, &Finding::Success), Recorded::Unchanged);
        assert_eq!(state.record("x", &probe, &Finding::Error(String::new())), Recorded::Unchanged);
        assert_eq!(state.record("x", &probe, &Finding::Success), Recorded::Changed);
        assert_eq!(state.result("x"), Some(true));
        assert_eq!(state.record("x", &probe, &failure), Recorded::Unchanged);
        assert_eq!(state.record("x", &probe, &failure), Recorded::Changed);
        assert_eq!(state.record("y", &probe, &failure), Recorded::Stale);
        assert_eq!(state.result("y"), None);
    }

    #[test]
    fn the_other_probes_wait_until_the_startup_probe_has_succeeded() {
        let probe = serde_json::json!({ "tcpSocket": { "port": 1 }, "initialDelaySeconds": 5 });
        let pod = pod(serde_json::json!({ "name": "a", "startupProbe": probe, "livenessProbe": probe,
            "readinessProbe": probe }));
        let member = &pod.members[0];
        let mut states = ProbeStates::default();
        let due =
            |states: &ProbeStates| ProbeKind::ALL.map(|kind| states.due(kind, member, &running("x"), false));
        assert_eq!(due(&states), [Some(at(105)), None, None]);
        assert!(!states.ready(member, &running("x")));
        states.startup.seed("x", true);
        assert_eq!(due(&states), [None, Some(at(105)), Some(at(105))]);
        states.readiness.seed("x", true);
        assert!(states.ready(member, &running("x")));
        assert!(!states.ready(member, &running("another")));
    }

    #[test]
    fn a_failed_liveness_probe_rests_until_there_is_a_new_instance() {
        let probe = serde_json::json!({ "tcpSocket": { "port": 1 } });
        let pod = pod(serde_json::json!({ "name": "a", "livenessProbe": probe }));
        let member = &pod.members[0];
        let mut states = ProbeStates::default();
        states.liveness.seed("x", false);
        assert_eq!(states.failed("x"), Some(ProbeKind::Liveness));
        assert_eq!(states.due(ProbeKind::Liveness, member, &running("x"), false), None);
        assert_eq!(states.failed("y"), None);
        assert_eq!(states.due(ProbeKind::Liveness, member, &running("y"), false), Some(at(100)));
        assert_eq!(states.due(ProbeKind::Liveness, member, &running("y"), true), None);
    }
}
