//! `events.k8s.io/v1` and `v1` Event: the same object under other names.

use crate::object::Object;

/// `v1` and `events.k8s.io/v1`.
const NAMES: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

pub(super) fn to_core(event: &mut Object) {
    for (core, new) in NAMES {
        if let Some(value) = event.0.remove(new) {
            event.0.insert(core.to_owned(), value);
        }
    }
}

pub(super) fn from_core(event: &mut Object) {
    for (core, new) in NAMES {
        if let Some(value) = event.0.remove(core) {
            event.0.insert(new.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::convert::convert;
    use crate::kinds::GroupVersionKind;

    #[test]
    fn an_event_has_its_upstream_names_in_either_group() {
        let new = Object::from_value(json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "a", "namespace": "d"},
            "regarding": {"kind": "Pod", "name": "p"}, "note": "text", "reason": "Started", "type": "Normal",
            "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "c", "reportingInstance": "i",
            "action": "Start", "series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"},
        }))
        .unwrap();
        let mut core = new.clone();
        convert(&mut core, &GroupVersionKind::new("", "v1", "Event"));
        assert_eq!(core.api_version(), "v1");
        assert_eq!(core.get_str(&["involvedObject", "name"]), Some("p"));
        assert_eq!(core.get_str(&["message"]), Some("text"));
        assert_eq!(core.get_str(&["reportingComponent"]), Some("c"));
        convert(&mut core, &GroupVersionKind::new("events.k8s.io", "v1", "Event"));
        assert_eq!(core, new);
    }
}
