//! The pod process: one small single-threaded process per pod that outlives Keelson.
//!
//! It starts the pause process in the pod's namespaces, is the reaper of the pod's containers, pumps their output
//! into log files, records how they end, and serves the runtime on `pod.sock` in the pod's folder.
//!
//! - [`protocol`]: frames, requests, responses, events
//! - `pod`: the loop; `connection` a peer, `process` a started process
//! - `launch`: create, start and exec by the container library in a forked child; `executor` the last steps in it
//! - `pause`: the pause process and the namespaces; `log`: the CRI log format

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use serde::Serialize;

mod connection;
mod executor;
mod launch;
mod log;
mod pause;
mod pod;
mod process;
pub(crate) mod protocol;

pub use pause::pause;
use pod::Pod;
use protocol::PodSetup;

/// What the caller reads when the pod is up.
pub(crate) const READY: &[u8] = b"ready";

/// What the kernel adds to the badness of the pod process and of pause, out of 1000.
const OOM_SCORE: &str = "-998";

#[derive(Debug, thiserror::Error)]
enum PodProcessError {
    #[error("usage: pod-process FOLDER")]
    Usage,
    #[error("read the pod's set-up")]
    Setup(#[source] io::Error),
    #[error("make ready: {step}")]
    Prepare {
        step: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Pause(#[from] pause::PauseError),
}

/// Runs the pod process for the pod folder named by the only argument.
///
/// Standard output says `ready` and is closed as soon as the pod's socket is served; otherwise it says why not.
/// Must be called before any thread is started.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ! {
    let mut args = args.into_iter();
    let code = match (args.next(), args.next()) {
        (Some(folder), None) => start(Path::new(&folder)),
        _ => fail(&PodProcessError::Usage),
    };
    std::process::exit(code)
}

fn fail(error: &PodProcessError) -> i32 {
    let _ = writeln!(io::stderr(), "{}", launch::chain(error));
    1
}

/// Standard output is the caller's way to know: `ready`, and its end.
fn start(folder: &Path) -> i32 {
    let mut caller = match nix::unistd::dup(io::stdout()) {
        Ok(file) => File::from(file),
        Err(error) => return fail(&PodProcessError::Prepare { step: "output", source: error.into() }),
    };
    match prepare(folder) {
        Ok(mut pod) => {
            // A caller that has died meanwhile is no reason to end: its successor finds the socket.
            let _ = caller.write_all(READY);
            drop(caller);
            if let Err(error) = pod.serve() {
                tracing::error!(%error, "the pod process fails");
                return 1;
            }
            0
        }
        Err(error) => {
            let _ = caller.write_all(launch::chain(&error).as_bytes());
            1
        }
    }
}

fn prepare(folder: &Path) -> Result<Pod, PodProcessError> {
    let step = |step| move |source| PodProcessError::Prepare { step, source };
    let folder: PathBuf = fs::canonicalize(folder).map_err(PodProcessError::Setup)?;
    let text = fs::read(folder.join("pod.json")).map_err(PodProcessError::Setup)?;
    let setup: PodSetup =
        serde_json::from_slice(&text).map_err(|error| PodProcessError::Setup(error.into()))?;

    nix::unistd::setsid().map_err(|error| step("session")(error.into()))?;
    std::env::set_current_dir(&folder).map_err(step("folder"))?;
    redirect(&folder).map_err(step("log"))?;
    // Without it the pod is nothing: the kernel is to end containers first. Not every machine allows to say so.
    if let Err(error) = fs::write("/proc/self/oom_score_adj", OOM_SCORE) {
        tracing::debug!(%error, "the kernel refused the OOM score adjustment");
    }
    set_title(&format!("keelson-pod {}", setup.title), "keelson-pod");
    nix::sys::prctl::set_child_subreaper(true).map_err(|error| step("reaper")(error.into()))?;
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.thread_block().map_err(|error| step("signals")(error.into()))?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .map_err(|error| step("signals")(error.into()))?;

    let pause = pause::start(&setup)?;
    note(&folder.join("pause.json"), &pause.as_raw()).map_err(step("record"))?;
    let listener = pod::listen(&File::open(&folder).map_err(step("folder"))?).map_err(step("socket"))?;
    Ok(Pod {
        hierarchy: crate::cgroup::Hierarchy::detect(),
        listener,
        signals,
        pause,
        pause_alive: true,
        holders: BTreeMap::new(),
        connections: BTreeMap::new(),
        processes: BTreeMap::new(),
        next: 0,
        stopping: false,
    })
}

/// Nothing of the caller's stays open: input is empty, words go to the pod's own log.
fn redirect(folder: &Path) -> io::Result<()> {
    let null = File::open("/dev/null")?;
    let log = OpenOptions::new().create(true).append(true).open(folder.join("pod.log"))?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&log)?;
    nix::unistd::dup2_stderr(&log)?;
    Ok(())
}

/// Nanoseconds since the epoch.
fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// Writes the record so that after a crash there is all of it or none, also when the machine crashes.
pub(crate) fn record(path: &Path, value: &impl Serialize) -> io::Result<()> {
    replace(path, value, true)?;
    if let Some(parent) = path.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// Writes a record of what does not outlive the machine's run, such as a process: after a crash of ours there is all of it or
/// none, after one of the machine it may also be empty, which counts as none. It waits for no disk.
pub(crate) fn note(path: &Path, value: &impl Serialize) -> io::Result<()> {
    replace(path, value, false)
}

fn replace(path: &Path, value: &impl Serialize, flush: bool) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    if flush {
        file.sync_all()?;
    }
    fs::rename(&temporary, path)
}

/// Names the process for `ps`: the short name, and the command line over the one it was started with.
fn set_title(title: &str, short: &str) {
    if let Ok(name) = std::ffi::CString::new(short) {
        let _ = nix::sys::prctl::set_name(&name);
    }
    if let Err(error) = overwrite_arguments(title) {
        tracing::debug!(%error, "command line not renamed");
    }
}

/// Writes the title into the memory that /proc/self/cmdline shows, as far as it is long.
fn overwrite_arguments(title: &str) -> io::Result<()> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> =
        stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
    // Fields 48 and 49 of proc_pid_stat(5); the first after the name is number 3.
    let address = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<u64>().ok());
    let (Some(from), Some(to)) = (address(48), address(49)) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let room = usize::try_from(to.saturating_sub(from)).unwrap_or(0);
    if from == 0 || room == 0 {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut bytes = vec![0_u8; room];
    let length = title.len().min(room - 1);
    bytes[..length].copy_from_slice(&title.as_bytes()[..length]);
    let memory = OpenOptions::new().write(true).open("/proc/self/mem")?;
    debug_assert!(memory.as_raw_fd() >= 0);
    std::os::unix::fs::FileExt::write_all_at(&memory, &bytes, from)
}
