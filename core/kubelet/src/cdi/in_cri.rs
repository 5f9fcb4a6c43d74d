//! What a container gets with its devices, in the words that CRI has always had: variables, mounts, device nodes, groups.
//!
//! What these words do not say is refused. A node keeps owner and mode that it has on the machine.

use std::path::Path;

use keelson_cdi::{CdiError, DeviceNode, HostNode, Mount, Resolved};
use keelson_cri::v1;

/// What is added to a container's configuration.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Additions {
    env: Vec<v1::KeyValue>,
    devices: Vec<v1::Device>,
    mounts: Vec<v1::Mount>,
    groups: Vec<i64>,
}

/// Whom it is too much for.
const RUNTIME: &str = "the container runtime";

fn unsupported(device: &str, what: String) -> CdiError {
    CdiError::Unsupported { device: device.to_owned(), what, by: RUNTIME }
}

/// The runtime looks at the node as well, and gives the container what it finds: that has to be what the file says.
fn device(device: &str, node: &DeviceNode) -> Result<v1::Device, CdiError> {
    let host_path = node.on_host();
    let found = HostNode::look(host_path)?;
    node.check_kind(&found)?;
    let is_other = |said: Option<u32>, found: u32| said.is_some_and(|said| said != found);
    let others = [
        (found.kind == "p", "pipe"),
        (node.major != 0 && (node.major, node.minor) != (found.major, found.minor), "other number"),
        (is_other(node.file_mode.map(|mode| mode & 0o7777), found.mode & 0o7777), "fileMode"),
        (is_other(node.uid, found.uid), "uid"),
        (is_other(node.gid, found.gid), "gid"),
    ];
    if let Some((_, what)) = others.into_iter().find(|(is_so, _)| *is_so) {
        return Err(unsupported(device, format!("{what} of device node {:?}", node.path)));
    }
    Ok(v1::Device {
        container_path: node.path.clone(),
        host_path: host_path.display().to_string(),
        permissions: node.access().to_owned(),
    })
}

fn mount(device: &str, mount: &Mount) -> Result<v1::Mount, CdiError> {
    use v1::MountPropagation::{PropagationBidirectional, PropagationHostToContainer, PropagationPrivate};
    let refused = |what: &str| unsupported(device, format!("{what} of mount {:?}", mount.container_path));
    if !["", "bind"].contains(&mount.kind.as_str()) {
        return Err(refused(&format!("type {}", mount.kind)));
    }
    // Some runtimes would make a folder of what is missing.
    let path = Path::new(&mount.host_path);
    path.metadata().map_err(|source| CdiError::Source { path: path.to_owned(), source })?;
    let mut given = v1::Mount {
        container_path: mount.container_path.clone(),
        host_path: mount.host_path.clone(),
        ..v1::Mount::default()
    };
    for option in &mount.options {
        match option.as_str() {
            "bind" | "rbind" => {}
            "ro" => given.readonly = true,
            "rw" => given.readonly = false,
            "private" | "rprivate" => given.set_propagation(PropagationPrivate),
            "slave" | "rslave" => given.set_propagation(PropagationHostToContainer),
            "shared" | "rshared" => given.set_propagation(PropagationBidirectional),
            other => return Err(refused(&format!("option {other}"))),
        }
    }
    Ok(given)
}

impl Additions {
    /// What these devices say, in their order; looks at nodes and mounts.
    pub(super) fn new(devices: &[Resolved]) -> Result<Self, CdiError> {
        let mut all = Additions::default();
        for resolved in devices {
            resolved.check(RUNTIME)?;
            let Resolved { device: name, edits } = resolved;
            let pairs = edits.env.iter().filter_map(|variable| variable.split_once('='));
            all.env.extend(pairs.map(|(key, value)| v1::KeyValue { key: key.into(), value: value.into() }));
            for node in &edits.device_nodes {
                all.devices.push(device(name, node)?);
            }
            for one in &edits.mounts {
                all.mounts.push(mount(name, one)?);
            }
            all.groups
                .extend(edits.additional_gids.iter().filter(|gid| **gid != 0).map(|gid| i64::from(*gid)));
        }
        Ok(all)
    }

