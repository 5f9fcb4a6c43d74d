//! The rules in the schemas of definitions: checked when a definition is written, compiled when it is taken up, and kept
//! with the kind.

use std::sync::Arc;

use keelson_api::custom_resource::{self, CustomKind, ObjectRules, definition};
use keelson_api::validation::FieldError;
use keelson_api::{GroupVersionKind, Object, ResourceInfo};
use keelson_cel::rules::Rules;
use serde_json::Value;

#[derive(Debug)]
struct Compiled(Rules);

impl ObjectRules for Compiled {
    fn validate(&self, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
        self.0.validate(new, old)
    }
}

/// Adds the faults of the rules in a definition, if the object is one and has no other faults. What was accepted is not
/// looked at again.
pub(crate) fn check(
    gvk: &GroupVersionKind,
    object: &Object,
    live: Option<&Object>,
    errors: &mut Vec<FieldError>,
) {
    if !custom_resource::is_definition(gvk) || !errors.is_empty() {
        return;
    }
    let accepted: Vec<&Value> =
        live.into_iter().flat_map(definition::schemas).map(|(_, schema)| schema).collect();
    for (path, schema) in definition::schemas(object) {
        if accepted.contains(&schema) {
            continue;
        }
        errors.extend(Rules::compile(schema, &path).1);
    }
}

/// The resources of a definition with the rules of their versions.
pub(super) fn attach(resources: Vec<Arc<ResourceInfo>>, definition: &Object) -> Vec<Arc<ResourceInfo>> {
    let with_rules = |resource: Arc<ResourceInfo>| {
        let version = definition::versions(definition).find(|it| it["name"] == resource.version.as_str());
        let Some((version, custom)) = version.zip(resource.custom.as_ref()) else { return resource };
        let (rules, faults) = Rules::compile(&version["schema"]["openAPIV3Schema"], "openAPIV3Schema");
        for fault in faults {
            tracing::error!(%fault, object = custom.definition, "a rule of a definition cannot be used");
        }
        let Some(rules) = rules else { return resource };
        let custom = CustomKind { rules: Some(Arc::new(Compiled(rules))), ..CustomKind::clone(custom) };
        Arc::new(ResourceInfo { custom: Some(Arc::new(custom)), ..ResourceInfo::clone(&resource) })
    };
    resources.into_iter().map(with_rules).collect()
}
