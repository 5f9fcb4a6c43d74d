//! A server outside that is asked: SubjectAccessReview by POST.

use std::time::Duration;

use async_trait::async_trait;
use keelson_api::selector::{FieldSelector, LabelSelector};
use serde::Deserialize;
use serde_json::{Value, json};

use super::conditions::Conditions;
use super::{Authorizer, Decision, Opinion};
use crate::expiring_cache::ExpiringCache;
use crate::identity::Identity;
use crate::remote::Remote;
use crate::request_info::RequestInfo;

/// The longest answer, in bytes.
const ANSWER: usize = 1 << 20;
/// A longer question is not remembered.
const REMEMBERED_BYTES: usize = 10_000;
/// Answers that are remembered.
const REMEMBERED: usize = 8192;

/// What holds when the server cannot be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum FailurePolicy {
    /// Another authorizer decides.
    #[default]
    NoOpinion,
    /// The request is refused.
    Deny,
}

/// How a server is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookConfig {
    /// How it is called in messages.
    pub name: String,
    /// How long a yes holds; zero to ask each time.
    pub authorized_ttl: Duration,
    /// How long anything else holds.
    pub unauthorized_ttl: Duration,
    /// What holds when it cannot be asked.
    pub failure_policy: FailurePolicy,
    /// It is asked only where all of these hold.
    pub conditions: Conditions,
}

/// The authorizer.
pub struct Webhook {
    remote: Remote,
    config: WebhookConfig,
    answers: ExpiringCache<String, Opinion>,
}

/// The review's spec.
fn question(who: &Identity, info: &RequestInfo) -> Value {
    let mut spec = json!({"user": who.username, "groups": who.groups});
    if let Some(uid) = &who.uid {
        spec["uid"] = uid.as_str().into();
    }
    if !who.extra.is_empty() {
        spec["extra"] = json!(who.extra);
    }
    if !info.is_resource {
        spec["nonResourceAttributes"] = json!({"path": info.path, "verb": info.verb});
        return spec;
    }
    let mut asked = json!({"verb": info.verb});
    let name = info.object_name().unwrap_or_default();
    let fields = [
        ("namespace", info.namespace.as_deref().unwrap_or_default()),
        ("group", info.group.as_str()),
        ("version", info.version.as_str()),
        ("resource", info.resource.as_str()),
        ("subresource", info.subresource.as_str()),
        ("name", &*name),
    ];
    for (field, text) in fields {
        if !text.is_empty() {
            asked[field] = text.into();
        }
    }
    let is_wide = matches!(info.verb.as_str(), "list" | "watch" | "deletecollection");
    if let Some(text) = info.parameter("fieldSelector").filter(|text| is_wide && !text.is_empty())
        && let Ok(selector) = FieldSelector::parse(text)
    {
        let terms = selector.requirements.iter().map(|it| {
            json!({"key": it.field, "operator": if it.equal { "In" } else { "NotIn" }, "values": [it.value]})
        });
        asked["fieldSelector"] = json!({"requirements": terms.collect::<Vec<_>>()});
    }
    if let Some(text) = info.parameter("labelSelector").filter(|text| is_wide && !text.is_empty())
        && LabelSelector::parse(text).is_ok()
    {
        asked["labelSelector"] = json!({"rawSelector": text});
    }
    spec["resourceAttributes"] = asked;
    spec
}

/// What an answer says.
fn answer(document: &Value) -> Result<Opinion, String> {
    let status = &document["status"];
    let flag = |field: &str| status[field].as_bool().unwrap_or(false);
    let reason = status["reason"].as_str().unwrap_or_default().to_owned();
    let decision = match (flag("allowed"), flag("denied")) {
        (true, true) => {
            return Err("webhook subject access review returned both allow and deny response".to_owned());
        }
        (true, false) => Decision::Allow,
        (false, true) => Decision::Deny { reason: reason.clone() },
        (false, false) => Decision::NoOpinion,
    };
    let errors = status["evaluationError"].as_str().filter(|text| !text.is_empty());
    Ok(Opinion { decision, reason, errors: errors.map(str::to_owned).into_iter().collect() })
}

impl Webhook {
    /// Asks a server.
    pub fn new(remote: Remote, config: WebhookConfig) -> Self {
        Webhook { remote, config, answers: ExpiringCache::new(REMEMBERED) }
    }

    /// What holds when it cannot be asked.
    fn failed(&self, errors: Vec<String>) -> Opinion {
        let decision = match self.config.failure_policy {
            FailurePolicy::NoOpinion => Decision::NoOpinion,
            FailurePolicy::Deny => Decision::Deny { reason: String::new() },
        };
        Opinion { decision, reason: String::new(), errors }
    }

    async fn ask(&self, who: &Identity, info: &RequestInfo) -> Opinion {
        let spec = question(who, info);
        match self.config.conditions.hold(&spec) {
            Ok(true) => {}
            Ok(false) => return Decision::NoOpinion.into(),
            Err(errors) => {
                tracing::warn!(webhook = %self.config.name, ?errors, "the conditions of an authorization webhook could not be evaluated");
                return self.failed(errors);
            }
        }
        let key = spec.to_string();
        if let Some(opinion) = self.answers.get(&key) {
            return opinion;
        }
        let review =
            json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec});
        let asked = self.remote.post_json("", &review, ANSWER).await.map_err(|error| error.to_string());
        match asked.and_then(|document| answer(&document)) {
            Ok(opinion) => {
                let ttl = match opinion.decision {
                    Decision::Allow => self.config.authorized_ttl,
                    Decision::Deny { .. } | Decision::NoOpinion => self.config.unauthorized_ttl,
                };
                if key.len() <= REMEMBERED_BYTES {
                    self.answers.put(key, opinion.clone(), ttl);
                }
                opinion
            }
            Err(error) => {
                tracing::warn!(webhook = %self.config.name, error, "an authorization webhook could not be asked");
                self.failed(vec![error])
            }
        }
    }
}

#[async_trait]
impl Authorizer for Webhook {
    async fn authorize(&self, who: &Identity, info: &RequestInfo) -> Decision {
        self.ask(who, info).await.decision
    }

    async fn explain(&self, who: &Identity, info: &RequestInfo) -> Opinion {
        self.ask(who, info).await
    }

    fn gaps(&self, _who: &Identity) -> Vec<&'static str> {
        vec!["webhook authorizer does not support user rule resolution"]
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn a_question_says_what_is_selected() {
        let info = RequestInfo::parse(
            &Method::GET,
            "/api/v1/pods",
            Some("fieldSelector=spec.nodeName%3Done&labelSelector=a%3Db"),
        );
        let asked = &question(&Identity::user("ann", &[]), &info)["resourceAttributes"];
        assert_eq!(
            *asked,
            json!({"verb": "list", "version": "v1", "resource": "pods", "labelSelector": {"rawSelector": "a=b"},
                "fieldSelector": {"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["one"]}]}})
        );
    }

    #[test]
    fn an_answer_is_yes_no_or_nothing_but_not_both() {
        let said = |status: Value| answer(&json!({"status": status})).map(|opinion| opinion.decision);
        assert_eq!(said(json!({"allowed": true})), Ok(Decision::Allow));
        assert_eq!(said(json!({})), Ok(Decision::NoOpinion));
        let no = Decision::Deny { reason: "no".to_owned() };
        assert_eq!(said(json!({"denied": true, "reason": "no"})), Ok(no));
        assert!(said(json!({"allowed": true, "denied": true})).is_err());
    }
}
