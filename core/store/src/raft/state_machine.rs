//! What becomes of committed entries.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use openraft::EntryPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::type_config::alias::SnapshotOf;
use parking_lot::RwLock;

use super::snapshot_file::{self, Loaded};
use super::{LogId, Outcomes, SnapshotMeta, StoredMembership, TypeConfig};
use crate::engine::Config;
use crate::{Engine, Observer, Snapshot};

/// The engine, its place in the log, and those who follow it.
pub(crate) struct StateMachine {
    engine: Arc<RwLock<Engine>>,
    config: Config,
    observer: Arc<dyn Observer>,
    dir: PathBuf,
    applied: Option<LogId>,
    membership: StoredMembership,
    saved: Option<SnapshotOf<TypeConfig, Snapshot>>,
}

impl StateMachine {
    /// The state of a snapshot, or an empty one. The observer is shown it at once; what the log adds follows.
    pub(crate) fn new(
        dir: PathBuf,
        config: Config,
        loaded: Option<Loaded>,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let (engine, meta) = match loaded {
            Some(loaded) => (Engine::restore(config, loaded.revision, loaded.entries), Some(loaded.meta)),
            None => (Engine::new(config), None),
        };
        let state = engine.snapshot();
        observer.restored(&state);
        let saved = meta.clone().map(|meta| SnapshotOf::<TypeConfig, Snapshot> { meta, snapshot: state });
        let meta = meta.unwrap_or_default();
        StateMachine {
            engine: Arc::new(RwLock::new(engine)),
            config,
            observer,
            dir,
            applied: meta.last_log_id,
            membership: meta.last_membership,
            saved,
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

/// Writes one state to the disk. It may run while later entries are applied.
pub(crate) struct SnapshotBuilder {
    dir: PathBuf,
    meta: SnapshotMeta,
    state: Snapshot,
}

async fn save(dir: PathBuf, meta: SnapshotMeta, state: Snapshot) -> io::Result<()> {
    tokio::task::spawn_blocking(move || snapshot_file::save(&dir, &meta, &state))
        .await
        .map_err(io::Error::other)?
        .map_err(io::Error::other)
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = Snapshot;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, Snapshot>, io::Error> {
        save(self.dir.clone(), self.meta.clone(), self.state.clone()).await?;
        Ok(SnapshotOf::<TypeConfig, Snapshot> { meta: self.meta.clone(), snapshot: self.state.clone() })
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
        SnapshotBuilder { dir: self.dir.clone(), meta: self.meta(), state: self.engine.read().snapshot() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Snapshot) -> Result<(), io::Error> {
        save(self.dir.clone(), meta.clone(), snapshot.clone()).await?;
        *self.engine.write() = Engine::adopt(self.config, snapshot.clone());
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.observer.restored(&snapshot);
        self.saved = Some(SnapshotOf::<TypeConfig, Snapshot> { meta: meta.clone(), snapshot });
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<TypeConfig, Snapshot>>, io::Error> {
        Ok(self.saved.clone())
    }
}
