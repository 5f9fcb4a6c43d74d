//! Starts processes in containers: a forked, short-lived child of the small pod process lets the container library
//! build the container, reports the process id through a pipe, and goes; the container's process then belongs to
//! the pod process, which is the reaper of its orphans.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid};
use serde::{Deserialize, Serialize};

use super::executor::IdentityExecutor;
use super::protocol::{ExecRequest, Launch, Seclusion};
use crate::cgroup::Hierarchy;

#[derive(Debug, thiserror::Error)]
pub(super) enum LaunchError {
    #[error("make a pipe")]
    Pipe(#[source] io::Error),
    #[error("open /dev/null")]
    Null(#[source] io::Error),
    #[error("fork")]
    Fork(#[source] nix::Error),
    #[error("the container's process did not come up: its builder ended without a word")]
    Silent,
    #[error("{0}")]
    Refused(String),
    #[error("listen for the terminal")]
    Console(#[source] io::Error),
    #[error("receive the terminal")]
    Terminal(#[source] io::Error),
    #[error("read the container's configuration")]
    Configuration(#[source] io::Error),
}

/// A process that has started, and our ends of what it reads and writes.
#[derive(Debug)]
pub(super) struct Launched {
    pub(super) pid: Pid,
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
    pub(super) terminal: Option<OwnedFd>,
}

#[derive(Serialize, Deserialize)]
enum Outcome {
    Pid(i32),
    Failed(String),
}

/// Creates the container and starts its first process.
pub(super) fn container(launch: &Launch) -> Result<Launched, LaunchError> {
    let stdio = Stdio::new(launch.tty, launch.stdin, &launch.bundle)?;
    run(stdio, |stdio| {
        enter_tracking(&launch.cgroup)?;
        set_oom_score(launch.identity.oom_score_adj.unwrap_or(0));
        let builder = builder(launch, stdio, &launch.secluded)?;
        let mut container = builder
            .as_init(&launch.bundle)
            .with_systemd(false)
            .with_detach(true)
            .build()
            .map_err(|error| chain(&error))?;
        container.start().map_err(|error| chain(&error))?;
        container.pid().map(|pid| pid.as_raw()).ok_or_else(|| "the container has no process".to_owned())
    })
}

/// Starts another process in the running container.
pub(super) fn exec(launch: &Launch, request: &ExecRequest, number: u64) -> Result<Launched, LaunchError> {
    let spec = Spec::load(launch.bundle.join("config.json"))
        .map_err(|error| LaunchError::Configuration(io::Error::other(error)))?;
    let mut process = spec.process().clone().unwrap_or_default();
    process.set_args(Some(request.args.clone())).set_terminal(Some(request.tty));
    let path = launch.bundle.join(format!("exec-{number}.json"));
    let text = serde_json::to_vec(&process).map_err(|error| LaunchError::Configuration(error.into()))?;
    fs::write(&path, text).map_err(LaunchError::Configuration)?;
    let stdio = Stdio::new(request.tty, request.stdin, &launch.bundle)?;
    let result = run(stdio, |stdio| {
        enter_tracking(&launch.cgroup)?;
        set_oom_score(launch.identity.oom_score_adj.unwrap_or(0));
        builder(launch, stdio, &[])?
            .as_tenant()
            .with_detach(true)
            .with_process(Some(&path))
            .build()
            .map(nix_pid)
            .map_err(|error| chain(&error))
    });
    let _ = fs::remove_file(&path);
    result
}

fn nix_pid(pid: impl ToString) -> i32 {
    pid.to_string().parse().unwrap_or_default()
}

fn builder(launch: &Launch, stdio: ChildEnds, secluded: &[Seclusion]) -> Result<ContainerBuilder, String> {
    let state = launch.bundle.join("state");
    fs::create_dir_all(&state).map_err(|error| error.to_string())?;
    let users = launch.identity.users.as_ref().map(|(path, _)| File::open(path)).transpose();
    let users = users.map_err(|error| format!("open the pod's user namespace: {error}"))?.map(Arc::new);
    let mut builder = ContainerBuilder::new(launch.id.clone(), SyscallType::Linux)
        .with_executor(IdentityExecutor {
            identity: launch.identity.clone(),
            users,
            secluded: secluded.to_vec(),
        })
        .with_root_path(&state)
        .map_err(|error| chain(&error))?
        .with_console_socket(stdio.console);
    builder.stdin = stdio.stdin;
    builder.stdout = stdio.stdout;
    builder.stderr = stdio.stderr;
    Ok(builder)
}

/// The error with all its causes, each said once.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

/// A failure in the container's first process, without the way that it took through the library.
fn plain(message: &str) -> String {
    match message.rsplit_once("error in executing process : ") {
        Some((_, cause)) => format!("unable to start container process: {cause}"),
        None => message.to_owned(),
    }
}

/// Enters the container's group in the hierarchies without controllers by which systemd knows what belongs to a scope: what starts
/// next is born there. The container library knows only controllers. Without a scope there is no such group.
fn enter_tracking(group: &str) -> Result<(), String> {
    for folder in Hierarchy::detect().tracking(group) {
        fs::write(folder.join("cgroup.procs"), "0")
            .map_err(|error| format!("join the cgroup {}: {error}", folder.display()))?;
    }
    Ok(())
}

/// What starts next has this adjustment, instead of the one that protects this process. Where the kernel lets nobody
/// lower it, it stays what it is.
fn set_oom_score(wished: i32) {
    match fs::write("/proc/self/oom_score_adj", wished.to_string()) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            tracing::debug!(%error, wished, "the kernel refused the OOM score adjustment");
        }
        Err(error) => tracing::warn!(%error, wished, "the OOM score adjustment is not set"),
    }
}

/// The container's ends of its standard files.
struct ChildEnds {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    console: Option<PathBuf>,
}

struct Stdio {
    child: ChildEnds,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    console: Option<Console>,
}

struct Console {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Stdio {
    fn new(tty: bool, stdin: bool, bundle: &Path) -> Result<Self, LaunchError> {
        if tty {
            let console = Console::listen(bundle)?;
            let path = console.path.clone();
            let child = ChildEnds { stdin: None, stdout: None, stderr: None, console: Some(path) };
            return Ok(Self { child, stdin: None, stdout: None, stderr: None, console: Some(console) });
        }
        let (stdout, stdout_child) = io::pipe().map_err(LaunchError::Pipe)?;
        let (stderr, stderr_child) = io::pipe().map_err(LaunchError::Pipe)?;
        let (stdin, stdin_child) = if stdin {
            let (child, ours) = io::pipe().map_err(LaunchError::Pipe)?;
            (Some(OwnedFd::from(ours)), OwnedFd::from(child))
        } else {
            (None, File::open("/dev/null").map_err(LaunchError::Null)?.into())
        };
        let child = ChildEnds {
            stdin: Some(stdin_child),
            stdout: Some(stdout_child.into()),
            stderr: Some(stderr_child.into()),
            console: None,
        };
        Ok(Self { child, stdin, stdout: Some(stdout.into()), stderr: Some(stderr.into()), console: None })
    }
}

impl Console {
    /// The name is relative to the pod process's folder, because a socket's name is short.
    fn listen(bundle: &Path) -> Result<Self, LaunchError> {
        let path = bundle.join("console.sock");
        let _ = fs::remove_file(&path);
        let folder = File::open(bundle).map_err(LaunchError::Console)?;
        let short = format!("/proc/self/fd/{}/console.sock", folder.as_raw_fd());
        let listener = UnixListener::bind(short).map_err(LaunchError::Console)?;
        Ok(Self { listener, path })
    }

    #[allow(unsafe_code)]
    fn receive(&self) -> Result<OwnedFd, LaunchError> {
        // The sender has connected and sent before it reported ready: neither call waits.
        let (stream, _) = self.listener.accept().map_err(LaunchError::Terminal)?;
        let mut bytes = [0_u8; 256];
        let mut vectors = [io::IoSliceMut::new(&mut bytes)];
        let mut space = nix::cmsg_space!([std::os::fd::RawFd; 2]);
        let message =
            recvmsg::<()>(stream.as_raw_fd(), &mut vectors, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)
                .map_err(|error| LaunchError::Terminal(error.into()))?;
        for control in message.cmsgs().map_err(|error| LaunchError::Terminal(error.into()))? {
            if let ControlMessageOwned::ScmRights(files) = control
                && let Some(file) = files.first()
            {
                // SAFETY: the kernel has just made this descriptor for us; nothing else owns it.
                return Ok(unsafe { OwnedFd::from_raw_fd(*file) });
            }
        }
        Err(LaunchError::Terminal(io::ErrorKind::UnexpectedEof.into()))
    }
}

fn run(stdio: Stdio, build: impl FnOnce(ChildEnds) -> Result<i32, String>) -> Result<Launched, LaunchError> {
    let (mut read, mut write) = io::pipe().map_err(LaunchError::Pipe)?;
    let Stdio { child, stdin, stdout, stderr, console } = stdio;
    match fork()? {
        ForkResult::Child => {
            drop((read, stdin, stdout, stderr));
            super::set_title("keelson-create", "keelson-create");
            let outcome = match build(child) {
                Ok(pid) => Outcome::Pid(pid),
                Err(message) => Outcome::Failed(message),
            };
            let _ = write.write_all(&serde_json::to_vec(&outcome).unwrap_or_default());
            exit_child();
        }
        ForkResult::Parent { child: builder } => {
            drop((child, write));
            // The container's processes have this pipe closed on exec; until then one message is awaited, not EOF.
            let mut text = Vec::new();
            let mut piece = [0_u8; 4096];
            let outcome = loop {
                let count = read.read(&mut piece).map_err(LaunchError::Pipe)?;
                text.extend_from_slice(&piece[..count]);
                if let Ok(outcome) = serde_json::from_slice::<Outcome>(&text) {
                    break Some(outcome);
                }
                if count == 0 {
                    break None;
                }
            };
            let _ = waitpid(builder, None);
            match outcome {
                None => Err(LaunchError::Silent),
                Some(Outcome::Failed(message)) => Err(LaunchError::Refused(plain(&message))),
                Some(Outcome::Pid(pid)) => {
                    finish(Pid::from_raw(pid), stdin, stdout, stderr, console.as_ref())
                }
            }
        }
    }
}

fn finish(
    pid: Pid,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    console: Option<&Console>,
) -> Result<Launched, LaunchError> {
    let Some(console) = console else {
        return Ok(Launched { pid, stdin, stdout, stderr, terminal: None });
    };
    let terminal = console.receive()?;
    let copy = || terminal.try_clone().map_err(LaunchError::Terminal);
    let (stdin, stdout) = (copy()?, copy()?);
    Ok(Launched { pid, stdin: Some(stdin), stdout: Some(stdout), stderr: None, terminal: Some(terminal) })
}

#[allow(unsafe_code)]
fn fork() -> Result<ForkResult, LaunchError> {
    // SAFETY: the pod process has a single thread, so the child may run any code.
    unsafe { nix::unistd::fork() }.map_err(LaunchError::Fork)
}

#[allow(unsafe_code)]
fn exit_child() -> ! {
    // SAFETY: ends the child without running the parent's exit handlers.
    unsafe { libc::_exit(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_is_not_there_is_named_without_the_way_there() {
        let told = "failed to create container: exec process failed with error error in executing process : exec: \"x\": executable file not found in $PATH";
        let plainly = "unable to start container process: exec: \"x\": executable file not found in $PATH";
        assert_eq!(plain(told), plainly);
        assert_eq!(plain("another fault"), "another fault");
    }
}
