//! Default roles and bindings at the start: what they should have and have not is added; what an administrator added
//! stays. One that says `autoupdate: "false"` is left alone.

use std::sync::Arc;

use keelson_api::{Object, Status};
use serde_json::Value;

use super::bootstrap::{ensure, options};
use crate::registry::delete::DeleteOptions;
use crate::registry::{Registry, Target};

const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// Appends what is wanted to what is there.
fn unite(live: &mut Object, wanted: &Object, field: &str) {
    let list = |object: &Object| object.get(&[field]).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut items = list(live);
    let missing: Vec<Value> = list(wanted).into_iter().filter(|item| !items.contains(item)).collect();
    if !missing.is_empty() {
        items.extend(missing);
        live.set(&[field], items.into());
    }
}

/// A default object as it should be, made of the live one.
fn reconciled(live: &Object, wanted: &Object) -> Object {
    let mut object = live.clone();
    for map in ["labels", "annotations"] {
        let entries = wanted.get(&["metadata", map]).and_then(Value::as_object);
        for (key, value) in entries.into_iter().flatten() {
            object.set(&["metadata", map, key], value.clone());
        }
    }
    match wanted.get(&["aggregationRule"]) {
        // Its rules are those of other roles.
        Some(rule) => object.set(&["aggregationRule"], rule.clone()),
        None => unite(&mut object, wanted, "rules"),
    }
    unite(&mut object, wanted, "subjects");
    object
}

/// Makes the object if it is missing, and completes it otherwise.
pub(super) async fn reconcile(registry: &Registry, document: Value) -> Result<(), Status> {
    let wanted = Object::from_value(document.clone()).map_err(Status::internal)?;
    let resource =
        registry.catalog().find_kind(&wanted.gvk()).map(Arc::clone).ok_or_else(Status::path_not_found)?;
    let name = wanted.name().unwrap_or_default().to_owned();
    let namespace = wanted.namespace().map(str::to_owned);
    let target = Target { resource, namespace, name, subresource: String::new() };
    let Some(found) = registry.find(&target) else { return ensure(registry, document).await };
    let live = crate::cache::decode(&found.bytes)?;
    if live.annotation(AUTO_UPDATE) == Some("false") {
        return Ok(());
    }
    // What a binding refers to cannot change: another one takes its place.
    if live.get(&["roleRef"]) != wanted.get(&["roleRef"]) {
        registry.delete(&target, &DeleteOptions::default(), &options()).await?;
        return ensure(registry, document).await;
    }
    if reconciled(&live, &wanted) == live {
        return Ok(());
    }
    registry.update(&target, &options(), |live| Ok(reconciled(live, &wanted))).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_missing_is_added_and_what_was_added_stays() {
        let role =
            |rules: Value| Object::from_value(json!({"metadata": {"name": "r"}, "rules": rules})).unwrap();
        let live = role(json!([{"verbs": ["own"]}]));
        let wanted = role(json!([{"verbs": ["get"]}]));
        assert_eq!(reconciled(&live, &wanted), role(json!([{"verbs": ["own"]}, {"verbs": ["get"]}])));
    }
}
