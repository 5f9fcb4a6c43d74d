//! When probes are made.

use jiff::Timestamp;

use super::Worker;
use super::act::{Done, Outcome};
use crate::memory::{Hook, Task};
use crate::pod::{Kind, Member};
use crate::probe::run::Target;
use crate::probe::{ProbeKind, specification};
use crate::runtime_view::Instance;

impl Worker {
    /// Takes over what the API knows of instances that ran before this worker.
    pub(super) fn seed_probes(&mut self) {
        let status = self.pod.status().clone();
        let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        for known in all {
            let Some(instance) = self.observed.newest(&known.name).filter(|one| one.is_running()).cloned()
            else {
                continue;
            };
            if known.container_id.as_ref().is_none_or(|id| !id.ends_with(&instance.id)) {
                continue;
            }
            let probes = &mut self.memory.container(&known.name).probes;
            if known.started == Some(true) {
                probes.get_mut(ProbeKind::Startup).seed(&instance.id, true);
            }
            probes.get_mut(ProbeKind::Readiness).seed(&instance.id, known.ready);
        }
    }

    /// Begins the probes that are due; says when the next one is.
    pub(super) fn begin_probes(&mut self, now: Timestamp) -> Option<Timestamp> {
        let pod = std::sync::Arc::clone(&self.pod);
        let mut next: Option<Timestamp> = None;
        for member in pod.members.iter().filter(|one| matches!(one.kind, Kind::Regular | Kind::Sidecar)) {
            let Some(instance) = self.observed.newest(member.name()).filter(|one| one.is_running()).cloned()
            else {
                continue;
            };
            if self.is_starting(member, &instance) {
                continue;
            }
            for kind in ProbeKind::ALL {
                let due = self.begin_probe(member, &instance, kind, now);
                next = next.into_iter().chain(due).min();
            }
        }
        next
    }

    /// The hook after its start still runs.
    fn is_starting(&self, member: &Member, instance: &Instance) -> bool {
        let hook = self.memory.containers.get(member.name()).and_then(|memory| memory.hook.as_ref());
        hook.is_some_and(|(id, hook)| *id == instance.id && *hook == Hook::Running)
    }

    fn begin_probe(
        &mut self,
        member: &Member,
        instance: &Instance,
        kind: ProbeKind,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let probe = specification(member, kind)?.clone();
        let terminating = self.memory.termination.is_some();
        let task = Task::Probe(member.name().to_owned(), kind);
        if self.memory.busy(&task) {
            return None;
        }
        let states = &mut self.memory.container(member.name()).probes;
        let due = states.due(kind, member, instance, terminating)?;
        if due > now {
            return Some(due);
        }
        states.get_mut(kind).begin(&instance.id, &probe, now);
        let addresses = self.observed.ready_sandbox().and_then(|sandbox| sandbox.ips.first());
        let ip = addresses.and_then(|ip| ip.parse().ok());
        let ip = if self.pod.host_network() { Some(self.node.config.node_ip) } else { ip };
        let target = Target {
            runtime: self.node.runtime.clone(),
            instance: instance.id.clone(),
            container: member.container.clone(),
            ip,
        };
        let (container, id) = (member.name().to_owned(), instance.id.clone());
        let (node, pod) = (std::sync::Arc::clone(&self.node), std::sync::Arc::clone(&self.pod));
        self.spawn(task.clone(), async move {
            let began = std::time::Instant::now();
            let finding = target.probe(&probe).await;
            node.metrics.probes.ended(&pod, &container, kind, &finding, began.elapsed());
            Done { task, outcome: Outcome::Probed { container, instance: id, kind, finding } }
        });
        None
    }
}
