//! Strategic merge patch: a merge patch that knows the keys of lists.

use serde_json::{Map, Value};

use super::PatchError;
use crate::schema::Schema;

const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// Applies the patch. `schema` is that of the target's kind.
pub fn apply(target: &mut Value, patch: &Value, schema: &Schema) -> Result<(), PatchError> {
    let (Value::Object(fields), Value::Object(patch)) = (target, patch) else {
        return Err(PatchError::Malformed("a strategic merge patch must be an object".into()));
    };
    merge_map(fields, patch, Some(schema))
}

fn merge_map(
    target: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    schema: Option<&Schema>,
) -> Result<(), PatchError> {
    match patch.get("$patch").and_then(Value::as_str) {
        Some("replace") => {
            *target = patch
                .iter()
                .filter(|(name, _)| *name != "$patch")
                .map(|(n, v)| (n.clone(), v.clone()))
                .collect();
            return Ok(());
        }
        Some("delete") => {
            target.clear();
            return Ok(());
        }
        None | Some("merge") => {}
        Some(other) => return Err(PatchError::Malformed(format!("Unknown patch type found: {other}"))),
    }
    if let Some(keep) = patch.get("$retainKeys").and_then(Value::as_array) {
        target.retain(|name, _| keep.iter().any(|it| it.as_str() == Some(name)));
    }
    for (name, value) in patch {
        if let Some(field) = name.strip_prefix(DELETE_PRIMITIVES) {
            if let (Some(Value::Array(have)), Some(gone)) = (target.get_mut(field), value.as_array()) {
                have.retain(|it| !gone.contains(it));
            }
            continue;
        }
        if name.starts_with('$') {
            continue;
        }
        let field = schema.and_then(|schema| schema.field(name)).map(AsRef::as_ref);
        match value {
            Value::Null => {
                target.remove(name);
            }
            Value::Object(inner) => {
                let slot = target.entry(name.as_str()).or_insert_with(|| Value::Object(Map::new()));
                if !slot.is_object() {
                    *slot = Value::Object(Map::new());
                }
                if let Value::Object(have) = slot {
                    merge_map(have, inner, field)?;
                }
                if inner.get("$patch").and_then(Value::as_str) == Some("delete") {
                    target.remove(name);
                }
            }
            Value::Array(items) => {
                let slot = target.entry(name.as_str()).or_insert_with(|| Value::Array(Vec::new()));
                if !slot.is_array() {
                    *slot = Value::Array(Vec::new());
                }
                if let Value::Array(have) = slot {
                    merge_list(have, items, field)?;
                }
            }
            other => {
                target.insert(name.clone(), other.clone());
            }
        }
    }
    for (name, order) in patch {
        let (Some(field), Some(order)) = (name.strip_prefix(ORDER), order.as_array()) else { continue };
        let key = schema.and_then(|it| it.field(field)).and_then(|it| it.merge_key.as_deref()).unwrap_or("");
        if let Some(Value::Array(have)) = target.get_mut(field) {
            reorder(have, order, key);
        }
    }
    Ok(())
}

fn merge_list(have: &mut Vec<Value>, items: &[Value], schema: Option<&Schema>) -> Result<(), PatchError> {
    let Some(key) = schema.and_then(|schema| schema.merge_key.as_deref()) else {
        *have = items.to_vec();
        return Ok(());
    };
    if key.is_empty() {
        for item in items {
            if !have.contains(item) {
                have.push(item.clone());
            }
        }
        return Ok(());
    }
    if items.iter().any(|item| item.get("$patch").and_then(Value::as_str) == Some("replace")) {
        *have = items.iter().filter(|item| item.get("$patch").is_none()).cloned().collect();
        return Ok(());
    }
    let inner = schema.and_then(|schema| schema.items.as_deref());
    for item in items {
        let Value::Object(fields) = item else {
            return Err(PatchError::Malformed("a list of objects has an item that is none".into()));
        };
        let id = item.get(key).ok_or_else(|| {
            PatchError::Malformed(format!("map: {item} does not contain declared merge key: {key}"))
        })?;
        if fields.get("$patch").and_then(Value::as_str) == Some("delete") {
            have.retain(|it| it.get(key) != Some(id));
            continue;
        }
        match have.iter_mut().find(|it| it.get(key) == Some(id)) {
            Some(Value::Object(found)) => merge_map(found, fields, inner)?,
            Some(_) | None => {
                let mut fresh = Map::new();
                merge_map(&mut fresh, fields, inner)?;
                have.push(Value::Object(fresh));
            }
        }
    }
    Ok(())
}

/// Sorts by the wanted order; what the order does not name stays behind its old neighbour.
fn reorder(have: &mut Vec<Value>, order: &[Value], key: &str) {
    let place = |item: &Value| {
        order.iter().position(|it| if key.is_empty() { it == item } else { it.get(key) == item.get(key) })
    };
    let mut last = 0;
    let mut ranked: Vec<(usize, Value)> = have
        .drain(..)
        .map(|item| {
            let at = place(&item).map_or(last, |at| at + 1);
            if place(&item).is_some() {
                last = at;
            }
            (at, item)
        })
        .collect();
    ranked.sort_by_key(|(at, _)| *at);
    have.extend(ranked.into_iter().map(|(_, item)| item));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::GroupVersionKind;
    use serde_json::json;

    #[test]
    fn a_container_is_found_by_its_name_and_a_null_removes() {
        let schema = Schema::builtin(&GroupVersionKind::new("apps", "v1", "Deployment")).unwrap();
        let mut target = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"template": {"spec": {"containers": [
            {"name": "a", "image": "x:1"}, {"name": "b", "image": "y:1"}]}}}});
        let patch = json!({"metadata": {"labels": {"a": null}}, "spec": {"template": {"spec": {
            "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
            "containers": [{"name": "b", "image": "y:2"}, {"name": "a", "$patch": "merge"}]}}}});
        apply(&mut target, &patch, &schema).unwrap();
        assert_eq!(
            target,
            json!({"metadata": {"labels": {}}, "spec": {"template": {"spec": {"containers": [
            {"name": "b", "image": "y:2"}, {"name": "a", "image": "x:1"}]}}}})
        );
    }

    #[test]
    fn retain_keys_drops_the_other_fields_of_a_union() {
        let schema = Schema::builtin(&GroupVersionKind::new("apps", "v1", "Deployment")).unwrap();
        let mut target =
            json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
        let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
        apply(&mut target, &patch, &schema).unwrap();
        assert_eq!(target, json!({"spec": {"strategy": {"type": "Recreate"}}}));
    }
}
