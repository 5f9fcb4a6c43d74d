//! The status of one container.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState as State, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, ContainerUser, LinuxContainerUser, ResourceRequirements, VolumeMountStatus,
};

use super::time;
use crate::allocation::difference;
use crate::memory::Why;
use crate::plan::{LOST, Plan, Stage, View, known_end};
use crate::pod::{Kind, Member};
use crate::runtime_view::{ContainerState, Instance};

fn waiting(why: &Why) -> State {
    let message = (!why.message.is_empty()).then(|| why.message.clone());
    let waiting = ContainerStateWaiting { reason: Some(why.reason.clone()), message };
    State { waiting: Some(waiting), ..State::default() }
}

fn ended(ended: ContainerStateTerminated) -> State {
    State { terminated: Some(ended), ..State::default() }
}

/// How an instance has ended; `None` while it has not.
fn end(view: View<'_>, instance: &Instance) -> Option<ContainerStateTerminated> {
    let ContainerState::Exited { started_at, finished_at, exit_code, ref reason, ref message } =
        instance.state
    else {
        return None;
    };
    let memory = view.memory.containers.get(&instance.name);
    let words = memory.and_then(|memory| memory.last_words.get(&instance.id)).filter(|text| !text.is_empty());
    let message = words.unwrap_or(message);
    Some(ContainerStateTerminated {
        container_id: Some(view.observed.container_id(instance)),
        exit_code,
        reason: (!reason.is_empty()).then(|| reason.clone()),
        message: (!message.is_empty()).then(|| message.clone()),
        started_at: Some(time(started_at)),
        finished_at: Some(time(finished_at)),
        signal: None,
    })
}

/// Whether a reason is there for every container that has not had its turn.
fn is_idle(why: &Why) -> bool {
    matches!(why.reason.as_str(), "ContainerCreating" | "PodInitializing")
}

/// The state in which the API has a container.
fn known<'a>(view: View<'a>, name: &str) -> Option<&'a ContainerStatus> {
    let status = view.pod.status();
    let regular = status.container_statuses.iter().flatten();
    let init = status.init_container_statuses.iter().flatten();
    let ephemeral = status.ephemeral_container_statuses.iter().flatten();
    regular.chain(init).chain(ephemeral).find(|one| one.name == name)
}

/// The status of a member.
pub(super) fn status(view: View<'_>, plan: &Plan, member: &Member) -> ContainerStatus {
    let name = member.name();
    let idle = if view.pod.init().next().is_some() { "PodInitializing" } else { "ContainerCreating" };
    let why = plan.waiting.get(name).cloned().unwrap_or_else(|| Why::new(idle, ""));
    let mut instances = view.observed.instances(name);
    let Some(newest) = instances.next() else {
        return never_made(view, plan, member, &why);
    };
    let previous = instances.next().and_then(|one| end(view, one)).map(ended);
    let own_end = end(view, newest);
    let memory = view.memory.containers.get(name);
    let redefined = memory.is_some_and(|memory| memory.redefined.as_ref() == Some(&newest.id));
    let (state, last_state) = match (&newest.state, own_end) {
        (ContainerState::Running { started_at }, _) => {
            let running = ContainerStateRunning { started_at: Some(time(*started_at)) };
            (State { running: Some(running), ..State::default() }, previous)
        }
        // It is followed by another: the API lets none that has ended begin again.
        (ContainerState::Exited { .. }, Some(own)) if redefined && plan.stage == Stage::Running => {
            (waiting(&why), Some(ended(own)))
        }
        (ContainerState::Exited { .. }, Some(own)) if is_idle(&why) || plan.stage != Stage::Running => {
            (ended(own), previous)
        }
        (ContainerState::Exited { .. }, own) => (waiting(&why), own.map(ended)),
        (ContainerState::Created | ContainerState::Unknown, _) => (waiting(&why), previous),
    };
    let fresh = crate::probe::ProbeStates::default();
    let probes = memory.map_or(&fresh, |memory| &memory.probes);
    let started = probes.started(member, newest);
    let ready = match member.kind {
        Kind::Init => state.terminated.as_ref().is_some_and(|ended| ended.exit_code == 0),
        Kind::Sidecar | Kind::Regular => probes.ready(member, newest),
        Kind::Ephemeral => false,
    };
    ContainerStatus {
        name: name.to_owned(),
        image: if newest.image.is_empty() { image(member) } else { newest.image.clone() },
        image_id: newest.image_ref.clone(),
        // One that was made and not started may yet be discarded.
        container_id: (newest.state != ContainerState::Created).then(|| view.observed.container_id(newest)),
        ready,
        restart_count: i32::try_from(newest.restart_count).unwrap_or(i32::MAX),
        started: Some(started),
        state: Some(state),
        last_state: Some(last_state.unwrap_or_default()),
        resources: Some(in_force(view, member, newest)),
        allocated_resources: member.container.resources.as_ref().and_then(|all| all.requests.clone()),
        allocated_resources_status: view.memory.devices.get(name).cloned(),
        user: user(newest),
        stop_signal: newest.stop_signal.clone(),
        volume_mounts: mounts(member, Some(newest)),
    }
}

