//! The status of an Operator object (pure).

use k8s_openapi::jiff::Timestamp;
use keelson_operator_kit::condition::{self, condition};

use super::runner::RunState;
use super::validate::Refusal;
use crate::kind::{DEGRADED, INSTALLED, OperatorStatus, READY};

const INSTALL_FAILED: &str = "InstallFailed";
const AS_EXPECTED: &str = "AsExpected";
const FAILED: &str = "Failed";
const INVALID_CONFIG: &str = "InvalidConfig";
const RUNNING: &str = "Running";

/// What came of a look at an Operator object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It cannot run as it is.
    Refused(Refusal),
    /// Its kinds or rights could not be applied.
    NotInstalled {
        /// Why.
        message: String,
    },
    /// It is installed.
    Installed {
        /// The version.
        version: &'static str,
        /// How it stands in this process.
        run: RunState,
    },
}

/// What is worth an Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// It has begun to act.
    Began,
    /// Something went wrong.
    Wrong {
        /// A word for programs.
        reason: &'static str,
        /// A sentence for people.
        message: String,
    },
}

/// The new status, and what is worth an Event; `None` when there is nothing to write.
pub fn status(
    old: &OperatorStatus,
    generation: Option<i64>,
    outcome: Outcome,
    now: Timestamp,
) -> Option<(OperatorStatus, Option<Note>)> {
    let mut new = old.clone();
    let mut note = None;
    let mut put = |type_: &str, holds: bool, reason: &str, message: &str| {
        let mut condition = condition(type_, holds, reason, message, now);
        condition.observed_generation = generation;
        condition::set(&mut new.conditions, condition);
    };
    match outcome {
        Outcome::Refused(Refusal { reason, message }) => {
            put(INSTALLED, false, reason, &message);
            put(READY, false, reason, &message);
            put(DEGRADED, true, reason, &message);
            note = Some(Note::Wrong { reason, message });
        }
        Outcome::NotInstalled { message } => {
            put(INSTALLED, false, INSTALL_FAILED, &message);
            put(READY, false, INSTALL_FAILED, &message);
            put(DEGRADED, true, INSTALL_FAILED, &message);
            note = Some(Note::Wrong { reason: INSTALL_FAILED, message });
        }
        Outcome::Installed { version, run } => {
            // Who runs it says how it is. The others are silent once anything is said.
            let told = old.observed_generation == generation && old.is(INSTALLED);
            if run == RunState::Standby && told {
                return None;
            }
            put(INSTALLED, true, "Applied", "its kinds and rights are applied");
            match run {
                RunState::Standby => {
                    put(READY, false, "WaitingForLease", "no server has taken its Lease yet");
                    put(DEGRADED, false, AS_EXPECTED, "");
                }
                RunState::Starting => {
                    put(READY, false, "Starting", "it was started and has not begun to act");
                    // Being started again is no recovery yet.
                    if !old.is(DEGRADED) || !old.is(INSTALLED) {
                        put(DEGRADED, false, AS_EXPECTED, "");
                    }
                }
                RunState::Running => {
                    put(READY, true, RUNNING, "it acts");
                    put(DEGRADED, false, AS_EXPECTED, "");
                    note = (!old.is(READY)).then_some(Note::Began);
                }
                RunState::Failed { message, again } => {
                    let reason = if again.is_some() { FAILED } else { INVALID_CONFIG };
                    put(READY, false, reason, &message);
                    put(DEGRADED, true, reason, &message);
                    note = Some(Note::Wrong { reason, message });
                }
            }
            new.version = Some(version.to_owned());
        }
    }
    new.observed_generation = generation;
    (new != *old).then_some((new, note))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn after(old: &OperatorStatus, run: RunState) -> Option<(OperatorStatus, Option<Note>)> {
        status(old, Some(1), Outcome::Installed { version: "1", run }, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn an_operator_is_ready_when_it_acts_and_degraded_until_it_acts_again() {
        let (started, note) = after(&OperatorStatus::default(), RunState::Starting).unwrap();
        assert!(started.is(INSTALLED) && !started.is(READY) && note.is_none());
        let (running, note) = after(&started, RunState::Running).unwrap();
        assert!(running.is(READY) && !running.is(DEGRADED));
        assert_eq!(note, Some(Note::Began));
        assert_eq!(after(&running, RunState::Running), None);
        let failed = RunState::Failed { message: "no".to_owned(), again: Some(Duration::from_secs(1)) };
        let (failed, note) = after(&running, failed).unwrap();
        assert!(failed.is(DEGRADED) && !failed.is(READY));
        assert_eq!(note, Some(Note::Wrong { reason: "Failed", message: "no".to_owned() }));
        let (again, _) = after(&failed, RunState::Starting).unwrap();
        assert!(again.is(DEGRADED));
        let (running, _) = after(&again, RunState::Running).unwrap();
        assert!(!running.is(DEGRADED));
    }

    #[test]
    fn a_server_that_waits_for_the_lease_does_not_speak_for_the_one_that_holds_it() {
        let (running, _) = after(&OperatorStatus::default(), RunState::Running).unwrap();
        assert_eq!(after(&running, RunState::Standby), None);
        let (waiting, _) = after(&OperatorStatus::default(), RunState::Standby).unwrap();
        assert!(!waiting.is(READY));
    }

    #[test]
    fn a_refused_object_says_why_in_every_condition() {
        let refusal = Refusal { reason: "NotInCatalog", message: "no".to_owned() };
        let (refused, _) =
            status(&OperatorStatus::default(), Some(2), Outcome::Refused(refusal), Timestamp::UNIX_EPOCH)
                .unwrap();
        assert!(refused.is(DEGRADED));
        assert_eq!(refused.conditions.len(), 3);
        assert!(refused.conditions.iter().all(|condition| condition.reason == "NotInCatalog"));
        assert_eq!((refused.version, refused.observed_generation), (None, Some(2)));
    }
}
