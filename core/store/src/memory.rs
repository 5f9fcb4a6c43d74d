//! The engine without a log: nothing survives the process. For embedding and for tests.

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::engine::{Config, HistoryError};
use crate::{Engine, Entry, Observer, Revision, Snapshot, Store, StoreError, Write};

/// A store in memory.
pub struct MemoryStore {
    state: Mutex<State>,
    observer: Arc<dyn Observer>,
}

struct State {
    engine: Engine,
    closed: bool,
}

impl MemoryStore {
    /// An empty store; `observer` is shown the empty state at once.
    pub fn open(config: Config, observer: Arc<dyn Observer>) -> Arc<Self> {
        let engine = Engine::new(config);
        observer.restored(&engine.snapshot());
        Arc::new(MemoryStore { state: Mutex::new(State { engine, closed: false }), observer })
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn write(&self, write: Write) -> Result<Entry, StoreError> {
        // The lock is held while the observer is told: that is what keeps its calls in order.
        let mut state = self.state.lock();
        if state.closed {
            return Err(StoreError::Closed);
        }
        let mut applied = state.engine.apply([&write]);
        if !applied.events.is_empty() {
            self.observer.applied(&applied.events);
        }
        applied.outcomes.pop().map_or(Err(StoreError::Closed), |outcome| outcome.map_err(StoreError::from))
    }

    async fn barrier(&self) -> Result<Revision, StoreError> {
        let state = self.state.lock();
        if state.closed { Err(StoreError::Closed) } else { Ok(state.engine.revision()) }
    }

    fn snapshot(&self) -> Snapshot {
        self.state.lock().engine.snapshot()
    }

    fn snapshot_at(&self, revision: Revision) -> Result<Snapshot, HistoryError> {
        self.state.lock().engine.snapshot_at(revision)
    }

    async fn close(&self) {
        self.state.lock().closed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Change, Event, Key, Precondition, Value};

    #[derive(Default)]
    struct Seen(Mutex<Vec<u64>>);

    impl Observer for Seen {
        fn restored(&self, snapshot: &Snapshot) {
            self.0.lock().push(snapshot.revision().get());
        }
        fn applied(&self, events: &[Event]) {
            self.0.lock().extend(events.iter().map(|event| event.revision.get()));
        }
        fn compacted(&self, _: Revision) {}
    }

    #[tokio::test]
    async fn the_observer_has_seen_a_write_when_it_is_answered() {
        let seen = Arc::new(Seen::default());
        let store = MemoryStore::open(Config::default(), seen.clone());
        let write = Write {
            key: Key::new("/a").unwrap(),
            precondition: Precondition::Absent,
            change: Change::Put(Value::plain("x")),
        };
        assert_eq!(store.write(write.clone()).await.unwrap().modified, Revision::new(1));
        assert_eq!(*seen.0.lock(), [0, 1]);
        assert!(matches!(store.write(write.clone()).await, Err(StoreError::Refused(_))));
        assert_eq!(*seen.0.lock(), [0, 1]);
        store.close().await;
        assert!(matches!(store.write(write).await, Err(StoreError::Closed)));
    }
}
