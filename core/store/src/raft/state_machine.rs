//! What becomes of committed entries.

use std::io;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use openraft::EntryPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::type_config::alias::SnapshotOf;
use parking_lot::{Mutex, RwLock};

use super::origin::Pending;
use super::recovery::Recovered;
use super::saver::Saver;
use super::snapshot_file::Aside;
use super::{LogId, Outcomes, SnapshotMeta, StoredMembership, TypeConfig};
use crate::engine::Config;
use crate::{Engine, Observer, Snapshot};

type Saved = Arc<Mutex<Option<SnapshotOf<TypeConfig, Image>>>>;

/// A whole state, as openraft hands it around.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) state: Snapshot,
    /// The file in which it came from another member.
    pub(crate) received: Option<Arc<Aside>>,
}

impl From<Snapshot> for Image {
    fn from(state: Snapshot) -> Self {
        Image { state, received: None }
    }
}

/// The engine, its place in the log, and those who follow it.
pub(crate) struct StateMachine {
    engine: Arc<RwLock<Engine>>,
    config: Config,
    observer: Arc<dyn Observer>,
    pending: Arc<Pending>,
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
        pending: Arc<Pending>,
    ) -> Self {
        let Recovered { engine, meta } = recovered;
        let state = engine.snapshot();
        observer.restored(&state);
        let found = meta.last_log_id.is_some();
        let saved =
            found.then(|| SnapshotOf::<TypeConfig, Image> { meta: meta.clone(), snapshot: state.into() });
        StateMachine {
            engine: Arc::new(RwLock::new(engine)),
            config,
            observer,
            pending,
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
    type SnapshotData = Image;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, Image>, io::Error> {
        if let Err(error) = self.saver.save(self.meta.clone(), self.state.clone()).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the state could not be saved");
            // An error would end the member, which has lost nothing: its log is whole. A state from before everything
            // is older than any that is saved, and is passed over.
            let none = SnapshotMeta { last_log_id: None, ..self.meta.clone() };
            return Ok(SnapshotOf::<TypeConfig, Image> { meta: none, snapshot: self.state.clone().into() });
        }
        let snapshot =
            SnapshotOf::<TypeConfig, Image> { meta: self.meta.clone(), snapshot: self.state.clone().into() };
        let mut saved = self.saved.lock();
        // A newer one may have been taken over meanwhile.
        if saved.as_ref().is_none_or(|saved| saved.meta.last_log_id <= snapshot.meta.last_log_id) {
            *saved = Some(snapshot.clone());
        }
        Ok(snapshot)
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Image;
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
                    let applied = self.engine.write().apply_within(batch.quota, &batch.writes);
                    if !applied.events.is_empty() {
                        self.observer.applied(&applied.events);
                    }
                    let outcomes = Outcomes(applied.outcomes);
                    if let Some(origin) = batch.origin {
                        self.pending.applied(origin, &outcomes);
                    }
                    outcomes
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

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, image: Image) -> Result<(), io::Error> {
        self.saver.save_whole(meta.clone(), image.clone()).await?;
        let state = image.state;
        *self.engine.write() = Engine::adopt(self.config, state.clone());
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.observer.restored(&state);
        self.pending.replaced();
        *self.saved.lock() =
            Some(SnapshotOf::<TypeConfig, Image> { meta: meta.clone(), snapshot: state.into() });
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<TypeConfig, Image>>, io::Error> {
        Ok(self.saved.lock().clone())
    }
}
