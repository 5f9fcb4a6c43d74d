//! A process that the pod process started: a container's first one, or one executed in a container.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::Pid;

use super::launch::Launched;
use super::log::{Log, Output};
use super::pod::read_file;
use super::protocol::{ContainerReport, Exit, Launch, Started, TerminalSize};

/// What a pipe holds that nobody has changed.
const PIPE_SIZE: usize = 64 * 1024;

/// Whose process it is.
pub(super) enum Owner {
    Container { launch: Box<Launch>, log: Option<Log>, started: Started, exit: Option<Exit> },
    Exec { connection: u64 },
}

pub(super) struct Process {
    pub(super) pid: Pid,
    pub(super) owner: Owner,
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdin_queue: VecDeque<u8>,
    stdin_closing: bool,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
    /// As the shell counts: the code, or 128 and the signal.
    pub(super) code: Option<i32>,
    /// The kernel killed in the container's group for want of memory.
    pub(super) oom_killed: bool,
}

fn nonblocking(file: &impl AsFd) {
    if let Err(error) = fcntl(file, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)) {
        tracing::error!(%error, "file stays blocking");
    }
}

impl Process {
    pub(super) fn new(launched: Launched, owner: Owner) -> Self {
        let Launched { pid, stdin, stdout, stderr, terminal } = launched;
        for file in [&stdin, &stdout, &stderr].into_iter().flatten() {
            nonblocking(file);
        }
        Self {
            pid,
            owner,
            stdin,
            stdin_queue: VecDeque::new(),
            stdin_closing: false,
            stdout,
            stderr,
            terminal,
            code: None,
            oom_killed: false,
        }
    }

    pub(super) fn container_id(&self) -> Option<&str> {
        self.launch().map(|launch| launch.id.as_str())
    }

    pub(super) fn launch(&self) -> Option<&Launch> {
        match &self.owner {
            Owner::Container { launch, .. } => Some(launch),
            Owner::Exec { .. } => None,
        }
    }

    pub(super) fn report(&self) -> Option<ContainerReport> {
        match &self.owner {
            Owner::Container { launch, started, exit, .. } => {
                Some(ContainerReport { id: launch.id.clone(), started: started.clone(), exit: exit.clone() })
            }
            Owner::Exec { .. } => None,
        }
    }

    /// Ended, and its end is recorded and told.
    pub(super) fn is_over(&self) -> bool {
        match &self.owner {
            Owner::Container { exit, .. } => exit.is_some(),
            Owner::Exec { .. } => false,
        }
    }

    pub(super) fn outputs(&self) -> impl Iterator<Item = (Output, &OwnedFd)> {
        let stdout = self.stdout.as_ref().map(|file| (Output::Stdout, file));
        stdout.into_iter().chain(self.stderr.as_ref().map(|file| (Output::Stderr, file)))
    }

    /// How many bytes an output can hold that nobody has read yet.
    pub(super) fn capacity(&self, output: Output) -> usize {
        let slot = match output {
            Output::Stdout => &self.stdout,
            Output::Stderr => &self.stderr,
        };
        let Some(file) = slot else { return 0 };
        // A terminal is no pipe, and holds less.
        let size = fcntl(file, FcntlArg::F_GETPIPE_SZ).ok().and_then(|size| usize::try_from(size).ok());
        size.unwrap_or(PIPE_SIZE)
    }

    /// Reads what there is; closes the output at its end.
    pub(super) fn read(&mut self, output: Output, buffer: &mut [u8]) -> Option<usize> {
        let slot = match output {
            Output::Stdout => &mut self.stdout,
            Output::Stderr => &mut self.stderr,
        };
        let file = slot.as_ref()?;
        match read_file(file, buffer) {
            Ok(0) => {
                *slot = None;
                None
            }
            Ok(count) => Some(count),
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => None,
            // EIO: the last one has closed the terminal.
            Err(_) => {
                *slot = None;
                None
            }
        }
    }

    pub(super) fn write_stdin(&mut self) {
        let Some(stdin) = &self.stdin else {
            self.stdin_queue.clear();
            return;
        };
        while !self.stdin_queue.is_empty() {
            let (bytes, _) = self.stdin_queue.as_slices();
            match nix::unistd::write(stdin, bytes) {
                Ok(count) => {
                    self.stdin_queue.drain(..count);
                }
                Err(nix::Error::EAGAIN | nix::Error::EINTR) => return,
                Err(_) => {
                    self.stdin_queue.clear();
                    self.stdin = None;
                    return;
                }
            }
        }
        if self.stdin_closing {
            self.stdin = None;
        }
    }

    /// The peer has no more input. Closes the program's too, unless a container keeps it for the next peer.
    pub(super) fn close_stdin(&mut self) {
        let closes = match &self.owner {
            Owner::Container { launch, .. } => launch.stdin_once,
            Owner::Exec { .. } => true,
        };
        // A terminal is not closed by one who leaves.
        if closes && self.terminal.is_none() {
            self.stdin_closing = true;
            self.write_stdin();
        }
    }

    #[allow(unsafe_code)]
    pub(super) fn resize(&self, size: TerminalSize) {
        let Some(terminal) = &self.terminal else { return };
        let size = libc::winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: TIOCSWINSZ reads one winsize, which lives through the call.
        if unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) } != 0 {
            tracing::warn!(error = %std::io::Error::last_os_error(), "terminal not resized");
        }
    }

    pub(super) fn close_files(&mut self) {
        (self.stdin, self.stdout, self.stderr, self.terminal) = (None, None, None, None);
        self.stdin_queue.clear();
    }
}
