//! Deletes objects whose owners are gone, and carries out the ways in which an owner can go: before its dependents, after
//! them, or without them.
//!
//! - [`monitor`] (client) watches the metadata of everything and keeps [`graph`] (pure), which says what has to be looked at.
//! - A look goes through [`graph::Graph::look`] -> [`act`] reads live objects (client) -> [`decide`] (pure) -> [`act`].
//!
//! # Guarantees
//! - Nothing is deleted because of what a watch has told alone: the object and each of its owners are asked for first, and
//!   a deletion carries the UID and the resource version of what was read.
//! - An object whose owner is of a kind that is not served is left.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use keelson_operator_kit::{
    Context, Controller, Definition, Error, Next, Operator, Recorder, async_trait, rule,
};
use kube::Client;
use kube::api::PropagationPolicy;

use crate::act::{keep_owners, name, read, remove_finalizer};
use crate::decide::{Standing, Verdict, judge};
use crate::graph::{FOREGROUND, Look, ORPHAN, Target};
use crate::monitor::Shared;
use crate::uid::Uid;

pub mod act;
pub mod decide;
pub mod graph;
pub mod monitor;
pub mod uid;

/// How many objects are looked at at the same time.
const AT_ONCE: usize = 16;

/// The pause before another look at an object whose owner was found but has not been seen by a watch.
const UNSEEN: Duration = Duration::from_secs(30);
/// The pause while not all objects are known.
const INCOMPLETE: Duration = Duration::from_secs(1);

/// The operator.
pub struct GarbageCollector {
    definition: Definition,
}

/// The operator.
pub fn operator() -> Arc<dyn Operator> {
    Arc::new(GarbageCollector::new())
}

impl GarbageCollector {
    /// The operator.
    pub fn new() -> Self {
        let definition = Definition::new("garbagecollector", "Deletes objects whose owners are gone.")
            .with_rules([rule(&["*"], &["*"], &["get", "list", "watch", "patch", "update", "delete"])]);
        GarbageCollector { definition }
    }
}

impl Default for GarbageCollector {
    fn default() -> Self {
        GarbageCollector::new()
    }
}

#[async_trait]
impl Operator for GarbageCollector {
    fn definition(&self) -> &Definition {
        &self.definition
    }

    async fn run(&self, context: Context) -> Result<(), Error> {
        let shared = Shared::default();
        let mut controller = Controller::new(&context);
        let monitor = monitor::run(context.client.clone(), shared.clone(), context.shutdown.clone());
        let waiting = shared.clone();
        controller.source("monitor", monitor, async move { waiting.completed().await });
        let collector = Arc::new(Collector {
            client: context.client.clone(),
            recorder: context.recorder.clone(),
            shared: shared.clone(),
        });
        controller.reconcile(&shared.queue, AT_ONCE, move |uid| Arc::clone(&collector).reconcile(uid));
        controller.run().await
    }
}

struct Collector {
    client: Client,
    recorder: Recorder,
    shared: Shared,
}

impl Collector {
    async fn reconcile(self: Arc<Self>, uid: Uid) -> Result<Next, act::Error> {
        let look = self.shared.graph.lock().look(uid);
        match look {
            Look::Nothing => Ok(Next::OnChange),
            Look::Judge { target, has_dependents, may_be_circle } => {
                self.judge(&target, has_dependents, may_be_circle).await
            }
            Look::Foreground { .. } | Look::Orphan { .. } if !self.shared.complete() => {
                Ok(Next::After(INCOMPLETE))
            }
            Look::Foreground { target, blocked: false, .. } => {
                self.finish(&target, FOREGROUND).await?;
                Ok(Next::OnChange)
            }
            Look::Foreground { dependents, .. } => {
                dependents.into_iter().for_each(|dependent| self.shared.queue.add(dependent));
                Ok(Next::OnChange)
            }
            Look::Orphan { target, dependents } => {
                for dependent in &dependents {
                    self.release(dependent, target.uid).await?;
                }
                self.finish(&target, ORPHAN).await?;
                Ok(Next::OnChange)
            }
        }
    }

