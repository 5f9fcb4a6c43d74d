//! MutatingAdmissionWebhook: webhooks that may change the object, one after the other.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use async_trait::async_trait;
use keelson_api::{Object, Status, patch};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::call::{Documents, Refusal, ask, is_concerned};
use super::hooks::{Hook, Hooks};
use super::request::Seen;
use super::{BUDGET, is_spared, out_of_time};
use crate::admission::{Admission, Attributes, Operation, Reinvocation};
use crate::authorization::Authorizer;
use crate::registry::Registry;

/// The plugin.
pub struct MutatingWebhooks {
    hooks: Hooks,
    authorizer: Arc<dyn Authorizer>,
}

/// What was called in this pass and the one before, and what a later change means for it.
struct Rounds<'a> {
    reinvocation: Option<&'a Reinvocation>,
    /// Webhooks of this pass that want to be asked again after a change.
    open: Vec<String>,
    /// Other plugins have changed the object since webhooks last saw it.
    is_new: bool,
}

impl<'a> Rounds<'a> {
    fn begin(reinvocation: Option<&'a Reinvocation>, object: &Object) -> Self {
        let is_new = reinvocation
            .is_some_and(|it| it.is_second() && !it.is_marked(&format!("webhooks/left/{}", hash(object))));
        Rounds { reinvocation, open: Vec::new(), is_new }
    }

    fn number(&self) -> u8 {
        u8::from(self.reinvocation.is_some_and(Reinvocation::is_second))
    }

    /// Whether a webhook has its turn: in the second pass only one that was asked before a change.
    fn has_turn(&self, hook: &Hook) -> bool {
        let Some(second) = self.reinvocation.filter(|it| it.is_second()) else { return true };
        second.is_marked(&format!("webhooks/again/{}", hook.id))
            || self.is_new && second.is_marked(&format!("webhooks/asked/{}", hook.id))
    }

    fn asked(&mut self, hook: &Hook) {
        if hook.reinvokes {
            self.open.push(hook.id.clone());
        }
    }

    fn changed(&mut self) {
        let Some(reinvocation) = self.reinvocation else { return };
        for id in self.open.drain(..) {
            reinvocation.mark(format!("webhooks/again/{id}"));
        }
        reinvocation.ask();
    }

    fn end(self, object: &Object) {
        let Some(reinvocation) = self.reinvocation.filter(|it| !it.is_second()) else { return };
        for id in self.open {
            reinvocation.mark(format!("webhooks/asked/{id}"));
        }
        reinvocation.mark(format!("webhooks/left/{}", hash(object)));
    }
}

fn hash(object: &Object) -> u64 {
    let mut hasher = DefaultHasher::new();
    object.clone().into_value().to_string().hash(&mut hasher);
    hasher.finish()
}

impl MutatingWebhooks {
    /// The plugin over these configurations; conditions ask the authorizer.
    pub fn new(hooks: Hooks, authorizer: Arc<dyn Authorizer>) -> Self {
        MutatingWebhooks { hooks, authorizer }
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
        let mut rounds = Rounds::begin(attributes.reinvocation, object);
        let is_gone = attributes.operation == Operation::Delete;
        for (index, hook) in hooks.iter().enumerate() {
            let new = Some(&*object).filter(|_| !is_gone);
            let Some(view) = seen.view(&hook.matches, new)? else { continue };
            if !rounds.has_turn(hook) {
                continue;
            }
            let documents =
                Documents { object: seen.document(new, &view).await?, old: seen.old(&view).await? };
            if !is_concerned(hook, attributes, &seen, &view, &documents, &self.authorizer).await? {
                continue;
            }
            let outcome = ask(hook, attributes, &seen, &view, &documents, deadline, true).await;
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
            rounds.asked(hook);
        }
        rounds.end(object);
        Ok(())
    }
}
