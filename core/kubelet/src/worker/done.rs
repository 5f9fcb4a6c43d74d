//! What the worker learns from tasks that are done.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::task::{Id, JoinError};

use super::Worker;
use super::act::{Done, Outcome, VolumeFault};
use crate::allocation;
use crate::clock;
use crate::event::EventType;
use crate::memory::{End, FailedKills, Hook, Image, POST_START_HOOK_ERROR, Step, Why};
use crate::probe::{Finding, ProbeKind, Recorded, specification};

/// A stop, removal or clean-up that failed is tried again after this.
const RETRY: SignedDuration = SignedDuration::from_secs(5);
/// So is a call of the API.
pub(super) const API_RETRY: SignedDuration = SignedDuration::from_secs(2);

/// Why a pod has ended one of whose devices had become another one.
const DEVICE_REPLACED: &str = "DeviceReplaced";

pub(super) fn later(now: Timestamp, by: SignedDuration) -> Timestamp {
    now.checked_add(by).unwrap_or(Timestamp::MAX)
}

impl Worker {
    /// Takes what a task brought.
    pub(super) fn take(&mut self, joined: Result<(Id, Done), JoinError>) {
        let now = clock::now();
        match joined {
            Ok((id, done)) => {
                self.task_names.remove(&id);
                self.memory.tasks.remove(&done.task);
                self.learn_outcome(done.outcome, now);
            }
            Err(error) => {
                if let Some(task) = self.task_names.remove(&error.id()) {
                    tracing::error!(object = self.pod.object(), ?task, %error, "a task of a pod's worker broke off");
                    self.memory.tasks.remove(&task);
                }
                self.stale = true;
                self.memory.retry = Some(later(now, RETRY));
            }
        }
    }

    fn warn(&self, container: Option<&str>, reason: &'static str, message: String) {
        self.node.recorder.tell(&self.pod, container, EventType::Warning, reason, message);
    }

    fn learn_outcome(&mut self, outcome: Outcome, now: Timestamp) {
        match outcome {
            Outcome::Volumes(result) => {
                self.memory.mounted |= result.is_ok();
                self.memory.volumes = match &result {
                    Ok(()) => Step::Done,
                    Err(_) => self.memory.volumes.failed(now),
                };
                // What is given up has not failed.
                if let Err(VolumeFault { reason, text, is_loss }) = result {
                    if !self.ends.is_cancelled() {
                        self.warn(None, reason, text.clone());
                    }
                    if is_loss {
                        self.lose_device(text, now);
                    }
                }
            }
            Outcome::Sandbox(result) => {
                self.stale = true;
                self.node.metrics.started_pods.inc();
                if result.is_err() {
                    self.node.metrics.started_pods_errors.inc();
                }
                self.memory.sandbox = match &result {
                    Ok(()) => Step::Done,
                    Err(_) => self.memory.sandbox.failed(now),
                };
                if let Err((reason, message)) = result {
                    self.warn(None, reason, message);
                }
            }
            Outcome::Stopped(result) => match result {
                Ok(id) => {
                    self.stale = true;
                    self.memory.stopped_sandboxes.insert(id);
                    self.memory.retry = None;
                }
                Err(text) => {
                    self.warn(None, "FailedKillPod", format!("error killing pod: {text}"));
                    self.fails("stop a sandbox", &text, now);
                }
            },
            Outcome::Image { container, found } => self.learn_image(&container, found, now),
            Outcome::Started { container, result } => self.learn_start(&container, result, now),
            Outcome::Hooked { container, instance, result } => {
                let state = match &result {
                    Ok(()) => Hook::Done,
                    Err(text) => Hook::Failed(text.clone()),
                };
                if let Err(text) = result {
                    // The words of a hook may hold secrets: they are not for everybody who reads events.
                    tracing::warn!(object = self.pod.object(), container, error = text, "a hook failed");
                    self.warn(Some(&container), "FailedPostStartHook", "PostStartHook failed".to_owned());
                    if let Some(member) = self.pod.member(&container) {
                        self.node.metrics.container_failed(member.kind, POST_START_HOOK_ERROR);
                    }
                }
                self.memory.container(&container).hook = Some((instance, state));
            }
            Outcome::Prepared { instance } => {
                self.memory.prepared.insert(instance);
            }
            Outcome::Killed { instance, result } => {
                self.stale = true;
                if let Err(text) = result {
                    let before = self.memory.failed_kills.get(&instance).map_or(0, |failed| failed.count);
                    let failed = FailedKills { count: before.saturating_add(1), retry: later(now, RETRY) };
                    tracing::warn!(
                        object = self.pod.object(),
                        instance,
                        tries = failed.count,
                        error = text,
                        "a container is not stopped"
                    );
                    self.memory.failed_kills.insert(instance, failed);
                }
            }
            Outcome::Removed(result) => {
                self.stale = true;
                match result {
                    Ok(()) => self.memory.retry = None,
                    Err(text) => self.fails("remove what is over", &text, now),
                }
            }
            Outcome::Probed { container, instance, kind, finding } => {
                self.learn_finding(&container, &instance, kind, &finding);
            }
            Outcome::Resized { allocation, result } => {
                self.stale = true;
                // It may have been given something else meanwhile.
                let is_last = allocation::is_same(&allocation, &self.allocation);
                self.memory.resize_due = result.is_err() || !is_last;
                self.memory.resize_failed = result.err().map(|text| {
                    tracing::warn!(object = self.pod.object(), error = text, "limits are not changed");
                    (text, later(now, RETRY))
                });
                if let Some((text, _)) = self.memory.resize_failed.clone() {
                    self.tell_resize_error(&text);
                }
            }
            Outcome::Unprepared(result) => match result {
                Ok(()) => {
                    self.memory.unprepared = true;
                    self.memory.retry = None;
                }
                Err(text) => self.fails("give devices back", &text, now),
            },
            Outcome::CleanedUp(result) => match result {
                Ok(()) => {
                    self.memory.cleaned = true;
                    self.memory.retry = None;
                }
                Err(text) => self.fails("clean up", &text, now),
            },
            Outcome::Written { patch, result } => self.learn_written(patch, result, now),
            Outcome::Deleted(result) => self.learn_deleted(result, now),
        }
    }

