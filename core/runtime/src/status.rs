//! What the CRI is told of sandboxes, containers and images.

use keelson_cri::v1;

use crate::image::Image;
use crate::image::config::ImageConfig;
use crate::state::{Container, Phase, Sandbox, Why};
use crate::stop_signal;

fn sandbox_state(sandbox: &Sandbox) -> v1::PodSandboxState {
    if sandbox.is_ready() { v1::PodSandboxState::SandboxReady } else { v1::PodSandboxState::SandboxNotready }
}

pub(crate) fn sandbox(sandbox: &Sandbox) -> v1::PodSandboxStatus {
    let record = sandbox.record.lock().clone();
    let mut addresses = record.addresses.iter().map(ToString::to_string);
    let network = v1::PodSandboxNetworkStatus {
        ip: addresses.next().unwrap_or_default(),
        additional_ips: addresses.map(|ip| v1::PodIp { ip }).collect(),
    };
    v1::PodSandboxStatus {
        id: sandbox.id.clone(),
        metadata: sandbox.config.metadata.clone(),
        state: sandbox_state(sandbox) as i32,
        created_at: record.created_at,
        network: Some(network),
        linux: Some(v1::LinuxPodSandboxStatus {
            namespaces: Some(v1::Namespace { options: Some(sandbox.options()) }),
        }),
        labels: sandbox.config.labels.clone(),
        annotations: sandbox.config.annotations.clone(),
        runtime_handler: record.runtime_handler,
    }
}

pub(crate) fn sandbox_item(sandbox: &Sandbox) -> v1::PodSandbox {
    let record = sandbox.record.lock();
    v1::PodSandbox {
        id: sandbox.id.clone(),
        metadata: sandbox.config.metadata.clone(),
        state: if *sandbox.alive.borrow() && !record.stopped {
            v1::PodSandboxState::SandboxReady as i32
        } else {
            v1::PodSandboxState::SandboxNotready as i32
        },
        created_at: record.created_at,
        labels: sandbox.config.labels.clone(),
        annotations: sandbox.config.annotations.clone(),
        runtime_handler: record.runtime_handler.clone(),
    }
}

pub(crate) fn container_state(phase: &Phase) -> v1::ContainerState {
    match phase {
        Phase::Created => v1::ContainerState::ContainerCreated,
        Phase::Running { .. } => v1::ContainerState::ContainerRunning,
        Phase::Exited { .. } => v1::ContainerState::ContainerExited,
    }
}

pub(crate) fn container(container: &Container) -> v1::ContainerStatus {
    let record = container.record.lock().clone();
    let phase = container.phase();
    let config = record.config.0;
    let identity = &record.launch.identity;
    let mut status = v1::ContainerStatus {
        id: record.id,
        metadata: config.metadata,
        state: container_state(&phase) as i32,
        created_at: record.created_at,
        image: config.image,
        image_ref: record.image_ref,
        image_id: record.image_id,
        labels: config.labels,
        annotations: config.annotations,
        mounts: config.mounts,
        log_path: record.launch.log_path.map(|path| path.display().to_string()).unwrap_or_default(),
        resources: Some(v1::ContainerResources { linux: Some(record.resources.0), windows: None }),
        user: Some(v1::ContainerUser {
            linux: Some(v1::LinuxContainerUser {
                uid: identity.uid.into(),
                gid: identity.gid.into(),
                supplemental_groups: identity.groups.iter().copied().map(i64::from).collect(),
            }),
        }),
        stop_signal: stop_signal::of(&record.stop_signal) as i32,
        ..v1::ContainerStatus::default()
    };
    match phase {
        Phase::Created => {}
        Phase::Running { started_at, .. } => status.started_at = started_at,
        Phase::Exited { started_at, exit, why } => {
            status.started_at = started_at;
            status.finished_at = exit.at;
            status.exit_code = exit.code;
            let (reason, message) = match why {
                Why::Ended if exit.oom_killed => ("OOMKilled", String::new()),
                Why::Ended if exit.code == 0 => ("Completed", String::new()),
                Why::Ended => ("Error", String::new()),
                Why::StartError(message) => ("StartError", message),
                Why::Unknown => ("Unknown", "the pod process ended before the container".to_owned()),
            };
            status.reason = reason.to_owned();
            status.message = message;
        }
    }
    status
}

pub(crate) fn container_item(container: &Container) -> v1::Container {
    let record = container.record.lock().clone();
    let config = record.config.0;
    v1::Container {
        id: record.id,
        pod_sandbox_id: record.sandbox,
        metadata: config.metadata,
        image: config.image,
        image_ref: record.image_ref,
        image_id: record.image_id,
        state: container_state(&container.phase()) as i32,
        created_at: record.created_at,
        labels: config.labels,
        annotations: config.annotations,
    }
}

pub(crate) fn image(image: &Image, config: &ImageConfig) -> v1::Image {
    let user = config.config.as_ref().and_then(|config| config.user.clone()).unwrap_or_default();
    let user = user.split(':').next().unwrap_or_default().to_owned();
    let uid = user.parse::<i64>().ok();
    v1::Image {
        id: image.id.clone(),
        repo_tags: image.tags.iter().cloned().collect(),
        repo_digests: image.digests.iter().cloned().collect(),
        size: image.size,
        uid: uid.map(|value| v1::Int64Value { value }),
        username: if uid.is_some() { String::new() } else { user },
        spec: Some(v1::ImageSpec { image: image.id.clone(), ..v1::ImageSpec::default() }),
        pinned: image.pinned,
    }
}