    /// Adds them; what is there already under the same name or at the same place is replaced.
    pub(super) fn apply(self, config: &mut v1::ContainerConfig) {
        for one in self.env {
            match config.envs.iter_mut().find(|known| known.key == one.key) {
                Some(known) => *known = one,
                None => config.envs.push(one),
            }
        }
        for one in self.devices {
            config.devices.retain(|known| known.container_path != one.container_path);
            config.devices.push(one);
        }
        for one in self.mounts {
            config.mounts.retain(|known| known.container_path != one.container_path);
            config.mounts.push(one);
        }
        if self.groups.is_empty() {
            return;
        }
        let linux = config.linux.get_or_insert_default();
        let known = &mut linux.security_context.get_or_insert_default().supplemental_groups;
        for gid in self.groups {
            if !known.contains(&gid) {
                known.push(gid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;
    use serde_json::{Value, json};

    use super::*;

    fn additions(edits: Value) -> Result<Additions, CdiError> {
        let edits = serde_json::from_value(edits).unwrap();
        Additions::new(&[Resolved { device: "vendor.com/gpu=x".to_owned(), edits }])
    }

    #[test]
    fn a_container_gets_what_all_runtimes_know_in_place_of_what_it_had() {
        let found = additions(json!({
            "env": ["A=9=8", "GPU="],
            "deviceNodes": [
                {"path": "/dev/gpu0", "hostPath": "/dev/null", "permissions": "rw"},
                {"path": "/dev/zero", "type": "c", "major": 1, "minor": 5, "uid": 0},
            ],
            "mounts": [{"hostPath": "/etc", "containerPath": "/gpu", "options": ["ro", "rbind", "rslave"]}],
            "additionalGids": [0, 7, 8],
        }));
        let pair = |key: &str, value: &str| v1::KeyValue { key: key.to_owned(), value: value.to_owned() };
        let security = v1::LinuxContainerSecurityContext {
            supplemental_groups: vec![7],
            ..v1::LinuxContainerSecurityContext::default()
        };
        let linux = v1::LinuxContainerConfig {
            security_context: Some(security),
            ..v1::LinuxContainerConfig::default()
        };
        let mut config = v1::ContainerConfig {
            envs: vec![pair("A", "1"), pair("B", "2")],
            mounts: vec![v1::Mount { container_path: "/gpu".to_owned(), ..v1::Mount::default() }],
            linux: Some(linux),
            ..v1::ContainerConfig::default()
        };
        found.unwrap().apply(&mut config);
        assert_eq!(config.envs, [pair("A", "9=8"), pair("B", "2"), pair("GPU", "")]);
        let device = |container_path: &str, host_path: &str, permissions: &str| v1::Device {
            container_path: container_path.to_owned(),
            host_path: host_path.to_owned(),
            permissions: permissions.to_owned(),
        };
        let devices = [device("/dev/gpu0", "/dev/null", "rw"), device("/dev/zero", "/dev/zero", "rwm")];
        assert_eq!(config.devices, devices);
        let mount = v1::Mount {
            container_path: "/gpu".to_owned(),
            host_path: "/etc".to_owned(),
            readonly: true,
            propagation: v1::MountPropagation::PropagationHostToContainer.into(),
            ..v1::Mount::default()
        };
        assert_eq!(config.mounts, [mount]);
        assert_eq!(config.linux.unwrap().security_context.unwrap().supplemental_groups, [7, 8]);
    }

    #[test]
    fn what_there_are_no_words_for_is_refused() {
        let refused = |edits: Value| additions(edits).unwrap_err().to_string();
        let unsupported = |what: &str| {
            format!(
                "CDI device injection failed: {what} of CDI device vendor.com/gpu=x: not supported by the container runtime"
            )
        };
        let hook = json!({"hooks": [{"hookName": "createRuntime", "path": "/bin/true"}]});
        assert_eq!(refused(hook), unsupported("hooks"));
        assert_eq!(refused(json!({"netDevices": [{}]})), unsupported("netDevices"));
        assert_eq!(refused(json!({"intelRdt": {}})), unsupported("intelRdt"));
        let node = |with: Value| {
            let mut node = json!({"path": "/dev/null"});
            node.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
            refused(json!({"deviceNodes": [node]}))
        };
        assert_eq!(
            node(json!({"major": 9, "minor": 9})),
            unsupported("other number of device node \"/dev/null\"")
        );
        assert_eq!(node(json!({"uid": 77})), unsupported("uid of device node \"/dev/null\""));
        assert_eq!(node(json!({"fileMode": 0o400})), unsupported("fileMode of device node \"/dev/null\""));
        assert!(node(json!({"type": "b"})).ends_with("host type mismatch (\"c\")"));
        assert!(
            node(json!({"hostPath": "/dev/none-of-this-name"})).contains("failed to stat CDI host device")
        );
        let mount = |path: &str, with: Value| {
            let mut mount = json!({"hostPath": path, "containerPath": "/gpu"});
            mount.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
            refused(json!({"mounts": [mount]}))
        };
        let nosuid = json!({"options": ["ro", "nosuid"]});
        assert_eq!(mount("/etc", nosuid), unsupported("option nosuid of mount \"/gpu\""));
        assert_eq!(mount("/etc", json!({"type": "tmpfs"})), unsupported("type tmpfs of mount \"/gpu\""));
        assert!(mount("/none-of-this-name", json!({})).contains("failed to stat"));
    }
}
