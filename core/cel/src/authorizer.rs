//! Expressions ask the authorizer: `authorizer.group('apps').resource('deployments').check('create').allowed()`.

use std::sync::Arc;

/// A question to the authorizer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Check {
    /// The service account who is asked about, by namespace and name; `None` for the one who makes the request.
    pub service_account: Option<(String, String)>,
    /// A path that is no resource.
    pub path: Option<String>,
    /// The API group.
    pub group: String,
    /// The resource.
    pub resource: String,
    /// The subresource; empty for the resource itself.
    pub subresource: String,
    /// The namespace; empty for all.
    pub namespace: String,
    /// The name; empty for all.
    pub name: String,
    /// A field selector, as written.
    pub field_selector: Option<String>,
    /// A label selector, as written.
    pub label_selector: Option<String>,
    /// The verb.
    pub verb: String,
}

/// What the authorizer says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// What went wrong, if anything did.
    pub error: Option<String>,
}

/// Decides what expressions ask.
pub trait Authorizer: Send + Sync + std::fmt::Debug {
    /// The decision; `None` where it is not known yet: then the evaluation ends with
    /// [`EvalError::Undecided`](crate::EvalError::Undecided), and is made again once it is.
    fn decide(&self, check: &Check) -> Option<Decision>;

    /// The resource of the request itself: what `authorizer.requestResource` begins with.
    fn request_resource(&self) -> Check;
}

/// A step on the way to a decision, or the decision.
#[derive(Clone, Debug)]
pub enum AuthorizerValue<'a> {
    /// The authorizer, for an account.
    Authorizer(&'a dyn Authorizer, Arc<Check>),
    /// A path.
    Path(&'a dyn Authorizer, Arc<Check>),
    /// A group.
    Group(&'a dyn Authorizer, Arc<Check>),
    /// A resource.
    Resource(&'a dyn Authorizer, Arc<Check>),
    /// The decision.
    Decision(Arc<Decision>),
}

impl AuthorizerValue<'_> {
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Self::Authorizer(..) => "kubernetes.authorization.Authorizer",
            Self::Path(..) => "kubernetes.authorization.PathCheck",
            Self::Group(..) => "kubernetes.authorization.GroupCheck",
            Self::Resource(..) => "kubernetes.authorization.ResourceCheck",
            Self::Decision(_) => "kubernetes.authorization.Decision",
        }
    }
}
