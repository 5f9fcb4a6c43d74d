//! The pause process: first in the pod's namespaces, it does nothing but live, and reap in a shared pid namespace.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::protocol::{IdRange, PodSetup, UserMap};
use crate::cgroup::Hierarchy;

#[derive(Debug, thiserror::Error)]
pub(super) enum PauseError {
    #[error("clone the pause process")]
    Clone(#[source] io::Error),
    #[error("bind the network namespace to {path}")]
    Bind {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("set up the pod's namespaces: {0}")]
    Inside(String),
    #[error("give the pod's user namespace its ids")]
    Users(#[source] io::Error),
    #[error("read from the pause process")]
    Pipe(#[source] io::Error),
    #[error("join the cgroup {path}")]
    Cgroup {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Starts the pause process in new namespaces as `setup` says, and names the network namespace.
pub(super) fn start(setup: &PodSetup) -> Result<Pid, PauseError> {
    let mut flags = libc::CLONE_NEWUTS;
    if !setup.host_network {
        flags |= libc::CLONE_NEWNET;
    }
    if !setup.host_ipc {
        flags |= libc::CLONE_NEWIPC;
    }
    if setup.shared_pid {
        flags |= libc::CLONE_NEWPID;
    }
    if setup.users.is_some() {
        // The others then belong to it.
        flags |= libc::CLONE_NEWUSER;
    }
    let hierarchy = Hierarchy::detect();
    let groups = setup.cgroup.as_deref().map_or_else(Vec::new, |path| hierarchy.folders(path));
    let in_group = |path: &Path, done: io::Result<()>| {
        done.map_err(|source| PauseError::Cgroup { path: path.to_owned(), source })
    };
    for group in &groups {
        in_group(group, crate::cgroup::create(group))?;
    }
    let (mut read, write) = io::pipe().map_err(PauseError::Pipe)?;
    let (mapped, mut maps) = io::pipe().map_err(PauseError::Pipe)?;
    let pid = clone(flags).map_err(PauseError::Clone)?;
    let Some(pid) = pid else {
        drop((read, maps));
        let failure = enter(&hierarchy, &groups)
            .and_then(|()| if setup.users.is_some() { become_root(mapped) } else { Ok(()) })
            .and_then(|()| inside(setup))
            .err();
        if let Some(failure) = failure {
            let mut write = write;
            let _ = io::Write::write_all(&mut write, failure.as_bytes());
            exit(1);
        }
        drop(write);
        pause();
    };
    drop((write, mapped));
    if let Some(users) = &setup.users {
        give_ids(pid, users).map_err(PauseError::Users)?;
        io::Write::write_all(&mut maps, b"1").map_err(PauseError::Pipe)?;
    }
    drop(maps);
    let mut failure = String::new();
    io::Read::read_to_string(&mut read, &mut failure).map_err(PauseError::Pipe)?;
    if !failure.is_empty() {
        return Err(PauseError::Inside(failure));
    }
    if let Hierarchy::Unified { .. } = hierarchy {
        for group in &groups {
            in_group(group, std::fs::write(group.join("cgroup.procs"), pid.to_string()))?;
        }
    }
    if !setup.host_network {
        bind_namespace(pid, &setup.netns)
            .map_err(|source| PauseError::Bind { path: setup.netns.clone(), source })?;
    }
    Ok(pid)
}

/// In version 1 the process enters by itself: a thread that moves itself waits for nobody, while moving another process
/// waits until all processors have passed through the scheduler, 5 to 30 ms.
fn enter(hierarchy: &Hierarchy, groups: &[PathBuf]) -> Result<(), String> {
    match hierarchy {
        Hierarchy::Split { .. } => groups.iter().try_for_each(|group| {
            std::fs::write(group.join("tasks"), "0")
                .map_err(|error| format!("join the cgroup {}: {error}", group.display()))
        }),
        Hierarchy::Unified { .. } => Ok(()),
    }
}

/// Only its parent may.
fn give_ids(pid: Pid, users: &UserMap) -> io::Result<()> {
    let line = |range: &IdRange| format!("0 {} {}\n", range.outside, range.length);
    std::fs::write(format!("/proc/{pid}/uid_map"), line(&users.uids))?;
    std::fs::write(format!("/proc/{pid}/gid_map"), line(&users.gids))
}

/// Waits until the namespace has ids, and is its root.
fn become_root(mut mapped: io::PipeReader) -> Result<(), String> {
    let mut told = [0];
    io::Read::read_exact(&mut mapped, &mut told)
        .map_err(|error| format!("ids of the user namespace: {error}"))?;
    let (uid, gid) = (nix::unistd::Uid::from_raw(0), nix::unistd::Gid::from_raw(0));
    nix::unistd::setgroups(&[])
        .and_then(|()| nix::unistd::setresgid(gid, gid, gid))
        .and_then(|()| nix::unistd::setresuid(uid, uid, uid))
        .map_err(|error| format!("be root of the user namespace: {error}"))
}

fn bind_namespace(pid: Pid, path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    File::create(path)?;
    let source = PathBuf::from(format!("/proc/{pid}/ns/net"));
    mount(Some(&source), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(())
}

fn inside(setup: &PodSetup) -> Result<(), String> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)
        .map_err(|error| format!("parent death signal: {error}"))?;
    nix::unistd::sethostname(&setup.hostname).map_err(|error| format!("host name: {error}"))?;
    // By /proc/self, net.* and kernel.shm* parameters are those of the caller's namespaces.
    for (name, value) in &setup.sysctls {
        if !is_namespaced(name) {
            return Err(format!("sysctl {name}={value}: it belongs to the machine, not to a pod"));
        }
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        std::fs::write(&path, value).map_err(|error| format!("sysctl {name}={value}: {error}"))?;
    }
    if !setup.host_network {
        bring_loopback_up().map_err(|error| format!("loopback: {error}"))?;
    }
    super::set_title("pause", "pause");
    Ok(())
}

/// Whether a kernel parameter is of the network or ipc namespace of who writes it.
fn is_namespaced(name: &str) -> bool {
    let name = name.replace('/', ".");
    let ipc = ["kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced", "kernel.sem"];
    let of_ipc =
        ipc.contains(&name.as_str()) || name.starts_with("kernel.msg") || name.starts_with("fs.mqueue.");
    (of_ipc || name.starts_with("net.")) && !name.contains("..")
}

#[allow(unsafe_code)]
fn bring_loopback_up() -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: ifreq is plain data for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (target, source) in request.ifr_name.iter_mut().zip(b"lo") {
        *target = libc::c_char::from_ne_bytes([*source]);
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or_default();
    // SAFETY: the request names an interface and carries its flags, as SIOCSIFFLAGS expects.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Waits for children and for a signal to end; as process 1 of a shared pid namespace it reaps what others leave.
///
/// It is also what a container of this program's own image does that is told nothing, such as the sandbox of another runtime.
pub fn pause() -> ! {
    let mut wanted = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
        wanted.add(signal);
    }
    let _ = wanted.thread_block();
    // Nothing that the pod process has open belongs here.
    close_everything();
    loop {
        match wanted.wait() {
            Ok(Signal::SIGTERM | Signal::SIGINT) => exit(0),
            Ok(_) => {
                while matches!(
                    waitpid(None, Some(WaitPidFlag::WNOHANG)),
                    Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..))
                ) {}
            }
            Err(_) => exit(1),
        }
    }
}

/// A process that does nothing but be in a group, in the pod's network, until it is killed.
pub(super) fn hold(pause: Pid) -> io::Result<Pid> {
    let pid = clone(0)?;
    let Some(pid) = pid else {
        super::set_title(keelson_cgroup::held::HOLDER, keelson_cgroup::held::HOLDER);
        let in_network = || -> io::Result<()> {
            let network = File::open(format!("/proc/{pause}/ns/net"))?;
            nix::sched::setns(network, nix::sched::CloneFlags::CLONE_NEWNET)?;
            Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?)
        };
        if in_network().is_err() {
            exit(1);
        }
        // Of a group that ends as a whole it is the last. Not every machine allows to say so.
        let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
        close_everything();
        loop {
            nix::unistd::pause();
        }
    };
    Ok(pid)
}

#[allow(unsafe_code)]
fn close_everything() {
    // SAFETY: this process uses no file from here on.
    unsafe { libc::syscall(libc::SYS_close_range, 0_u32, u32::MAX, 0_u32) };
}

#[allow(unsafe_code)]
fn exit(code: i32) -> ! {
    // SAFETY: ends the process without running handlers that the parent registered.
    unsafe { libc::_exit(code) }
}

/// Like fork, into new namespaces; `None` in the child.
#[allow(unsafe_code)]
fn clone(flags: libc::c_int) -> io::Result<Option<Pid>> {
    let flags = libc::c_long::from(flags | libc::SIGCHLD);
    // SAFETY: without a new stack clone(2) acts as fork(2); this process has a single thread.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, 0_usize, 0_usize, 0_usize) };
    match pid {
        0 => Ok(None),
        1.. => Ok(Some(Pid::from_raw(i32::try_from(pid).unwrap_or_default()))),
        _ => Err(io::Error::last_os_error()),
    }
}
