//! Defaults of webhooks' configurations.

use serde_json::{Map, Value, json};

use super::{each, fill};
use crate::object::Object;

/// Fills in a configuration of admission webhooks.
pub(super) fn configuration(object: &mut Object) {
    let mutating = object.kind() == "MutatingWebhookConfiguration";
    for hook in each(&mut object.0, "webhooks") {
        fill(hook, "failurePolicy", "Fail");
        fill(hook, "matchPolicy", "Equivalent");
        fill(hook, "namespaceSelector", json!({}));
        fill(hook, "objectSelector", json!({}));
        fill(hook, "timeoutSeconds", 10);
        if mutating {
            fill(hook, "reinvocationPolicy", "Never");
        }
        each(hook, "rules").for_each(|rule| fill(rule, "scope", "*"));
        if let Some(Value::Object(client)) = hook.get_mut("clientConfig") {
            service(client);
        }
    }
}

/// Fills in an admission policy, or a binding of one.
pub(super) fn policy(object: &mut Object) {
    let is_binding = object.kind().ends_with("Binding");
    let Some(Value::Object(spec)) = object.0.get_mut("spec") else { return };
    if !is_binding {
        fill(spec, "failurePolicy", "Fail");
    }
    for field in ["matchConstraints", "matchResources"] {
        let Some(Value::Object(resources)) = spec.get_mut(field) else { continue };
        fill(resources, "matchPolicy", "Equivalent");
        fill(resources, "namespaceSelector", json!({}));
        fill(resources, "objectSelector", json!({}));
        for rules in ["resourceRules", "excludeResourceRules"] {
            each(resources, rules).for_each(|rule| fill(rule, "scope", "*"));
        }
    }
}

/// Fills in the port of a webhook's Service.
pub(crate) fn service(client: &mut Map<String, Value>) {
    if let Some(Value::Object(service)) = client.get_mut("service") {
        fill(service, "port", 443);
    }
}
