//! Dynamic admission, as far as it is pure: which requests a webhook or policy is about, and the reviews that webhooks
//! are sent and answer.

mod review;
mod rules;

pub use review::{Answer, Request, ReviewVersion};
pub use rules::{Asked, MatchResources, Operation, Rule, Subject};

/// The group of the configurations of admission.
pub const GROUP: &str = "admissionregistration.k8s.io";

/// Whether a kind configures admission itself. Nothing that is configured so is asked about it.
pub fn is_exempt(group: &str, kind: &str) -> bool {
    group == GROUP
        && matches!(
            kind,
            "ValidatingWebhookConfiguration"
                | "MutatingWebhookConfiguration"
                | "ValidatingAdmissionPolicy"
                | "ValidatingAdmissionPolicyBinding"
                | "MutatingAdmissionPolicy"
                | "MutatingAdmissionPolicyBinding"
        )
}
