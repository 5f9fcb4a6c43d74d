//! Empties namespaces that are being deleted, and lets them go.
//!
//! A look at a namespace goes through the steps [`content`] (client: delete everything, count what remains) ->
//! [`conditions`] (pure) -> status -> [`finalize`](content) once nothing is left. Which kinds there are is asked of the
//! API each time, so that objects of custom kinds go as well.
//!
//! Pods go first, and the rest only when they are gone: what they still need while they end stays until then.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace as NamespaceObject;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use keelson_operator_kit::discovery::{Discovered, discover};
use keelson_operator_kit::{
    Context, Controller, Definition, Error, Fault, Informer, Next, ObjectKey, Operator, WorkQueue,
    async_trait, rule, time,
};
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::conditions::{Findings, conditions};

pub mod conditions;
pub mod content;

/// How many namespaces are emptied at the same time.
const AT_ONCE: usize = 4;

/// What keeps a namespace until it is empty.
pub const FINALIZER: &str = "kubernetes";

/// The pauses between looks at a namespace that is not empty yet: a share of the time that it has taken so far.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// The operator.
pub struct Namespace {
    definition: Definition,
}

/// The operator.
pub fn operator() -> Arc<dyn Operator> {
    Arc::new(Namespace::new())
}

impl Namespace {
    /// The operator.
    pub fn new() -> Self {
        let definition = Definition::new("namespace", "Deletes what a namespace holds when it is deleted.")
            .with_rules([
                rule(&["*"], &["*"], &["get", "list", "delete", "deletecollection"]),
                rule(&[""], &["namespaces"], &["get", "list", "watch"]),
                rule(&[""], &["namespaces/finalize"], &["update"]),
                rule(&[""], &["namespaces/status"], &["patch"]),
            ]);
        Namespace { definition }
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Namespace::new()
    }
}

/// Why a look failed.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// The namespace.
    #[error("read the namespace")]
    Read(#[source] kube::Error),
    /// Its status.
    #[error("write the status of the namespace")]
    Status(#[source] kube::Error),
    /// Its finalizer.
    #[error("let the namespace go")]
    Finalize(#[source] kube::Error),
}

impl Fault for LookError {}

#[async_trait]
impl Operator for Namespace {
    fn definition(&self) -> &Definition {
        &self.definition
    }

    async fn run(&self, context: Context) -> Result<(), Error> {
        let queue: WorkQueue<ObjectKey> = WorkQueue::default();
        let mut controller = Controller::new(&context);
        let to = queue.clone();
        controller.watch(
            Api::<NamespaceObject>::all(context.client.clone()),
            watcher::Config::default(),
            // Only those that are ending are kept.
            &Informer::default(),
            |namespace| namespace.metadata.deletion_timestamp.is_some().then_some(()),
            move |change| {
                // Its further changes are our own conditions.
                if change.old.is_none() {
                    to.add(change.key.clone());
                }
            },
        );
        let client = context.client.clone();
        controller.reconcile(&queue, AT_ONCE, move |key| {
            let client = client.clone();
            async move { reconcile(&client, key.name()).await }
        });
        controller.run().await
    }
}

async fn reconcile(client: &Client, name: &str) -> Result<Next, LookError> {
    let api: Api<NamespaceObject> = Api::all(client.clone());
    let Some(namespace) = api.get_opt(name).await.map_err(LookError::Read)? else {
        return Ok(Next::OnChange);
    };
    let Some(since) = namespace.metadata.deletion_timestamp.as_ref().map(|time| time.0) else {
        return Ok(Next::OnChange);
    };
    let own = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_ref());
    if !own.is_some_and(|finalizers| finalizers.iter().any(|it| it == FINALIZER)) {
        return Ok(Next::OnChange);
    }
    let findings = match discover(client).await {
        Ok(discovered) => empty(client, name, &discovered).await,
        Err(error) => Findings::undiscovered(&error),
    };
    let now = time::now();
    let namespace = write_status(&api, namespace, &findings, now).await?;
    match namespace {
        None => Ok(Next::OnChange),
        Some(namespace) if findings.is_empty() => finalize(&api, namespace).await,
        Some(_) => Ok(Next::After(pause(since, now))),
    }
}

/// Deletes the pods, and when none is left everything else.
async fn empty(client: &Client, namespace: &str, discovered: &Discovered) -> Findings {
    let mut findings = Findings::default();
    findings.stale(&discovered.stale);
    let (pods, others): (Vec<_>, Vec<_>) = discovered
        .resources
        .iter()
        .filter(|served| served.namespaced && served.supports("delete"))
        .cloned()
        .partition(|served| served.resource.group.is_empty() && served.resource.plural == "pods");
    content::delete(client, namespace, pods, &mut findings).await;
    if !findings.has_content() {
        content::delete(client, namespace, others, &mut findings).await;
    }
    findings
}

/// Writes what was found; `None` when the namespace is gone or another one now.
async fn write_status(
    api: &Api<NamespaceObject>,
    namespace: NamespaceObject,
    findings: &Findings,
    now: Timestamp,
) -> Result<Option<NamespaceObject>, LookError> {
    let status = namespace.status.clone().unwrap_or_default();
    let new = conditions(status.conditions.clone().unwrap_or_default(), findings, now);
    if status.phase.as_deref() == Some("Terminating") && status.conditions.as_ref() == Some(&new) {
        return Ok(Some(namespace));
    }
    let patch = json!({
        "metadata": {"uid": namespace.uid(), "resourceVersion": namespace.resource_version()},
        "status": {"phase": "Terminating", "conditions": new},
    });
    let written =
        api.patch_status(&namespace.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await;
    gone_is_none(written).map_err(LookError::Status)
}

/// Takes our finalizer away: with the last one the namespace is gone.
async fn finalize(api: &Api<NamespaceObject>, mut namespace: NamespaceObject) -> Result<Next, LookError> {
    if let Some(finalizers) = namespace.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
        finalizers.retain(|own| own != FINALIZER);
    }
    let name = namespace.name_any();
    let written = api.replace_subresource("finalize", &name, &PostParams::default(), &namespace).await;
    gone_is_none(written).map_err(LookError::Finalize)?;
    tracing::debug!(namespace = name, "a namespace was emptied");
    Ok(Next::OnChange)
}

fn gone_is_none(
    answer: Result<NamespaceObject, kube::Error>,
) -> Result<Option<NamespaceObject>, kube::Error> {
    match answer {
        Ok(namespace) => Ok(Some(namespace)),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// What takes long is looked at less and less often.
fn pause(since: Timestamp, now: Timestamp) -> Duration {
    let taken = now.duration_since(since).max(SignedDuration::ZERO).unsigned_abs();
    (taken / 4).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_is_looked_at_less_often() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(pause(at(10), at(10)), SHORTEST_PAUSE);
        assert_eq!(pause(at(10), at(5)), SHORTEST_PAUSE, "clocks differ");
        assert_eq!(pause(at(10), at(30)), Duration::from_secs(5));
        assert_eq!(pause(at(10), at(10_000)), LONGEST_PAUSE);
    }
}
