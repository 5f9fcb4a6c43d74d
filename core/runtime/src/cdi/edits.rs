//! What becomes of a container's configuration.

use std::path::Path;

use keelson_cdi::{CdiError, DeviceNode, Edits, HostNode, Mount};
use serde_json::{Value, json};

use crate::pod_process::protocol::Identity;

fn list<'a>(oci: &'a mut Value, pointer: &str) -> Option<&'a mut Vec<Value>> {
    oci.pointer_mut(pointer).and_then(Value::as_array_mut)
}

/// Changes the configuration.
pub(super) fn apply(edits: &Edits, oci: &mut Value, identity: &mut Identity) -> Result<(), CdiError> {
    if let Some(env) = list(oci, "/process/env") {
        for variable in &edits.env {
            let name = variable.split('=').next().unwrap_or(variable);
            let is_it = |known: &Value| known.as_str().is_some_and(|it| it.split('=').next() == Some(name));
            match env.iter_mut().find(|known| is_it(known)) {
                Some(known) => *known = variable.as_str().into(),
                None => env.push(variable.as_str().into()),
            }
        }
    }
    for node in &edits.device_nodes {
        let (device, rule) = device(node, identity)?;
        if let Some(devices) = list(oci, "/linux/devices") {
            devices.retain(|known| known["path"] != device["path"]);
            devices.push(device);
        }
        if let Some(rules) = list(oci, "/linux/resources/devices") {
            rules.extend(rule);
        }
    }
    if let Some(mounts) = list(oci, "/mounts") {
        for mount in &edits.mounts {
            mounts.retain(|known| known["destination"] != mount.container_path.as_str());
            mounts.push(mount_entry(mount));
        }
    }
    for gid in edits.additional_gids.iter().filter(|gid| **gid != 0) {
        if !identity.groups.contains(gid) {
            identity.groups.push(*gid);
        }
    }
    Ok(())
}

fn mount_entry(mount: &Mount) -> Value {
    let mut options = mount.options.clone();
    let is_bind = options.iter().any(|option| option == "bind" || option == "rbind");
    let kind = match mount.kind.as_str() {
        "" => "bind",
        kind => kind,
    };
    if kind == "bind" && !is_bind {
        options.push("rbind".to_owned());
    }
    json!({ "destination": mount.container_path, "type": kind, "source": mount.host_path, "options": options })
}

/// A node, and the rule that lets it be used; there is none for pipes. What the file does not say is looked up.
fn device(node: &DeviceNode, identity: &Identity) -> Result<(Value, Option<Value>), CdiError> {
    let (mut kind, mut major, mut minor) = (node.kind.as_str(), node.major, node.minor);
    let mut mode = node.file_mode;
    if kind.is_empty() || (kind != "p" && major == 0) {
        let found = HostNode::look(node.on_host())?;
        node.check_kind(&found)?;
        if kind.is_empty() {
            kind = found.kind;
        }
        if found.kind != "p" && major == 0 {
            (major, minor) = (found.major, found.minor);
        }
        mode = mode.or(Some(found.mode));
    }
    let of = |said: Option<u32>, own: u32| said.or((own > 0).then_some(own)).unwrap_or(0);
    let mut device = json!({
        "path": node.path, "type": kind,
        "uid": of(node.uid, identity.uid), "gid": of(node.gid, identity.gid),
    });
    if let Some(mode) = mode {
        device["fileMode"] = (mode & 0o7777).into();
    }
    if kind == "p" {
        return Ok((device, None));
    }
    (device["major"], device["minor"]) = (major.into(), minor.into());
    let kind = if kind == "u" { "c" } else { kind };
    let rule =
        json!({ "allow": true, "type": kind, "major": major, "minor": minor, "access": node.access() });
    Ok((device, Some(rule)))
}

/// Brings mounts into the order of their depth, in which they are made; those of the same depth stay as they are.
pub(super) fn sort_mounts(oci: &mut Value) {
    let depth =
        |mount: &Value| Path::new(mount["destination"].as_str().unwrap_or_default()).components().count();
    if let Some(mounts) = list(oci, "/mounts") {
        mounts.sort_by_key(depth);
    }
}
