//! Compaction, shared with others who do it; size and versions.
//!
//! # Compaction
//! All API servers of all clusters on an etcd, upstream's and these, agree by one key, `compact_rev_key`: who finds it
//! as it left it writes there what it compacts to, and compacts; who finds it changed looks again after the interval. So
//! one of them compacts once in an interval, to the revision of the interval before, whoever of them ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use semver::Version;
use tokio::time::{Instant, MissedTickBehavior};

use crate::connection::{Failure, Servers};
use crate::proto::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::request_op::Request;
use crate::proto::response_op::Response;
use crate::proto::{Compare, PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse};

/// The key that compactors agree by.
const COMPACTED: &[u8] = b"compact_rev_key";
/// How often versions are looked at where the size is not asked for.
const LOOK: Duration = Duration::from_secs(60);

/// The size of the database in bytes, as the member with the largest has told it last; less than nothing while unknown.
#[derive(Debug)]
pub(crate) struct Size(AtomicI64);

impl Default for Size {
    fn default() -> Self {
        Size(AtomicI64::new(-1))
    }
}

impl Size {
    pub(crate) fn get(&self) -> Option<u64> {
        u64::try_from(self.0.load(Ordering::Relaxed)).ok()
    }
}

/// What one compactor knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Compactor {
    /// How often the key had been written when this one looked last.
    version: i64,
    /// Which revision etcd was at then.
    revision: i64,
}

/// What is to be done after a look at the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Turn {
    next: Compactor,
    /// Compact to this revision.
    compact: Option<i64>,
}

impl Compactor {
    /// Writes the key if it is as this one left it, or else reads it.
    fn request(self) -> TxnRequest {
        let key = Bytes::from_static(COMPACTED);
        let unchanged = Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Version.into(),
            key: key.clone(),
            target_union: Some(TargetUnion::Version(self.version)),
        };
        let put = PutRequest { key: key.clone(), value: self.revision.to_string().into() };
        let range = RangeRequest { key, limit: 1, ..RangeRequest::default() };
        TxnRequest {
            compare: vec![unchanged],
            success: vec![RequestOp { request: Some(Request::RequestPut(put)) }],
            failure: vec![RequestOp { request: Some(Request::RequestRange(range)) }],
        }
    }

    fn turn(self, answer: &TxnResponse) -> Turn {
        let revision = answer.header.unwrap_or_default().revision;
        if answer.succeeded {
            // Nothing is known of how old the first revision is.
            let compact = (self.revision > 0).then_some(self.revision);
            return Turn { next: Compactor { version: self.version + 1, revision }, compact };
        }
        let found = answer.responses.iter().find_map(|it| match &it.response {
            Some(Response::ResponseRange(range)) => range.kvs.first(),
            Some(Response::ResponsePut(_) | Response::ResponseDeleteRange(_)) | None => None,
        });
        let version = found.map_or(0, |pair| pair.version);
        Turn { next: Compactor { version, revision }, compact: None }
    }
}

/// Whether a notice of progress can be relied on: that of versions before these may overtake events.
fn has_sound_notices(version: &str) -> bool {
    let Ok(version) = Version::parse(version) else { return false };
    let from = |minor, patch| Version::new(3, minor, patch);
    version >= from(4, 31) && (version < from(5, 0) || version >= from(5, 13))
}

/// What is done from time to time.
pub(crate) struct Upkeep {
    pub(crate) servers: Arc<Servers>,
    pub(crate) notices: Arc<AtomicBool>,
    pub(crate) size: Arc<Size>,
}

impl Upkeep {
    /// Asks all members for their version and the size of their database.
    pub(crate) async fn look(&self) {
        let places = 0..self.servers.count();
        let asked = places.map(|place| {
            let server = self.servers.at(place);
            async move { server.status().await }
        });
        let told = futures::future::join_all(asked).await;
        let sound = told.iter().all(|it| it.as_ref().is_ok_and(|status| has_sound_notices(&status.version)));
        self.notices.store(sound, Ordering::Relaxed);
        let sizes = told.iter().flatten().map(|status| status.db_size);
        self.size.0.store(sizes.max().unwrap_or(-1), Ordering::Relaxed);
    }

