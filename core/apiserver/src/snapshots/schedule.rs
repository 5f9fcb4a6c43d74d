//! Snapshots that are saved of themselves, the newest of which are kept.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use cronexpr::{Crontab, FallbackTimezoneOption, MakeTimestamp, ParseOptions};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use keelson_metrics::{GaugeVec, IntCounterVec, Registry, RegistryError};
use tokio_util::sync::CancellationToken;

use super::{SaveError, Snapshots};

/// The extension of a file that is not whole yet.
pub(super) const PARTIAL: &str = "partial";
const EXTENSION: &str = "snapshot";
const PREFIX: &str = "keelson-";
const TIME: &str = "%Y%m%dT%H%M%SZ";
/// The longest sleep: a clock that is set is noticed after it.
const LOOK: Duration = Duration::from_secs(60);
/// The pause after a failure, if the schedule has no earlier time.
const RETRY: SignedDuration = SignedDuration::from_mins(10);

/// When snapshots are saved.
#[derive(Clone, Debug)]
pub enum Schedule {
    /// As long after the one before.
    Every(SignedDuration),
    /// At the times of a crontab line.
    At(Box<Crontab>),
}

/// Why a text is no schedule.
#[derive(Debug, thiserror::Error)]
#[error(
    "{text:?} is neither a duration of at least a minute, such as 6h, nor five fields of cron, such as \"0 */6 * * *\""
)]
pub struct InvalidSchedule {
    text: String,
}

impl FromStr for Schedule {
    type Err = InvalidSchedule;

    /// A duration, or the five fields of cron with a time zone behind them if it is not the system's.
    fn from_str(text: &str) -> Result<Self, InvalidSchedule> {
        let invalid = || InvalidSchedule { text: text.to_owned() };
        if let Ok(every) = text.parse::<SignedDuration>() {
            return if every >= SignedDuration::from_mins(1) {
                Ok(Schedule::Every(every))
            } else {
                Err(invalid())
            };
        }
        let mut options = ParseOptions::default();
        options.fallback_timezone_option = FallbackTimezoneOption::System;
        cronexpr::parse_crontab_with(text, options)
            .map(|it| Schedule::At(Box::new(it)))
            .map_err(|_| invalid())
    }
}

impl Schedule {
    /// When the next one is due, if the last was begun at `last`.
    fn next(&self, last: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
        match (self, last) {
            (Schedule::Every(_), None) => Some(now),
            // A clock that was ahead has named it: nobody waits until that time comes.
            (Schedule::Every(every), Some(last)) => last.min(now).checked_add(*every).ok(),
            (Schedule::At(times), _) => times.find_next(MakeTimestamp(now)).ok().map(|next| next.timestamp()),
        }
    }
}

/// What is saved when, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// When.
    pub schedule: Schedule,
    /// The folder; made if it is not there. No other server saves there.
    pub dir: PathBuf,
    /// How many are kept.
    pub retention: usize,
}

/// What is counted of it.
pub struct Counts {
    saved: IntCounterVec,
    last: GaugeVec,
}

impl Counts {
    /// The metrics.
    pub fn new(registry: &Registry) -> Result<Self, RegistryError> {
        Ok(Counts {
            saved: registry.counters(
                "keelson_scheduled_snapshots_total",
                "Snapshots of the store that a schedule has had saved, or that could not be.",
                &["result"],
            )?,
            last: registry.floats(
                "keelson_last_scheduled_snapshot",
                "The last one that was saved: its time in seconds since 1970, and its size in bytes.",
                &["what"],
            )?,
        })
    }
}

fn name(now: Timestamp) -> String {
    format!("{PREFIX}{}.{EXTENSION}", now.strftime(TIME))
}

fn time(path: &Path) -> Option<Timestamp> {
    let text =
        path.file_name()?.to_str()?.strip_prefix(PREFIX)?.strip_suffix(EXTENSION)?.strip_suffix('.')?;
    DateTime::strptime(TIME, text).ok()?.to_zoned(TimeZone::UTC).ok().map(|at| at.timestamp())
}