    /// Its containers would write to a device that is not theirs. Who wants the pod makes another one, which is given the right one.
    fn lose_device(&mut self, text: String, now: Timestamp) {
        self.end(End::Evicted(Why::new(DEVICE_REPLACED, text)), Duration::ZERO, now);
    }

    fn fails(&mut self, what: &'static str, text: &str, now: Timestamp) {
        tracing::warn!(object = self.pod.object(), what, error = text, "an action failed and is tried again");
        self.memory.retry = Some(later(now, RETRY));
    }

    fn learn_image(&mut self, container: &str, found: Result<Image, Why>, now: Timestamp) {
        let memory = self.memory.container(container);
        match found {
            Ok(image) => {
                memory.image = image;
                memory.pulls = crate::backoff::Backoff::default();
            }
            Err(why) => {
                let told = format!("Error: {}", why.reason);
                let before = match &memory.image {
                    Image::Failed { at, .. } => *at,
                    Image::Unknown | Image::Present { .. } => now,
                };
                memory.pulls.advance(before, now);
                memory.image = Image::Failed { why, at: now };
                if !self.ends.is_cancelled() {
                    self.warn(Some(container), "Failed", told);
                }
            }
        }
    }

    fn learn_start(&mut self, container: &str, result: Result<String, Why>, now: Timestamp) {
        self.stale = true;
        if let Some(member) = self.pod.member(container) {
            let error = result.as_ref().err().map(|why| why.reason.as_str());
            self.node.metrics.container_started(member.kind, error);
        }
        let hook = match &result {
            Ok(id) => self.post_start(container, id),
            Err(_) => false,
        };
        let memory = self.memory.container(container);
        match result {
            Ok(id) => {
                memory.failed = None;
                // The next instance asks anew, as its policy may say.
                memory.image = Image::Unknown;
                memory.hook = Some((id, if hook { Hook::Running } else { Hook::Done }));
            }
            Err(why) => {
                let told = format!("Error: {}", why.message);
                memory.start_failed(why, now);
                self.warn(Some(container), "Failed", told);
            }
        }
    }

    fn learn_finding(&mut self, container: &str, instance: &str, kind: ProbeKind, finding: &Finding) {
        let Some(member) = self.pod.member(container).cloned() else { return };
        let Some(probe) = specification(&member, kind) else { return };
        let state = self.memory.container(container).probes.get_mut(kind);
        if state.record(instance, probe, finding) == Recorded::Stale {
            return;
        }
        let name = kind.as_str();
        match finding {
            Finding::Success => {}
            Finding::Warning(text) => {
                self.warn(Some(container), "ProbeWarning", format!("{name} probe warning: {text}"))
            }
            Finding::Failure(text) => {
                self.warn(Some(container), "Unhealthy", format!("{name} probe failed: {text}"))
            }
            Finding::Error(text) => {
                let told = format!("{name} probe errored and resulted in unknown state: {text}");
                self.warn(Some(container), "Unhealthy", told);
            }
        }
    }
}
