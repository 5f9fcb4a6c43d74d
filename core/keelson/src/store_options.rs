//! Flags of the store, the same for every command that opens one; named as etcd's.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use jiff::SignedDuration;
use keelson_apiserver::server::Config;
use keelson_apiserver::snapshots::schedule::{self, Schedule};
use keelson_store::raft_store::Timing;

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Store")]
pub(crate) struct StoreOptions {
    /// How often the leader shows the other members that it is there, in milliseconds. A store with one member needs no
    /// such sign.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(10..=10_000))]
    pub(crate) heartbeat_interval: u64,
    /// After how many milliseconds without a sign of the leader the others elect another; at least five heartbeats.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 700, value_parser = clap::value_parser!(u64).range(50..=50_000))]
    pub(crate) election_timeout: u64,
    /// How many bytes all objects may have together. Beyond it what would add to them is refused, until objects are
    /// deleted or this is raised; 0 stands for 2 GiB, and less for no limit. Of several members the leader's setting holds.
    #[arg(long, value_name = "BYTES", default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) quota_backend_bytes: i64,
    /// The largest object that is stored, in bytes; the API server takes none of more than 3 MiB anyway.
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 20, value_parser = clap::value_parser!(u64).range(1024..=16 << 20))]
    pub(crate) max_request_bytes: u64,
    /// After how many entries of its log the state is saved, so that a start need not read them.
    #[arg(long, value_name = "ENTRIES", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) snapshot_count: u64,
    /// After how many bytes of its log the state is saved, if that comes first.
    #[arg(long, value_name = "BYTES", default_value_t = 16 << 20, value_parser = clap::value_parser!(u64).range(1 << 16..))]
    pub(crate) snapshot_log_bytes: u64,
    /// How long past states can be read, at least, and at most twice as long: pages of a list that was begun, and lists
    /// at an exact revision. An etcd that keeps the state is compacted as often, by one of all API servers that use it.
    /// `0s` lets age count for nothing, and leaves compaction to others.
    #[arg(long, value_name = "DURATION", default_value = "5m", visible_alias = "auto-compaction-retention")]
    pub(crate) etcd_compaction_interval: SignedDuration,
    /// How many bytes the changes that are kept for those who watch may take, about; the oldest are dropped first, and
    /// with them those beyond 4096 of a resource.
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20, value_parser = clap::value_parser!(u64).range(1 << 20..))]
    pub(crate) watch_history_bytes: u64,
    /// When a snapshot of the store is saved as a file, as `keelson snapshot save` does: how long after the last one,
    /// such as `6h`, or five fields of cron, such as `0 */6 * * *`, and a time zone behind them if it is not the system's.
    #[arg(long, value_name = "SCHEDULE")]
    pub(crate) snapshot_schedule: Option<Schedule>,
    /// How many of them are kept.
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) snapshot_retention: u16,
    /// The folder that they are saved in; `snapshots` in the data folder otherwise. Each server needs one of its own.
    #[arg(long, value_name = "DIR")]
    pub(crate) snapshot_dir: Option<PathBuf>,
}

/// The quota that 0 stands for, as in etcd.
const QUOTA: u64 = 2 << 30;

impl StoreOptions {
    /// Sets what the flags say.
    pub(crate) fn apply(&self, config: &mut Config) -> anyhow::Result<()> {
        let store = &mut config.store;
        anyhow::ensure!(
            self.election_timeout >= self.heartbeat_interval.saturating_mul(5),
            "--election-timeout is {} ms: give at least five times --heartbeat-interval, which is {} ms",
            self.election_timeout,
            self.heartbeat_interval
        );
        store.timing = Timing {
            heartbeat: Duration::from_millis(self.heartbeat_interval),
            election_timeout: Duration::from_millis(self.election_timeout),
            ..store.timing.clone()
        };
        store.quota_bytes = match self.quota_backend_bytes {
            0 => Some(QUOTA),
            bytes => u64::try_from(bytes).ok(),
        };
        store.max_value_bytes = self.max_request_bytes;
        store.checkpoint_after_entries = self.snapshot_count;
        store.checkpoint_after_bytes = self.snapshot_log_bytes;
        // What history is served, the watch cache keeps: twice would be a waste.
        store.history = 0;
        config.compaction_interval = Duration::try_from(self.etcd_compaction_interval)
            .context("--etcd-compaction-interval is negative: give a duration such as 5m")?;
        config.history_bytes = self.watch_history_bytes;
        config.snapshots = self.snapshot_schedule.clone().map(|schedule| schedule::Options {
            schedule,
            dir: self.snapshot_dir.clone().unwrap_or_else(|| config.data_dir.join("snapshots")),
            retention: usize::from(self.snapshot_retention),
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        store: StoreOptions,
    }

    fn applied(flags: &[&str]) -> anyhow::Result<Config> {
        let flags = Flags::try_parse_from([&["keelson"], flags].concat())?;
        let mut config = Config::new(PathBuf::from("/nowhere"), ([127, 0, 0, 1], 0).into());
        flags.store.apply(&mut config)?;
        Ok(config)
    }

    #[test]
    fn without_flags_the_store_is_kept_as_by_default() {
        assert_eq!(applied(&[]).unwrap().store.timing, Timing::default());
    }

    #[test]
    fn the_quota_is_two_gibibytes_and_a_negative_number_is_none() {
        assert_eq!(applied(&[]).unwrap().store.quota_bytes, Some(2 << 30));
        assert_eq!(applied(&["--quota-backend-bytes", "4096"]).unwrap().store.quota_bytes, Some(4096));
        assert_eq!(applied(&["--quota-backend-bytes", "-1"]).unwrap().store.quota_bytes, None);
    }

    #[test]
    fn an_election_takes_at_least_five_heartbeats() {
        let error = applied(&["--heartbeat-interval=200"]).unwrap_err();
        assert!(error.to_string().starts_with("--election-timeout is 700 ms"), "{error}");
        let config = applied(&["--heartbeat-interval=200", "--election-timeout=1000"]).unwrap();
        assert_eq!(config.store.timing.heartbeat, Duration::from_millis(200));
    }

    #[test]
    fn snapshots_are_saved_below_the_data_folder_unless_another_is_given() {
        assert!(applied(&[]).unwrap().snapshots.is_none());
        let options = applied(&["--snapshot-schedule=6h"]).unwrap().snapshots.unwrap();
        assert_eq!((options.dir, options.retention), (PathBuf::from("/nowhere/snapshots"), 5));
        let flags = ["--snapshot-schedule", "0 */6 * * *", "--snapshot-dir=/there", "--snapshot-retention=2"];
        let options = applied(&flags).unwrap().snapshots.unwrap();
        assert_eq!((options.dir, options.retention), (PathBuf::from("/there"), 2));
        assert!(applied(&["--snapshot-schedule=often"]).is_err());
    }
}
