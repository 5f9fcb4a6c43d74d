//! What a member counts, under the names that etcd uses for the same, so that its dashboards and alerts serve.

use std::sync::Arc;
use std::time::Duration;

use keelson_metrics::{Histogram, HistogramVec, IntCounter, Registry, RegistryError, Source};
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;

use crate::raft::core::Core;
use crate::raft::runtime::spawn;

/// From 1 ms to 8 s, as etcd has them, with finer ones below.
const SECONDS: &[f64] = &[
    0.000_125, 0.000_25, 0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512,
    1.024, 2.048, 4.096, 8.192,
];

/// The handles of what is counted as it happens.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Registry,
    /// One flush of the log.
    pub(crate) fsync: Histogram,
    /// One state that is saved.
    pub(crate) save: Histogram,
    /// Batches of writes that failed.
    pub(crate) proposals_failed: IntCounter,
    round_trips: HistogramVec,
    leader_changes: IntCounter,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, RegistryError> {
        let histogram = |name: &str, help: &str| {
            Ok::<_, RegistryError>(
                registry.histograms(name, help, &[], SECONDS)?.with_label_values::<&str>(&[]),
            )
        };
        let counter = |name: &str, help: &str| {
            Ok::<_, RegistryError>(registry.counters(name, help, &[])?.with_label_values::<&str>(&[]))
        };
        Ok(Metrics {
            registry: registry.clone(),
            fsync: histogram(
                "etcd_disk_wal_fsync_duration_seconds",
                "How long writing a group of records to the log and flushing it takes.",
            )?,
            save: histogram(
                "etcd_snap_db_save_total_duration_seconds",
                "How long saving the applied state takes.",
            )?,
            proposals_failed: counter(
                "etcd_server_proposals_failed_total",
                "Batches of writes that were not made, or of which it is not known.",
            )?,
            round_trips: registry.histograms(
                "etcd_network_peer_round_trip_time_seconds",
                "How long another member takes to answer a question of this one.",
                &["To"],
                SECONDS,
            )?,
            leader_changes: counter(
                "etcd_server_leader_changes_seen_total",
                "How often this member has seen another leader than before.",
            )?,
        })
    }

    /// Another member has answered.
    pub(crate) fn round_trip(&self, to: u64, took: Duration) {
        self.round_trips.with_label_values(&[format!("{to:016x}")]).observe(took.as_secs_f64());
    }

    /// Adds what is read off a running member when somebody asks, and counts its leaders.
    pub(crate) fn watch(&self, core: &Arc<Core>) -> Result<(), RegistryError> {
        let value = |name: &str, help: &str, read: fn(&Core) -> f64| {
            let core = Arc::downgrade(core);
            let read = move || core.upgrade().map(|core| (Vec::new(), read(&core))).into_iter().collect();
            self.registry.add(Source::gauge(name, help, &[], read)?)
        };
        fn state(core: &Core) -> ServerState {
            core.raft.server_metrics().borrow_watched().state
        }
        fn data<T>(
            core: &Core,
            read: impl Fn(&openraft::metrics::RaftDataMetrics<crate::raft::TypeConfig>) -> T,
        ) -> T {
            read(&core.raft.data_metrics().borrow_watched())
        }
        value("etcd_server_has_leader", "Whether this member knows a leader.", |core| {
            f64::from(u8::from(core.leader().is_some()))
        })?;
        value("etcd_server_is_leader", "Whether this member leads.", |core| {
            f64::from(u8::from(state(core) == ServerState::Leader))
        })?;
        value("etcd_server_is_learner", "Whether this member is a learner.", |core| {
            f64::from(u8::from(state(core) == ServerState::Learner))
        })?;
        value("etcd_server_proposals_pending", "Batches of writes that wait.", |core| {
            core.pending.len() as f64
        })?;
        value(
            "etcd_server_proposals_committed_total",
            "The entries of the log that are committed.",
            |core| data(core, |it| it.local_committed.map_or(0.0, |id| id.index as f64)),
        )?;
        value("etcd_server_proposals_applied_total", "The entries of the log that are applied.", |core| {
            data(core, |it| it.last_applied.map_or(0.0, |id| id.index as f64))
        })?;
        value("keelson_store_log_bytes", "The bytes of the log on the disk.", |core| {
            core.log.retained_bytes() as f64
        })?;
        let size = "The bytes of all keys and values, which the quota limits.";
        for name in ["etcd_mvcc_db_total_size_in_bytes", "etcd_mvcc_db_total_size_in_use_in_bytes"] {
            value(name, size, |core| core.engine.read().bytes() as f64)?;
        }
        value(
            "etcd_server_quota_backend_bytes",
            "How many bytes keys and values may have together; 0 where there is no limit.",
            |core| core.space.quota.map_or(0.0, |quota| quota.0 as f64),
        )?;
        let alarmed = Arc::downgrade(core);
        let alarm = move || {
            let core = alarmed.upgrade();
            let labels = |core: &Core| vec![format!("{:016x}", core.id()), "NOSPACE".to_owned()];
            core.map(|core| (labels(&core), f64::from(u8::from(core.lacks_space())))).into_iter().collect()
        };
        self.registry.add(Source::gauge(
            "etcd_debugging_server_alarms",
            "Alarms of this member: 1 while it is raised.",
            &["server_id", "alarm_type"],
            alarm,
        )?)?;
        value("etcd_debugging_store_keys", "The keys that the store holds.", |core| {
            core.engine.read().snapshot().len() as f64
        })?;
        self.count_leaders(core);
        Ok(())
    }

    fn count_leaders(&self, core: &Arc<Core>) {
        let mut server = core.raft.server_metrics();
        let changes = self.leader_changes.clone();
        spawn(async move {
            let mut last = None;
            loop {
                let leader = server.borrow_watched().current_leader;
                if leader.is_some() && leader != last {
                    changes.inc();
                    last = leader;
                }
                if server.changed().await.is_err() {
                    return;
                }
            }
        });
    }
}
