//! How far the installed operators are (client, and a pure judgement).

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use keelson_operator_kit::condition::{self, TRUE};
use keelson_operator_kit::{SYSTEM_NAMESPACE, time};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use tokio::time::Instant;

use crate::kind::{INSTALLED, Operator, READY};

/// How long operators may take to begin to act before they are told as not running.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Why it cannot be told how far the operators are.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// Their objects could not be read.
    #[error("list the Operator objects")]
    Operators(#[source] kube::Error),
    /// Their Leases could not be read.
    #[error("list the Leases of operators")]
    Leases(#[source] kube::Error),
}

/// How far one operator is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Progress {
    /// It acts.
    Runs,
    /// It will not act before its object or the program changes.
    Refused(String),
    /// It may act soon.
    Pending(String),
}

/// Waits until each installed operator acts or is known not to, at most half a minute. Tells how it then is, such as
/// `9 of 9 running`.
///
/// A condition may have outlived the process that wrote it. So an operator counts as running only while somebody holds
/// its Lease.
pub async fn wait_until_settled(client: Client) -> Result<String, SettleError> {
    let operators: Api<Operator> = Api::all(client.clone());
    let leases: Api<Lease> = Api::namespaced(client, SYSTEM_NAMESPACE);
    let until = Instant::now() + PATIENCE;
    loop {
        let params = ListParams::default();
        let objects = match operators.list(&params).await {
            Ok(list) => list.items,
            // The kind is about to be served.
            Err(kube::Error::Api(status)) if status.is_not_found() && Instant::now() < until => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Err(error) => return Err(SettleError::Operators(error)),
        };
        let held = leases.list(&params).await.map_err(SettleError::Leases)?.items;
        let held: HashMap<String, LeaseSpec> =
            held.into_iter().filter_map(|lease| Some((lease.name_any(), lease.spec?))).collect();
        let now = time::now();
        let found: Vec<(String, Progress)> = objects
            .iter()
            .map(|object| {
                let lease = held.get(object.catalog_name());
                (object.name_any(), progress(object, lease.is_some_and(|lease| is_held(lease, now))))
            })
            .collect();
        let pending = found.iter().any(|(_, progress)| matches!(progress, Progress::Pending(_)));
        if !pending || Instant::now() >= until {
            return Ok(summary(&found));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn is_held(lease: &LeaseSpec, now: Timestamp) -> bool {
    let holder = lease.holder_identity.as_deref().unwrap_or_default();
    let (Some(renewed), Some(seconds)) = (&lease.renew_time, lease.lease_duration_seconds) else {
        return false;
    };
    let ends = renewed.0.saturating_add(SignedDuration::from_secs(seconds.into())).unwrap_or(Timestamp::MAX);
    !holder.is_empty() && now <= ends
}

fn progress(object: &Operator, lease_held: bool) -> Progress {
    let status = object.status.clone().unwrap_or_default();
    let current = status.observed_generation == object.metadata.generation;
    let ready = condition::find(&status.conditions, READY).filter(|_| current);
    let Some(ready) = ready else { return Progress::Pending("not looked at yet".to_owned()) };
    let why = if ready.message.is_empty() {
        ready.reason.clone()
    } else {
        format!("{}: {}", ready.reason, ready.message)
    };
    let refused = condition::find(&status.conditions, INSTALLED).is_some_and(|it| it.status != TRUE);
    match (ready.status == TRUE, lease_held) {
        (true, true) => Progress::Runs,
        (true, false) => Progress::Pending("no server has taken its Lease yet".to_owned()),
        (false, _) if refused => Progress::Refused(why),
        (false, _) => Progress::Pending(why),
    }
}

fn summary(found: &[(String, Progress)]) -> String {
    let running = found.iter().filter(|(_, progress)| *progress == Progress::Runs).count();
    let mut text = format!("{running} of {} running", found.len());
    for (name, progress) in found {
        match progress {
            Progress::Runs => {}
            Progress::Refused(why) | Progress::Pending(why) => text.push_str(&format!("; {name}: {why}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(conditions: serde_json::Value) -> Operator {
        serde_json::from_value(json!({"apiVersion": "platform.keelson.io/v1alpha1", "kind": "Operator",
            "metadata": {"name": "a", "generation": 1}, "spec": {},
            "status": {"observedGeneration": 1, "conditions": conditions}}))
        .unwrap()
    }

    fn one(type_: &str, status: &str, reason: &str) -> serde_json::Value {
        json!({"type": type_, "status": status, "reason": reason, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"})
    }

    #[test]
    fn an_operator_runs_only_while_its_lease_is_held() {
        let ready = object(json!([one("Ready", "True", "Running"), one("Installed", "True", "Applied")]));
        assert_eq!(progress(&ready, true), Progress::Runs);
        assert!(matches!(progress(&ready, false), Progress::Pending(_)));
    }

    #[test]
    fn what_waits_is_told_from_what_will_not_run() {
        let refused = object(json!([one("Ready", "False", "NotInCatalog"), one("Installed", "False", "x")]));
        assert_eq!(progress(&refused, false), Progress::Refused("NotInCatalog".to_owned()));
        let failed = object(json!([one("Ready", "False", "Failed"), one("Installed", "True", "Applied")]));
        assert!(matches!(progress(&failed, true), Progress::Pending(_)), "it is started again");
        let found = [("a".to_owned(), Progress::Runs), ("b".to_owned(), progress(&refused, false))];
        assert_eq!(summary(&found), "1 of 2 running; b: NotInCatalog");
    }

    #[test]
    fn a_lease_that_was_given_up_or_ran_out_is_not_held() {
        let lease = |holder: &str| LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(30),
            renew_time: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(
                Timestamp::UNIX_EPOCH,
            )),
            ..LeaseSpec::default()
        };
        let at = |second| Timestamp::from_second(second).unwrap();
        assert!(is_held(&lease("server-1"), at(29)));
        assert!(!is_held(&lease("server-1"), at(31)));
        assert!(!is_held(&lease(""), at(1)));
    }
}
