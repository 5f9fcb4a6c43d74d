//! Definitions in the groups of the Kubernetes community, which approves of what is in them.

use crate::object::Object;
use crate::validation::FieldError;

const APPROVED: &str = "api-approved.kubernetes.io";
const PROPOSAL: &str = "see https://github.com/kubernetes/enhancements/pull/1111";

/// Whether a group is one of the community's.
pub(in crate::custom_resource) fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|end| group.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

/// What a definition says of its approval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::custom_resource) enum Approval {
    /// Nothing.
    Missing,
    /// It is known not to be approved.
    Bypassed,
    /// Where it was approved.
    Approved,
    /// Neither.
    Invalid,
}

impl Approval {
    /// Reads the annotation; with a text for people.
    pub(in crate::custom_resource) fn of(definition: &Object) -> (Self, String) {
        let text = definition.annotation(APPROVED).unwrap_or_default();
        if text.is_empty() {
            let why = format!("protected groups must have approval annotation {APPROVED:?}, {PROPOSAL}");
            (Approval::Missing, why)
        } else if text.starts_with("unapproved") {
            (Approval::Bypassed, format!("not approved: {text:?}"))
        } else if is_url(text) {
            (Approval::Approved, format!("approved in {text}"))
        } else {
            let why = format!(
                "protected groups must have approval annotation {APPROVED:?} with either a URL or a reason starting with \"unapproved\", {PROPOSAL}"
            );
            (Approval::Invalid, why)
        }
    }
}

fn is_url(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '+' | '-' | '.');
    scheme.starts_with(|letter: char| letter.is_ascii_alphabetic())
        && scheme.chars().all(is_letter)
        && !rest.starts_with('/')
        && !rest.is_empty()
        && !text.contains(|letter: char| letter.is_whitespace() || letter.is_control())
}

/// The fault of a definition that says nothing of use. What it said before it may go on saying.
pub(super) fn check(new: &Object, old: Option<&Object>) -> Option<FieldError> {
    if !is_protected(new.get_str(&["spec", "group"]).unwrap_or_default()) {
        return None;
    }
    let (state, why) = Approval::of(new);
    if old.is_some_and(|old| Approval::of(old).0 == state) {
        return None;
    }
    let path = format!("metadata.annotations[{APPROVED}]");
    match state {
        Approval::Missing => Some(FieldError::required(path, why)),
        Approval::Invalid => {
            Some(FieldError::invalid(path, new.annotation(APPROVED).unwrap_or_default(), why))
        }
        Approval::Approved | Approval::Bypassed => None,
    }
}
