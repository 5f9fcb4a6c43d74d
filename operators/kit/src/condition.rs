//! Conditions of the common form (pure).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use crate::time::whole_seconds;

/// `status` of a condition.
pub const TRUE: &str = "True";
/// `status` of a condition.
pub const FALSE: &str = "False";
/// `status` of a condition.
pub const UNKNOWN: &str = "Unknown";

/// A condition that begins now.
pub fn condition(
    type_: &str,
    status: bool,
    reason: &str,
    message: impl Into<String>,
    now: Timestamp,
) -> Condition {
    Condition {
        type_: type_.to_owned(),
        status: if status { TRUE } else { FALSE }.to_owned(),
        reason: reason.to_owned(),
        message: message.into(),
        last_transition_time: Time(whole_seconds(now)),
        observed_generation: None,
    }
}

/// Puts a condition in the place of the one of its type. The time of the last transition is kept as long as the status
/// stays the same.
pub fn set(conditions: &mut Vec<Condition>, mut new: Condition) {
    match conditions.iter_mut().find(|condition| condition.type_ == new.type_) {
        Some(old) => {
            if old.status == new.status {
                new.last_transition_time = old.last_transition_time.clone();
            }
            *old = new;
        }
        None => conditions.push(new),
    }
}

/// The condition of a type.
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_condition_keeps_its_transition_time_until_its_status_changes() {
        let mut conditions = vec![condition("Ready", false, "Starting", "", at(10))];
        set(&mut conditions, condition("Ready", false, "Waiting", "for a lease", at(20)));
        assert_eq!(conditions[0].last_transition_time.0, at(10));
        assert_eq!(conditions[0].reason, "Waiting");
        set(&mut conditions, condition("Ready", true, "Running", "", at(30)));
        assert_eq!(conditions[0].last_transition_time.0, at(30));
        assert_eq!(conditions.len(), 1);
    }
}
