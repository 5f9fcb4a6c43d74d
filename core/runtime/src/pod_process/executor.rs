//! The last steps inside of a container before its program runs: groups, filter, user, capabilities, `execve`.
//!
//! They are ours, and not the container library's, because the system call filter must be installed between
//! them: before the privileges go when the container may gain new ones, at the very end otherwise.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use nix::unistd::{Gid, Uid};

use super::protocol::{Identity, Seclusion};
use crate::seccomp::{self, Filter};

const MOUNTS: &str = "/proc/self/mountinfo";

/// Runs the process of the specification as `Identity`.
#[derive(Clone)]
pub(super) struct IdentityExecutor {
    pub(super) identity: Identity,
    /// The user namespace that the program runs in. The library prepares all as root of the node, and only the last steps are taken
    /// in it: so are those of commands, for which the library would not enter it at all.
    pub(super) users: Option<Arc<File>>,
    /// Mounts that are still as their sources are; none for commands, who find what the first process has made of them.
    pub(super) secluded: Vec<Seclusion>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum IdentityError {
    #[error("enter the pod's user namespace")]
    Users(#[source] nix::Error),
    #[error("seclude the mount {path:?}")]
    Mount {
        path: PathBuf,
        #[source]
        source: nix::Error,
    },
    #[error("read {MOUNTS}")]
    Mounts(#[source] io::Error),
    #[error("set the supplementary groups")]
    Groups(#[source] nix::Error),
    #[error("set the group")]
    Group(#[source] nix::Error),
    #[error("set the user")]
    User(#[source] nix::Error),
    #[error("set the capabilities: {step}")]
    Capabilities {
        step: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Seccomp(#[from] seccomp::SeccompError),
    #[error("run under the AppArmor profile {profile:?}")]
    AppArmor {
        profile: String,
        #[source]
        source: io::Error,
    },
    #[error("chdir to the working directory {path:?}")]
    WorkingDirectory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{0:?} holds a zero byte")]
    ZeroByte(String),
    #[error("exec {program:?}")]
    Exec {
        program: String,
        #[source]
        source: nix::Error,
    },
}

impl Executor for IdentityExecutor {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        self.run(spec).map_err(|error| ExecutorError::Execution(Box::new(error)))
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let refuse = |text: String| Err(ExecutorValidationError::ArgValidationError(text));
        let Some(process) = spec.process() else { return refuse("the specification has no process".into()) };
        let Some(program) = process.args().as_ref().and_then(|args| args.first()) else {
            return refuse("no command specified".into());
        };
        let path = process
            .env()
            .iter()
            .flatten()
            .find_map(|variable| variable.strip_prefix("PATH="))
            .unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        let own = &self.identity.working_directory;
        let cwd = if own.as_os_str().is_empty() { process.cwd() } else { own };
        let owner = self.identity.users.as_ref().map(|(_, users)| users.outside(0, 0));
        if let Err(error) = enter(cwd, owner) {
            return refuse(format!("chdir to the working directory {cwd:?}: {error}"));
        }
        match find_executable(program, path, cwd) {
            Found::Executable => Ok(()),
            Found::NotExecutable => refuse(format!("exec: {program:?}: permission denied")),
            Found::Nothing if program.contains('/') => {
                refuse(format!("exec: {program:?}: stat {program}: no such file or directory"))
            }
            Found::Nothing => refuse(format!("exec: {program:?}: executable file not found in $PATH")),
        }
    }
}

/// Goes to the working directory, which is made if it is not there. A folder that only the container's user may
/// enter is entered later.
fn enter(cwd: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    if std::fs::metadata(cwd).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        match owner {
            Some(owner) => as_owner(owner, || std::fs::create_dir_all(cwd))?,
            None => std::fs::create_dir_all(cwd)?,
        }
    }
    match std::env::set_current_dir(cwd) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        outcome => outcome,
    }
}

/// What is made meanwhile belongs to this user of the node. On a volume with the ids of a user namespace, where the node's root has
/// none, nobody else can make anything.
fn as_owner(owner: (u32, u32), make: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let (uid, gid) = owner;
    let own = (nix::unistd::geteuid(), nix::unistd::getegid());
    let rights = capabilities()?;
    // They answer who it was before, never an error: whether it was done, only a second call tells.
    nix::unistd::setfsgid(Gid::from_raw(gid));
    nix::unistd::setfsuid(Uid::from_raw(uid));
    let is_owner = nix::unistd::setfsuid(Uid::from_raw(uid)).as_raw() == uid
        && nix::unistd::setfsgid(Gid::from_raw(gid)).as_raw() == gid;
    // Whoever has another user loses the rights over files with that.
    let made = match is_owner {
        true => put_capabilities(&rights).and_then(|()| make()),
        false => Err(io::ErrorKind::PermissionDenied.into()),
    };
    nix::unistd::setfsuid(own.0);
    nix::unistd::setfsgid(own.1);
    made
}

enum Found {
    Executable,
    NotExecutable,
    Nothing,
}

fn find_executable(program: &str, path: &str, cwd: &Path) -> Found {
    let candidates: Vec<PathBuf> = if program.contains('/') {
        vec![cwd.join(program)]
    } else {
        path.split(':').map(|folder| Path::new(folder).join(program)).collect()
    };
    let mut found = Found::Nothing;
    for candidate in candidates {
        match candidate.metadata() {
            Ok(metadata) if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 => {
                return Found::Executable;
            }
            Ok(_) => found = Found::NotExecutable,
            Err(_) => {}
        }
    }
    found
}

impl IdentityExecutor {
    fn run(&self, spec: &Spec) -> Result<(), IdentityError> {
        let identity = &self.identity;
        let filter = match &identity.seccomp_profile {
            Some(text) => Some(Filter::of_profile(text).map_err(seccomp::SeccompError::from)?),
            None => identity.seccomp.then(|| Filter::of_runtime(&identity.capabilities)),
        };
        let arguments = spec
            .process()
            .as_ref()
            .and_then(|process| process.args().as_ref())
            .into_iter()
            .flatten()
            .map(|argument| {
                CString::new(argument.as_bytes()).map_err(|_| IdentityError::ZeroByte(argument.clone()))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let Some(program) = arguments.first() else { return Err(IdentityError::ZeroByte(String::new())) };

        // The pod process blocks and ignores signals for itself only.
        let _ = nix::sys::signal::SigSet::all().thread_unblock();
        default_pipe_signal();
        own_standard_files(identity);
        self.secluded.iter().try_for_each(seclude)?;
        if let Some(users) = &self.users {
            enter_users(users, &identity.capabilities).map_err(IdentityError::Users)?;
        }
        let groups: Vec<Gid> = identity.groups.iter().copied().map(Gid::from_raw).collect();
        nix::unistd::setgroups(&groups).map_err(IdentityError::Groups)?;
        if let Some(filter) = filter.as_ref().filter(|_| !identity.no_new_privileges) {
            filter.install()?;
        }
        if let Some(profile) = &identity.app_armor {
            confine(profile)?;
        }
        become_user(identity)?;
        let cwd = &identity.working_directory;
        if !cwd.as_os_str().is_empty() {
            std::env::set_current_dir(cwd)
                .map_err(|source| IdentityError::WorkingDirectory { path: cwd.clone(), source })?;
        }
        if let Some(filter) = filter.as_ref().filter(|_| identity.no_new_privileges) {
            filter.install()?;
        }
        let failure = match nix::unistd::execvp(program, &arguments) {
            Ok(never) => match never {},
            Err(source) => source,
        };
        Err(IdentityError::Exec { program: program.to_string_lossy().into_owned(), source: failure })
    }
}

/// So that a program that opens its standard output by name, as `/dev/stdout`, may do so as any user. Devices that others use
/// too stay as they are.
fn own_standard_files(identity: &Identity) {
    let (uid, gid) = (identity.uid, identity.gid);
    let (uid, gid) = identity.users.as_ref().map_or((uid, gid), |(_, users)| users.outside(uid, gid));
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    // By themselves: what lies in the container's /proc may be somebody else's.
    for file in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
        let Ok(status) = nix::sys::stat::fstat(file) else { continue };
        let is_null = status.st_rdev == libc::makedev(1, 3);
        if is_null || status.st_uid == uid {
            continue;
        }
        if let Err(error) = std::os::unix::fs::fchown(file, Some(uid), Some(gid)) {
            tracing::debug!(%error, "a standard file keeps its owner");
        }
    }
}

/// Has a mount, and what is below it, learn of no others, or of its source's alone.
fn seclude(mount: &Seclusion) -> Result<(), IdentityError> {
    let kind = if mount.from_source { MsFlags::MS_SLAVE } else { MsFlags::MS_PRIVATE };
    let set = |path: &Path, depth: MsFlags| {
        let nothing = None::<&str>;
        match nix::mount::mount(nothing, path, nothing, kind | depth, nothing) {
            // Another mount hides it: nobody sees what becomes of it.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT | Errno::ENOTDIR) => Ok(()),
            Err(source) => Err(IdentityError::Mount { path: path.to_owned(), source }),
        }
    };
    if mount.besides.is_empty() {
        return set(&mount.path, MsFlags::MS_REC);
    }
    let known = std::fs::read(MOUNTS).map_err(IdentityError::Mounts)?;
    below(&known, mount).iter().try_for_each(|path| set(path, MsFlags::empty()))
}

/// (pure) The mounts that a seclusion is for, of those in `/proc/PID/mountinfo`.
fn below(known: &[u8], mount: &Seclusion) -> Vec<PathBuf> {
    let points =
        known.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    let paths = points.map(|point| PathBuf::from(OsString::from_vec(unescaped(point))));
    let is_meant = |path: &PathBuf| {
        path.starts_with(&mount.path) && !mount.besides.iter().any(|other| path.starts_with(other))
    };
    paths.filter(is_meant).collect()
}

/// The kernel writes spaces, tabs, ends of lines and backslashes as three octal digits.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let digits =
            after.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        out.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &after[3..] } else { after };
    }
    out
}

/// From here on there are no rights but those over what belongs to the namespace.
fn enter_users(users: &File, capabilities: &[u8]) -> Result<(), nix::Error> {
    const CAP_SYS_ADMIN: u8 = 21;
    nix::sched::setns(users, CloneFlags::CLONE_NEWUSER)?;
    if capabilities.contains(&CAP_SYS_ADMIN) {
        // Who may mount does so in a namespace that belongs to the pod's users; what is mounted already stays.
        nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
    }
    Ok(())
}

/// What is executed next runs under the profile. Newer kernels have a folder for each security module.
fn confine(profile: &str) -> Result<(), IdentityError> {
    let text = format!("exec {profile}");
    let own = Path::new("/proc/self/attr/apparmor/exec");
    let path = if own.exists() { own } else { Path::new("/proc/self/attr/exec") };
    let failed = |source| IdentityError::AppArmor { profile: profile.to_owned(), source };
    let mut file = File::options().write(true).open(path).map_err(failed)?;
    // An image, or a volume mounted over it, could take the order and leave the program unconfined.
    let kind = nix::sys::statfs::fstatfs(&file).map_err(|error| failed(error.into()))?.filesystem_type();
    if kind != nix::sys::statfs::PROC_SUPER_MAGIC {
        return Err(failed(io::Error::other("/proc of the container is not the kernel's")));
    }
    file.write_all(text.as_bytes()).map_err(failed)
}

fn become_user(identity: &Identity) -> Result<(), IdentityError> {
    drop_bounding(&identity.capabilities)
        .map_err(|source| IdentityError::Capabilities { step: "bounding", source })?;
    nix::sys::prctl::set_keepcaps(true)
        .map_err(|error| IdentityError::Capabilities { step: "keep", source: error.into() })?;
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    nix::unistd::setresgid(gid, gid, gid).map_err(IdentityError::Group)?;
    nix::unistd::setresuid(uid, uid, uid).map_err(IdentityError::User)?;
    let mask = |capabilities: &[u8]| capabilities.iter().fold(0_u64, |all, one| all | (1 << (one & 63)));
    let (all, ambient) = (mask(&identity.capabilities), mask(&identity.ambient));
    // A process of another user keeps nothing over its exec but the ambient set; that of root gets the bounding set.
    let kept = if identity.uid == 0 { all } else { all & ambient };
    set_capabilities(kept, kept, all & ambient)
        .map_err(|source| IdentityError::Capabilities { step: "permitted and effective", source })?;
    for capability in identity.ambient.iter().filter(|one| identity.capabilities.contains(one)) {
        prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE.unsigned_abs().into(), u64::from(*capability))
            .map_err(|source| IdentityError::Capabilities { step: "ambient", source })?;
    }
    Ok(())
}

fn drop_bounding(keep: &[u8]) -> io::Result<()> {
    for capability in 0..=63_u8 {
        // EINVAL: past the last capability of this kernel.
        if prctl(libc::PR_CAPBSET_READ, u64::from(capability), 0).unwrap_or(0) == 1
            && !keep.contains(&capability)
        {
            prctl(libc::PR_CAPBSET_DROP, u64::from(capability), 0)?;
        }
    }
    Ok(())
}

#[allow(unsafe_code)]
fn default_pipe_signal() {
    // SAFETY: sets the default disposition; no handler is involved.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

#[allow(unsafe_code)]
fn prctl(option: libc::c_int, first: u64, second: u64) -> io::Result<libc::c_int> {
    // SAFETY: the options used take integers only.
    let result = unsafe { libc::prctl(option, first, second, 0_u64, 0_u64) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// What capget(2) and capset(2) are asked about: the calling thread, in their version 3.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

impl Header {
    const OWN: Header = Header { version: 0x2008_0522, pid: 0 };
}

/// Effective, permitted and inheritable, lower halves first.
type Capabilities = [u32; 6];

#[allow(unsafe_code)]
fn capabilities() -> io::Result<Capabilities> {
    let (mut header, mut data) = (Header::OWN, [0_u32; 6]);
    // SAFETY: header and data have the layout of version 3 of capget(2) and live through the call.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    if result == 0 { Ok(data) } else { Err(io::Error::last_os_error()) }
}

#[allow(unsafe_code)]
fn put_capabilities(data: &Capabilities) -> io::Result<()> {
    let header = Header::OWN;
    // SAFETY: header and data have the layout of version 3 of capset(2) and live through the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    let low = |set: u64| (set & 0xffff_ffff) as u32;
    let high = |set: u64| (set >> 32) as u32;
    put_capabilities(&[
        low(effective),
        low(permitted),
        low(inheritable),
        high(effective),
        high(permitted),
        high(inheritable),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_told_from_one_that_may_not_run() {
        assert!(matches!(find_executable("sh", "/nonexistent:/bin", Path::new("/")), Found::Executable));
        assert!(matches!(find_executable("/etc/passwd", "", Path::new("/")), Found::NotExecutable));
        assert!(matches!(find_executable("nothing-here", "/bin", Path::new("/")), Found::Nothing));
    }

    #[test]
    fn mounts_of_another_kind_below_a_mount_are_left_to_themselves() {
        let known = b"21 20 0:1 / /host rw shared:1 - ext4 /dev/a rw\n\
            22 21 0:2 / /host/a\\040b rw master:2 - tmpfs t rw\n\
            23 21 0:3 / /host/open rw - tmpfs t rw\n\
            24 23 0:3 / /host/open/below rw - tmpfs t rw\n\
            25 20 0:4 / /hostile rw - tmpfs t rw\n";
        let mount =
            Seclusion { path: "/host".into(), from_source: false, besides: vec!["/host/open".into()] };
        assert_eq!(below(known, &mount), ["/host", "/host/a b"].map(PathBuf::from));
        assert_eq!(unescaped(b"a\\134\\"), b"a\\\\");
    }
}