/// The snapshots of a folder that are whole, the oldest first.
fn complete(dir: &Path) -> Result<Vec<(Timestamp, PathBuf)>, SaveError> {
    let failed = |source| SaveError::Io { action: "list the folder", path: dir.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        found.extend(time(&path).map(|time| (time, path)));
    }
    found.sort();
    Ok(found)
}

fn prepare(dir: &Path) -> Result<(), SaveError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let failed = |source| SaveError::Io { action: "prepare the folder", path: dir.to_owned(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        // What was being written when a run ended.
        if path.extension().is_some_and(|it| it == PARTIAL) && time(&path.with_extension(EXTENSION)).is_some()
        {
            std::fs::remove_file(&path).map_err(failed)?;
        }
    }
    Ok(())
}

/// Removes all but the newest `keep` as of `now`. Those that a clock named that was ahead are not newer than what was
/// saved now.
fn retain(dir: &Path, keep: usize, now: Timestamp) -> Result<(), SaveError> {
    let mut found = complete(dir)?;
    found.sort_by_key(|(time, _)| (*time <= now, *time));
    let surplus = found.len().saturating_sub(keep.max(1));
    for (_, path) in &found[..surplus] {
        std::fs::remove_file(path).map_err(|source| SaveError::Io {
            action: "remove the old snapshot",
            path: path.clone(),
            source,
        })?;
    }
    Ok(())
}

async fn save(snapshots: &Snapshots, options: &Options, now: Timestamp) -> Result<u64, SaveError> {
    prepare(&options.dir)?;
    let bytes = snapshots.save(&options.dir.join(name(now))).await?;
    retain(&options.dir, options.retention, now)?;
    Ok(bytes)
}

/// When the last one was begun; `None` where there is none.
fn last(dir: &Path) -> Result<Option<Timestamp>, SaveError> {
    match complete(dir) {
        Ok(found) => Ok(found.last().map(|(time, _)| *time)),
        Err(SaveError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The same as soon as the folder can be read; `None` if the server ends before.
async fn begun(options: &Options, counts: &Counts, stop: &CancellationToken) -> Option<Option<Timestamp>> {
    loop {
        match last(&options.dir) {
            Ok(last) => return Some(last),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, dir = %options.dir.display(), "no snapshot of the store can be saved");
            }
        }
        counts.saved.with_label_values(&["failure"]).inc();
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(RETRY.unsigned_abs()) => {}
        }
    }
}

/// Saves snapshots until the server ends.
pub async fn keep(snapshots: Arc<Snapshots>, options: Options, counts: Counts, stop: CancellationToken) {
    let Some(mut last) = begun(&options, &counts, &stop).await else { return };
    let mut now = Timestamp::now();
    let mut next = options.schedule.next(last, now);
    loop {
        let Some(due) = next else { return };
        let left = Duration::try_from(due.duration_since(now)).unwrap_or_default().min(LOOK);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(left) => {}
        }
        let before = std::mem::replace(&mut now, Timestamp::now());
        if now < due {
            if now < before {
                // A clock that was set back must not keep anything from being saved for as long.
                next = options.schedule.next(last, now).map(|regular| regular.min(due));
            }
            continue;
        }
        match save(&snapshots, &options, now).await {
            Ok(bytes) => {
                tracing::info!(dir = %options.dir.display(), bytes, "a snapshot of the store was saved");
                counts.saved.with_label_values(&["success"]).inc();
                counts.last.with_label_values(&["time"]).set(now.as_second() as f64);
                counts.last.with_label_values(&["bytes"]).set(bytes as f64);
                last = Some(now);
                next = options.schedule.next(last, Timestamp::now());
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, dir = %options.dir.display(), "no snapshot of the store could be saved");
                counts.saved.with_label_values(&["failure"]).inc();
                let again = now.checked_add(RETRY).ok();
                let regular = options.schedule.next(Some(now), Timestamp::now());
                next = again.into_iter().chain(regular).min();
            }
        }
        now = Timestamp::now();
    }
}

