//! The default system call filter: what a container without special capabilities must not call is refused.
//!
//! The refused set is that of the usual container engines' default profile. Calls newer than the newest known
//! one, and those of the x32 interface, answer ENOSYS and EPERM, so that an unknown call is never allowed.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

/// Why no filter could be made or installed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SeccompError {
    #[error("compile the system call filter")]
    Compile(#[from] seccompiler::BackendError),
    #[error("install the system call filter")]
    Install(#[from] seccompiler::Error),
}

const CAP_DAC_READ_SEARCH: u8 = 2;
const CAP_SYS_MODULE: u8 = 16;
const CAP_SYS_RAWIO: u8 = 17;
const CAP_SYS_PACCT: u8 = 20;
const CAP_SYS_ADMIN: u8 = 21;
const CAP_SYS_BOOT: u8 = 22;
const CAP_SYS_NICE: u8 = 23;
const CAP_SYS_TIME: u8 = 25;
const CAP_PERFMON: u8 = 38;
const CAP_BPF: u8 = 39;

/// The newest system call that this list knows; later ones answer ENOSYS.
const NEWEST_CALL: u32 = 467;
const X32_BIT: u32 = 0x4000_0000;

/// Calls refused unless the container has the capability.
fn guarded() -> Vec<(u8, Vec<libc::c_long>)> {
    let mut admin = vec![
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_setns,
        libc::SYS_unshare,
        libc::SYS_quotactl,
        libc::SYS_quotactl_fd,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_fsopen,
        libc::SYS_fsconfig,
        libc::SYS_fsmount,
        libc::SYS_fspick,
        libc::SYS_move_mount,
        libc::SYS_open_tree,
        libc::SYS_mount_setattr,
        libc::SYS_lookup_dcookie,
        libc::SYS_fanotify_init,
        libc::SYS_setdomainname,
        libc::SYS_sethostname,
    ];
    // open_tree_attr, which libc does not name yet.
    admin.push(467);
    vec![
        (CAP_SYS_ADMIN, admin),
        (CAP_SYS_MODULE, vec![libc::SYS_init_module, libc::SYS_finit_module, libc::SYS_delete_module]),
        (CAP_SYS_BOOT, vec![libc::SYS_reboot, libc::SYS_kexec_load, libc::SYS_kexec_file_load]),
        (CAP_SYS_TIME, vec![libc::SYS_settimeofday, libc::SYS_clock_settime]),
        (CAP_SYS_PACCT, vec![libc::SYS_acct]),
        (CAP_SYS_NICE, vec![libc::SYS_mbind, libc::SYS_set_mempolicy, libc::SYS_move_pages]),
        (CAP_DAC_READ_SEARCH, vec![libc::SYS_open_by_handle_at]),
        (CAP_SYS_RAWIO, rawio()),
        (CAP_BPF, vec![libc::SYS_bpf]),
        (CAP_PERFMON, vec![libc::SYS_perf_event_open]),
    ]
}

#[cfg(target_arch = "x86_64")]
fn rawio() -> Vec<libc::c_long> {
    vec![libc::SYS_iopl, libc::SYS_ioperm]
}

#[cfg(not(target_arch = "x86_64"))]
fn rawio() -> Vec<libc::c_long> {
    Vec::new()
}

/// Calls refused whatever the capabilities.
const ALWAYS: &[libc::c_long] = &[
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_nfsservctl,
    libc::SYS_vhangup,
];

const NAMESPACE_FLAGS: &[libc::c_int] = &[
    libc::CLONE_NEWNS,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWCGROUP,
];

/// The filter for a container with these capability numbers.
pub(crate) fn program(capabilities: &[u8]) -> Result<BpfProgram, SeccompError> {
    let admin = capabilities.contains(&CAP_SYS_ADMIN);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALWAYS.iter().map(|call| (*call, Vec::new())).collect();
    for (capability, calls) in guarded() {
        if !admin && !capabilities.contains(&capability) {
            rules.extend(calls.into_iter().map(|call| (call, Vec::new())));
        }
    }
    if !admin {
        let mut clone = Vec::new();
        for flag in NAMESPACE_FLAGS {
            let flag = u64::from(flag.unsigned_abs());
            let condition =
                SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), flag)?;
            clone.push(SeccompRule::new(vec![condition])?);
        }
        rules.insert(libc::SYS_clone, clone);
    }
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter: BpfProgram = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch)?.try_into()?;
    let mut whole = preamble(admin);
    whole.extend(filter);
    Ok(whole)
}

/// Load the number; x32 is refused, calls after the newest are unknown, clone3 (whose flags no filter can read)
/// is unknown too, so that the C library falls back to clone.
fn preamble(admin: bool) -> Vec<sock_filter> {
    let statement = |code: u16, k: u32| sock_filter { code, jt: 0, jf: 0, k };
    let jump = |code: u16, k: u32, jt: u8, jf: u8| sock_filter { code, jt, jf, k };
    let (load, jge, jgt, jeq, ret) = (0x20, 0x35, 0x25, 0x15, 0x06);
    let errno = |errno: i32| 0x0005_0000 | errno.unsigned_abs();
    let clone3 = if admin { u32::MAX } else { u32::try_from(libc::SYS_clone3).unwrap_or(u32::MAX) };
    vec![
        statement(load, 0),
        jump(jge, X32_BIT, 0, 1),
        statement(ret, errno(libc::EPERM)),
        jump(jgt, NEWEST_CALL, 1, 0),
        jump(jeq, clone3, 0, 1),
        statement(ret, errno(libc::ENOSYS)),
    ]
}

/// Installs the filter for the calling thread. Without no_new_privs this needs CAP_SYS_ADMIN.
pub(crate) fn install(program: &BpfProgram) -> Result<(), SeccompError> {
    Ok(apply(program)?)
}

#[allow(unsafe_code)]
fn apply(program: &BpfProgram) -> Result<(), seccompiler::Error> {
    let length = u16::try_from(program.len()).map_err(|_| seccompiler::Error::EmptyFilter)?;
    let filter = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: `filter` points to `program`, which outlives the call; the kernel copies it. `sock_filter` of
    // seccompiler has the layout of the kernel's. seccompiler's own function is not used because it sets
    // no_new_privs, which a container may be allowed to go without.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter) };
    if result == 0 { Ok(()) } else { Err(seccompiler::Error::Seccomp(std::io::Error::last_os_error())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_with_more_capabilities_is_refused_fewer_calls() {
        let plain = program(&[]).unwrap();
        let admin = program(&[CAP_SYS_ADMIN, CAP_BPF]).unwrap();
        assert!(plain.len() > admin.len());
        assert!(plain.len() < 4096);
    }
}
