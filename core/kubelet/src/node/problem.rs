//! What is wrong with the machine itself, as conditions of the Node and events: the kernel's log, the clock, and a kubelet that is
//! started again and again.
//!
//! Conditions have the types that node-problem-detector gives them, so that what looks for these finds them. What cannot be looked at has
//! no condition.
//!
//! - `kernel_log`: reads the kernel's log; `clock`: whether it is synchronized; `starts`: when this kubelet was started

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;

use super::NodeRecorder;

mod clock;
mod kernel_log;
mod starts;

/// A condition, and whether there is the problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) kind: &'static str,
    pub(super) is_there: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// Of a kind of problem that the kernel's log tells, what is said while there is none.
const OF_THE_LOG: [(&str, &str, &str); 2] = [
    ("KernelDeadlock", "KernelHasNoDeadlock", "kernel has no deadlock"),
    ("ReadonlyFilesystem", "FilesystemIsNotReadOnly", "Filesystem is not read-only"),
];

#[derive(Debug, Default)]
struct Found {
    /// Whether the kernel's log is read.
    reads_log: bool,
    /// What it has told, by type of condition: reason and line.
    of_the_log: BTreeMap<&'static str, (&'static str, String)>,
    starts: Vec<Timestamp>,
}

/// What was found up to now. A clone is the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Problems(Arc<Mutex<Found>>);

impl Problems {
    /// Remembers that the kubelet was started, in its folder.
    pub(super) fn begin(data_dir: &Path) -> Self {
        let starts = starts::record(&data_dir.join("starts"), Timestamp::now());
        Problems(Arc::new(Mutex::new(Found { starts, ..Found::default() })))
    }

    /// Reads the kernel's log as long as it can be read; tells of it, and remembers what lasts.
    pub(super) async fn keep(&self, recorder: &NodeRecorder) {
        if let Err(error) = kernel_log::follow(self, recorder).await {
            tracing::info!(%error, "the kernel's log cannot be read: nothing of it becomes a condition or an event");
            self.0.lock().reads_log = false;
        }
    }

    fn log_is_read(&self) {
        self.0.lock().reads_log = true;
    }

    fn put(&self, kind: &'static str, reason: &'static str, line: &str) {
        self.0.lock().of_the_log.insert(kind, (reason, line.to_owned()));
    }

    /// The conditions as they are now.
    pub(super) fn conditions(&self, now: Timestamp) -> Vec<Problem> {
        let found = self.0.lock();
        let mut all = Vec::new();
        for (kind, reason, message) in OF_THE_LOG.into_iter().filter(|_| found.reads_log) {
            let told = found.of_the_log.get(kind);
            let (reason, message) = told.cloned().unwrap_or_else(|| (reason, message.to_owned()));
            all.push(Problem { kind, is_there: told.is_some(), reason, message });
        }
        all.push(starts::problem(&found.starts, now));
        all.extend(clock::problem());
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_log_has_told_stays_and_what_cannot_be_read_is_not_said() {
        let now = Timestamp::from_second(1000).unwrap();
        let problems = Problems::default();
        let of = |kind: &str| problems.conditions(now).into_iter().find(|one| one.kind == kind);
        assert_eq!(of("ReadonlyFilesystem"), None);
        problems.log_is_read();
        let fine = of("ReadonlyFilesystem").unwrap();
        assert_eq!((fine.is_there, fine.reason), (false, "FilesystemIsNotReadOnly"));
        problems.put(
            "ReadonlyFilesystem",
            "FilesystemIsReadOnly",
            "EXT4-fs: Remounting filesystem read-only",
        );
        let bad = of("ReadonlyFilesystem").unwrap();
        assert_eq!((bad.is_there, bad.reason), (true, "FilesystemIsReadOnly"));
        assert_eq!(bad.message, "EXT4-fs: Remounting filesystem read-only");
        assert!(!of("KernelDeadlock").unwrap().is_there);
    }
}
