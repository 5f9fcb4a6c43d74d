//! Who may hold a Lease, and when (pure).

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

/// How fast an election goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long a Lease that nobody renews is respected.
    pub lease: Duration,
    /// For how long a holder tries to renew before it gives up.
    pub renew_within: Duration,
    /// How long a holder that renewed waits before it does so again.
    pub renew_every: Duration,
    /// The pause after a failure, and between a candidate's looks.
    pub retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            lease: Duration::from_secs(15),
            renew_within: Duration::from_secs(10),
            // A write every two seconds for each operator would be most of what an idle cluster does.
            renew_every: Duration::from_secs(5),
            retry: Duration::from_secs(2),
        }
    }
}

/// What a Lease says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; empty when it was given up.
    pub holder: String,
    /// For how many seconds it is respected after the last renewal.
    pub seconds: i32,
    /// When the holder took it.
    pub acquired: Option<Timestamp>,
    /// When it was last renewed.
    pub renewed: Option<Timestamp>,
    /// How often it went from one to another.
    pub transitions: i32,
}

impl From<&LeaseSpec> for Record {
    fn from(spec: &LeaseSpec) -> Self {
        Record {
            holder: spec.holder_identity.clone().unwrap_or_default(),
            seconds: spec.lease_duration_seconds.unwrap_or(0),
            acquired: spec.acquire_time.as_ref().map(|time| time.0),
            renewed: spec.renew_time.as_ref().map(|time| time.0),
            transitions: spec.lease_transitions.unwrap_or(0),
        }
    }
}

impl From<Record> for LeaseSpec {
    fn from(record: Record) -> Self {
        LeaseSpec {
            holder_identity: Some(record.holder),
            lease_duration_seconds: Some(record.seconds),
            acquire_time: record.acquired.map(MicroTime),
            renew_time: record.renewed.map(MicroTime),
            lease_transitions: Some(record.transitions),
            ..LeaseSpec::default()
        }
    }
}

/// What to do with the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing: somebody else holds it.
    Wait,
    /// Write this.
    Write(Record),
}

/// One candidate's view. Clocks of different machines are never compared: what counts is for how long the record has
/// been seen unchanged.
#[derive(Debug)]
pub struct Election {
    identity: String,
    timing: Timing,
    observed: Option<(Record, Instant)>,
    written: Option<Lease>,
    renewed: Option<Instant>,
}

impl Election {
    /// A candidate that has seen nothing.
    pub fn new(identity: &str, timing: Timing) -> Self {
        Election { identity: identity.to_owned(), timing, observed: None, written: None, renewed: None }
    }

    /// What this candidate wrote last, if nothing speaks against its being there still.
    pub fn last_written(&self) -> Option<Lease> {
        self.written.clone()
    }

    /// Takes in what the Lease says.
    pub fn observe(&mut self, lease: &Lease, now: Instant, time: Timestamp) -> Action {
        let seen = lease.spec.as_ref().map(Record::from);
        if let Some(seen) = &seen
            && self.observed.as_ref().is_none_or(|(record, _)| record != seen)
        {
            self.observed = Some((seen.clone(), now));
        }
        let ours = seen.as_ref().is_some_and(|record| record.holder == self.identity);
        if !ours {
            self.renewed = None;
        }
        let fresh = || {
            let (Some(seen), Some((_, since))) = (&seen, &self.observed) else { return false };
            let seconds = u64::try_from(seen.seconds).unwrap_or(0);
            !seen.holder.is_empty() && now < *since + Duration::from_secs(seconds)
        };
        if !ours && fresh() {
            return Action::Wait;
        }
        let transitions = seen.as_ref().map_or(0, |record| record.transitions + i32::from(!ours));
        let acquired = seen.as_ref().filter(|_| ours).and_then(|record| record.acquired).or(Some(time));
        Action::Write(Record {
            holder: self.identity.clone(),
            seconds: i32::try_from(self.timing.lease.as_secs()).unwrap_or(i32::MAX),
            acquired,
            renewed: Some(time),
            transitions,
        })
    }

    /// The write that began at `began` succeeded.
    pub fn written(&mut self, lease: Lease, began: Instant) {
        if let Some(spec) = &lease.spec {
            self.observed = Some((Record::from(spec), began));
        }
        self.written = Some(lease);
        self.renewed = Some(began);
    }

