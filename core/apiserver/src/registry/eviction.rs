//! `policy/v1` `Eviction`: a deletion of a pod that its PodDisruptionBudget may refuse.
//!
//! What the budget says is decided on its newest state, and its count is lowered in the same write, so that two
//! evictions never share one permission.

use std::sync::Arc;

use jiff::Timestamp;
use keelson_api::object::format_time;
use keelson_api::selector::LabelSelector;
use keelson_api::{GroupResource, Object, Status};
use serde_json::{Value, json};

use super::delete::{DeleteOptions, Preconditions};
use super::{ATTEMPTS, Registry, Target, WriteOptions};
use crate::admission::Operation;
use crate::cache;

/// Evictions that a budget's controller has not yet confirmed; beyond it no more are let through.
const MAX_DISRUPTED: usize = 2000;
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
const SEVERAL: &str =
    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";

/// What stands between a pod and its eviction.
#[derive(Debug, PartialEq)]
enum Guard {
    /// Nothing: it does no work, or no longer. The flag says whether it could come to work meanwhile.
    None { may_become_ready: bool },
    /// Its budgets.
    Budgets,
}

fn guard(pod: &Object) -> Guard {
    let phase = pod.get_str(&["status", "phase"]);
    let ended = matches!(phase, Some("Succeeded" | "Failed")) || pod.deletion_timestamp().is_some();
    match (ended, phase) {
        (true, _) => Guard::None { may_become_ready: false },
        (false, Some("Pending")) => Guard::None { may_become_ready: true },
        (false, _) => Guard::Budgets,
    }
}

fn is_ready(pod: &Object) -> bool {
    let conditions = pod.get(&["status", "conditions"]).and_then(Value::as_array);
    conditions.into_iter().flatten().any(|it| it["type"] == "Ready" && it["status"] == "True")
}

fn count(budget: &Object, field: &str) -> i64 {
    budget.get(&["status", field]).and_then(Value::as_i64).unwrap_or(0)
}

/// Whether a pod that is not ready may go without being counted.
fn spares_unready(budget: &Object) -> bool {
    let always = budget.get_str(&["spec", "unhealthyPodEvictionPolicy"]) == Some("AlwaysAllow");
    let desired = count(budget, "desiredHealthy");
    always || (desired > 0 && count(budget, "currentHealthy") >= desired)
}

fn too_many(cause: String, retry_after_seconds: u32) -> Status {
    let mut status = Status::too_many_requests(REFUSED, retry_after_seconds);
    let mut details = json!({"causes": [{"reason": "DisruptionBudget", "message": cause}]});
    if retry_after_seconds > 0 {
        details["retryAfterSeconds"] = retry_after_seconds.into();
    }
    status.details = details;
    status
}

fn unprocessed(name: &str) -> Status {
    too_many(format!("The disruption budget {name} is still being processed by the server."), 10)
}

/// The budget after one more eviction.
fn decrement(budget: &Object, pod: &str, now: Timestamp) -> Result<Object, Status> {
    let name = budget.name().unwrap_or_default();
    let resource = GroupResource::new("policy", "poddisruptionbudget");
    if count(budget, "observedGeneration") < budget.generation().unwrap_or(0) {
        return Err(unprocessed(name));
    }
    let allowed = count(budget, "disruptionsAllowed");
    if allowed < 0 {
        return Err(Status::forbidden(&resource, name, "pdb disruptions allowed is negative"));
    }
    let disrupted = budget.get(&["status", "disruptedPods"]).and_then(Value::as_object);
    if disrupted.is_some_and(|pods| pods.len() > MAX_DISRUPTED) {
        let detail = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(Status::forbidden(&resource, name, detail));
    }
    if allowed == 0 {
        let (desired, current) = (count(budget, "desiredHealthy"), count(budget, "currentHealthy"));
        let cause =
            format!("The disruption budget {name} needs {desired} healthy pods and has {current} currently");
        return Err(too_many(cause, 0));
    }
    let mut budget = budget.clone();
    budget.set(&["status", "disruptionsAllowed"], (allowed - 1).into());
    budget.set(&["status", "disruptedPods", pod], format_time(now).into());
    if allowed == 1 {
        exhausted(&mut budget, now);
    }
    Ok(budget)
}

/// Sets the condition of a budget that allows no more.
fn exhausted(budget: &mut Object, now: Timestamp) {
    let mut conditions: Vec<Value> =
        budget.get(&["status", "conditions"]).and_then(Value::as_array).cloned().unwrap_or_default();
    let known = conditions.iter().position(|it| it["type"] == "DisruptionAllowed");
    let since = match known.map(|at| conditions.remove(at)) {
        Some(old) if old["status"] == "False" => old["lastTransitionTime"].clone(),
        Some(_) | None => format_time(now).into(),
    };
    conditions.push(json!({
        "type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
        "lastTransitionTime": since, "observedGeneration": count(budget, "observedGeneration"),
    }));
    budget.set(&["status", "conditions"], conditions.into());
}

fn delete_options(eviction: &Object, dry_run: bool) -> Result<DeleteOptions, Status> {
    let mut options: DeleteOptions = match eviction.get(&["deleteOptions"]) {
        None | Some(Value::Null) => DeleteOptions::default(),
        Some(options) => serde_json::from_value(options.clone())
            .map_err(|error| Status::bad_request(format!("cannot decode DeleteOptions: {error}")))?,
    };
    if options.dry_run.is_empty() && dry_run {
        options.dry_run = vec!["All".to_owned()];
    }
    Ok(options)
}

fn pin(delete: &DeleteOptions, pod: &Object) -> DeleteOptions {
    let mut delete = delete.clone();
    let preconditions = delete.preconditions.get_or_insert_with(Preconditions::default);
    preconditions.resource_version = pod.resource_version().map(str::to_owned);
    delete
}

