//! Whether there is room for more: the quota of the state, and the disk.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::watch;

use super::core::Core;
use super::room::{Purpose, Room};
use crate::log::LogError;
use crate::{Alarm, Quota};

/// The room that a member has.
#[derive(Debug, Default)]
pub(crate) struct Space {
    /// By what this member, when it leads, has writes judged.
    pub(crate) quota: Option<Quota>,
    /// Whether the next save is to give room back to the disk.
    pub(crate) reclaim: AtomicBool,
    /// How often that has been done.
    pub(crate) reclaimed: watch::Sender<u64>,
    /// How many bytes last found no room on the disk; 0 where they did.
    wanted: AtomicU64,
}

impl Space {
    pub(crate) fn new(quota: Option<Quota>) -> Self {
        Space { quota, ..Space::default() }
    }

    /// Notes whether room for as many bytes could be reserved.
    pub(crate) fn reserved(&self, bytes: u64, outcome: &Result<Room, LogError>) {
        match outcome {
            Ok(_) => self.wanted.store(0, Ordering::Relaxed),
            Err(error) if error.is_no_space() => self.wanted.store(bytes, Ordering::Relaxed),
            Err(_) => {}
        }
    }

    fn disk_is_full(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) > 0
    }
}

impl Core {
    /// What keeps this member from taking all writes.
    pub(crate) async fn alarms(&self) -> Vec<Alarm> {
        let wanted = self.space.wanted.load(Ordering::Relaxed);
        if wanted > 0 {
            // Nobody may have written since there is room again.
            self.space.reserved(wanted, &self.log.reserve(wanted, Purpose::Put).await);
        }
        self.quota_alarm().into_iter().chain(self.space.disk_is_full().then_some(Alarm::Disk)).collect()
    }

    /// Whether there is an alarm, as far as is known without asking the disk.
    pub(crate) fn lacks_space(&self) -> bool {
        self.space.disk_is_full() || self.quota_alarm().is_some()
    }

    fn quota_alarm(&self) -> Option<Alarm> {
        let engine = self.engine.read();
        let quota = self.space.quota?.0;
        let bytes = engine.bytes();
        (bytes >= quota || engine.lacks_space()).then_some(Alarm::Quota { bytes, quota })
    }
}