/// What a container has got: what it has been given, or what it had before while that is not in force yet.
fn in_force(view: View<'_>, member: &Member, newest: &Instance) -> ResourceRequirements {
    let pending = newest.is_running() && difference(view.pod, member, newest.resources.as_ref()).any();
    let before = known(view, member.name()).and_then(|known| known.resources.clone()).filter(|_| pending);
    before.unwrap_or_else(|| member.container.resources.clone().unwrap_or_default())
}

fn image(member: &Member) -> String {
    member.container.image.clone().unwrap_or_default()
}

/// Whether the API knows of an instance of the container, be it one that is gone.
pub(crate) fn has_run(known: &ContainerStatus) -> bool {
    let has_ended = known.last_state.as_ref().is_some_and(|last| last.terminated.is_some());
    known.container_id.is_some() || has_ended || known.restart_count > 0
}

/// The end of an instance that ran when it was last seen, and is nowhere now.
fn lost(container_id: Option<String>) -> ContainerStateTerminated {
    ContainerStateTerminated {
        container_id,
        reason: Some("ContainerStatusUnknown".to_owned()),
        message: Some(
            "The container could not be located when the pod was deleted.  The container used to be Running"
                .to_owned(),
        ),
        exit_code: LOST,
        ..ContainerStateTerminated::default()
    }
}

/// A container of which the runtime has no instance.
fn never_made(view: View<'_>, plan: &Plan, member: &Member, why: &Why) -> ContainerStatus {
    let known = known(view, member.name());
    let for_good = known_end(view, member).is_some();
    // One that has ended and was removed since stays what the API says it was.
    let over = known.filter(|one| {
        one.state.as_ref().is_some_and(|state| state.terminated.is_some())
            && (plan.stage != Stage::Running || member.kind == Kind::Init || for_good)
    });
    if let Some(over) = over {
        return over.clone();
    }
    if let Some(known) = known.filter(|_| for_good) {
        let end = ended(lost(known.container_id.clone()));
        return ContainerStatus { state: Some(end), ready: false, started: Some(false), ..known.clone() };
    }
    let before = known.filter(|one| has_run(one));
    let last_state = before.map(|one| {
        let state = one.state.clone().unwrap_or_default();
        if state.terminated.is_some() {
            state
        } else if state.running.is_some() {
            ended(lost(one.container_id.clone()))
        } else {
            one.last_state.clone().unwrap_or_default()
        }
    });
    ContainerStatus {
        name: member.name().to_owned(),
        image: image(member),
        restart_count: before.map_or(0, |one| one.restart_count),
        started: Some(false),
        state: Some(waiting(why)),
        last_state: Some(last_state.unwrap_or_default()),
        volume_mounts: mounts(member, None),
        ..ContainerStatus::default()
    }
}

fn user(instance: &Instance) -> Option<ContainerUser> {
    let user = instance.user.as_ref().filter(|_| instance.is_running())?;
    let groups = (!user.supplemental_groups.is_empty()).then(|| user.supplemental_groups.clone());
    let linux = LinuxContainerUser { uid: user.uid, gid: user.gid, supplemental_groups: groups };
    Some(ContainerUser { linux: Some(linux) })
}

/// Of what was only asked for if it is possible the runtime's instance tells what became of it.
fn mounts(member: &Member, instance: Option<&Instance>) -> Option<Vec<VolumeMountStatus>> {
    let mounts = member.container.volume_mounts.as_ref().filter(|mounts| !mounts.is_empty())?;
    let one = |mount: &k8s_openapi::api::core::v1::VolumeMount| {
        let read_only = mount.read_only.filter(|read_only| *read_only);
        let recursive = match mount.recursive_read_only.as_deref() {
            Some("Enabled") => "Enabled",
            Some("IfPossible") if instance.is_some_and(|one| one.recursive.contains(&mount.mount_path)) => {
                "Enabled"
            }
            Some(_) | None => "Disabled",
        };
        VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only,
            recursive_read_only: read_only.map(|_| recursive.to_owned()),
            ..VolumeMountStatus::default()
        }
    };
    Some(mounts.iter().map(one).collect())
}

/// The pod has ended: containers that have not are of unknown fate.
pub(super) fn end_all(view: View<'_>, init: &mut [ContainerStatus], regular: &mut [ContainerStatus]) {
    let has_ended =
        |one: &ContainerStatus| one.state.as_ref().is_some_and(|state| state.terminated.is_some());
    let made = |one: &ContainerStatus| one.container_id.is_some();
    let initialized = regular.iter().any(made)
        || view.pod.init().zip(init.iter()).all(|(member, one)| member.kind == Kind::Sidecar || one.ready);
    let message = "The container could not be located when the pod was terminated";
    let unknown = |one: &mut ContainerStatus| {
        if has_ended(one) {
            return;
        }
        let terminated = ContainerStateTerminated {
            reason: Some("ContainerStatusUnknown".to_owned()),
            message: Some(message.to_owned()),
            exit_code: 137,
            started_at: Some(time(Timestamp::UNIX_EPOCH)),
            finished_at: Some(time(Timestamp::UNIX_EPOCH)),
            ..ContainerStateTerminated::default()
        };
        one.state = Some(ended(terminated));
        one.ready = false;
        one.started = Some(false);
    };
    if initialized {
        regular.iter_mut().for_each(unknown);
    }
    let last = init.iter().rposition(made);
    init.iter_mut().take(last.map_or(0, |last| last + 1)).for_each(unknown);
}
