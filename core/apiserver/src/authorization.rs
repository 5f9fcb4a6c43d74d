//! Who may do what.

use async_trait::async_trait;

use crate::identity::{Identity, MASTERS};
use crate::request_info::RequestInfo;

pub mod abac;
pub mod conditions;
pub(crate) mod configured;
pub mod coverage;
pub mod node;
pub mod options;
pub mod rbac;
pub mod webhook;

/// What an authorizer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It may.
    Allow,
    /// It may not, whatever others say.
    Deny {
        /// Why.
        reason: String,
    },
    /// Nothing allows it; another authorizer may.
    NoOpinion,
}

/// A decision with what led to it, for those who ask why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opinion {
    /// The decision.
    pub decision: Decision,
    /// Why; may be empty.
    pub reason: String,
    /// What went wrong on the way to it.
    pub errors: Vec<String>,
}

impl Opinion {
    /// An opinion with a reason.
    pub fn new(decision: Decision, reason: impl Into<String>) -> Self {
        Opinion { decision, reason: reason.into(), errors: Vec::new() }
    }
}

impl From<Decision> for Opinion {
    fn from(decision: Decision) -> Self {
        let reason = match &decision {
            Decision::Deny { reason } => reason.clone(),
            Decision::Allow | Decision::NoOpinion => String::new(),
        };
        Opinion { decision, reason, errors: Vec::new() }
    }
}

/// Decides on requests.
#[async_trait]
pub trait Authorizer: Send + Sync {
    /// Whether the caller may do what is asked.
    async fn authorize(&self, who: &Identity, info: &RequestInfo) -> Decision;

    /// The same decision with its reasons. It may cost more.
    async fn explain(&self, who: &Identity, info: &RequestInfo) -> Opinion {
        self.authorize(who, info).await.into()
    }

    /// Why a list of rules would not tell all that the caller may do; empty where it does.
    fn gaps(&self, who: &Identity) -> Vec<&'static str> {
        let _ = who;
        Vec::new()
    }
}

/// Asks one after the other until one has an opinion.
pub struct Union(pub Vec<std::sync::Arc<dyn Authorizer>>);

#[async_trait]
impl Authorizer for Union {
    async fn authorize(&self, who: &Identity, info: &RequestInfo) -> Decision {
        for authorizer in &self.0 {
            let decision = authorizer.authorize(who, info).await;
            if decision != Decision::NoOpinion {
                return decision;
            }
        }
        Decision::NoOpinion
    }

    async fn explain(&self, who: &Identity, info: &RequestInfo) -> Opinion {
        let (mut reasons, mut errors) = (Vec::new(), Vec::new());
        for authorizer in &self.0 {
            let opinion = authorizer.explain(who, info).await;
            errors.extend(opinion.errors);
            if opinion.decision != Decision::NoOpinion {
                return Opinion { decision: opinion.decision, reason: opinion.reason, errors };
            }
            if !opinion.reason.is_empty() {
                reasons.push(opinion.reason);
            }
        }
        Opinion { decision: Decision::NoOpinion, reason: reasons.join("\n"), errors }
    }

    fn gaps(&self, who: &Identity) -> Vec<&'static str> {
        self.0.iter().flat_map(|authorizer| authorizer.gaps(who)).collect()
    }
}

/// `system:masters` may do everything, and everybody may ask whether the server is well.
pub struct Always;

/// Paths that need no credentials.
const OPEN: [&str; 4] = ["/healthz", "/livez", "/readyz", "/version"];

#[async_trait]
impl Authorizer for Always {
    async fn authorize(&self, who: &Identity, info: &RequestInfo) -> Decision {
        let open = !info.is_resource && info.verb == "get" && OPEN.contains(&info.path.trim_end_matches('/'));
        if open || who.is_in(MASTERS) { Decision::Allow } else { Decision::NoOpinion }
    }
}
