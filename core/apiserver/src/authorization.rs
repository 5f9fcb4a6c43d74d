//! Who may do what.

use async_trait::async_trait;

use crate::identity::{Identity, MASTERS};
use crate::request_info::RequestInfo;

pub mod coverage;
pub mod node;
pub mod rbac;

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

/// Decides on requests.
#[async_trait]
pub trait Authorizer: Send + Sync {
    /// Whether the caller may do what is asked.
    async fn authorize(&self, who: &Identity, info: &RequestInfo) -> Decision;
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
