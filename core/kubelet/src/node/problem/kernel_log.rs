//! The kernel's log: what of it says that something is wrong ([`sign`], pure), and reading it. Nothing runs while the kernel is silent.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;

use kube::runtime::events::EventType;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Problems;
use crate::node::NodeRecorder;

const PATH: &str = "/dev/kmsg";
/// The kernel's longest record.
const RECORD: usize = 8192;
/// A condition that was told so shortly before the start holds still, in microseconds.
const LOOK_BACK: u64 = 300_000_000;
/// Programs whose hanging keeps pods from being run.
const RUNTIMES: [&str; 6] = ["containerd", "containerd-shim", "docker", "dockerd", "keelson", "umount"];

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Sign {
    /// Something that lasts, with the type and the reason of its condition.
    Lasting(&'static str, &'static str),
    /// Something that has happened.
    Event(&'static str),
    /// The kernel has ended a process because the machine had no memory left.
    OutOfMemory { victim: String, pid: String },
}

/// The name of the task of which a line says that it hangs.
fn hung(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("task ")?;
    let (task, rest) = rest.split_once(" blocked for more than ")?;
    let (name, pid) = task.rsplit_once(':')?;
    (rest.contains(" seconds") && !pid.is_empty()).then_some(name)
}

/// A line as `oom-kill:constraint=CONSTRAINT_NONE,...,task=NAME,pid=7,uid=0`, unless it is about a group's own limit.
fn out_of_memory(line: &str) -> Option<Sign> {
    let fields = line.strip_prefix("oom-kill:")?;
    let field = |name: &str| {
        let mut all = fields.split(',').filter_map(|field| field.split_once('='));
        all.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
    };
    if field("constraint")? == "CONSTRAINT_MEMCG" {
        return None;
    }
    Some(Sign::OutOfMemory { victim: field("task")?, pid: field("pid")? })
}

/// What a line of the log says, if anything is wrong (pure).
fn sign(line: &str) -> Option<Sign> {
    if let Some(found) = out_of_memory(line) {
        return Some(found);
    }
    if line.contains("Remounting filesystem read-only") {
        return Some(Sign::Lasting("ReadonlyFilesystem", "FilesystemIsReadOnly"));
    }
    if let Some(task) = hung(line) {
        let is_runtime = RUNTIMES.contains(&task);
        return Some(if is_runtime {
            Sign::Lasting("KernelDeadlock", "RuntimeHung")
        } else {
            Sign::Event("TaskHung")
        });
    }
    let events = [
        ("Killed process ", "OOMKilling"),
        ("unregister_netdevice: waiting for ", "UnregisterNetDevice"),
        ("BUG: unable to handle kernel ", "KernelOops"),
        ("BUG: kernel NULL pointer dereference", "KernelOops"),
        ("divide error: 0000 [#", "KernelOops"),
        ("EXT4-fs error ", "Ext4Error"),
        ("EXT4-fs warning ", "Ext4Warning"),
        ("Buffer I/O error ", "IOError"),
        ("CE memory read error ", "MemoryReadError"),
    ];
    events.into_iter().find(|(text, _)| line.contains(text)).map(|(_, reason)| Sign::Event(reason))
}

/// Time since the machine's start in microseconds, and the text, of a record as `6,339,5140900,-;TEXT` (pure).
fn record(bytes: &[u8]) -> Option<(u64, String)> {
    let text = String::from_utf8_lossy(bytes);
    let (head, rest) = text.split_once(';')?;
    let at = head.split(',').nth(2)?.parse().ok()?;
    // Lines that begin with a space are about devices.
    Some((at, rest.lines().next().unwrap_or_default().to_owned()))
}

/// Microseconds since the machine's start.
fn uptime() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/uptime")?;
    let seconds = text.split_whitespace().next().and_then(|text| text.parse::<f64>().ok());
    seconds.map(|seconds| (seconds * 1e6) as u64).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Reads for ever. An error if there is nothing to read.
pub(super) async fn follow(problems: &Problems, recorder: &NodeRecorder) -> io::Result<()> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(PATH)?;
    // SAFETY: a `File` keeps its one descriptor open until it is dropped.
    #[allow(unsafe_code)]
    let log = unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) }?;
    let start = uptime()?;
    problems.log_is_read();
    let mut buffer = vec![0; RECORD];
    loop {
        let read = log.async_io(Interest::READABLE, |mut file: &fs::File| file.read(&mut buffer)).await;
        let length = match read {
            Ok(length) => length,
            // It was overwritten before it was read.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => continue,
            Err(error) => return Err(error),
        };
        let Some((at, line)) = record(buffer.get(..length).unwrap_or_default()) else { continue };
        let (is_news, counts) = (at >= start, at >= start.saturating_sub(LOOK_BACK));
        match sign(&line) {
            Some(Sign::Lasting(kind, reason)) if counts => {
                problems.put(kind, reason, &line);
                if is_news {
                    recorder.tell(EventType::Warning, reason, line).await;
                }
            }
            Some(Sign::Event(reason)) if is_news => recorder.tell(EventType::Warning, reason, line).await,
            Some(Sign::OutOfMemory { victim, pid }) if is_news => {
                let note = format!("System OOM encountered, victim process: {victim}, pid: {pid}");
                recorder.tell(EventType::Warning, "SystemOOM", note).await;
            }
            Some(Sign::Lasting(..) | Sign::Event(_) | Sign::OutOfMemory { .. }) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_what_is_wrong() {
        let lasting = |kind, reason| Some(Sign::Lasting(kind, reason));
        let system = "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/a,task=hog,pid=7,uid=0";
        for (line, expected) in [
            (
                "EXT4-fs (vda): Remounting filesystem read-only",
                lasting("ReadonlyFilesystem", "FilesystemIsReadOnly"),
            ),
            (
                "INFO: task dockerd:12 blocked for more than 120 seconds.",
                lasting("KernelDeadlock", "RuntimeHung"),
            ),
            ("INFO: task a b:12 blocked for more than 120 seconds.", Some(Sign::Event("TaskHung"))),
            ("task manager is blocked", None),
            ("EXT4-fs error (device vda): x", Some(Sign::Event("Ext4Error"))),
            (
                "Memory cgroup out of memory: Killed process 7 (hog) total-vm:1kB",
                Some(Sign::Event("OOMKilling")),
            ),
            (system, Some(Sign::OutOfMemory { victim: "hog".to_owned(), pid: "7".to_owned() })),
            (&system.replace("CONSTRAINT_NONE", "CONSTRAINT_MEMCG"), None),
            ("keel0: port 1 entered forwarding state", None),
        ] {
            assert_eq!(sign(line), expected, "{line}");
        }
    }

    #[test]
    fn a_record_has_its_time_and_its_text() {
        let found = record(b"4,51142,79342378240,-;first line\n SUBSYSTEM=block\n");
        assert_eq!(found, Some((79_342_378_240, "first line".to_owned())));
        assert_eq!(record(b"nonsense"), None);
    }
}
