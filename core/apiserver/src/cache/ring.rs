//! The recent events of a resource: as many as are allowed, and as the bytes of all resources together allow.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::WatchEvent;

/// Events that are kept for each resource.
pub(crate) const RING: usize = 4096;
/// How many of them, the newest, keep the frames that were built of them.
const WARM: usize = 512;
/// How many stay, however large they are: those who watch must find what they have just been woken for.
const LEAST: usize = 16;
/// What an event costs beside its documents.
const OVERHEAD: u64 = 512;

/// How many bytes the events of all resources may take.
#[derive(Debug)]
pub(super) struct Budget {
    limit: AtomicU64,
    used: AtomicU64,
}

impl Default for Budget {
    /// 64 MiB.
    fn default() -> Self {
        Budget { limit: AtomicU64::new(64 << 20), used: AtomicU64::new(0) }
    }
}

impl Budget {
    pub(super) fn set(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// How much must go, if anything must: with it some more, so that there is peace for a while.
    pub(super) fn surplus(&self) -> Option<u64> {
        let limit = self.limit.load(Ordering::Relaxed);
        self.used().checked_sub(limit).filter(|over| *over > 0).map(|over| over + limit / 8)
    }
}

/// The events of a resource.
pub(super) struct Ring {
    events: VecDeque<Arc<WatchEvent>>,
    /// Events after this revision are in the ring.
    floor: u64,
    bytes: u64,
    budget: Arc<Budget>,
}

/// What an event keeps in memory: what it has replaced, and itself or a frame of it.
fn cost(event: &WatchEvent) -> u64 {
    let previous = event.previous.as_ref().map_or(0, |it| it.bytes.len());
    OVERHEAD + (event.object.bytes.len() + previous) as u64
}

impl Ring {
    /// No events; there are none after `floor`.
    pub(super) fn new(floor: u64, budget: Arc<Budget>) -> Self {
        Ring { events: VecDeque::new(), floor, bytes: 0, budget }
    }

    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn events(&self) -> &VecDeque<Arc<WatchEvent>> {
        &self.events
    }

    pub(super) fn push(&mut self, event: Arc<WatchEvent>) {
        let bytes = cost(&event);
        self.bytes += bytes;
        self.budget.used.fetch_add(bytes, Ordering::Relaxed);
        self.events.push_back(event);
        if let Some(cold) = self.events.len().checked_sub(WARM + 1).and_then(|at| self.events.get(at)) {
            cold.cool();
        }
        if self.events.len() > RING {
            self.pop();
        }
    }

    /// Lets the oldest event go: who has not seen it reads anew.
    fn pop(&mut self) {
        if let Some(oldest) = self.events.pop_front() {
            let bytes = cost(&oldest);
            self.bytes -= bytes;
            self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
            self.floor = oldest.revision;
        }
    }

    /// Lets events up to a revision go.
    pub(super) fn compact(&mut self, upto: u64) {
        while self.events.front().is_some_and(|oldest| oldest.revision <= upto) {
            self.pop();
        }
    }

    /// Lets the oldest events go until `bytes` are free, or but a few are left. Says how many are free.
    pub(super) fn shed(&mut self, bytes: u64) -> u64 {
        let before = self.bytes;
        while self.events.len() > LEAST && before - self.bytes < bytes {
            self.pop();
        }
        before - self.bytes
    }

    /// Lets all events go: who has not seen `floor` reads anew.
    pub(super) fn clear(&mut self, floor: u64) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.events.clear();
        (self.bytes, self.floor) = (0, floor);
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.clear(self.floor);
    }
}
