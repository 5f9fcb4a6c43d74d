//! What the runtime and a pod process say to each other over the pod's unix socket.
//!
//! A frame is a little-endian `u32` length (of kind and payload), one byte of [`Kind`], and the payload. A
//! connection starts with one JSON [`Request`], answered by one JSON [`Response`]. `Exec` and `Attach` then turn
//! the connection into a stream of the other kinds; `Subscribe` into a stream of JSON [`Event`]s.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// No frame is larger: a peer that announces more is cut off.
pub(crate) const MAX_FRAME: usize = 1 << 20;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Json = 0,
    Stdin = 1,
    Stdout = 2,
    Stderr = 3,
    Resize = 4,
    StdinClosed = 5,
    Exit = 6,
}

impl Kind {
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Json,
            1 => Self::Stdin,
            2 => Self::Stdout,
            3 => Self::Stderr,
            4 => Self::Resize,
            5 => Self::StdinClosed,
            6 => Self::Exit,
            7.. => return None,
        })
    }
}

/// One frame, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) payload: Vec<u8>,
}

/// Why bytes are no frame.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum FrameError {
    #[error("the frame of {0} bytes is outside of 1 to {MAX_FRAME}")]
    Length(usize),
    #[error("{0} is no kind of frame")]
    Kind(u8),
}

/// Appends a frame to `out`.
pub(crate) fn encode(kind: Kind, payload: &[u8], out: &mut Vec<u8>) {
    let length = u32::try_from(payload.len() + 1).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.push(kind as u8);
    out.extend_from_slice(payload);
}

/// Takes the first whole frame off `buffer`; `None` while it is incomplete.
pub(crate) fn decode(buffer: &mut Vec<u8>) -> Result<Option<Frame>, FrameError> {
    let Some(header) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*header) as usize;
    if length == 0 || length > MAX_FRAME {
        return Err(FrameError::Length(length));
    }
    if buffer.len() < 4 + length {
        return Ok(None);
    }
    let kind = Kind::from_byte(buffer[4]).ok_or(FrameError::Kind(buffer[4]))?;
    let payload = buffer[5..4 + length].to_vec();
    buffer.drain(..4 + length);
    Ok(Some(Frame { kind, payload }))
}

/// Ids of a user namespace, which begin with 0, and where they begin on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdRange {
    pub(crate) outside: u32,
    pub(crate) length: u32,
}

/// The users and groups of a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UserMap {
    pub(crate) uids: IdRange,
    pub(crate) gids: IdRange,
}

impl UserMap {
    /// What a user of the namespace is on the node.
    pub(crate) fn outside(&self, uid: u32, gid: u32) -> (u32, u32) {
        (self.uids.outside.saturating_add(uid), self.gids.outside.saturating_add(gid))
    }
}

/// How the pod's namespaces come to be; written as `pod.json` before the pod process starts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PodSetup {
    /// `NAMESPACE/NAME`, shown by ps.
    pub(crate) title: String,
    pub(crate) hostname: String,
    pub(crate) host_network: bool,
    pub(crate) host_ipc: bool,
    /// All containers share the pause process's pid namespace.
    pub(crate) shared_pid: bool,
    /// Where the network namespace is bind mounted.
    pub(crate) netns: PathBuf,
    /// The pause process's cgroup, relative to each controller's root; `None` if it is put into one later.
    pub(crate) cgroup: Option<String>,
    pub(crate) sysctls: BTreeMap<String, String>,
    /// The pod has a user namespace, with these ids.
    #[serde(default)]
    pub(crate) users: Option<UserMap>,
}

/// Who the process is and what it may do; applied by ourselves right before `execve`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    /// Capability numbers, the same set for bounding, permitted and effective.
    pub(crate) capabilities: Vec<u8>,
    pub(crate) ambient: Vec<u8>,
    pub(crate) no_new_privileges: bool,
    /// The default system call filter is installed.
    pub(crate) seccomp: bool,
    /// The profile whose filter is installed instead, as JSON.
    #[serde(default)]
    pub(crate) seccomp_profile: Option<String>,
    /// The AppArmor profile under which the program runs.
    #[serde(default)]
    pub(crate) app_armor: Option<String>,
    /// The user namespace that the program runs in, and its ids.
    #[serde(default)]
    pub(crate) users: Option<(PathBuf, UserMap)>,
    /// Wished value; refused lowering is logged.
    pub(crate) oom_score_adj: Option<i32>,
    /// Where the process begins; made when it is not there. Empty in older records, whose configuration says it.
    #[serde(default)]
    pub(crate) working_directory: PathBuf,
}

