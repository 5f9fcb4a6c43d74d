//! What becomes of a container's configuration.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::CdiError;
use super::file::{DeviceNode, Edits, Mount};
use crate::pod_process::protocol::Identity;

/// Refuses what is not done here.
pub(super) fn check(device: &str, edits: &Edits) -> Result<(), CdiError> {
    let used = [
        (!edits.hooks.is_empty(), "hooks"),
        (!edits.net_devices.is_empty(), "netDevices"),
        (edits.intel_rdt.is_some(), "intelRdt"),
    ];
    match used.iter().find(|(is_used, _)| *is_used) {
        Some((_, what)) => Err(CdiError::Unsupported { device: device.to_owned(), what }),
        None => Ok(()),
    }
}

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
    let path = PathBuf::from(if node.host_path.is_empty() { &node.path } else { &node.host_path });
    let (mut kind, mut major, mut minor) = (node.kind.clone(), node.major, node.minor);
    let mut mode = node.file_mode;
    if kind.is_empty() || (kind != "p" && major == 0) {
        let (found, numbers, found_mode) = look(&path)?;
        let wanted = if kind == "u" { "c" } else { kind.as_str() };
        if !wanted.is_empty() && wanted != found {
            return Err(CdiError::Kind { path, wanted: kind, found: found.to_owned() });
        }
        if kind.is_empty() {
            kind = found.to_owned();
        }
        if found != "p" && major == 0 {
            (major, minor) = numbers;
        }
        mode = mode.or(Some(found_mode));
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
    let access = if node.permissions.is_empty() { "rwm" } else { &node.permissions };
    let kind = if kind == "u" { "c" } else { kind.as_str() };
    let rule = json!({ "allow": true, "type": kind, "major": major, "minor": minor, "access": access });
    Ok((device, Some(rule)))
}

fn look(path: &Path) -> Result<(&'static str, (i64, i64), u32), CdiError> {
    let failed = |source| CdiError::Node { path: path.to_owned(), source };
    let metadata = fs::metadata(path).map_err(failed)?;
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => "c",
        kind if kind.is_block_device() => "b",
        kind if kind.is_fifo() => "p",
        _ => {
            let error = std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a device node");
            return Err(failed(error));
        }
    };
    let numbers = (i64::from(libc::major(metadata.rdev())), i64::from(libc::minor(metadata.rdev())));
    Ok((kind, numbers, metadata.mode()))
}

/// Brings mounts into the order of their depth, in which they are made; those of the same depth stay as they are.
pub(super) fn sort_mounts(oci: &mut Value) {
    let depth =
        |mount: &Value| Path::new(mount["destination"].as_str().unwrap_or_default()).components().count();
    if let Some(mounts) = list(oci, "/mounts") {
        mounts.sort_by_key(depth);
    }
}
