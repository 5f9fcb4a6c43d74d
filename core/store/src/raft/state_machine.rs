//! What becomes of committed entries.

use std::io;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use openraft::EntryPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::type_config::alias::SnapshotOf;
use parking_lot::{Mutex, RwLock};

use super::recovery::Recovered;
use super::saver::Saver;
use super::{LogId, Outcomes, SnapshotMeta, StoredMembership, TypeConfig};
use crate::engine::Config;
use crate::{Engine, Observer, Snapshot};

type Saved = Arc<Mutex<Option<SnapshotOf<TypeConfig, Snapshot>>>>;

/// The engine, its place in the log, and those who follow it.
pub(crate) struct StateMachine {
    engine: Arc<RwLock<Engine>>,
    config: Config,
    observer: Arc<dyn Observer>,
    saver: Arc<Saver>,
    applied: Option<LogId>,
    membership: StoredMembership,
    saved: Saved,
}

impl StateMachine {
    /// Goes on from the state that was found. The observer is shown it at once; what the log adds follows.
    pub(crate) fn new(
        recovered: Recovered,
        config: Config,
        saver: Arc<Saver>,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let Recovered { engine, meta } = recovered;
        let state = engine.snapshot();
        observer.restored(&state);
        let found = meta.last_log_id.is_some();
        let saved = found.then(|| SnapshotOf::<TypeConfig, Snapshot> { meta: meta.clone(), snapshot: state });
        StateMachine {
            engine: Arc::new(RwLock::new(engine)),
            config,
            observer,
            saver,
            applied: meta.last_log_id,
            membership: meta.last_membership,
            saved: Arc::new(Mutex::new(saved)),
        }
    }

    /// The engine, for readers.
    pub(crate) fn engine(&self) -> Arc<RwLock<Engine>> {
        Arc::clone(&self.engine)
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() }
    }
}

/// Saves one state. It may run while later entries are applied.
pub(crate) struct SnapshotBuilder {
    saver: Arc<Saver>,
    meta: SnapshotMeta,
    state: Snapshot,
    saved: Saved,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = Snapshot;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, Snapshot>, io::Error> {
        self.saver.save(self.meta.clone(), self.state.clone()).await?;
        let snapshot =
            SnapshotOf::<TypeConfig, Snapshot> { meta: self.meta.clone(), snapshot: self.state.clone() };
        *self.saved.lock() = Some(snapshot.clone());
        Ok(snapshot)
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Snapshot;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            self.applied = Some(entry.log_id);
            let outcomes = match entry.payload {
                EntryPayload::Blank => Outcomes::default(),
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Outcomes::default()
                }
                EntryPayload::Normal(batch) => {
                    let applied = self.engine.write().apply(&batch.0);
                    if !applied.events.is_empty() {
                        self.observer.applied(&applied.events);
                    }
                    Outcomes(applied.outcomes)
                }
            };
            if let Some(responder) = responder {
                responder.send(outcomes);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            saver: Arc::clone(&self.saver),
            meta: self.meta(),
            state: self.engine.read().snapshot(),
            saved: Arc::clone(&self.saved),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Snapshot) -> Result<(), io::Error> {
        self.saver.save_whole(meta.clone(), snapshot.clone()).await?;
        *self.engine.write() = Engine::adopt(self.config, snapshot.clone());
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.observer.restored(&snapshot);
        *self.saved.lock() = Some(SnapshotOf::<TypeConfig, Snapshot> { meta: meta.clone(), snapshot });
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<TypeConfig, Snapshot>>, io::Error> {
        Ok(self.saved.lock().clone())
    }
}