impl Registry {
    /// Evicts a pod.
    pub async fn evict(
        &self,
        pod: &Target,
        mut eviction: Object,
        options: &WriteOptions,
    ) -> Result<(), Status> {
        if eviction.name().unwrap_or_default() != pod.name {
            return Err(Status::bad_request("name in URL does not match name in Eviction object"));
        }
        let dry_run = !delete_options(&eviction, options.dry_run)?.dry_run.is_empty();
        let options = WriteOptions { dry_run, ..options.clone() };
        self.admit(Operation::Create, pod, &mut eviction, &options).await?;
        let delete = delete_options(&eviction, dry_run)?;
        let options = WriteOptions { admitted: true, ..options };
        let pod = Target { subresource: String::new(), ..pod.clone() };
        let named = delete.preconditions.as_ref().is_some_and(|it| it.resource_version.is_some());
        for _ in 0..ATTEMPTS {
            let live = cache::decode(&self.get(&pod)?.bytes)?;
            let Guard::None { may_become_ready } = guard(&live) else {
                return self.evict_guarded(&pod, &live, &delete, &options).await;
            };
            let how = if may_become_ready && !named { pin(&delete, &live) } else { delete.clone() };
            match self.delete(&pod, &how, &options).await {
                Err(status) if status.code == 409 && !named => {}
                outcome => return outcome.map(drop),
            }
        }
        Err(Status::modified(&pod.group_resource(), &pod.name))
    }

    async fn evict_guarded(
        &self,
        pod: &Target,
        live: &Object,
        delete: &DeleteOptions,
        options: &WriteOptions,
    ) -> Result<(), Status> {
        let mut how = delete.clone();
        let mut pinned = None;
        match self.budgets(pod, live)?.as_slice() {
            [] => {}
            [budget] if !is_ready(live) && spares_unready(budget) => {
                how = pin(delete, live);
                pinned = budget.name().map(str::to_owned);
            }
            [budget] => self.take_permission(pod, budget, options).await?,
            [_, _, ..] => return Err(Status::new(500, "", SEVERAL)),
        }
        match (self.delete(pod, &how, options).await, pinned) {
            // It has changed, and may be ready now.
            (Err(status), Some(budget))
                if status.code == 409
                    && delete.preconditions.as_ref().is_none_or(|it| it.resource_version.is_none()) =>
            {
                Err(unprocessed(&budget))
            }
            (outcome, _) => outcome.map(drop),
        }
    }

    /// The budgets that select a pod. A missing or faulty selector selects nothing, an empty one every pod.
    fn budgets(&self, pod: &Target, live: &Object) -> Result<Vec<Object>, Status> {
        let cache = self.resource(&GroupResource::new("policy", "poddisruptionbudgets"));
        let mut found = Vec::new();
        for budget in cache.list().objects.values() {
            if budget.namespace.as_deref() != pod.namespace.as_deref() {
                continue;
            }
            let budget = cache::decode(&budget.bytes)?;
            let selector =
                budget.get(&["spec", "selector"]).and_then(|it| LabelSelector::from_value(it).ok());
            if selector.is_some_and(|it| it.matches(live.labels())) {
                found.push(budget);
            }
        }
        Ok(found)
    }

    async fn take_permission(
        &self,
        pod: &Target,
        budget: &Object,
        options: &WriteOptions,
    ) -> Result<(), Status> {
        let catalog = self.catalog();
        let resource =
            catalog.find("policy", "v1", "poddisruptionbudgets").ok_or_else(Status::path_not_found)?;
        let target = Target {
            resource: Arc::clone(resource),
            namespace: pod.namespace.clone(),
            name: budget.name().unwrap_or_default().to_owned(),
            subresource: "status".to_owned(),
        };
        let options = WriteOptions { manager: "kube-apiserver".to_owned(), ..options.clone() };
        self.update(&target, &options, |live| decrement(live, &pod.name, Timestamp::now())).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(status: Value) -> Object {
        Object::from_value(json!({"metadata": {"name": "b", "generation": 1}, "spec": {}, "status": status}))
            .unwrap()
    }

    #[test]
    fn the_last_permission_leaves_a_budget_that_allows_no_more() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let after =
            decrement(&budget(json!({"observedGeneration": 1, "disruptionsAllowed": 1})), "p", now).unwrap();
        assert_eq!(after.get(&["status", "disruptionsAllowed"]), Some(&json!(0)));
        assert_eq!(after.get(&["status", "disruptedPods"]), Some(&json!({"p": "2026-01-01T00:00:00Z"})));
        assert_eq!(after.get(&["status", "conditions"]).unwrap()[0]["reason"], "InsufficientPods");
        let refused = decrement(&after, "q", now).unwrap_err();
        assert_eq!((refused.code, refused.message.as_str()), (429, REFUSED));
        assert_eq!(
            refused.details["causes"][0]["message"],
            "The disruption budget b needs 0 healthy pods and has 0 currently"
        );
    }

    #[test]
    fn a_budget_that_was_not_looked_at_since_its_change_lets_nothing_through() {
        let fresh = budget(json!({"disruptionsAllowed": 1}));
        assert_eq!(decrement(&fresh, "p", Timestamp::now()).unwrap_err().details["retryAfterSeconds"], 10);
    }

    #[test]
    fn only_a_healthy_group_lets_unready_pods_go_uncounted() {
        assert!(spares_unready(&budget(json!({"desiredHealthy": 2, "currentHealthy": 2}))));
        assert!(!spares_unready(&budget(json!({"desiredHealthy": 2, "currentHealthy": 1}))));
        assert!(!spares_unready(&budget(json!({}))));
    }
}
