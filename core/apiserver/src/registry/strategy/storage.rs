//! What the server says about volumes and claims itself.

use jiff::Timestamp;
use keelson_api::Object;
use keelson_api::object::format_time;
use serde_json::{Map, Value};

fn source<'a>(claim: Option<&'a Object>, field: &str) -> Option<&'a Map<String, Value>> {
    claim?.get(&["spec", field])?.as_object()
}

fn text<'a>(source: &'a Map<String, Value>, field: &str) -> &'a str {
    source.get(field).and_then(Value::as_str).unwrap_or("")
}

/// A claim says twice what it is filled from. Sources in other namespaces are not taken yet, and what is neither a claim
/// nor a snapshot can be named in the newer field only.
pub(super) fn settle_claim(claim: &mut Object, live: Option<&Object>) {
    let elsewhere = source(Some(claim), "dataSourceRef").is_some_and(|it| !text(it, "namespace").is_empty());
    if elsewhere && source(live, "dataSourceRef").is_none() {
        claim.remove(&["spec", "dataSourceRef"]);
    }
    let (old, new) = (source(Some(claim), "dataSource"), source(Some(claim), "dataSourceRef"));
    let is_known = |it: &Map<String, Value>| {
        matches!(
            (text(it, "apiGroup"), text(it, "kind")),
            ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
        )
    };
    let same = |from: &Map<String, Value>| {
        let fields = ["apiGroup", "kind", "name"].into_iter();
        let fields = fields.filter_map(|field| Some((field.to_owned(), from.get(field)?.clone())));
        Value::Object(fields.collect())
    };
    match (old, new) {
        (Some(old), None) if source(live, "dataSource").is_none() && !is_known(old) => {
            claim.remove(&["spec", "dataSource"]);
        }
        (Some(old), None) => {
            let same = same(old);
            claim.set(&["spec", "dataSourceRef"], same);
        }
        (None, Some(new)) if text(new, "namespace").is_empty() => {
            let same = same(new);
            claim.set(&["spec", "dataSource"], same);
        }
        (None, _) | (Some(_), Some(_)) => {}
    }
}

/// Since when a volume is in its phase.
pub(super) fn date_phase(volume: &mut Object, live: Option<&Object>, now: Timestamp) {
    const SINCE: [&str; 2] = ["status", "lastPhaseTransitionTime"];
    let phase = |it: &Object| it.get_str(&["status", "phase"]).unwrap_or("").to_owned();
    let is_dated = match live {
        None => false,
        Some(live) if phase(live) == phase(volume) => true,
        Some(live) => volume.get(&SINCE).is_some_and(|since| Some(since) != live.get(&SINCE)),
    };
    if !is_dated {
        volume.set(&SINCE, format_time(now).into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn settled(spec: Value, live: Option<Value>) -> Value {
        let object = |spec: Value| Object::from_value(json!({"spec": spec})).unwrap();
        let mut claim = object(spec);
        settle_claim(&mut claim, live.map(object).as_ref());
        claim.into_value()["spec"].take()
    }

    #[test]
    fn a_claim_says_twice_what_it_is_filled_from() {
        let snapshot = json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "s"});
        let both = json!({"dataSource": snapshot, "dataSourceRef": snapshot});
        assert_eq!(settled(json!({"dataSource": snapshot}), None), both);
        assert_eq!(settled(json!({"dataSourceRef": snapshot}), None), both);
        let other = json!({"apiGroup": "example.com", "kind": "Image", "name": "i"});
        assert_eq!(settled(json!({"dataSource": other}), None), json!({}));
        let both = json!({"dataSource": other, "dataSourceRef": other});
        assert_eq!(settled(json!({"dataSourceRef": other}), None), both);
        assert_eq!(settled(json!({"dataSource": other}), Some(both.clone())), both);
        let elsewhere = json!({"kind": "PersistentVolumeClaim", "name": "c", "namespace": "n"});
        assert_eq!(settled(json!({"dataSourceRef": elsewhere}), None), json!({}));
    }

    #[test]
    fn a_volume_says_since_when_it_is_in_its_phase() {
        let volume = |phase: &str, since: &str| {
            Object::from_value(json!({"status": {"phase": phase, "lastPhaseTransitionTime": since}})).unwrap()
        };
        let dated = |mut new: Object, live: Option<Object>| {
            date_phase(&mut new, live.as_ref(), "2026-01-01T00:00:00Z".parse().unwrap());
            new.get_str(&["status", "lastPhaseTransitionTime"]).unwrap().to_owned()
        };
        assert_eq!(dated(volume("Pending", "x"), None), "2026-01-01T00:00:00Z");
        assert_eq!(dated(volume("Bound", "x"), Some(volume("Bound", "x"))), "x");
        assert_eq!(dated(volume("Bound", "x"), Some(volume("Pending", "x"))), "2026-01-01T00:00:00Z");
        assert_eq!(dated(volume("Bound", "y"), Some(volume("Pending", "x"))), "y");
    }
}
