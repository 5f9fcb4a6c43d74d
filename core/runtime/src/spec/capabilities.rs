//! Linux capabilities by name.

/// In the order of their numbers.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container may do when nobody says otherwise.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown capability {0:?}")]
pub(crate) struct UnknownCapability(String);

fn number(name: &str) -> Result<u8, UnknownCapability> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let found = NAMES.iter().position(|one| *one == bare).and_then(|index| u8::try_from(index).ok());
    found.ok_or_else(|| UnknownCapability(name.to_owned()))
}

/// All that this process could pass on, by /proc/self/status.
pub(crate) fn available() -> Vec<u8> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
        .unwrap_or(0);
    (0..64).filter(|number| mask & (1 << number) != 0).collect()
}

/// The numbers of a container's capabilities, of those `available`.
pub(crate) fn resolve(
    privileged: bool,
    add: &[String],
    drop: &[String],
    available: &[u8],
) -> Result<Vec<u8>, UnknownCapability> {
    if privileged {
        return Ok(available.to_vec());
    }
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    let mut set: Vec<u8> = DEFAULT.iter().filter_map(|name| number(name).ok()).collect();
    if drop.iter().any(is_all) {
        set.clear();
    }
    if add.iter().any(is_all) {
        set = available.to_vec();
    }
    for name in drop.iter().filter(|name| !is_all(name)) {
        let dropped = number(name)?;
        set.retain(|one| *one != dropped);
    }
    for name in add.iter().filter(|name| !is_all(name)) {
        let added = number(name)?;
        if !set.contains(&added) {
            set.push(added);
        }
    }
    set.retain(|one| available.contains(one));
    set.sort_unstable();
    Ok(set)
}

/// Numbers by name.
pub(crate) fn numbers(names: &[String]) -> Result<Vec<u8>, UnknownCapability> {
    names.iter().map(|name| number(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_dropped_before_single_ones_are_added() {
        let everything: Vec<u8> = (0..41).collect();
        let words = |text: &[&str]| text.iter().map(ToString::to_string).collect::<Vec<_>>();
        let set = resolve(false, &words(&["NET_BIND_SERVICE"]), &words(&["ALL"]), &everything).unwrap();
        assert_eq!(set, [10]);
        let set = resolve(false, &[], &words(&["CAP_KILL"]), &everything).unwrap();
        assert!(!set.contains(&5) && set.contains(&0) && !set.contains(&21));
        assert!(resolve(false, &words(&["FLY"]), &[], &everything).is_err());
    }
}
