//! When a driver is asked again that did not make a volume larger (pure).

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tokio::time::Instant;
use tonic::Code;

use crate::csi::driver::CsiError;

/// Before the first try after one that failed.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
/// Between any two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);

/// What a failure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::csi) enum Failure {
    /// The driver cannot do it while the volume is used: it is not asked again on this node before that ends.
    InUse,
    /// Not as it is asked for, ever.
    Infeasible,
    /// The driver has given up.
    Final,
    /// It may still be at work.
    Unknown,
}

impl Failure {
    pub(in crate::csi) fn of(error: &CsiError) -> Self {
        let CsiError::Call { code, .. } = error else { return Failure::Unknown };
        match code {
            Code::FailedPrecondition => Failure::InUse,
            Code::InvalidArgument | Code::OutOfRange | Code::NotFound => Failure::Infeasible,
            Code::Cancelled | Code::DeadlineExceeded | Code::Unavailable | Code::Aborted => Failure::Unknown,
            Code::Ok
            | Code::Unknown
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss
            | Code::Unauthenticated => Failure::Final,
        }
    }
}

impl Failure {
    /// What is to be kept of it (pure): who is not asked again must have been told why.
    pub(in crate::csi) fn noted(self, is_told: bool) -> Self {
        if self == Failure::InUse && !is_told { Failure::Unknown } else { self }
    }
}

/// How it went last.
#[derive(Debug, Clone)]
struct Refusal {
    size: Quantity,
    failure: Failure,
    pause: Duration,
    at: Instant,
}

/// The volumes that have not become larger, by the names of their PersistentVolumes.
#[derive(Debug, Default)]
pub(in crate::csi) struct Refusals(HashMap<String, Refusal>);

impl Refusals {
    /// Notes a failure.
    pub(in crate::csi) fn note(&mut self, volume: &str, size: &Quantity, failure: Failure, now: Instant) {
        let before = self.0.get(volume).filter(|before| before.size == *size);
        let pause = before.map_or(FIRST_PAUSE, |before| (before.pause * 2).min(LONGEST_PAUSE));
        self.0.insert(volume.to_owned(), Refusal { size: size.clone(), failure, pause, at: now });
    }

    /// Whether the driver is to be asked for a size while the volume is used.
    pub(in crate::csi) fn is_due(&self, volume: &str, size: &Quantity, now: Instant) -> bool {
        match self.0.get(volume) {
            Some(last) if last.size == *size => last.failure != Failure::InUse && now >= last.at + last.pause,
            Some(_) | None => true,
        }
    }

    /// Whether the driver has given up, for certain.
    pub(in crate::csi) fn is_final(&self, volume: &str) -> bool {
        self.0.get(volume).is_some_and(|last| last.failure != Failure::Unknown)
    }

    /// The volume has become larger, or is no longer used by a pod.
    pub(in crate::csi) fn forget(&mut self, volume: &str) {
        self.0.remove(volume);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_refuses_is_asked_more_and_more_rarely_and_not_at_all_while_the_volume_is_in_its_way() {
        let mut refusals = Refusals::default();
        let size = |text: &str| Quantity(text.to_owned());
        let (two, three) = (size("2Gi"), size("3Gi"));
        let mut now = Instant::now();
        for pause in [30, 60, 120, 120] {
            assert!(refusals.is_due("v", &two, now));
            refusals.note("v", &two, Failure::Final, now);
            now += Duration::from_secs(pause - 1);
            assert!(!refusals.is_due("v", &two, now));
            now += Duration::from_secs(1);
        }
        assert!(refusals.is_final("v") && refusals.is_due("other", &two, now));
        refusals.note("v", &two, Failure::InUse, now);
        now += Duration::from_secs(3600);
        assert!(!refusals.is_due("v", &two, now));
        assert!(refusals.is_due("v", &three, now), "another size is another question");
        refusals.forget("v");
        assert!(refusals.is_due("v", &two, now) && !refusals.is_final("v"));
    }

    #[test]
    fn a_volume_is_in_the_way_of_its_growth_once_its_claim_says_so() {
        assert_eq!(Failure::InUse.noted(true), Failure::InUse);
        assert_eq!(Failure::InUse.noted(false), Failure::Unknown);
        assert_eq!(Failure::Infeasible.noted(false), Failure::Infeasible);
    }

    #[test]
    fn what_a_failure_means_the_code_says() {
        let of =
            |code| Failure::of(&CsiError::Call { call: "NodeExpandVolume", code, message: String::new() });
        assert_eq!(of(Code::FailedPrecondition), Failure::InUse);
        assert_eq!(of(Code::OutOfRange), Failure::Infeasible);
        assert_eq!(of(Code::Internal), Failure::Final);
        assert_eq!(of(Code::Unavailable), Failure::Unknown);
    }
}
