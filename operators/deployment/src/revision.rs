//! What a Deployment and its ReplicaSets note in annotations: revisions and sizes (pure).

use std::collections::BTreeMap;

use crate::replica_set::LAST_APPLIED;

/// Which template this is, counted from one.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// Which it was before, if the same template came back.
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// How many pods the Deployment asked for when the ReplicaSet was last changed.
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// How many pods there could be at most then.
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";

const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";

/// How long the list of former revisions may become, in characters.
const HISTORY_LENGTH: usize = 2000;

/// Annotations.
pub type Annotations = BTreeMap<String, String>;

/// The revision of a ReplicaSet; zero where it says none.
pub fn revision(annotations: &Annotations) -> i64 {
    number(annotations, REVISION)
}

/// A number in an annotation; zero where there is none.
pub fn number(annotations: &Annotations, key: &str) -> i64 {
    annotations.get(key).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Copies the annotations of a Deployment to its ReplicaSet, but for those with a meaning of their own there.
pub fn copy(from: &Annotations, to: &mut Annotations) {
    let own = [LAST_APPLIED, REVISION, REVISION_HISTORY, DESIRED_REPLICAS, MAX_REPLICAS, ROLLBACK_TO];
    for (key, value) in from.iter().filter(|(key, _)| !own.contains(&key.as_str())) {
        to.insert(key.clone(), value.clone());
    }
}

/// Makes a ReplicaSet the one of a later revision; the former one is noted.
pub fn advance(annotations: &mut Annotations, to: i64) {
    let former = annotations.get(REVISION).cloned();
    if revision(annotations) >= to {
        return;
    }
    annotations.insert(REVISION.to_owned(), to.to_string());
    let Some(former) = former else { return };
    let history = annotations.get(REVISION_HISTORY).map_or("", String::as_str);
    let mut all: Vec<&str> = history.split(',').filter(|one| !one.is_empty()).collect();
    all.push(&former);
    while all.len() > 1 && all.iter().map(|one| one.len() + 1).sum::<usize>() > HISTORY_LENGTH {
        all.remove(0);
    }
    let history = all.join(",");
    annotations.insert(REVISION_HISTORY.to_owned(), history);
}

/// Notes how many pods are asked for, and how many there may be.
pub fn note_sizes(annotations: &mut Annotations, desired: i32, max: i32) {
    annotations.insert(DESIRED_REPLICAS.to_owned(), desired.to_string());
    annotations.insert(MAX_REPLICAS.to_owned(), max.to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_that_comes_back_gets_a_new_revision_and_remembers_the_old() {
        let mut annotations = Annotations::new();
        advance(&mut annotations, 1);
        assert_eq!(annotations.get(REVISION_HISTORY), None);
        advance(&mut annotations, 3);
        advance(&mut annotations, 3);
        advance(&mut annotations, 5);
        assert_eq!(annotations[REVISION], "5");
        assert_eq!(annotations[REVISION_HISTORY], "1,3");
    }

    #[test]
    fn only_annotations_of_the_user_are_copied() {
        let from: Annotations = [(REVISION, "7"), ("kubernetes.io/change-cause", "image b")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        let mut to = Annotations::new();
        copy(&from, &mut to);
        assert_eq!(to.into_keys().collect::<Vec<_>>(), ["kubernetes.io/change-cause"]);
    }
}
