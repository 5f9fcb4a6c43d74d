//! A file of devices (pure).

use std::collections::BTreeMap;

use serde::Deserialize;

/// The versions of the format, the oldest first.
const VERSIONS: [&str; 8] = ["0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];

/// What a file says.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct File {
    cdi_version: String,
    /// `vendor/class` of its devices.
    pub(super) kind: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    /// Its devices.
    pub(super) devices: Vec<Device>,
    /// What a container gets that has any of them.
    #[serde(default)]
    pub(super) container_edits: Edits,
}

/// One device.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Device {
    /// Its name.
    pub(super) name: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    /// What a container gets that has it.
    #[serde(default)]
    pub(super) container_edits: Edits,
}

/// What a container gets.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Edits {
    /// Variables, as `NAME=VALUE`.
    #[serde(default)]
    pub env: Vec<String>,
    /// Device nodes.
    #[serde(default)]
    pub device_nodes: Vec<DeviceNode>,
    /// Interfaces of the network.
    #[serde(default)]
    pub net_devices: Vec<serde_json::Value>,
    /// Programs around its life.
    #[serde(default)]
    pub hooks: Vec<serde_json::Value>,
    /// Mounts.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// Shares of the processor's cache.
    pub intel_rdt: Option<serde_json::Value>,
    /// Groups of its program.
    #[serde(default, rename = "additionalGids")]
    pub additional_gids: Vec<u32>,
}

/// A device node.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeviceNode {
    /// Where the container has it.
    pub path: String,
    /// Where the node has it, if elsewhere.
    #[serde(default)]
    pub host_path: String,
    /// `c`, `b`, `u` or `p`; empty where it is looked at.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// Its number; 0 where it is looked at.
    #[serde(default)]
    pub major: i64,
    /// The other one.
    #[serde(default)]
    pub minor: i64,
    /// Who may do what with it.
    pub file_mode: Option<u32>,
    /// What the container may do with it: of `rwm`.
    #[serde(default)]
    pub permissions: String,
    /// Its owner.
    pub uid: Option<u32>,
    /// Its group.
    pub gid: Option<u32>,
}

/// A mount.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mount {
    /// What is mounted.
    pub host_path: String,
    /// Where the container has it.
    pub container_path: String,
    /// How, as mount options.
    #[serde(default)]
    pub options: Vec<String>,
    /// The type of the file system; empty where it is what is there already.
    #[serde(default, rename = "type")]
    pub kind: String,
}

fn is_name(text: &str, others: &str) -> bool {
    let is_plain = |it: char| it.is_ascii_alphanumeric();
    text.starts_with(is_plain)
        && text.ends_with(is_plain)
        && text.chars().all(|it| is_plain(it) || others.contains(it))
}

/// Whether a text is `vendor/class`.
fn is_kind(kind: &str) -> bool {
    kind.split_once('/').is_some_and(|(vendor, class)| {
        let is_letter = |text: &str| text.starts_with(|it: char| it.is_ascii_alphabetic());
        is_name(vendor, "_-.") && is_name(class, "_-.") && is_letter(vendor) && is_letter(class)
    })
}

impl Edits {
    /// The first version that has all that is used.
    fn version(&self) -> &'static str {
        if !self.net_devices.is_empty() {
            "1.1.0"
        } else if self.intel_rdt.is_some() || !self.additional_gids.is_empty() {
            "0.7.0"
        } else if self.device_nodes.iter().any(|node| !node.host_path.is_empty()) {
            "0.5.0"
        } else if self.mounts.iter().any(|mount| !mount.kind.is_empty()) {
            "0.4.0"
        } else {
            "0.3.0"
        }
    }

    fn is_empty(&self) -> bool {
        self.env.is_empty()
            && self.device_nodes.is_empty()
            && self.net_devices.is_empty()
            && self.hooks.is_empty()
            && self.mounts.is_empty()
            && self.intel_rdt.is_none()
            && self.additional_gids.is_empty()
    }

    fn check(&self) -> Result<(), String> {
        for variable in &self.env {
            if variable.find('=').is_none_or(|at| at == 0) {
                return Err(format!("invalid environment variable {variable:?}"));
            }
        }
        for node in &self.device_nodes {
            if node.path.is_empty() {
                return Err("invalid (empty) device path".to_owned());
            }
            if !["", "b", "c", "u", "p"].contains(&node.kind.as_str()) {
                return Err(format!("device {:?}: invalid type {:?}", node.path, node.kind));
            }
            if !node.permissions.chars().all(|it| "rwm".contains(it)) {
                return Err(format!("device {:?}: invalid permissions {:?}", node.path, node.permissions));
            }
        }
        for mount in &self.mounts {
            if mount.host_path.is_empty() || !mount.container_path.starts_with('/') {
                return Err(format!("invalid mount of {:?} at {:?}", mount.host_path, mount.container_path));
            }
        }
        Ok(())
    }
}

impl File {
    /// Reads a file; the error says what is wrong with it.
    pub(super) fn parse(text: &str, is_yaml: bool) -> Result<Self, String> {
        let file: File = if is_yaml {
            serde_yaml_ng::from_str(text).map_err(|error| error.to_string())?
        } else {
            serde_json::from_str(text).map_err(|error| error.to_string())?
        };
        file.check()?;
        Ok(file)
    }

    fn check(&self) -> Result<(), String> {
        let place = |version: &str| VERSIONS.iter().position(|known| *known == version);
        let said = self.cdi_version.strip_prefix('v').unwrap_or(&self.cdi_version);
        let Some(said) = place(said) else {
            return Err(format!("invalid version {:?}", self.cdi_version));
        };
        if !is_kind(&self.kind) {
            return Err(format!("invalid kind {:?}", self.kind));
        }
        let least = self.version();
        if place(least).is_some_and(|least| least > said) {
            return Err(format!("the spec version must be at least v{least}"));
        }
        self.container_edits.check()?;
        let mut names = std::collections::BTreeSet::new();
        for device in &self.devices {
            if !is_name(&device.name, "_-.:") {
                return Err(format!("invalid device name {:?}", device.name));
            }
            if !names.insert(&device.name) {
                return Err(format!("invalid spec, multiple device {:?}", device.name));
            }
            if device.container_edits.is_empty() {
                return Err(format!("invalid device {:?}, empty device edits", device.name));
            }
            device.container_edits.check().map_err(|error| format!("device {:?}: {error}", device.name))?;
        }
        if self.devices.is_empty() {
            return Err("invalid spec, no devices".to_owned());
        }
        Ok(())
    }

    /// The first version that has all that is used.
    fn version(&self) -> &'static str {
        let of_edits = self.devices.iter().map(|device| device.container_edits.version());
        let annotated = self.devices.iter().any(|device| !device.annotations.is_empty());
        let has_dot = self.kind.split_once('/').is_some_and(|(_, class)| class.contains('.'));
        let has_digit =
            self.devices.iter().any(|device| device.name.starts_with(|it: char| it.is_ascii_digit()));
        let of_file = if annotated || !self.annotations.is_empty() || has_dot {
            "0.6.0"
        } else if has_digit {
            "0.5.0"
        } else {
            "0.3.0"
        };
        of_edits.chain([self.container_edits.version(), of_file]).max().unwrap_or("0.3.0")
    }
}
