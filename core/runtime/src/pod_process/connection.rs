//! One peer of the pod process: what it asked for, what it still has to be sent.

use std::collections::VecDeque;
use std::io;
use std::os::unix::net::UnixStream;

use serde::Serialize;

use super::log::Output;
use super::pod::{read_stream, write_stream};
use super::protocol::{self, Frame, FrameError, Kind};

/// A subscriber that does not read is dropped at this backlog; it reconnects and asks for the status.
const MAX_BACKLOG: usize = 4 << 20;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Has not asked yet.
    Fresh,
    /// Has been answered; may close.
    Answered,
    Subscriber,
    Exec {
        process: u64,
    },
    Attached {
        process: u64,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
}

pub(super) struct Connection {
    pub(super) stream: UnixStream,
    pub(super) role: Role,
    pub(super) out: VecDeque<u8>,
    input: Vec<u8>,
    closing: bool,
    broken: bool,
}

impl Connection {
    pub(super) fn new(stream: UnixStream) -> Self {
        let (out, input) = (VecDeque::new(), Vec::new());
        Self { stream, role: Role::Fresh, out, input, closing: false, broken: false }
    }

    pub(super) fn send(&mut self, kind: Kind, payload: &[u8]) {
        if self.broken {
            return;
        }
        let mut frame = Vec::with_capacity(payload.len() + 5);
        protocol::encode(kind, payload, &mut frame);
        self.out.extend(frame);
        self.flush();
        if self.out.len() > MAX_BACKLOG {
            self.broken = true;
        }
    }

    pub(super) fn send_json(&mut self, kind: Kind, value: &impl Serialize) {
        match serde_json::to_vec(value) {
            Ok(payload) => self.send(kind, &payload),
            Err(error) => tracing::error!(%error, "message not sent"),
        }
    }

    pub(super) fn flush(&mut self) {
        while !self.out.is_empty() {
            let (bytes, _) = self.out.as_slices();
            match write_stream(&mut self.stream, bytes) {
                Ok(count) => {
                    self.out.drain(..count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.broken = true;
                    return;
                }
            }
        }
    }

    /// Takes in what has arrived; `false` when the peer is gone.
    pub(super) fn fill(&mut self) -> bool {
        let mut buffer = [0_u8; 16 * 1024];
        match read_stream(&mut self.stream, &mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                self.input.extend_from_slice(&buffer[..count]);
                true
            }
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }

    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        protocol::decode(&mut self.input)
    }

    pub(super) fn close_when_sent(&mut self) {
        self.closing = true;
    }

    pub(super) fn finished(&self) -> bool {
        self.broken || (self.closing && self.out.is_empty())
    }

    /// Whether it follows this process at all.
    pub(super) fn watches(&self, key: u64) -> bool {
        match self.role {
            Role::Exec { process } | Role::Attached { process, .. } => process == key,
            Role::Fresh | Role::Answered | Role::Subscriber => false,
        }
    }

    /// Whether it is sent this output of this process.
    pub(super) fn wants(&self, key: u64, output: Output) -> bool {
        match self.role {
            Role::Exec { process } => process == key,
            Role::Attached { process, stdout, stderr, .. } => {
                process == key
                    && match output {
                        Output::Stdout => stdout,
                        Output::Stderr => stderr,
                    }
            }
            Role::Fresh | Role::Answered | Role::Subscriber => false,
        }
    }
}
