//! What every store promises, of three members.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use keelson_store::conformance::Bench;
use keelson_store::engine::HistoryError;
use keelson_store::raft_store::Config;
use keelson_store::{Entry, Observer, RaftStore, Revision, Snapshot, Store, StoreError, Write};
use tokio::sync::Mutex;

use super::cluster::Cluster;

/// Who leads.
const LEADER: &str = "a";
/// The member whose observer is told.
const SEEN: &str = "c";
/// Another one, for those who share the store.
const OTHER: &str = "b";

/// Who is asked to write.
#[derive(Clone, Copy)]
enum Asked {
    /// The one that is seen.
    Follower,
    /// The one that is seen and the leader, in turn.
    Both,
}

struct Three {
    cluster: Mutex<Cluster>,
    asked: Asked,
}

impl Three {
    async fn new(asked: Asked) -> Self {
        // Nobody is to take a member for dead because the machine that runs the tests has much to do.
        let patient = |config: &mut Config| {
            config.timing.election_timeout = Duration::from_secs(10);
            config.timing.request_timeout = Duration::from_secs(60);
        };
        Three { cluster: Mutex::new(Cluster::of_three_with(patient).await), asked }
    }
}

#[async_trait]
impl Bench for Three {
    async fn open(&self, observer: Arc<dyn Observer>) -> Arc<dyn Store> {
        let mut cluster = self.cluster.lock().await;
        cluster.restart(SEEN, observer).await;
        cluster.lead(LEADER).await;
        let seen = Arc::clone(cluster.node(SEEN).store());
        match self.asked {
            Asked::Follower => seen,
            Asked::Both => {
                let all = vec![Arc::clone(&seen), Arc::clone(cluster.node(LEADER).store())];
                Arc::new(InTurn { seen, all, next: AtomicUsize::new(0), closed: AtomicBool::new(false) })
            }
        }
    }

    async fn share(&self, observer: Arc<dyn Observer>) -> Option<Arc<dyn Store>> {
        let mut cluster = self.cluster.lock().await;
        cluster.restart(OTHER, observer).await;
        Some(Arc::clone(cluster.node(OTHER).store()) as Arc<dyn Store>)
    }
}

/// Writes through one member after the other, and shows what one of them has when it is there.
struct InTurn {
    seen: Arc<RaftStore>,
    all: Vec<Arc<RaftStore>>,
    next: AtomicUsize,
    closed: AtomicBool,
}

#[async_trait]
impl Store for InTurn {
    async fn write(&self, write: Write) -> Result<Entry, StoreError> {
        if self.closed.load(Ordering::SeqCst) {
            return self.seen.write(write).await;
        }
        let at = self.next.fetch_add(1, Ordering::SeqCst) % self.all.len();
        let outcome = self.all[at].write(write).await;
        self.seen.barrier().await?;
        outcome
    }

    async fn barrier(&self) -> Result<Revision, StoreError> {
        self.seen.barrier().await
    }

    fn snapshot(&self) -> Snapshot {
        self.seen.snapshot()
    }

    fn snapshot_at(&self, revision: Revision) -> Result<Snapshot, HistoryError> {
        self.seen.snapshot_at(revision)
    }

    async fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.seen.close().await;
    }
}

mod of_a_follower {
    use super::{Asked, Three};

    keelson_store::conformance!(Three::new(Asked::Follower).await);
}

mod of_the_leader_and_a_follower {
    use super::{Asked, Three};

    keelson_store::conformance!(Three::new(Asked::Both).await);
}