    /// Does it, forever. Zero for what is not to be done.
    pub(crate) async fn run(self, compaction: Duration, size: Duration) {
        let every = |period: Duration| {
            let mut interval = tokio::time::interval_at(Instant::now() + period, period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        };
        let mut looks = every(if size.is_zero() { LOOK } else { size });
        let mut compactions = (!compaction.is_zero()).then(|| every(compaction));
        let mut compactor = Compactor::default();
        loop {
            let due = async {
                match &mut compactions {
                    Some(interval) => interval.tick().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = looks.tick() => self.look().await,
                _ = due => compactor = self.compact(compactor).await,
            }
        }
    }

    /// Compacts, if it is this one's turn.
    async fn compact(&self, compactor: Compactor) -> Compactor {
        let failed = |failure: Failure| {
            let error = failure.of_read();
            tracing::warn!(error = &error as &dyn std::error::Error, "etcd could not be compacted");
        };
        let turn = match self.servers.txn(compactor.request()).await {
            Ok(answer) => compactor.turn(&answer),
            Err(failure) => {
                failed(failure);
                return compactor;
            }
        };
        if let Some(revision) = turn.compact {
            match self.servers.compact(revision).await {
                // Somebody has compacted further.
                Ok(()) | Err(Failure::Compacted) => tracing::debug!(revision, "etcd was compacted"),
                Err(failure) => failed(failure),
            }
        }
        turn.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{KeyValue, RangeResponse, ResponseHeader, ResponseOp};

    fn header(revision: i64) -> Option<ResponseHeader> {
        Some(ResponseHeader { revision, ..ResponseHeader::default() })
    }

    fn won(revision: i64) -> TxnResponse {
        TxnResponse { header: header(revision), succeeded: true, responses: Vec::new() }
    }

    fn lost(revision: i64, version: i64) -> TxnResponse {
        let range =
            RangeResponse { kvs: vec![KeyValue { version, ..KeyValue::default() }], ..Default::default() };
        let responses = vec![ResponseOp { response: Some(Response::ResponseRange(range)) }];
        TxnResponse { header: header(revision), succeeded: false, responses }
    }

    #[test]
    fn one_alone_compacts_to_where_etcd_was_an_interval_ago() {
        let first = Compactor::default().turn(&won(100));
        assert_eq!(first, Turn { next: Compactor { version: 1, revision: 100 }, compact: None });
        let second = first.next.turn(&won(250));
        assert_eq!(second, Turn { next: Compactor { version: 2, revision: 250 }, compact: Some(100) });
    }

    #[test]
    fn one_that_finds_another_at_work_waits_and_takes_over_when_that_has_ended() {
        let beaten = Compactor::default().turn(&lost(100, 7));
        assert_eq!(beaten, Turn { next: Compactor { version: 7, revision: 100 }, compact: None });
        let again = beaten.next.turn(&lost(200, 8));
        assert_eq!(again, Turn { next: Compactor { version: 8, revision: 200 }, compact: None });
        let alone = again.next.turn(&won(300));
        assert_eq!(alone, Turn { next: Compactor { version: 9, revision: 300 }, compact: Some(200) });
    }

    #[test]
    fn notices_are_relied_on_from_the_versions_that_have_them_right() {
        for sound in ["3.4.31", "3.4.40", "3.5.13", "3.5.21", "3.6.0", "4.0.0"] {
            assert!(has_sound_notices(sound), "{sound}");
        }
        for unsound in ["3.3.27", "3.4.23", "3.4.30", "3.5.0", "3.5.12", "", "unknown"] {
            assert!(!has_sound_notices(unsound), "{unsound}");
        }
    }
}
