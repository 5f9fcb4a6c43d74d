//! The pod process's loop: one `poll` over the socket, its connections, the containers' outputs and child signals.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::connection::{Connection, Role};
use super::launch::{self, chain};
use super::log::{Log, Output};
use super::process::{Owner, Process};
use super::protocol::{
    ContainerReport, Event, ExecExit, ExecRequest, Exit, Frame, Kind, Launch, Request, Response, Started,
    TerminalSize,
};
use crate::cgroup::Hierarchy;

/// A peer that reads slower than the container writes is given this much before the container is made to wait.
const HIGH_WATER: usize = 256 * 1024;

/// All that the pod process knows.
pub(super) struct Pod {
    pub(super) hierarchy: Hierarchy,
    pub(super) listener: UnixListener,
    pub(super) signals: SignalFd,
    pub(super) pause: Pid,
    pub(super) pause_alive: bool,
    /// Processes that keep groups of containers from being empty.
    pub(super) holders: BTreeMap<String, Pid>,
    pub(super) connections: BTreeMap<u64, Connection>,
    pub(super) processes: BTreeMap<u64, Process>,
    pub(super) next: u64,
    pub(super) stopping: bool,
}

/// What a ready file belongs to.
#[derive(Clone, Copy)]
enum Source {
    Signals,
    Listener,
    Connection(u64),
    Stdin(u64),
    Output(u64, Output),
}

impl Pod {
    /// Serves until it is told to stop and the last process has ended.
    pub(super) fn serve(&mut self) -> io::Result<()> {
        loop {
            for (source, events) in self.wait()? {
                self.handle(source, events);
            }
            self.finish_processes();
            self.close_finished();
            if self.stopping && self.processes.values().all(Process::is_over) {
                for (_, held) in std::mem::take(&mut self.holders) {
                    let _ = kill(held, Signal::SIGKILL);
                }
                if self.pause_alive {
                    let _ = kill(self.pause, Signal::SIGKILL);
                    let _ = waitpid(self.pause, None);
                }
                return Ok(());
            }
        }
    }

    fn wait(&self) -> io::Result<Vec<(Source, PollFlags)>> {
        let mut sources = vec![Source::Signals, Source::Listener];
        let mut files = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
        ];
        for (key, connection) in &self.connections {
            let mut wanted = PollFlags::empty();
            if self.accepts_input(connection) {
                wanted |= PollFlags::POLLIN;
            }
            if !connection.out.is_empty() {
                wanted |= PollFlags::POLLOUT;
            }
            sources.push(Source::Connection(*key));
            files.push(PollFd::new(connection.stream.as_fd(), wanted));
        }
        for (key, process) in &self.processes {
            if let Some(stdin) = process.stdin.as_ref().filter(|_| !process.stdin_queue.is_empty()) {
                sources.push(Source::Stdin(*key));
                files.push(PollFd::new(stdin.as_fd(), PollFlags::POLLOUT));
            }
            for (output, file) in process.outputs().filter(|_| !self.is_congested(*key)) {
                sources.push(Source::Output(*key, output));
                files.push(PollFd::new(file.as_fd(), PollFlags::POLLIN));
            }
        }
        match poll(&mut files, PollTimeout::NONE) {
            Ok(_) => {}
            Err(nix::Error::EINTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        let ready = |(source, file): (Source, &PollFd<'_>)| {
            file.revents().filter(|events| !events.is_empty()).map(|events| (source, events))
        };
        Ok(sources.into_iter().zip(&files).filter_map(ready).collect())
    }

    fn accepts_input(&self, connection: &Connection) -> bool {
        let target = match connection.role {
            Role::Exec { process } | Role::Attached { process, stdin: true, .. } => process,
            Role::Fresh | Role::Answered | Role::Subscriber | Role::Attached { stdin: false, .. } => {
                return true;
            }
        };
        self.processes.get(&target).is_none_or(|process| process.stdin_queue.len() < HIGH_WATER)
    }

    fn is_congested(&self, process: u64) -> bool {
        self.connections.values().any(|one| one.watches(process) && one.out.len() > HIGH_WATER)
    }

    fn handle(&mut self, source: Source, events: PollFlags) {
        match source {
            Source::Signals => self.reap(),
            Source::Listener => self.accept(),
            Source::Connection(key) => self.handle_connection(key, events),
            Source::Stdin(key) => {
                if let Some(process) = self.processes.get_mut(&key) {
                    process.write_stdin();
                }
            }
            Source::Output(key, output) => {
                self.pump(key, output);
            }
        }
    }

    fn accept(&mut self) {
        match self.listener.accept() {
            Ok((stream, _)) => {
                if let Err(error) = stream.set_nonblocking(true) {
                    tracing::warn!(%error, "connection not accepted");
                    return;
                }
                self.next += 1;
                self.connections.insert(self.next, Connection::new(stream));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => tracing::warn!(%error, "accept failed"),
        }
    }

    fn reap(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        loop {
            let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            if pid == self.pause {
                self.pause_alive = false;
                self.broadcast(&Event::PauseExited);
                self.kill_everything();
            }
            self.holders.retain(|_, holder| *holder != pid);
            if let Some(process) =
                self.processes.values_mut().find(|one| one.pid == pid && one.code.is_none())
            {
                process.code = Some(code);
            }
        }
    }

    fn handle_connection(&mut self, key: u64, events: PollFlags) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        if events.contains(PollFlags::POLLOUT) {
            connection.flush();
        }
        if !events.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
            return;
        }
        let open = connection.fill();
        loop {
            let frame = match self.connections.get_mut(&key).map(Connection::next_frame) {
                Some(Ok(Some(frame))) => frame,
                Some(Ok(None)) | None => break,
                Some(Err(error)) => {
                    tracing::warn!(%error, "connection cut off");
                    self.close(key);
                    return;
                }
            };
            self.handle_frame(key, frame);
        }
        if !open {
            self.close(key);
        }
    }

