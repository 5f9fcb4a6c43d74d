//! Which observations can be acted on (pure).

use keelson_operator_kit::Fault;
use keelson_operator_kit::Policy;

use crate::observe::{ObservedNamespace, ObservedSecret};

/// A namespace that is to be filled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatedNamespace {
    /// Whether its `default` account is there.
    pub has_account: bool,
    /// Whether its bundle is there and right.
    pub bundle: Option<bool>,
}

/// A Secret that says whose token it wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatedSecret {
    /// What is seen of it.
    pub seen: ObservedSecret,
    /// The account that it names.
    pub account: String,
}

/// Why a Secret cannot be filled.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// It names no account.
    #[error("the annotation kubernetes.io/service-account.name is missing")]
    NoAccount,
}

impl Fault for Invalid {
    fn policy(&self) -> Policy {
        Policy::AwaitChange
    }
}

/// `None` for a namespace that is gone or about to go: nothing can be made in it.
pub fn namespace(observed: ObservedNamespace) -> Option<ValidatedNamespace> {
    let ObservedNamespace { active, has_account, bundle } = observed;
    active.then_some(ValidatedNamespace { has_account, bundle })
}

/// A Secret must name its account.
pub fn token_secret(observed: ObservedSecret) -> Result<ValidatedSecret, Invalid> {
    let account = observed.account.clone().ok_or(Invalid::NoAccount)?;
    Ok(ValidatedSecret { seen: observed, account })
}