    /// The write failed: the Lease has to be read again.
    pub fn not_written(&mut self) {
        self.written = None;
    }

    /// Whether this candidate holds the Lease.
    pub fn leads(&self, now: Instant) -> bool {
        self.renewed.is_some_and(|renewed| now < renewed + self.timing.renew_within)
    }

    /// How long to wait before the next attempt.
    pub fn pause(&self, now: Instant) -> Duration {
        if self.written.is_some() && self.leads(now) { self.timing.renew_every } else { self.timing.retry }
    }

    /// What to write to give the Lease up.
    pub fn released(&self, time: Timestamp) -> Record {
        Record {
            holder: String::new(),
            seconds: 1,
            acquired: Some(time),
            renewed: Some(time),
            transitions: self.observed.as_ref().map_or(0, |(record, _)| record.transitions),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(record: &Record) -> Lease {
        let mut lease = Lease { spec: Some(record.clone().into()), ..Lease::default() };
        lease.metadata.resource_version = Some("1".to_owned());
        lease
    }

    fn held_by(holder: &str, renewed: i64) -> Record {
        Record {
            holder: holder.to_owned(),
            seconds: 15,
            acquired: Some(Timestamp::UNIX_EPOCH),
            renewed: Some(Timestamp::from_second(renewed).unwrap()),
            transitions: 3,
        }
    }

    #[test]
    fn a_lease_that_nobody_renews_is_taken_after_its_duration_by_the_local_clock() {
        let now = Instant::now();
        let mut election = Election::new("me", Timing::default());
        let time = Timestamp::from_second(1_000_000).unwrap();
        let other = lease(&held_by("other", 5));
        assert_eq!(election.observe(&other, now, time), Action::Wait);
        assert_eq!(election.observe(&other, now + Duration::from_secs(14), time), Action::Wait);
        let Action::Write(record) = election.observe(&other, now + Duration::from_secs(15), time) else {
            panic!("it must be taken");
        };
        assert_eq!((record.holder.as_str(), record.transitions), ("me", 4));
    }

    #[test]
    fn a_renewal_seen_late_begins_the_wait_anew() {
        let now = Instant::now();
        let mut election = Election::new("me", Timing::default());
        election.observe(&lease(&held_by("other", 5)), now, Timestamp::UNIX_EPOCH);
        let later = now + Duration::from_secs(14);
        assert_eq!(
            election.observe(&lease(&held_by("other", 9)), later, Timestamp::UNIX_EPOCH),
            Action::Wait
        );
        let later = later + Duration::from_secs(14);
        assert_eq!(
            election.observe(&lease(&held_by("other", 9)), later, Timestamp::UNIX_EPOCH),
            Action::Wait
        );
    }

    #[test]
    fn a_released_lease_is_taken_at_once() {
        let mut election = Election::new("me", Timing::default());
        let action = election.observe(&lease(&held_by("", 5)), Instant::now(), Timestamp::UNIX_EPOCH);
        assert!(matches!(action, Action::Write(_)));
    }

    #[test]
    fn a_holder_that_cannot_renew_gives_up_before_others_may_take_over() {
        let now = Instant::now();
        let mut election = Election::new("me", Timing::default());
        let Action::Write(record) = election.observe(&Lease::default(), now, Timestamp::UNIX_EPOCH) else {
            panic!("nobody holds it");
        };
        election.written(lease(&record), now);
        assert_eq!(election.pause(now), Duration::from_secs(5));
        election.not_written();
        assert_eq!(election.pause(now), Duration::from_secs(2));
        assert!(election.leads(now + Duration::from_millis(9_999)));
        assert!(!election.leads(now + Duration::from_secs(10)));
    }

    #[test]
    fn a_holder_that_sees_another_name_in_the_lease_leads_no_more() {
        let now = Instant::now();
        let mut election = Election::new("me", Timing::default());
        election.written(lease(&held_by("me", 1)), now);
        assert_eq!(election.observe(&lease(&held_by("other", 2)), now, Timestamp::UNIX_EPOCH), Action::Wait);
        assert!(!election.leads(now));
    }
}
