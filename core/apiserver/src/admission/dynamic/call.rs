//! One question to one webhook.

use std::sync::Arc;

use keelson_api::Status;
use keelson_api::admission::{Answer, Request};
use serde_json::Value;
use tokio::time::{Duration, Instant};

use super::expression::{Facts, Questions};
use super::hooks::Hook;
use super::request::{Seen, View};
use crate::admission::Attributes;
use crate::authorization::Authorizer;
use crate::insight::webhooks::{Asked, Ending, Phase, Webhooks};

/// The largest answer that is read.
const ANSWER_BYTES: usize = 8 << 20;

/// Why a webhook has not let a request pass.
pub(super) enum Refusal {
    /// It says no, or may not be asked.
    Denied(Status),
    /// It could not be asked, or its answer is none.
    Failed(String),
}

/// The two states of a write in the version that a webhook wants.
pub(super) struct Documents {
    pub(super) object: Value,
    pub(super) old: Value,
}

/// Whether the conditions of a webhook hold.
pub(super) async fn is_concerned(
    hook: &Hook,
    attributes: &Attributes<'_>,
    seen: &Seen<'_>,
    view: &View<'_>,
    documents: &Documents,
    authorizer: &Arc<dyn Authorizer>,
) -> Result<bool, Status> {
    let outcome = match &hook.conditions {
        Ok(conditions) if conditions.is_empty() => return Ok(true),
        Ok(conditions) => {
            let questions = Questions::new(attributes.identity, &seen.asked);
            let request = seen.request(view).into();
            let facts = Facts {
                object: &documents.object,
                old: &documents.old,
                request: &request,
                namespace: &Value::Null,
                params: None,
                questions: &questions,
            };
            loop {
                match conditions.hold(&facts) {
                    Ok(outcome) => break outcome,
                    Err(check) => questions.ask(authorizer, *check).await?,
                }
            }
        }
        Err(why) => Err(why.clone()),
    };
    match outcome {
        Ok(holds) => Ok(holds),
        Err(_) if hook.ignores_failure => Ok(false),
        Err(why) => Err(attributes.forbidden(&why)),
    }
}

/// How webhooks are asked about one write.
#[derive(Clone, Copy)]
pub(super) struct Asking<'a> {
    /// When all of them must have answered.
    pub(super) deadline: Instant,
    pub(super) phase: Phase,
    pub(super) metrics: &'a Webhooks,
}

/// Asks a webhook. Warnings and annotations of its answer are taken down.
pub(super) async fn ask(
    hook: &Hook,
    attributes: &Attributes<'_>,
    seen: &Seen<'_>,
    view: &View<'_>,
    documents: &Documents,
    asking: Asking<'_>,
) -> Result<Answer, Refusal> {
    let began = Instant::now();
    let outcome = ask_once(hook, attributes, seen, view, documents, asking).await;
    let ending = match &outcome {
        Ok(_) => Ending::Allowed,
        Err(Refusal::Denied(status)) => Ending::Denied(status.code),
        Err(Refusal::Failed(_)) if hook.ignores_failure => Ending::FailedOpen,
        Err(Refusal::Failed(_)) => Ending::Failed,
    };
    let asked = Asked { name: &hook.name, phase: asking.phase, operation: attributes.operation };
    asking.metrics.asked(asked, ending, began.elapsed());
    outcome
}

async fn ask_once(
    hook: &Hook,
    attributes: &Attributes<'_>,
    seen: &Seen<'_>,
    view: &View<'_>,
    documents: &Documents,
    asking: Asking<'_>,
) -> Result<Answer, Refusal> {
    if attributes.dry_run && !hook.allows_dry_run {
        let text = format!("admission webhook {:?} does not support dry run", hook.name);
        return Err(Refusal::Denied(Status::bad_request(text)));
    }
    let failed = |why: String| Refusal::Failed(format!("failed calling webhook {:?}: {why}", hook.name));
    let version = hook.version.ok_or_else(|| {
        failed("webhook does not accept known AdmissionReview versions (v1, v1beta1)".to_owned())
    })?;
    let remote = hook.remote.as_ref().map_err(|why| failed(format!("could not get REST client: {why}")))?;
    let uid = uuid::Uuid::new_v4().to_string();
    let request = Request {
        uid: &uid,
        asked: &seen.asked,
        asked_kind: &seen.asked_kind,
        subject: view.subject,
        kind: &view.kind,
        user: &seen.user,
        object: &documents.object,
        old: &documents.old,
        options: &seen.options,
        dry_run: attributes.dry_run,
    };
    let time = hook.timeout.min(asking.deadline.saturating_duration_since(Instant::now()));
    let query = format!("timeout={}s", whole_seconds(time));
    let answered = remote.with_timeout(time).post_json(&query, &request.review(version), ANSWER_BYTES).await;
    let review = answered.map_err(|error| failed(format!("failed to call webhook: {error}")))?;
    let answer = Answer::read(&review, &uid, version, asking.phase == Phase::Mutating)
        .map_err(|error| failed(format!("received invalid webhook response: {error}")))?;
    for (key, value) in &answer.annotations {
        attributes.remarks().annotate(&format!("{}/{key}", hook.name), value.as_str());
    }
    for warning in &answer.warnings {
        attributes.remarks().warn(warning.as_str());
    }
    if answer.allowed { Ok(answer) } else { Err(Refusal::Denied(answer.denied(&hook.name))) }
}

fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}
