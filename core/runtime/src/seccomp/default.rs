//! (pure) `RuntimeDefault`: what a container without special capabilities must not call is refused, as by the usual engines.
//!
//! They list what is allowed; here is what is not, and calls newer than the newest that these lists know are unknown: so no call
//! is allowed that nobody has thought of. 32-bit programs have the same rules.

use std::collections::BTreeMap;

use super::filter::{Action, Architecture, Comparison, Condition, Rule};
use super::names;

/// The newest system call that the lists know; later ones answer ENOSYS. Numbers this high are the same everywhere.
const NEWEST: u32 = 467;

const SYS_ADMIN: u8 = 21;

/// Calls that need a capability.
const GUARDED: &[(u8, &[&str])] = &[
    (2, &["open_by_handle_at"]),
    (16, &["init_module", "finit_module", "delete_module"]),
    (17, &["iopl", "ioperm"]),
    (18, &["chroot"]),
    (19, &["kcmp", "pidfd_getfd", "process_madvise"]),
    (20, &["acct"]),
    (
        SYS_ADMIN,
        &[
            "bpf",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "perf_event_open",
            "pivot_root",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "syslog",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    (22, &["reboot"]),
    (23, &["get_mempolicy", "mbind", "move_pages", "set_mempolicy", "set_mempolicy_home_node"]),
    (25, &["settimeofday", "stime", "clock_settime", "clock_settime64"]),
    (26, &["vhangup"]),
    (34, &["syslog"]),
    (38, &["perf_event_open"]),
    (39, &["bpf"]),
];

/// Calls refused whatever the capabilities.
const ALWAYS: &[&str] = &[
    "_sysctl",
    "add_key",
    "create_module",
    "get_kernel_syms",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "migrate_pages",
    "nfsservctl",
    "query_module",
    "request_key",
    "swapoff",
    "swapon",
    "sysfs",
    "uselib",
    "userfaultfd",
    "ustat",
    "vm86",
    "vm86old",
];

/// `open_tree_attr`, which is younger than the table of names.
const OPEN_TREE_ATTR: u32 = 467;

const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWCGROUP,
];

/// Execution domains that harm nobody: Linux, 32 bit, other kernels' version numbers, and the question which one it is.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "numbers of errors are small")]
const REFUSED: Action = Action::Errno(libc::EPERM as u16);
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "numbers of errors are small")]
const UNKNOWN: Action = Action::Errno(libc::ENOSYS as u16);

fn always(action: Action) -> Vec<Rule> {
    vec![Rule { conditions: Vec::new(), action }]
}

fn first(comparison: Comparison, value: u64) -> Condition {
    Condition { argument: 0, comparison, value }
}

