//! Keys that have to be looked at (client of nothing but the clock): the driver around [`state`].

use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::state::State;

pub mod state;

/// A queue in which each key waits at most once, is never handed out twice at the same time, and comes back after a
/// growing pause when looking at it failed. Cheap to clone; all clones are the same queue.
///
/// It is bounded by the number of different keys.
pub struct WorkQueue<K>(Arc<Shared<K>>);

struct Shared<K> {
    state: Mutex<State<K>>,
    changed: Notify,
}

impl<K> Clone for WorkQueue<K> {
    fn clone(&self) -> Self {
        WorkQueue(Arc::clone(&self.0))
    }
}

impl<K: Clone + Ord + Hash> Default for WorkQueue<K> {
    fn default() -> Self {
        WorkQueue(Arc::new(Shared { state: Mutex::new(State::default()), changed: Notify::new() }))
    }
}

impl<K: Clone + Ord + Hash> WorkQueue<K> {
    /// Asks for a look at `key` as soon as possible.
    pub fn add(&self, key: K) {
        self.0.state.lock().add(key);
        self.0.changed.notify_one();
    }

    /// Asks for a look at `key` after a time, if nobody asks for an earlier one.
    pub fn add_after(&self, key: K, after: Duration) {
        self.0.state.lock().add_at(key, Instant::now() + after);
        self.0.changed.notify_one();
    }

    /// The next key to look at. It must be given back with [`WorkQueue::done`] or [`WorkQueue::failed`].
    pub async fn next(&self) -> K {
        loop {
            let wake = {
                let mut state = self.0.state.lock();
                if let Some(key) = state.next(Instant::now()) {
                    return key;
                }
                state.wakes_at()
            };
            match wake {
                Some(at) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(at) => {}
                        () = self.0.changed.notified() => {}
                    }
                }
                None => self.0.changed.notified().await,
            }
        }
    }

    /// The look was taken.
    pub fn done(&self, key: &K) {
        self.0.state.lock().done(key);
        self.0.changed.notify_one();
    }

    /// The look failed: there will be another one, after the returned time.
    pub fn failed(&self, key: &K) -> Duration {
        let pause = self.0.state.lock().failed(key, Instant::now());
        self.0.changed.notify_one();
        pause
    }
}
