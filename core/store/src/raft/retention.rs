//! How much of the log is kept for members that lack some of it.
//!
//! The newest entries are always kept, so that one who was away for a moment is sent what it missed. The leader keeps
//! more for those that follow: what they have not got yet, and what comes behind a whole state that is being sent to
//! them - as long as sending that is cheaper than sending the whole state again. So joining ends under load too.

use std::collections::BTreeMap;
use std::sync::Arc;

use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;

use super::core::Core;

/// The whole states that are being sent: to whom, and the index of the last entry that is in them.
#[derive(Debug, Default)]
pub(crate) struct Sending(Mutex<BTreeMap<u64, u64>>);

/// One that is being sent, until this is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay {
    sending: Arc<Sending>,
    to: u64,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.sending.0.lock().remove(&self.to);
    }
}

impl Sending {
    /// A state that includes the entries up to `index` is sent to a member.
    pub(crate) fn begin(self: &Arc<Self>, to: u64, index: u64) -> UnderWay {
        self.0.lock().insert(to, index);
        UnderWay { sending: Arc::clone(self), to }
    }

    fn to(&self, member: u64) -> Option<u64> {
        self.0.lock().get(&member).copied()
    }
}

/// How many bytes of entries are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    /// The newest, for whoever comes back.
    pub(crate) always: u64,
    /// The most that is kept for those who follow and lack it.
    pub(crate) at_most: u64,
}

/// The last entry that may be cut off behind a save of the state up to `saved`.
pub(crate) fn cut(core: &Core, saved: u64, kept: Kept) -> Option<u64> {
    if kept.always == 0 {
        return Some(saved);
    }
    let newest = core.log.behind(kept.always)?.min(saved);
    let Some(needed) = first_needed(core) else { return Some(newest) };
    decide(newest, needed, core.log.behind(kept.at_most))
}

/// Decides it: what nobody needs may go, and what is too much must.
fn decide(newest: u64, first_needed: u64, too_much: Option<u64>) -> Option<u64> {
    first_needed.checked_sub(1).max(too_much).map(|free| free.min(newest))
}

/// As leader: the first entry that a member lacks of those that were heard of lately. `None`: there is nobody.
fn first_needed(core: &Core) -> Option<u64> {
    let metrics = core.raft.metrics();
    let metrics = metrics.borrow_watched();
    let replication = metrics.replication.as_ref()?;
    let heard = |id: &u64| {
        let at = metrics.heartbeat.as_ref().and_then(|heard| heard.get(id)).and_then(|at| at.as_ref());
        at.is_some_and(|at| openraft::Instant::elapsed(&**at) < core.timing.election_timeout * 4)
    };
    let others = replication.iter().filter(|(id, _)| **id != core.id());
    others
        .filter_map(|(id, matched)| match core.sending.to(*id) {
            // It may have nothing to say while it takes the state.
            Some(index) => Some(index + 1),
            None => heard(id).then(|| matched.as_ref().map_or(0, |id| id.index + 1)),
        })
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_member_lacks_is_kept_unless_it_is_too_much() {
        assert_eq!(decide(90, 91, Some(20)), Some(90), "all have it");
        assert_eq!(decide(90, 200, None), Some(90), "the newest are kept anyway");
        assert_eq!(decide(90, 51, Some(20)), Some(50));
        assert_eq!(decide(90, 51, None), Some(50));
        assert_eq!(decide(90, 11, Some(20)), Some(20), "it is cheaper to send the whole state");
        assert_eq!(decide(90, 0, None), None);
    }

    #[test]
    fn a_state_is_being_sent_until_it_has_been() {
        let sending = Arc::new(Sending::default());
        let first = sending.begin(1, 10);
        let _second = sending.begin(2, 20);
        assert_eq!((sending.to(1), sending.to(2)), (Some(10), Some(20)));
        drop(first);
        assert_eq!((sending.to(1), sending.to(2)), (None, Some(20)));
    }
}