/// The rules for a container with these capability numbers.
pub(super) fn architectures(capabilities: &[u8]) -> Vec<Architecture> {
    let has = |capability: u8| capabilities.contains(&capability);
    let admin = has(SYS_ADMIN);
    let allowed: Vec<&str> =
        GUARDED.iter().filter(|(one, _)| has(*one)).flat_map(|(_, calls)| *calls).copied().collect();
    let guarded = GUARDED.iter().flat_map(|(_, calls)| *calls).copied();
    let refused: Vec<&str> =
        guarded.filter(|call| !allowed.contains(call)).chain(ALWAYS.iter().copied()).collect();
    names::ALL
        .iter()
        .map(|known| {
            let number = |name: &str| (known.number)(name);
            let mut calls: BTreeMap<u32, Vec<Rule>> =
                refused.iter().filter_map(|name| Some((number(name)?, always(REFUSED)))).collect();
            let mut put = |name: &str, rules: Vec<Rule>| {
                if let Some(number) = number(name) {
                    calls.insert(number, rules);
                }
            };
            if !admin {
                let flag = |flag: libc::c_int| u64::from(flag.unsigned_abs());
                let makes = |wanted: libc::c_int| Rule {
                    conditions: vec![first(Comparison::MaskedEqual(flag(wanted)), flag(wanted))],
                    action: REFUSED,
                };
                put("clone", NAMESPACES.into_iter().map(makes).collect());
                // Its flags lie where no filter can read: the C library falls back to clone.
                put("clone3", always(UNKNOWN));
            }
            let other = PERSONALITIES.map(|value| first(Comparison::NotEqual, value)).to_vec();
            put("personality", vec![Rule { conditions: other, action: REFUSED }]);
            // A socket to the machine that this one runs on; the kernel looks at the low half alone.
            let vsock = first(Comparison::MaskedEqual(0xffff_ffff), u64::from(libc::AF_VSOCK.unsigned_abs()));
            put("socket", vec![Rule { conditions: vec![vsock], action: REFUSED }]);
            if !admin {
                calls.insert(OPEN_TREE_ATTR, always(REFUSED));
            }
            // They lie far beyond the newest, where the rest is unknown.
            let private = names::PRIVATE_ARM.iter().filter_map(|name| number(name));
            calls.extend(private.map(|number| (number, always(Action::Allow))));
            Architecture {
                audit: known.audit,
                calls,
                default: Action::Allow,
                unknown_from: Some(NEWEST + 1),
                x32: names::has_x32(known).then_some(REFUSED),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::filter::{compile, tests::run};
    use super::*;

    fn answer(capabilities: &[u8], architecture: usize, call: &str, argument: u64) -> u32 {
        let program = compile(&architectures(capabilities), Action::KillProcess);
        assert!(program.len() < 4096);
        let known = names::ALL[architecture];
        run(&program, known.audit, (known.number)(call).unwrap(), [argument, 0, 0, 0, 0, 0])
    }

    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | 1;
    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | 38;
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

    #[test]
    fn what_harms_the_machine_is_refused_and_a_capability_opens_its_own_calls_alone() {
        for call in ["mount", "bpf", "kexec_load", "keyctl", "syslog", "settimeofday", "vhangup"] {
            assert_eq!(answer(&[], 0, call, 0), EPERM, "{call}");
        }
        for call in ["read", "ptrace", "chmod", "futex", "memfd_create"] {
            assert_eq!(answer(&[], 0, call, 0), ALLOW, "{call}");
        }
        assert_eq!((answer(&[34], 0, "syslog", 0), answer(&[34], 0, "mount", 0)), (ALLOW, EPERM));
        assert_eq!(
            (answer(&[SYS_ADMIN], 0, "mount", 0), answer(&[SYS_ADMIN], 0, "clone3", 0)),
            (ALLOW, ALLOW)
        );
        assert_eq!(
            (answer(&[SYS_ADMIN], 0, "reboot", 0), answer(&[SYS_ADMIN], 0, "keyctl", 0)),
            (EPERM, EPERM)
        );
    }

    #[test]
    fn arguments_decide_on_namespaces_personalities_and_sockets() {
        let user = u64::from(libc::CLONE_NEWUSER.unsigned_abs());
        assert_eq!((answer(&[], 0, "clone", 0x11), answer(&[], 0, "clone", user | 0x11)), (ALLOW, EPERM));
        assert_eq!(answer(&[], 0, "clone3", 0), ENOSYS);
        assert_eq!(
            (answer(&[], 0, "personality", 0xffff_ffff), answer(&[], 0, "personality", 8)),
            (ALLOW, ALLOW)
        );
        // ADDR_NO_RANDOMIZE
        assert_eq!(answer(&[], 0, "personality", 0x4_0000), EPERM);
        assert_eq!((answer(&[], 0, "socket", 2), answer(&[], 0, "socket", 40)), (ALLOW, EPERM));
        assert_eq!(answer(&[], 0, "socket", 0x1_0000_0028), EPERM);
    }

    #[test]
    fn programs_of_32_bits_run_under_the_same_rules() {
        assert_eq!((answer(&[], 1, "read", 0), answer(&[], 1, "mount", 0)), (ALLOW, EPERM));
        assert_eq!((answer(&[], 1, "vm86", 0), answer(&[], 1, "umount", 0)), (EPERM, EPERM));
    }
}
