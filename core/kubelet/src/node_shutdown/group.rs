//! (pure) Which pods end when, and how long they have.

use std::time::Duration;

use crate::configuration::KubeletConfiguration;
use crate::pod::PodModel;

/// The least priority of the critical ones, `system-cluster-critical`.
const CRITICAL: i32 = 2_000_000_000;

/// What pods of a priority, and of those up to the next one, have to end in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Period {
    pub(crate) priority: i32,
    pub(crate) grace: Duration,
}

/// What the settings say, the lowest priority first; none where a shutdown is not waited with.
pub(crate) fn periods(settings: &KubeletConfiguration) -> Vec<Period> {
    let mut periods: Vec<Period> = settings
        .shutdown_grace_period_by_pod_priority
        .iter()
        .map(|one| Period {
            priority: one.priority,
            grace: Duration::from_secs(one.shutdown_grace_period_seconds.into()),
        })
        .collect();
    let all = settings.shutdown_grace_period.0;
    if periods.is_empty() && !all.is_zero() {
        let critical = settings.shutdown_grace_period_critical_pods.0;
        periods.push(Period { priority: 0, grace: all.saturating_sub(critical) });
        periods.push(Period { priority: CRITICAL, grace: critical });
    }
    periods.sort_by_key(|period| period.priority);
    periods
}

/// Pods with their period, in the order in which they end. A pod is of the highest period that is not above its priority, and
/// of the lowest where all are above.
pub(super) fn groups(periods: &[Period], pods: Vec<PodModel>) -> Vec<(Period, Vec<PodModel>)> {
    let mut groups: Vec<(Period, Vec<PodModel>)> = periods.iter().map(|one| (*one, Vec::new())).collect();
    for pod in pods {
        let priority = pod.spec().priority.unwrap_or_default();
        let above = groups.partition_point(|(period, _)| period.priority <= priority);
        if let Some((_, group)) = groups.get_mut(above.saturating_sub(1)) {
            group.push(pod);
        }
    }
    groups.retain(|(_, pods)| !pods.is_empty());
    groups
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn pod(name: &str, priority: Option<i32>) -> PodModel {
        let pod = json!({
            "metadata": { "name": name, "namespace": "n", "uid": name },
            "spec": { "priority": priority, "containers": [{ "name": "a" }] },
        });
        PodModel::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
    }

    fn settings(text: &str) -> KubeletConfiguration {
        serde_json::from_str(text).unwrap()
    }

    fn seconds(periods: &[Period]) -> Vec<(i32, u64)> {
        periods.iter().map(|period| (period.priority, period.grace.as_secs())).collect()
    }

    #[test]
    fn critical_pods_have_the_last_part_of_the_whole_period() {
        let text = r#"{"shutdownGracePeriod": "30s", "shutdownGracePeriodCriticalPods": "10s"}"#;
        assert_eq!(seconds(&periods(&settings(text))), [(0, 20), (CRITICAL, 10)]);
        assert_eq!(periods(&settings("{}")), []);
    }

    #[test]
    fn periods_by_priority_stand_in_the_order_of_priorities() {
        let text = r#"{"shutdownGracePeriodByPodPriority": [
            {"priority": 1000, "shutdownGracePeriodSeconds": 5}, {"priority": -5, "shutdownGracePeriodSeconds": 7}]}"#;
        assert_eq!(seconds(&periods(&settings(text))), [(-5, 7), (1000, 5)]);
    }

    #[test]
    fn a_pod_is_of_the_highest_period_that_is_not_above_it() {
        let period = |priority| Period { priority, grace: Duration::from_secs(1) };
        let pods = [
            ("low", Some(-9)),
            ("none", None),
            ("edge", Some(100)),
            ("middle", Some(150)),
            ("top", Some(999)),
        ];
        let pods = pods.map(|(name, priority)| pod(name, priority)).to_vec();
        let found = groups(&[period(0), period(100), period(200), period(500)], pods);
        let names = |pods: &[PodModel]| pods.iter().map(|pod| pod.uid.clone()).collect::<Vec<_>>();
        let found: Vec<_> = found.iter().map(|(period, pods)| (period.priority, names(pods))).collect();
        let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        assert_eq!(
            found,
            [(0, list(&["low", "none"])), (100, list(&["edge", "middle"])), (500, list(&["top"]))]
        );
    }
}