#[cfg(test)]
mod tests {
    use keelson_store::engine::Config;
    use keelson_store::{MemoryStore, archive};

    use super::*;
    use crate::cache::WatchCache;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_schedule_is_a_duration_or_a_line_of_cron() {
        let every: Schedule = "6h".parse().unwrap();
        let now = at("2026-01-01T12:30:00Z");
        assert_eq!(every.next(None, now), Some(now));
        assert_eq!(every.next(Some(at("2026-01-01T11:00:00Z")), now), Some(at("2026-01-01T17:00:00Z")));
        let line: Schedule = "0 */6 * * * UTC".parse().unwrap();
        assert_eq!(line.next(None, now), Some(at("2026-01-01T18:00:00Z")));
        for wrong in ["", "1s", "-6h", "0 6 * *", "61 * * * *", "daily"] {
            assert!(wrong.parse::<Schedule>().is_err(), "{wrong:?}");
        }
        assert!("0 3 * * 1-5".parse::<Schedule>().is_ok());
    }

    #[test]
    fn a_folder_that_is_not_there_has_no_snapshots_and_one_that_cannot_be_read_is_not_taken_for_empty() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(last(&dir.path().join("none")).unwrap(), None);
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(last(&dir.path().join("file")).is_err());
        std::fs::write(dir.path().join("keelson-20260101T000000Z.snapshot"), "").unwrap();
        assert_eq!(last(dir.path()).unwrap(), Some(at("2026-01-01T00:00:00Z")));
    }

    #[tokio::test]
    async fn the_newest_are_kept_and_neither_a_partial_one_nor_another_file_counts() {
        let dir = tempfile::tempdir().unwrap();
        let options =
            Options { schedule: "1h".parse().unwrap(), dir: dir.path().join("snapshots"), retention: 2 };
        let store = MemoryStore::open(Config::default(), Arc::new(WatchCache::default()));
        let snapshots = Snapshots::new(store, None, None, "v1");
        prepare(&options.dir).unwrap();
        let others =
            [options.dir.join("keelson-20260101T000000Z.partial"), options.dir.join("notes.snapshot")];
        others.iter().for_each(|path| std::fs::write(path, "x").unwrap());
        for hour in 1..=4 {
            save(&snapshots, &options, at(&format!("2026-01-01T0{hour}:00:00Z"))).await.unwrap();
        }
        let kept: Vec<_> = complete(&options.dir).unwrap();
        assert_eq!(
            kept.iter().map(|(time, _)| *time).collect::<Vec<_>>(),
            [at("2026-01-01T03:00:00Z"), at("2026-01-01T04:00:00Z"),]
        );
        assert!(kept.iter().all(|(_, path)| archive::check(path).is_ok()));
        assert!(!others[0].exists() && others[1].exists());
    }

    #[tokio::test]
    async fn what_a_clock_named_that_was_ahead_neither_keeps_others_from_being_saved_nor_outlives_them() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { schedule: "6h".parse().unwrap(), dir: dir.path().to_owned(), retention: 2 };
        let store = MemoryStore::open(Config::default(), Arc::new(WatchCache::default()));
        let snapshots = Snapshots::new(store, None, None, "v1");
        for early in ["2038-01-01T00:00:00Z", "2038-01-01T06:00:00Z"] {
            save(&snapshots, &options, at(early)).await.unwrap();
        }
        let now = at("2026-01-01T12:00:00Z");
        let last = complete(dir.path()).unwrap().last().map(|(time, _)| *time);
        assert_eq!(options.schedule.next(last, now), Some(at("2026-01-01T18:00:00Z")));
        for hour in ["12", "18"] {
            save(&snapshots, &options, at(&format!("2026-01-01T{hour}:00:00Z"))).await.unwrap();
        }
        let kept: Vec<_> = complete(dir.path()).unwrap().into_iter().map(|(time, _)| time).collect();
        assert_eq!(kept, [now, at("2026-01-01T18:00:00Z")]);
    }
}
