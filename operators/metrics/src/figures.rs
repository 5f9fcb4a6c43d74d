//! What nodes and pods use, from what they had used at two times (pure).

use std::collections::{BTreeMap, HashMap};

use crate::scrape::{NodePoints, Point};

/// Between two points that are closer there is no rate.
const CLOSEST: i64 = 500;

/// What something uses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Usage {
    /// Nanoseconds of processor time in each second.
    pub(crate) cpu: u64,
    /// Bytes.
    pub(crate) memory: u64,
    /// When that was so, in milliseconds since 1970.
    pub(crate) at: i64,
    /// The time before that in which the processor time was used, in milliseconds.
    pub(crate) window: i64,
}

/// What a pod's containers use.
pub(crate) type PodUsage = BTreeMap<String, Usage>;

/// What the last two answers of a kubelet say.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    before: NodePoints,
    last: NodePoints,
}

fn time(points: &NodePoints) -> i64 {
    points.node.map_or(0, |node| node.at)
}

fn usage(before: Option<&Point>, last: &Point) -> Option<Usage> {
    let same = before.filter(|before| before.started == last.started && before.cpu <= last.cpu);
    let (cpu, since) = match (same, last.started) {
        (Some(before), _) => (last.cpu - before.cpu, before.at),
        // It began since: all that it has used counts.
        (None, Some(started)) => (last.cpu, started),
        (None, None) => return None,
    };
    let window = last.at - since;
    (window >= CLOSEST).then(|| Usage {
        cpu: (cpu / window as f64 * 1e12).max(0.0) as u64,
        memory: last.memory as u64,
        at: last.at,
        window,
    })
}

impl History {
    /// Takes an answer. One that comes too soon after the last, or is the same, replaces it.
    pub(crate) fn add(&mut self, points: NodePoints) {
        if time(&points) - time(&self.last) >= CLOSEST {
            self.before = std::mem::replace(&mut self.last, points);
        } else {
            self.last = points;
        }
    }

    /// What the node uses.
    pub(crate) fn node(&self) -> Option<Usage> {
        usage(self.before.node.as_ref(), self.last.node.as_ref()?)
    }

    /// What a pod uses; `None` unless it is known of all of its containers that run.
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Option<PodUsage> {
        let key = (namespace.to_owned(), name.to_owned());
        let last = self.last.pods.get(&key)?;
        let none = HashMap::new();
        let before = self.before.pods.get(&key).unwrap_or(&none);
        let each = last.iter().map(|(name, point)| Some((name.clone(), usage(before.get(name), point)?)));
        each.collect::<Option<PodUsage>>().filter(|all| !all.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(cpu: f64, at: i64, started: i64) -> NodePoints {
        let point = Point { cpu, memory: 4096.0, at, started: None };
        let container = Point { started: Some(started), ..point };
        let pod = HashMap::from([("c".to_owned(), container)]);
        NodePoints { node: Some(point), pods: HashMap::from([(("n".to_owned(), "p".to_owned()), pod)]) }
    }

    #[test]
    fn processor_time_is_what_was_used_between_two_answers() {
        let mut history = History::default();
        history.add(points(10.0, 100_000, 90_000));
        assert_eq!(history.node(), None);
        // All that a container has used since it began.
        assert_eq!(history.pod("n", "p").unwrap()["c"].cpu, 1_000_000_000);
        history.add(points(11.0, 102_000, 90_000));
        let expected = Usage { cpu: 500_000_000, memory: 4096, at: 102_000, window: 2000 };
        assert_eq!(history.node(), Some(expected));
        assert_eq!(history.pod("n", "p").unwrap()["c"], expected);
        assert_eq!(history.pod("n", "other"), None);
        // The kubelet's same answer again.
        history.add(points(11.0, 102_000, 90_000));
        assert_eq!(history.node(), Some(expected));
    }

    #[test]
    fn a_container_that_began_anew_does_not_count_what_it_had_used_before() {
        let mut history = History::default();
        history.add(points(10.0, 100_000, 90_000));
        history.add(points(0.5, 110_000, 109_000));
        let usage = history.pod("n", "p").unwrap()["c"];
        assert_eq!((usage.cpu, usage.window), (500_000_000, 1000));
    }
}
