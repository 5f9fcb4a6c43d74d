//! MutatingAdmissionWebhook: webhooks that may change the object, one after the other.

use std::sync::Arc;

use async_trait::async_trait;
use keelson_api::{Object, Status, patch};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::call::{Asking, Documents, Refusal, ask, is_concerned};
use super::hooks::{Hook, Hooks};
use super::request::Seen;
use super::rounds::Rounds;
use super::{BUDGET, is_spared, out_of_time};
use crate::admission::{Admission, Attributes, Operation};
use crate::authorization::Authorizer;
use crate::insight::webhooks::{Phase, Webhooks};
use crate::registry::Registry;

/// The plugin.
pub struct MutatingWebhooks {
    hooks: Hooks,
    authorizer: Arc<dyn Authorizer>,
    metrics: Arc<Webhooks>,
}

impl MutatingWebhooks {
    /// The plugin over these configurations; conditions ask the authorizer.
    pub fn new(hooks: Hooks, authorizer: Arc<dyn Authorizer>, metrics: Arc<Webhooks>) -> Self {
        MutatingWebhooks { hooks, authorizer, metrics }
    }
}

/// Applies a webhook's patch; whether it has changed anything.
async fn apply(
    hook: &Hook,
    seen: &Seen<'_>,
    view: &super::request::View<'_>,
    documents: Documents,
    operations: &Value,
    object: &mut Object,
) -> Result<bool, Status> {
    if operations.as_array().is_some_and(Vec::is_empty) {
        return Ok(false);
    }
    if documents.object.is_null() {
        return Err(Status::internal(format!(
            "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
            hook.name
        )));
    }
    let mut changed = documents.object.clone();
    patch::json::apply(&mut changed, operations).map_err(Status::internal)?;
    if changed == documents.object {
        return Ok(false);
    }
    let before = object.clone();
    seen.take(object, changed, view).await?;
    Ok(*object != before)
}

#[async_trait]
impl Admission for MutatingWebhooks {
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        !self.hooks.current().is_empty() && !is_spared(attributes)
    }

    async fn mutate(
        &self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        object: &mut Object,
    ) -> Result<(), Status> {
        let hooks = self.hooks.current();
        let catalog = registry.catalog();
        let seen = Seen::new(registry, &catalog, attributes);
        let deadline = Instant::now() + BUDGET;
        let asking = Asking { deadline, phase: Phase::Mutating, metrics: &self.metrics };
        let mut rounds = Rounds::begin("webhooks", attributes.reinvocation, object);
        let is_gone = attributes.operation == Operation::Delete;
        for (index, hook) in hooks.iter().enumerate() {
            let new = Some(&*object).filter(|_| !is_gone);
            let Some(view) = seen.view(&hook.matches, new)? else { continue };
            if !rounds.has_turn(&hook.id) {
                continue;
            }
            let documents =
                Documents { object: seen.document(new, &view).await?, old: seen.old(&view).await? };
            if !is_concerned(hook, attributes, &seen, &view, &documents, &self.authorizer).await? {
                continue;
            }
            let began = Instant::now();
            let outcome = ask(hook, attributes, &seen, &view, &documents, asking).await;
            attributes.remarks().waited(began.elapsed());
            let place = format!("round_{}_index_{index}", rounds.number());
            let answer = match outcome {
                Ok(answer) => Some(answer),
                Err(Refusal::Denied(status)) => return Err(status),
                Err(Refusal::Failed(why)) if hook.ignores_failure => {
                    tracing::warn!(webhook = hook.name, error = why, "a webhook failed and is ignored");
                    let key = format!("failed-open.mutation.webhook.admission.k8s.io/{place}");
                    attributes.remarks().annotate(&key, hook.name.as_str());
                    if Instant::now() >= deadline {
                        return Err(out_of_time());
                    }
                    None
                }
                Err(Refusal::Failed(why)) => {
                    tracing::warn!(webhook = hook.name, error = why, "a webhook failed");
                    return Err(Status::internal(why));
                }
            };
            let patch = answer.and_then(|answer| answer.patch);
            if let Some(operations) = &patch {
                let told = json!({"configuration": hook.configuration, "webhook": hook.name, "patch": operations,
                    "patchType": "JSONPatch"});
                let key = format!("patch.webhook.admission.k8s.io/{place}");
                attributes.remarks().annotate_detail(&key, told.to_string());
            }
            let changed = match patch {
                Some(operations) => apply(hook, &seen, &view, documents, &operations, object).await?,
                None => false,
            };
            let note = json!({"configuration": hook.configuration, "webhook": hook.name, "mutated": changed});
            attributes
                .remarks()
                .annotate(&format!("mutation.webhook.admission.k8s.io/{place}"), note.to_string());
            if changed {
                rounds.changed();
            }
            if hook.reinvokes {
                rounds.asked(&hook.id);
            }
        }
        rounds.end(object);
        Ok(())
    }
}
