//! The conditions of a namespace that is ending, in upstream's words: people and tools search for them (pure).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::NamespaceCondition;
use k8s_openapi::jiff::Timestamp;
use keelson_operator_kit::condition::{FALSE, TRUE};
use keelson_operator_kit::time::api_time;

/// What a look at a namespace found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    discovery: Option<String>,
    failures: Vec<String>,
    remaining: BTreeMap<String, usize>,
    finalizers: BTreeMap<String, usize>,
}

impl Findings {
    /// It is not known which kinds there are.
    pub fn undiscovered(error: &kube::Error) -> Self {
        let message = keelson_operator_kit::operator::chain(error);
        Findings { discovery: Some(message), ..Findings::default() }
    }

    /// The servers of these groups and versions do not answer.
    pub fn stale(&mut self, groups: &[String]) {
        if !groups.is_empty() {
            self.discovery = Some(format!(
                "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {}",
                groups.len(),
                groups.join(", ")
            ));
        }
    }

    /// The objects of a kind could not be deleted or counted.
    pub fn failed(&mut self, message: String) {
        self.failures.push(message);
    }

    /// So many objects of a kind, `plural.group`, are still there.
    pub fn remains(&mut self, kind: String, number: usize) {
        if number > 0 {
            self.remaining.insert(kind, number);
        }
    }

    /// An object that is still there has this finalizer.
    pub fn held(&mut self, finalizer: String) {
        *self.finalizers.entry(finalizer).or_default() += 1;
    }

    /// Whether objects are still there, or may be.
    pub fn has_content(&self) -> bool {
        !self.failures.is_empty() || !self.remaining.is_empty()
    }

    /// Whether the namespace is known to be empty.
    pub fn is_empty(&self) -> bool {
        self.discovery.is_none() && !self.has_content()
    }
}

/// The conditions after a look. Those of other types stay as they are.
pub fn conditions(
    mut conditions: Vec<NamespaceCondition>,
    findings: &Findings,
    now: Timestamp,
) -> Vec<NamespaceCondition> {
    let list = |counts: &BTreeMap<String, usize>, verb: &str| {
        let texts: Vec<_> = counts
            .iter()
            .map(|(what, number)| format!("{what} {verb} {number} resource instances"))
            .collect();
        (!texts.is_empty()).then(|| texts.join(", "))
    };
    let failures = (!findings.failures.is_empty()).then(|| {
        let mut texts = findings.failures.clone();
        texts.sort();
        format!("Failed to delete all resource types, {} remaining: {}", texts.len(), texts.join(", "))
    });
    let remaining = list(&findings.remaining, "has").map(|it| format!("Some resources are remaining: {it}"));
    let finalizers = list(&findings.finalizers, "in")
        .map(|it| format!("Some content in the namespace has finalizers remaining: {it}"));
    let all = [
        (
            "NamespaceDeletionDiscoveryFailure",
            findings.discovery.clone().map(|message| ("DiscoveryFailed", message)),
            ("ResourcesDiscovered", "All resources successfully discovered"),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        (
            "NamespaceDeletionContentFailure",
            failures.map(|message| ("ContentDeletionFailed", message)),
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        (
            "NamespaceContentRemaining",
            remaining.map(|message| ("SomeResourcesRemain", message)),
            ("ContentRemoved", "All content successfully removed"),
        ),
        (
            "NamespaceFinalizersRemaining",
            finalizers.map(|message| ("SomeFinalizersRemain", message)),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ];
    for (type_, wrong, (reason, message)) in all {
        let status = if wrong.is_some() { TRUE } else { FALSE };
        let (reason, message) = wrong.unwrap_or((reason, message.to_owned()));
        let mut new = NamespaceCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(api_time(now)),
        };
        match conditions.iter_mut().find(|condition| condition.type_ == type_) {
            Some(old) => {
                if old.status == new.status {
                    new.last_transition_time = old.last_transition_time.clone();
                }
                *old = new;
            }
            None => conditions.push(new),
        }
    }
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told<'a>(conditions: &'a [NamespaceCondition], type_: &str) -> (&'a str, &'a str, &'a str) {
        let condition = conditions.iter().find(|condition| condition.type_ == type_).unwrap();
        let text = |text: &'a Option<String>| text.as_deref().unwrap();
        (&condition.status, text(&condition.reason), text(&condition.message))
    }

    #[test]
    fn what_remains_is_told_with_numbers_and_finalizers() {
        let mut findings = Findings::default();
        findings.remains("pods.".to_owned(), 2);
        findings.remains("things.example.com".to_owned(), 0);
        findings.held("example.com/hold".to_owned());
        assert!(findings.has_content());
        let told_now = conditions(Vec::new(), &findings, Timestamp::UNIX_EPOCH);
        assert_eq!(told_now.len(), 5);
        assert_eq!(
            told(&told_now, "NamespaceContentRemaining"),
            (TRUE, "SomeResourcesRemain", "Some resources are remaining: pods. has 2 resource instances")
        );
        assert_eq!(
            told(&told_now, "NamespaceFinalizersRemaining").2,
            "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
        );
        assert_eq!(told(&told_now, "NamespaceDeletionContentFailure").0, FALSE);
    }

    #[test]
    fn a_condition_that_is_fulfilled_later_keeps_its_place_and_takes_a_new_time() {
        let mut findings = Findings::default();
        findings.failed("pods.: no".to_owned());
        let other = NamespaceCondition { type_: "Other".to_owned(), ..NamespaceCondition::default() };
        let before = conditions(vec![other.clone()], &findings, Timestamp::UNIX_EPOCH);
        assert_eq!(told(&before, "NamespaceDeletionContentFailure").1, "ContentDeletionFailed");
        let later = Timestamp::from_second(60).unwrap();
        let after = conditions(before.clone(), &Findings::default(), later);
        assert_eq!(after[0], other);
        assert_eq!(told(&after, "NamespaceDeletionContentFailure").1, "ContentDeleted");
        assert_eq!(after[3].last_transition_time, Some(api_time(later)));
        assert_eq!(after[4].last_transition_time, before[4].last_transition_time);
    }

    #[test]
    fn a_group_that_does_not_answer_keeps_the_namespace() {
        let mut findings = Findings::default();
        assert!(findings.is_empty());
        findings.stale(&["metrics.k8s.io/v1beta1".to_owned()]);
        assert!(!findings.is_empty() && !findings.has_content());
        let told_now = conditions(Vec::new(), &findings, Timestamp::UNIX_EPOCH);
        assert_eq!(told(&told_now, "NamespaceDeletionDiscoveryFailure").1, "DiscoveryFailed");
    }
}
