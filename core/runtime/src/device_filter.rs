//! The filter of devices of a control group of version 2, where no controller has one: a program of the kernel's
//! (`BPF_PROG_TYPE_CGROUP_DEVICE`) that lets through what the OCI configuration allows and refuses the rest.
//!
//! With version 1 the devices controller does the same.

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use self::program::{Instruction, program};

mod program;

#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceFilterError {
    #[error("read the devices that {path} allows")]
    Configuration {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{0:?} is no kind of device")]
    Kind(String),
    #[error("load the filter of devices")]
    Load(#[source] io::Error),
    #[error("attach the filter of devices to {path}")]
    Attach {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// A rule as `linux.resources.devices` has it.
#[derive(Debug, Clone, Deserialize)]
struct OciRule {
    allow: bool,
    #[serde(rename = "type")]
    kind: Option<String>,
    major: Option<i64>,
    minor: Option<i64>,
    access: Option<String>,
}

/// What is allowed of some devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    kind: Kind,
    /// Every number, without one.
    major: Option<i32>,
    minor: Option<i32>,
    /// Of [`MKNOD`], [`READ`] and [`WRITE`].
    access: i32,
}

/// The kernel's numbers of kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
enum Kind {
    Block = 1,
    Character = 2,
}

const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
const ALL: i32 = MKNOD | READ | WRITE;

const fn character(major: i32, minor: Option<i32>) -> Rule {
    Rule { kind: Kind::Character, major: Some(major), minor, access: ALL }
}

/// What every container may do: make any node, and use those without which a program hardly runs.
const DEFAULTS: [Rule; 12] = [
    Rule { kind: Kind::Character, major: None, minor: None, access: MKNOD },
    Rule { kind: Kind::Block, major: None, minor: None, access: MKNOD },
    // null, zero, full, random, urandom
    character(1, Some(3)),
    character(1, Some(5)),
    character(1, Some(7)),
    character(1, Some(8)),
    character(1, Some(9)),
    // tty, console, ptmx
    character(5, Some(0)),
    character(5, Some(1)),
    character(5, Some(2)),
    // Terminals.
    character(136, None),
    // net/tun
    character(10, Some(200)),
];

/// The rules in force; `None` when everything is allowed. A rule for all devices drops those before it.
fn rules(configured: &[OciRule]) -> Result<Option<Vec<Rule>>, DeviceFilterError> {
    let mut allowed = Some(DEFAULTS.to_vec());
    for rule in configured {
        let kind = match rule.kind.as_deref() {
            None | Some("a") => {
                allowed = (!rule.allow).then(|| DEFAULTS.to_vec());
                continue;
            }
            Some("b") => Kind::Block,
            Some("c" | "u") => Kind::Character,
            Some(other) => return Err(DeviceFilterError::Kind(other.to_owned())),
        };
        let number = |number: Option<i64>| number.and_then(|it| i32::try_from(it).ok()).filter(|it| *it >= 0);
        let access = rule.access.as_deref().unwrap_or("").chars().fold(0, |access, letter| match letter {
            'm' => access | MKNOD,
            'r' => access | READ,
            'w' => access | WRITE,
            _ => access,
        });
        // All that this runtime configures behind the rule for all devices are permissions.
        if let Some(allowed) = allowed.as_mut().filter(|_| rule.allow) {
            allowed.push(Rule { kind, major: number(rule.major), minor: number(rule.minor), access });
        }
    }
    Ok(allowed)
}

/// The devices that the configuration in `bundle` allows, as systemd names them, with what may be done; `None` for all.
pub(crate) fn allowed(bundle: &Path) -> Result<Option<Vec<(String, String)>>, DeviceFilterError> {
    let groups = std::fs::read_to_string("/proc/devices").unwrap_or_default();
    let rules = rules(&configured(bundle)?)?;
    Ok(rules.map(|rules| rules.iter().filter_map(|rule| named(rule, &groups)).collect()))
}

/// (pure) A rule as systemd has it. All of a major number go by the name that the kernel has for it in /proc/devices; what has
/// none there no device has.
fn named(rule: &Rule, groups: &str) -> Option<(String, String)> {
    let (kind, title) = match rule.kind {
        Kind::Block => ("block", "Block devices:"),
        Kind::Character => ("char", "Character devices:"),
    };
    let group = |major: i32| {
        let section = groups.split("\n\n").find(|section| section.trim_start().starts_with(title))?;
        let mut lines = section.lines().filter_map(|line| line.trim().split_once(' '));
        lines.find(|(number, _)| number.parse() == Ok(major)).map(|(_, name)| name.to_owned())
    };
    let device = match (rule.major, rule.minor) {
        (Some(major), Some(minor)) => format!("/dev/{kind}/{major}:{minor}"),
        (Some(major), None) => format!("{kind}-{}", group(major)?),
        (None, _) => format!("{kind}-*"),
    };
    let letters = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')];
    let access = letters.iter().filter(|(bit, _)| rule.access & bit != 0).map(|(_, letter)| letter).collect();
    Some((device, access))
}

/// Keeps what runs in the group to the devices that the configuration in `bundle` allows. The group must be there,
/// and nothing may run in it yet.
pub(crate) fn attach(bundle: &Path, group: &Path) -> Result<(), DeviceFilterError> {
    match rules(&configured(bundle)?)? {
        Some(rules) => attach_rules(&rules, group),
        None => Ok(()),
    }
}

fn configured(bundle: &Path) -> Result<Vec<OciRule>, DeviceFilterError> {
    let path = bundle.join("config.json");
    let unread = |source: io::Error| DeviceFilterError::Configuration { path: path.clone(), source };
    let text = std::fs::read(&path).map_err(unread)?;
    let config: serde_json::Value = serde_json::from_slice(&text).map_err(|error| unread(error.into()))?;
    let configured = config.pointer("/linux/resources/devices").cloned();
    let configured = configured.ok_or_else(|| unread(io::ErrorKind::NotFound.into()))?;
    serde_json::from_value(configured).map_err(|error| unread(error.into()))
}

fn attach_rules(rules: &[Rule], group: &Path) -> Result<(), DeviceFilterError> {
    let failed = |source: io::Error| DeviceFilterError::Attach { path: group.to_owned(), source };
    let program = load(&program(rules)).map_err(DeviceFilterError::Load)?;
    let folder = File::open(group).map_err(failed)?;
    attach_program(&folder, &program).map_err(failed)
}

/// `union bpf_attr` of `BPF_PROG_LOAD`, as far as it is used.
#[repr(C)]
struct LoadAttributes {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

/// `union bpf_attr` of `BPF_PROG_ATTACH`, as far as it is used.
#[repr(C)]
struct AttachAttributes {
    target: i32,
    program: i32,
    attach_type: u32,
    flags: u32,
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// Beside those of the groups above, all of which have to agree.
const BPF_F_ALLOW_MULTI: u32 = 2;

#[allow(unsafe_code)]
fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    let pointer = std::ptr::from_ref(attributes);
    // SAFETY: the attributes are those of the command, with their size, and what they point to lives through the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, pointer, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(i32::try_from(result).unwrap_or(-1)) }
}

#[allow(unsafe_code)]
fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let mut name = [0; 16];
    name[..15].copy_from_slice(b"keelson_devices");
    let attributes = LoadAttributes {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(program.len()).unwrap_or(u32::MAX),
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name,
        interface: 0,
        attach_type: BPF_CGROUP_DEVICE,
    };
    let file = bpf(BPF_PROG_LOAD, &attributes)?;
    // SAFETY: the kernel has just made this descriptor for us; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(file) })
}

fn attach_program(group: &File, program: &OwnedFd) -> io::Result<()> {
    let attributes = AttachAttributes {
        target: group.as_raw_fd(),
        program: program.as_raw_fd(),
        attach_type: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    bpf(BPF_PROG_ATTACH, &attributes).map(drop)
}

#[cfg(test)]
mod tests;