    fn close_finished(&mut self) {
        let finished = self.connections.iter().filter(|(_, connection)| connection.finished());
        for key in finished.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.close(key);
        }
    }

    /// The peer is gone: what it was running goes too, and a program that reads from one peer only has read all.
    fn close(&mut self, key: u64) {
        let Some(connection) = self.connections.remove(&key) else { return };
        if let Role::Attached { process, stdin: true, .. } = connection.role
            && let Some(process) = self.processes.get_mut(&process)
        {
            process.close_stdin();
        }
        if let Role::Exec { process } = connection.role
            && let Some(process) = self.processes.get(&process).filter(|process| process.code.is_none())
        {
            let _ = kill(process.pid, Signal::SIGKILL);
        }
    }

    fn handle_frame(&mut self, key: u64, frame: Frame) {
        let Some(role) = self.connections.get(&key).map(|connection| connection.role) else { return };
        match (role, frame.kind) {
            (Role::Fresh, Kind::Json) => match serde_json::from_slice(&frame.payload) {
                Ok(request) => self.handle_request(key, request),
                Err(error) => self.answer(key, &Response::Failed { message: error.to_string() }),
            },
            (Role::Exec { process } | Role::Attached { process, stdin: true, .. }, Kind::Stdin) => {
                if let Some(process) = self.processes.get_mut(&process) {
                    process.stdin_queue.extend(frame.payload);
                    process.write_stdin();
                }
            }
            (Role::Exec { process } | Role::Attached { process, stdin: true, .. }, Kind::StdinClosed) => {
                if let Some(process) = self.processes.get_mut(&process) {
                    process.close_stdin();
                }
            }
            (Role::Exec { process } | Role::Attached { process, .. }, Kind::Resize) => {
                if let (Ok(size), Some(process)) =
                    (serde_json::from_slice::<TerminalSize>(&frame.payload), self.processes.get(&process))
                {
                    process.resize(size);
                }
            }
            (
                _,
                Kind::Json
                | Kind::Stdin
                | Kind::Stdout
                | Kind::Stderr
                | Kind::Resize
                | Kind::StdinClosed
                | Kind::Exit,
            ) => tracing::warn!(kind = ?frame.kind, "frame out of place"),
        }
    }

    fn handle_request(&mut self, key: u64, request: Request) {
        let response = match request {
            Request::Status => self.status(),
            Request::Subscribe => {
                self.answer(key, &Response::Done);
                self.set_role(key, Role::Subscriber);
                return;
            }
            Request::Hold { container } => self.hold(container),
            Request::Start(launch) => self.start(*launch),
            Request::Signal { container, signal } => self.signal(&container, signal),
            Request::Exec(request) => return self.exec(key, &request),
            Request::Attach { container, stdin, stdout, stderr } => {
                let Some(process) = self.running(&container) else {
                    return self.answer(key, &failed(format!("container {container} is not running")));
                };
                self.answer(key, &Response::Done);
                return self.set_role(key, Role::Attached { process, stdin, stdout, stderr });
            }
            Request::ReopenLog { container } => self.reopen_log(&container),
            Request::Forget { container } => {
                self.processes.retain(|_, process| process.container_id() != Some(&container));
                self.release(&container);
                Response::Done
            }
            Request::Stop => {
                self.stopping = true;
                self.kill_everything();
                Response::Done
            }
        };
        self.answer(key, &response);
    }

    fn set_role(&mut self, key: u64, role: Role) {
        if let Some(connection) = self.connections.get_mut(&key) {
            connection.role = role;
        }
    }

    fn answer(&mut self, key: u64, response: &Response) {
        if let Some(connection) = self.connections.get_mut(&key) {
            connection.send_json(Kind::Json, response);
            connection.role = Role::Answered;
        }
    }

    fn running(&self, container: &str) -> Option<u64> {
        self.processes
            .iter()
            .find(|(_, process)| process.container_id() == Some(container) && process.code.is_none())
            .map(|(key, _)| *key)
    }

    fn status(&self) -> Response {
        let containers =
            self.processes.values().filter_map(Process::report).collect::<Vec<ContainerReport>>();
        Response::Status { pause: self.pause.as_raw(), pause_alive: self.pause_alive, containers }
    }

    fn hold(&mut self, container: String) -> Response {
        if self.stopping || !self.pause_alive {
            return failed("the pod is stopping".to_owned());
        }
        if let Some(held) = self.holders.get(&container) {
            return Response::Held { pid: held.as_raw() };
        }
        match super::pause::hold(self.pause) {
            Ok(held) => {
                self.holders.insert(container, held);
                Response::Held { pid: held.as_raw() }
            }
            Err(error) => failed(format!("hold the control group: {error}")),
        }
    }

    /// The container's group may be empty from now on.
    fn release(&mut self, container: &str) {
        if let Some(held) = self.holders.remove(container) {
            let _ = kill(held, Signal::SIGKILL);
        }
    }

    /// Ends what is in the group of a container's process, after a look at what ran out of memory there: the group may go
    /// with its last process.
    fn end_group(&mut self, key: u64) {
        let Some(process) = self.processes.get_mut(&key) else { return };
        let Some(group) = process.launch().map(|launch| launch.cgroup.clone()) else { return };
        process.oom_killed |= self.hierarchy.oom_kills(&group) > 0;
        self.hierarchy.kill(&group);
    }

    fn start(&mut self, launch: Launch) -> Response {
        if self.stopping || !self.pause_alive {
            return failed("the pod is stopping".to_owned());
        }
        if let Some(report) =
            self.processes.values().filter_map(Process::report).find(|report| report.id == launch.id)
        {
            return Response::Started(report.started);
        }
        let log = match launch.log_path.clone().map(Log::open).transpose() {
            Ok(log) => log,
            Err(error) => return failed(format!("open the log: {error}")),
        };
        let launched = match launch::container(&launch) {
            Ok(launched) => launched,
            Err(error) => return failed(chain(&error)),
        };
        let started = Started { pid: launched.pid.as_raw(), at: super::now() };
        if let Err(error) = super::note(&launch.bundle.join("started.json"), &started) {
            tracing::error!(%error, container = launch.id, "start not recorded");
        }
        let owner = Owner::Container { launch: Box::new(launch), log, started: started.clone(), exit: None };
        self.next += 1;
        self.processes.insert(self.next, Process::new(launched, owner));
        Response::Started(started)
    }

    fn exec(&mut self, key: u64, request: &ExecRequest) {
        let launch = self.running(&request.container).and_then(|process| self.processes[&process].launch());
        let Some(launch) = launch else {
            return self.answer(key, &failed(format!("container {} is not running", request.container)));
        };
        self.next += 1;
        match launch::exec(launch, request, self.next) {
            Ok(launched) => {
                let process = self.next;
                self.processes.insert(process, Process::new(launched, Owner::Exec { connection: key }));
                self.answer(key, &Response::Done);
                self.set_role(key, Role::Exec { process });
            }
            Err(error) => self.answer(key, &failed(chain(&error))),
        }
    }

    fn signal(&mut self, container: &str, signal: i32) -> Response {
        let Some(process) = self.running(container) else { return Response::Done };
        if signal == libc::SIGKILL {
            self.end_group(process);
        }
        match send_signal(self.processes[&process].pid, signal) {
            Ok(()) | Err(nix::Error::ESRCH) => Response::Done,
            Err(error) => failed(format!("send signal {signal}: {error}")),
        }
    }

    fn reopen_log(&mut self, container: &str) -> Response {
        for process in self.processes.values_mut() {
            if let Owner::Container { launch, log: Some(log), .. } = &mut process.owner
                && launch.id == container
            {
                return match log.reopen() {
                    Ok(()) => Response::Done,
                    Err(error) => failed(error.to_string()),
                };
            }
        }
        failed(format!("container {container} has no log"))
    }

    fn kill_everything(&mut self) {
        let running = self.processes.iter().filter(|(_, process)| process.code.is_none());
        let running: Vec<(u64, Pid)> = running.map(|(key, process)| (*key, process.pid)).collect();
        for (key, pid) in running {
            self.end_group(key);
            let _ = kill(pid, Signal::SIGKILL);
        }
    }

    /// Moves what is readable to log and peers, a piece at a time; 0 when there is nothing more for now.
    fn pump(&mut self, key: u64, output: Output) -> usize {
        let Some(process) = self.processes.get_mut(&key) else { return 0 };
        let mut buffer = [0_u8; 16 * 1024];
        let Some(count) = process.read(output, &mut buffer) else { return 0 };
        let bytes = &buffer[..count];
        if let Owner::Container { log: Some(log), launch, .. } = &mut process.owner
            && let Err(error) = log.write(output, bytes)
        {
            tracing::error!(%error, container = launch.id, "output not logged");
        }
        let kind = match output {
            Output::Stdout => Kind::Stdout,
            Output::Stderr => Kind::Stderr,
        };
        for connection in self.connections.values_mut().filter(|one| one.wants(key, output)) {
            connection.send(kind, bytes);
        }
        count
    }

    /// Moves what an ended process left in its output. Others may still write to it, and are not waited for: no
    /// more is taken than the output can hold, so that all that came before the end is in it.
    fn drain(&mut self, key: u64, output: Output) {
        let mut left = self.processes.get(&key).map_or(0, |process| process.capacity(output));
        while left > 0 {
            match self.pump(key, output) {
                0 => return,
                count => left = left.saturating_sub(count),
            }
        }
    }

    fn finish_processes(&mut self) {
        let ended: Vec<u64> = self
            .processes
            .iter()
            .filter(|(_, process)| process.code.is_some() && !process.is_over())
            .map(|(key, _)| *key)
            .collect();
        for key in ended {
            // What a container leaves behind ends with it.
            self.end_group(key);
            for output in [Output::Stdout, Output::Stderr] {
                self.drain(key, output);
            }
            self.finish_process(key);
        }
    }

    fn finish_process(&mut self, key: u64) {
        let Some(process) = self.processes.get_mut(&key) else { return };
        let Some(code) = process.code else { return };
        process.close_files();
        match &mut process.owner {
            Owner::Exec { connection } => {
                if let Some(connection) = self.connections.get_mut(connection) {
                    connection.send_json(Kind::Exit, &ExecExit { code });
                    connection.close_when_sent();
                }
                self.processes.remove(&key);
            }
            Owner::Container { launch, log, exit, .. } => {
                if let Some(log) = log
                    && let Err(error) = log.finish()
                {
                    tracing::error!(%error, container = launch.id, "end of output not logged");
                }
                // Of any of its processes, whatever its first one made of it.
                let oom_killed = process.oom_killed || self.hierarchy.oom_kills(&launch.cgroup) > 0;
                let end = Exit { code, oom_killed, at: super::now() };
                if let Err(error) = super::record(&launch.bundle.join("exit.json"), &end) {
                    tracing::error!(%error, container = launch.id, "exit not recorded");
                }
                *exit = Some(end.clone());
                let container = launch.id.clone();
                for connection in self.connections.values_mut().filter(|one| one.watches(key)) {
                    connection.send_json(Kind::Exit, &ExecExit { code });
                    connection.close_when_sent();
                }
                self.release(&container);
                self.broadcast(&Event::Exited { container, exit: end });
            }
        }
    }

    fn broadcast(&mut self, event: &Event) {
        for connection in self.connections.values_mut().filter(|one| matches!(one.role, Role::Subscriber)) {
            connection.send_json(Kind::Json, event);
        }
    }
}

/// By number, since real-time signals have no names of their own.
#[allow(unsafe_code)]
fn send_signal(pid: Pid, signal: i32) -> nix::Result<()> {
    // SAFETY: kill takes numbers, and refuses those that are no signal.
    nix::errno::Errno::result(unsafe { libc::kill(pid.as_raw(), signal) }).map(drop)
}

fn failed(message: String) -> Response {
    Response::Failed { message }
}

/// The pod's socket, in its folder; a socket's name is short, so it goes by the open folder.
pub(super) fn listen(folder: &fs::File) -> io::Result<UnixListener> {
    let path = format!("/proc/self/fd/{}/pod.sock", folder.as_raw_fd());
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Reads what there is; `None` at the end or when nothing is there.
pub(super) fn read_file(file: &OwnedFd, buffer: &mut [u8]) -> nix::Result<usize> {
    nix::unistd::read(file, buffer)
}

/// Reads from a stream without waiting.
pub(super) fn read_stream(stream: &mut UnixStream, buffer: &mut [u8]) -> io::Result<usize> {
    stream.read(buffer)
}

/// Writes to a stream without waiting.
pub(super) fn write_stream(stream: &mut UnixStream, bytes: &[u8]) -> io::Result<usize> {
    stream.write(bytes)
}
