//! Times with the precision of the API.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// The time now, in whole seconds, as `metav1.Time` keeps it.
pub fn now() -> Timestamp {
    whole_seconds(Timestamp::now())
}

/// A time without its fraction of a second.
pub fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// `time` plus seconds; the largest time where that is out of range.
pub fn plus_seconds(time: Timestamp, seconds: i64) -> Timestamp {
    time.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

/// The API's time for a timestamp.
pub fn api_time(time: Timestamp) -> Time {
    Time(whole_seconds(time))
}