    /// Deletes the object if none of its owners is there.
    async fn judge(
        &self,
        target: &Target,
        has_dependents: bool,
        may_be_circle: bool,
    ) -> Result<Next, act::Error> {
        let Some(live) = read(&self.client, target).await? else {
            self.is_gone(target.uid);
            return Ok(Next::OnChange);
        };
        let references = live.owner_references.clone().unwrap_or_default();
        let mut standings = Vec::with_capacity(references.len());
        for reference in &references {
            let Some(kind) = self.shared.resource(&reference.api_version, &reference.kind) else {
                tracing::debug!(object = name(target), owner = ?reference, "the kind of an owner is not served");
                self.shared.look_again_with_other_kinds(target.uid);
                // It may have come to be served just before that.
                let served = self.shared.resource(&reference.api_version, &reference.kind).is_some();
                return Ok(if served { Next::After(Duration::ZERO) } else { Next::OnChange });
            };
            let namespace = target.key.namespace();
            if namespace.is_empty() && kind.namespaced {
                self.misplaced(target, reference);
                return Ok(Next::OnChange);
            }
            standings.push(act::standing(&self.client, &kind, namespace, reference).await?);
        }
        match judge(&live, &standings, has_dependents) {
            Verdict::Keep if live.deletion_timestamp.is_some() => Ok(Next::OnChange),
            // Either a watch will tell of the owner, or nothing ever does.
            Verdict::Keep => Ok(Next::After(UNSEEN)),
            Verdict::Release(left) => {
                tracing::debug!(object = name(target), "references to owners that go are taken away");
                keep_owners(&self.client, target, &live, &left).await?;
                Ok(Next::OnChange)
            }
            Verdict::Delete(PropagationPolicy::Foreground)
                if may_be_circle && standings.contains(&Standing::Waiting) =>
            {
                // Each would wait for the other: nobody waits for this one, and it is looked at again.
                let free: Vec<_> = references
                    .into_iter()
                    .map(|mut reference| {
                        reference.block_owner_deletion = Some(false);
                        reference
                    })
                    .collect();
                if live.owner_references.as_ref() != Some(&free) {
                    keep_owners(&self.client, target, &live, &free).await?;
                    return Ok(Next::After(Duration::ZERO));
                }
                self.delete(target, &live, PropagationPolicy::Foreground).await
            }
            Verdict::Delete(policy) => self.delete(target, &live, policy).await,
        }
    }

    async fn delete(
        &self,
        target: &Target,
        live: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
        policy: PropagationPolicy,
    ) -> Result<Next, act::Error> {
        tracing::debug!(object = name(target), ?policy, "an object without owner is deleted");
        if !act::delete(&self.client, target, live, policy).await? {
            self.is_gone(target.uid);
        }
        Ok(Next::OnChange)
    }

    /// Takes the references to an owner away from a dependent.
    async fn release(&self, dependent: &Target, owner: Uid) -> Result<(), act::Error> {
        let Some(live) = read(&self.client, dependent).await? else { return Ok(()) };
        let references = live.owner_references.as_deref().unwrap_or_default();
        let left: Vec<_> = references.iter().filter(|it| Uid::new(&it.uid) != owner).cloned().collect();
        if left.len() < references.len() {
            keep_owners(&self.client, dependent, &live, &left).await?;
        }
        Ok(())
    }

    /// Lets an object go.
    async fn finish(&self, target: &Target, finalizer: &str) -> Result<(), act::Error> {
        match read(&self.client, target).await? {
            Some(live) => remove_finalizer(&self.client, target, &live, finalizer).await,
            None => {
                self.is_gone(target.uid);
                Ok(())
            }
        }
    }

    fn is_gone(&self, uid: Uid) {
        let wanted = self.shared.graph.lock().remove(uid);
        wanted.into_iter().for_each(|other| self.shared.queue.add(other));
    }

    /// An owner must be in the same namespace, or in none.
    fn misplaced(
        &self,
        target: &Target,
        reference: &k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference,
    ) {
        let regarding = ObjectReference {
            api_version: Some(target.kind.resource.api_version.clone()),
            kind: Some(target.kind.resource.kind.clone()),
            name: Some(target.key.name().to_owned()),
            uid: Some(target.uid.to_string()),
            ..ObjectReference::default()
        };
        let message = format!(
            "ownerRef [{}/{}, namespace: , name: {}, uid: {}] does not exist in namespace \"\"",
            reference.api_version, reference.kind, reference.name, reference.uid
        );
        self.recorder.warning(&regarding, "OwnerRefInvalidNamespace", message);
    }
}
