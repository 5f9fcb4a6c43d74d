//! What is filled in where a definition leaves it out.

use serde_json::{Value, json};

use crate::defaults::{fill, webhook};
use crate::object::{Object, child_map};

/// Fills in the singular name, the kind of lists, and the conversion.
pub fn apply(definition: &mut Object) {
    let spec = child_map(&mut definition.0, "spec");
    let conversion = child_map(spec, "conversion");
    fill(conversion, "strategy", "None");
    if let Some(client) =
        conversion.get_mut("webhook").and_then(|webhook| webhook.get_mut("clientConfig")?.as_object_mut())
    {
        webhook::service(client);
    }
    let names = child_map(spec, "names");
    let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    if !kind.is_empty() {
        fill(names, "singular", kind.to_lowercase());
        fill(names, "listKind", format!("{kind}List"));
    }
    // Filled in by the older version of definitions; what is false is left out.
    if spec.get("preserveUnknownFields") == Some(&Value::Bool(false)) {
        spec.remove("preserveUnknownFields");
    }
    if !definition.finalizers().any(|name| name == super::CLEANUP)
        && definition.deletion_timestamp().is_none()
    {
        let mut finalizers: Vec<String> = definition.finalizers().map(str::to_owned).collect();
        finalizers.push(super::CLEANUP.to_owned());
        definition.set_finalizers(finalizers);
    }
}

/// The status of a definition of which nothing is known yet.
pub fn empty_status() -> Value {
    json!({"conditions": [], "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": []})
}
