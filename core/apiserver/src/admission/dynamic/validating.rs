//! ValidatingAdmissionWebhook: webhooks that see the final object, all at once, and may refuse it.

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::join_all;
use keelson_api::{Object, Status};
use tokio::time::Instant;

use super::call::{Asking, Documents, Refusal, ask, is_concerned};
use super::hooks::{Hook, Hooks};
use super::request::{Seen, View};
use super::{BUDGET, is_spared};
use crate::admission::{Admission, Attributes};
use crate::authorization::Authorizer;
use crate::insight::webhooks::{Phase, Webhooks};
use crate::registry::Registry;

/// The plugin.
pub struct ValidatingWebhooks {
    hooks: Hooks,
    authorizer: Arc<dyn Authorizer>,
    metrics: Arc<Webhooks>,
}

impl ValidatingWebhooks {
    /// The plugin over these configurations; conditions ask the authorizer.
    pub fn new(hooks: Hooks, authorizer: Arc<dyn Authorizer>, metrics: Arc<Webhooks>) -> Self {
        ValidatingWebhooks { hooks, authorizer, metrics }
    }
}

/// The webhooks that are asked, each with its view and the place of its documents.
type Concerned<'a> = (Vec<(&'a Arc<Hook>, View<'a>, usize)>, Vec<(View<'a>, Documents)>);

async fn concerned<'a>(
    hooks: &'a [Arc<Hook>],
    seen: &Seen<'a>,
    object: Option<&'a Object>,
) -> Result<Concerned<'a>, Status> {
    let (mut asked, mut views): Concerned<'a> = (Vec::new(), Vec::new());
    for hook in hooks {
        let Some(view) = seen.view(&hook.matches, object)? else { continue };
        let place = match views.iter().position(|(known, _)| *known == view) {
            Some(place) => place,
            None => {
                let documents =
                    Documents { object: seen.document(object, &view).await?, old: seen.old(&view).await? };
                views.push((view.clone(), documents));
                views.len() - 1
            }
        };
        asked.push((hook, view, place));
    }
    Ok((asked, views))
}

#[async_trait]
impl Admission for ValidatingWebhooks {
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        !self.hooks.current().is_empty() && !is_spared(attributes)
    }

    async fn validate(
        &self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        object: Option<&Object>,
    ) -> Result<(), Status> {
        let hooks = self.hooks.current();
        let catalog = registry.catalog();
        let seen = Seen::new(registry, &catalog, attributes);
        let (mut asked, views) = concerned(&hooks, &seen, object).await?;
        for at in (0..asked.len()).rev() {
            let (hook, view, place) = &asked[at];
            let documents = &views[*place].1;
            if !is_concerned(hook, attributes, &seen, view, documents, &self.authorizer).await? {
                asked.remove(at);
            }
        }
        if asked.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        let asking = Asking { deadline: began + BUDGET, phase: Phase::Validating, metrics: &self.metrics };
        let questions = asked
            .iter()
            .map(|(hook, view, place)| ask(hook, attributes, &seen, view, &views[*place].1, asking));
        let outcomes = join_all(questions).await;
        attributes.remarks().waited(began.elapsed());
        let mut refused = None;
        for (outcome, (hook, _, _)) in outcomes.into_iter().zip(&asked) {
            let status = match outcome {
                Ok(_) => continue,
                Err(Refusal::Denied(status)) => status,
                Err(Refusal::Failed(why)) => {
                    tracing::warn!(webhook = hook.name, error = why, "a webhook failed");
                    if hook.ignores_failure {
                        let key = format!("failed-open.validating.webhook.admission.k8s.io/{}", hook.name);
                        attributes.remarks().annotate(&key, hook.name.as_str());
                        continue;
                    }
                    Status::internal(why)
                }
            };
            refused.get_or_insert(status);
        }
        refused.map_or(Ok(()), Err)
    }
}
