//! Warnings about pods that are there already when a namespace becomes stricter.

use std::collections::BTreeMap;

use keelson_api::pod_security::{LevelVersion, Violation, reasons};

/// So many pods are looked at.
const MOST: usize = 3000;

/// What was found, with the first pod by name and the number of pods for each text.
#[derive(Debug, Default)]
pub(super) struct Found {
    texts: BTreeMap<String, (String, usize)>,
    checked: usize,
    total: usize,
}

impl Found {
    /// Whether one more pod may be looked at.
    pub(super) fn has_room(&self) -> bool {
        self.checked < MOST
    }

    /// Counts a pod that was not looked at.
    pub(super) fn skip(&mut self) {
        self.total += 1;
    }

    /// Takes up what a pod does.
    pub(super) fn add(&mut self, pod: &str, violations: &[Violation]) {
        self.checked += 1;
        self.total += 1;
        if violations.is_empty() {
            return;
        }
        let (first, count) = self.texts.entry(reasons(violations)).or_insert_with(|| (pod.to_owned(), 0));
        *count += 1;
        if pod < first.as_str() {
            pod.clone_into(first);
        }
    }

    /// The warnings.
    pub(super) fn warnings(&self, namespace: &str, enforce: LevelVersion) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.checked < self.total {
            warnings.push(format!(
                "new PodSecurity enforce level only checked against the first {} of {} existing pods",
                self.checked, self.total
            ));
        }
        if !self.texts.is_empty() {
            warnings.push(format!(
                "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{enforce}\""
            ));
        }
        let mut pods: Vec<String> = self
            .texts
            .iter()
            .map(|(text, (first, count))| match count {
                1 => format!("{first}: {text}"),
                2 => format!("{first} (and 1 other pod): {text}"),
                _ => format!("{first} (and {} other pods): {text}", count - 1),
            })
            .collect();
        pods.sort();
        warnings.extend(pods);
        warnings
    }
}

#[cfg(test)]
mod tests {
    use keelson_api::pod_security::Level;

    use super::*;

    #[test]
    fn pods_that_do_the_same_share_a_warning() {
        let does = |reason: &str| vec![Violation { reason: reason.to_owned(), detail: "x".to_owned() }];
        let mut found = Found::default();
        for (pod, reason) in
            [("c", "privileged"), ("b", "privileged"), ("a", "hostPort"), ("d", "privileged")]
        {
            found.add(pod, &does(reason));
        }
        let expected = [
            "existing pods in namespace \"n\" violate the new PodSecurity enforce level \"baseline:latest\"",
            "a: hostPort",
            "b (and 2 other pods): privileged",
        ];
        assert_eq!(found.warnings("n", LevelVersion { level: Level::Baseline, minor: None }), expected);
    }
}