/// What a container's mount learns of mounts elsewhere. The container library leaves every bind as its source is, whatever the OCI
/// configuration says of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seclusion {
    /// Where it is in the container.
    pub(crate) path: PathBuf,
    /// It learns of its source's; otherwise of none. Its source learns of nothing.
    pub(crate) from_source: bool,
    /// The same holds for all that is mounted below, but for these and what is below them.
    #[serde(default)]
    pub(crate) besides: Vec<PathBuf>,
}

/// What the pod process must know of a container besides its OCI configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Launch {
    pub(crate) id: String,
    /// Folder with `config.json`, where state is recorded.
    pub(crate) bundle: PathBuf,
    pub(crate) log_path: Option<PathBuf>,
    pub(crate) stdin: bool,
    pub(crate) stdin_once: bool,
    pub(crate) tty: bool,
    /// The container's cgroup, relative to each controller's root.
    pub(crate) cgroup: String,
    pub(crate) identity: Identity,
    /// Done before the first process runs.
    #[serde(default)]
    pub(crate) secluded: Vec<Seclusion>,
}

/// A process to run inside of a running container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ExecRequest {
    pub(crate) container: String,
    pub(crate) args: Vec<String>,
    pub(crate) tty: bool,
    pub(crate) stdin: bool,
}

/// What the runtime asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Request {
    Status,
    Subscribe,
    /// A process that does nothing, for the group of a container that is about to start, until the container's end.
    Hold {
        container: String,
    },
    Start(Box<Launch>),
    Signal {
        container: String,
        signal: i32,
    },
    Exec(ExecRequest),
    Attach {
        container: String,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
    ReopenLog {
        container: String,
    },
    Forget {
        container: String,
    },
    Stop,
}

/// What the pod process answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Response {
    Done,
    Held { pid: i32 },
    Started(Started),
    Status { pause: i32, pause_alive: bool, containers: Vec<ContainerReport> },
    Failed { message: String },
}

/// A container's first moment; kept as `started.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Started {
    pub(crate) pid: i32,
    /// Nanoseconds since the epoch.
    pub(crate) at: i64,
}

/// A container's end; kept as `exit.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exit {
    pub(crate) code: i32,
    pub(crate) oom_killed: bool,
    /// Nanoseconds since the epoch.
    pub(crate) at: i64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ContainerReport {
    pub(crate) id: String,
    pub(crate) started: Started,
    pub(crate) exit: Option<Exit>,
}

/// What happened without being asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Event {
    Exited { container: String, exit: Exit },
    PauseExited,
}

/// A terminal's new size.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct TerminalSize {
    #[serde(rename = "Width", alias = "width")]
    pub(crate) width: u16,
    #[serde(rename = "Height", alias = "height")]
    pub(crate) height: u16,
}

/// How an exec ended.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct ExecExit {
    pub(crate) code: i32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_taken_only_when_it_is_whole() {
        let mut bytes = Vec::new();
        encode(Kind::Stdout, b"hello", &mut bytes);
        let mut partial = bytes[..7].to_vec();
        assert_eq!(decode(&mut partial), Ok(None));
        encode(Kind::Exit, b"x", &mut bytes);
        let first = decode(&mut bytes).unwrap().unwrap();
        assert_eq!(first, Frame { kind: Kind::Stdout, payload: b"hello".to_vec() });
        assert_eq!(decode(&mut bytes).unwrap().unwrap().kind, Kind::Exit);
        assert!(bytes.is_empty());
    }

    #[test]
    fn an_oversized_or_unknown_frame_is_refused() {
        assert!(matches!(decode(&mut vec![0xff, 0xff, 0xff, 0xff, 0]), Err(FrameError::Length(_))));
        assert_eq!(decode(&mut vec![1, 0, 0, 0, 9]), Err(FrameError::Kind(9)));
    }
}
