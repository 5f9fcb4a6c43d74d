//! Which of the files that were put aside are kept, and in which form.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::super::options::Rotation;

/// When a file was put aside, as its name tells it, in UTC.
const TIME: &str = "%Y-%m-%dT%H-%M-%S%.3f";

/// The name of a log: `audit.log` is put aside as `audit-2026-11-21T10-00-00.000.log`.
pub(super) struct Name {
    stem: String,
    /// With its dot.
    extension: String,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// These files go.
    pub(super) remove: Vec<String>,
    /// These are compressed.
    pub(super) compress: Vec<String>,
}

impl Name {
    pub(super) fn of(path: &Path) -> Self {
        let text = |part: Option<&std::ffi::OsStr>| part.map(|it| it.to_string_lossy().into_owned());
        Name {
            stem: text(path.file_stem()).unwrap_or_default(),
            extension: text(path.extension()).map(|it| format!(".{it}")).unwrap_or_default(),
        }
    }

    /// The name of the file that is put aside at a time.
    pub(super) fn aside(&self, at: Timestamp) -> String {
        // A whole second has its zeros too.
        let time = at.strftime("%Y-%m-%dT%H-%M-%S");
        format!("{}-{time}.{:03}{}", self.stem, at.subsec_millisecond(), self.extension)
    }

    /// When a file was put aside.
    fn time(&self, name: &str) -> Option<Timestamp> {
        let time = name.strip_prefix(&self.stem)?.strip_prefix('-')?.strip_suffix(&self.extension)?;
        DateTime::strptime(TIME, time).ok()?.to_zoned(TimeZone::UTC).ok().map(|it| it.timestamp())
    }

    /// What is to be done about the files of a folder.
    pub(super) fn plan(&self, names: &[String], rotation: &Rotation, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let (mut plain, mut compressed) = (BTreeSet::new(), BTreeSet::new());
        for name in names {
            let (own, set) = match name.strip_suffix(".gz") {
                Some(own) => (own, &mut compressed),
                None => (name.as_str(), &mut plain),
            };
            let unfinished = name.strip_suffix(".gz.tmp").filter(|own| self.time(own).is_some());
            if unfinished.is_some() {
                plan.remove.push(name.clone());
            } else if let Some(at) = self.time(own) {
                set.insert((at, own.to_owned()));
            }
        }
        // What was compressed and not yet removed.
        let twice: Vec<_> = plain.intersection(&compressed).cloned().collect();
        for both in twice {
            plan.remove.push(both.1.clone());
            plain.remove(&both);
        }
        let days = Duration::from_secs(u64::from(rotation.max_age_days) * 24 * 3600);
        let all: Vec<_> = plain.union(&compressed).cloned().collect();
        for (place, it) in all.into_iter().rev().enumerate() {
            let is_over = rotation.max_backups > 0 && place >= rotation.max_backups;
            let is_old = rotation.max_age_days > 0 && it.0 < now - days;
            match (is_over || is_old, plain.contains(&it)) {
                (true, true) => plan.remove.push(it.1),
                (true, false) => plan.remove.push(format!("{}.gz", it.1)),
                (false, true) if rotation.compress => plan.compress.push(it.1),
                (false, _) => {}
            }
        }
        plan
    }
}
