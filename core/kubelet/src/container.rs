//! (pure) What the runtime is told of a container.

use std::collections::HashMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::Container;
use keelson_cri::v1;

use crate::environment;
use crate::labels;
use crate::pod::{Member, PodModel};
use crate::{resources, security, stop_signal};

/// Where a container leaves its last words, if it does not say.
pub(crate) const TERMINATION_LOG: &str = "/dev/termination-log";

/// What is found out about a container before it is made.
#[derive(Debug, Clone)]
pub(crate) struct Findings {
    /// The runtime's identifier of its image.
    pub(crate) image: String,
    /// Instances before this one.
    pub(crate) restart_count: u32,
    /// Its variables.
    pub(crate) env: Vec<(String, String)>,
    /// Its volumes.
    pub(crate) mounts: Vec<v1::Mount>,
    /// Its block devices.
    pub(crate) devices: Vec<v1::Device>,
    /// Names of its devices by which the runtime finds out what it needs for them.
    pub(crate) cdi_devices: Vec<String>,
    /// The pod's hosts file.
    pub(crate) hosts: PathBuf,
    /// The file for its last words.
    pub(crate) termination_log: PathBuf,
    /// What the machine has.
    pub(crate) machine: resources::Machine,
    /// The instance whose processes it sees.
    pub(crate) target: Option<String>,
    /// How its system calls are filtered.
    pub(crate) filters: security::Filters,
}

/// Where the container leaves its last words.
pub(crate) fn termination_path(container: &Container) -> &str {
    container.termination_message_path.as_deref().filter(|path| !path.is_empty()).unwrap_or(TERMINATION_LOG)
}

fn mount(host_path: &std::path::Path, container_path: &str) -> v1::Mount {
    v1::Mount {
        host_path: host_path.display().to_string(),
        container_path: container_path.to_owned(),
        ..v1::Mount::default()
    }
}

fn container_labels(pod: &PodModel, member: &Member) -> HashMap<String, String> {
    HashMap::from([
        (labels::POD_NAME.to_owned(), pod.name.clone()),
        (labels::POD_NAMESPACE.to_owned(), pod.namespace.clone()),
        (labels::POD_UID.to_owned(), pod.uid.clone()),
        (labels::CONTAINER_NAME.to_owned(), member.name().to_owned()),
    ])
}

fn annotations(pod: &PodModel, member: &Member, restart_count: u32) -> HashMap<String, String> {
    let container = &member.container;
    let policy = container.termination_message_policy.as_deref().unwrap_or("File");
    let mut out = HashMap::from([
        (labels::CONTAINER_HASH.to_owned(), member.hash.clone()),
        (labels::RESTART_COUNT.to_owned(), restart_count.to_string()),
        (labels::TERMINATION_MESSAGE_PATH.to_owned(), termination_path(container).to_owned()),
        (labels::TERMINATION_MESSAGE_POLICY.to_owned(), policy.to_owned()),
    ]);
    if let Some(grace) = pod.spec().termination_grace_period_seconds {
        out.insert(labels::POD_TERMINATION_GRACE.to_owned(), grace.to_string());
    }
    out
}

/// The log file of an instance, below the pod's folder.
pub(crate) fn log_path(container: &str, restart_count: u32) -> String {
    format!("{container}/{restart_count}.log")
}

/// The configuration of an instance.
pub(crate) fn configuration(pod: &PodModel, member: &Member, found: Findings) -> v1::ContainerConfig {
    let container = &member.container;
    let words = |list: Option<&Vec<String>>| -> Vec<String> {
        list.into_iter().flatten().map(|word| environment::expand(word, &found.env)).collect()
    };
    let (command, args) = (words(container.command.as_ref()), words(container.args.as_ref()));
    let mut mounts = found.mounts;
    let own_hosts = mounts.iter().any(|mount| mount.container_path == "/etc/hosts");
    if !own_hosts {
        mounts.push(mount(&found.hosts, "/etc/hosts"));
    }
    mounts.push(mount(&found.termination_log, termination_path(container)));
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: container.name.clone(), attempt: found.restart_count }),
        image: Some(v1::ImageSpec {
            image: found.image,
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..v1::ImageSpec::default()
        }),
        command,
        args,
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: found.env.into_iter().map(|(key, value)| v1::KeyValue { key, value }).collect(),
        mounts,
        devices: found.devices,
        cdi_devices: found.cdi_devices.into_iter().map(|name| v1::CdiDevice { name }).collect(),
        labels: container_labels(pod, member),
        annotations: annotations(pod, member, found.restart_count),
        log_path: log_path(&container.name, found.restart_count),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        stop_signal: stop_signal::of_container(container) as i32,
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources::of_container(pod, container, &found.machine)),
            security_context: Some(security::of_container(
                pod,
                member,
                found.target.as_deref(),
                &found.filters,
            )),
        }),
        ..v1::ContainerConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn a_container_gets_its_command_with_variables_and_files_of_the_pod() {
        let pod = json!({ "metadata": { "name": "p", "namespace": "n", "uid": "u" }, "spec": { "containers": [
            { "name": "a", "image": "img:1", "command": ["echo", "$(WORD)"], "tty": true }] } });
        let pod = PodModel::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap();
        let found = Findings {
            image: "sha256:1".to_owned(),
            restart_count: 3,
            env: vec![("WORD".to_owned(), "hello".to_owned())],
            mounts: Vec::new(),
            devices: Vec::new(),
            cdi_devices: vec!["vendor/class=a".to_owned()],
            hosts: "/hosts".into(),
            termination_log: "/words".into(),
            machine: resources::Machine::default(),
            target: None,
            filters: security::Filters::default(),
        };
        let config = configuration(&pod, &pod.members[0], found);
        assert_eq!(config.command, ["echo", "hello"]);
        let mounts: Vec<_> =
            config.mounts.iter().map(|one| (one.host_path.as_str(), one.container_path.as_str())).collect();
        assert_eq!(mounts, [("/hosts", "/etc/hosts"), ("/words", "/dev/termination-log")]);
        assert_eq!(config.log_path, "a/3.log");
        assert_eq!(config.annotations[labels::RESTART_COUNT], "3");
        assert!(config.tty && !config.stdin);
        assert_eq!(config.cdi_devices[0].name, "vendor/class=a");
    }
}
