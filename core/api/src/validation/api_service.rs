//! APIServices.

use super::FieldError;
use crate::names;
use crate::object::Object;

fn within(object: &Object, field: &str, most: i64, errors: &mut Vec<FieldError>) {
    let value = object.get(&["spec", field]).and_then(serde_json::Value::as_i64).unwrap_or_default();
    if !(1..=most).contains(&value) {
        let detail = format!("must be positive and less than {most}");
        errors.push(FieldError::invalid(format!("spec.{field}"), value, detail));
    }
}

pub(super) fn api_service(object: &Object, errors: &mut Vec<FieldError>) {
    let text = |path: &[&str]| object.get_str(path).unwrap_or_default();
    let (group, version) = (text(&["spec", "group"]), text(&["spec", "version"]));
    let name = object.name().unwrap_or_default();
    let required = format!("{version}.{group}");
    if name != required {
        let detail = format!("must be `spec.version+\".\"+spec.group`: {required:?}");
        errors.push(FieldError::invalid("metadata.name", name, detail));
    }
    if group.is_empty() && version != "v1" {
        let detail = "only v1 may have an empty group and it better be legacy kube";
        errors.push(FieldError::required("spec.group", detail));
    }
    if !group.is_empty() {
        let faults = names::dns1123_subdomain(group).into_iter();
        errors.extend(faults.map(|fault| FieldError::invalid("spec.group", group, fault)));
    }
    let faults = names::dns1035_label(version).into_iter();
    errors.extend(faults.map(|fault| FieldError::invalid("spec.version", version, fault)));
    within(object, "groupPriorityMinimum", 20_000, errors);
    within(object, "versionPriority", 1000, errors);
    let insecure = object.get(&["spec", "insecureSkipTLSVerify"]).is_some_and(|it| it == true);
    let bundle = text(&["spec", "caBundle"]);
    if object.get(&["spec", "service"]).is_none_or(serde_json::Value::is_null) {
        if !bundle.is_empty() {
            let value = format!("{} bytes", bundle.len() / 4 * 3);
            errors.push(FieldError::invalid(
                "spec.caBundle",
                value,
                "local APIServices may not have a caBundle",
            ));
        }
        if insecure {
            let detail = "local APIServices may not have insecureSkipTLSVerify";
            errors.push(FieldError::invalid("spec.insecureSkipTLSVerify", true, detail));
        }
        return;
    }
    if group.is_empty() {
        let detail = "the core group is served by this server alone";
        errors.push(FieldError::forbidden("spec.service", detail));
    }
    for field in ["namespace", "name"] {
        if text(&["spec", "service", field]).is_empty() {
            errors.push(FieldError::required(format!("spec.service.{field}"), ""));
        }
    }
    if insecure && !bundle.is_empty() {
        let detail = "may not be true if caBundle is present";
        errors.push(FieldError::invalid("spec.insecureSkipTLSVerify", true, detail));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn faults(name: &str, spec: Value) -> Vec<String> {
        let object = Object::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
        let mut errors = Vec::new();
        api_service(&object, &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_name_is_version_and_group_and_priorities_have_bounds() {
        let good = json!({"group": "g.io", "version": "v1", "groupPriorityMinimum": 20000, "versionPriority": 1000,
            "service": {"namespace": "n", "name": "s"}});
        assert_eq!(faults("v1.g.io", good.clone()), Vec::<String>::new());
        let found =
            faults("v2.g.io", json!({"group": "g.io", "version": "v1", "groupPriorityMinimum": 20001}));
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].contains("must be `spec.version+\".\"+spec.group`: \"v1.g.io\""), "{found:?}");
        assert!(found[2].contains("must be positive and less than 1000"), "{found:?}");
    }

    #[test]
    fn trust_is_said_once_and_for_servers_elsewhere_alone() {
        let mut spec = json!({"group": "g.io", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1,
            "caBundle": "Q0E=", "insecureSkipTLSVerify": true});
        assert_eq!(faults("v1.g.io", spec.clone()).len(), 2);
        spec["service"] = json!({"namespace": "n", "name": ""});
        assert_eq!(faults("v1.g.io", spec).len(), 2);
    }
}
