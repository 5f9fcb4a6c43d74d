//! May somebody do something: the family of access reviews.

use keelson_api::selector::{FieldSelector, LabelSelector};
use keelson_api::validation::FieldError;
use keelson_api::{Object, Status};
use serde_json::{Value, json};

use crate::authorization::{Authorizer, Decision};
use crate::identity::Identity;
use crate::request_info::RequestInfo;

const RESOURCE: [&str; 2] = ["spec", "resourceAttributes"];
const PATH: [&str; 2] = ["spec", "nonResourceAttributes"];

/// The status of a review that `who` asks for; `namespace` is that of the path.
pub(super) async fn review(
    authorizer: &dyn Authorizer,
    who: &Identity,
    review: &mut Object,
    namespace: Option<&str>,
) -> Result<Value, Status> {
    let faults = faults(review, namespace);
    if !faults.is_empty() {
        return Err(Status::invalid(&review.gvk(), review.name().unwrap_or_default(), &faults));
    }
    let whom = if review.kind() == "SelfSubjectAccessReview" { who.clone() } else { subject(review) };
    let (asked, ignored) = attributes(review);
    let opinion = authorizer.explain(&whom, &asked).await;
    let mut status = json!({"allowed": opinion.decision == Decision::Allow});
    if matches!(opinion.decision, Decision::Deny { .. }) {
        status["denied"] = true.into();
    }
    if !opinion.reason.is_empty() {
        status["reason"] = opinion.reason.into();
    }
    let errors: Vec<String> = opinion.errors.into_iter().chain(ignored).collect();
    if !errors.is_empty() {
        status["evaluationError"] = errors.join("; ").into();
    }
    Ok(status)
}

fn is_there(review: &Object, path: &[&str]) -> bool {
    review.get(path).is_some_and(|value| !value.is_null())
}

fn texts(value: Option<&Value>) -> Vec<String> {
    let items = value.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn faults(review: &Object, namespace: Option<&str>) -> Vec<FieldError> {
    let mut faults = Vec::new();
    let is_self = review.kind() == "SelfSubjectAccessReview";
    let is_local = review.kind() == "LocalSubjectAccessReview";
    match (is_there(review, &RESOURCE), is_there(review, &PATH)) {
        (true, true) => {
            let (path, value) =
                ("spec.nonResourceAttributes", review.get(&PATH).cloned().unwrap_or_default());
            let detail = "cannot be specified in combination with resourceAttributes";
            faults.push(FieldError::invalid(path, value, detail));
        }
        (false, false) => {
            let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            faults.push(FieldError::invalid("spec.resourceAttributes", Value::Null, detail));
        }
        (true, false) | (false, true) => {}
    }
    if !is_self {
        let nobody = review.get_str(&["spec", "user"]).unwrap_or_default().is_empty()
            && texts(review.get(&["spec", "groups"])).is_empty();
        if nobody {
            faults.push(FieldError::invalid(
                "spec.user",
                "",
                "at least one of user or group must be specified",
            ));
        }
    }
    for kind in ["fieldSelector", "labelSelector"] {
        if let Some(selector) = review.get(&["spec", "resourceAttributes", kind]).filter(|it| !it.is_null()) {
            selector_faults(kind, selector, &mut faults);
        }
    }
    let said = |(field, value): (&String, &Value)| {
        let is_fine = matches!(field.as_str(), "managedFields" | "creationTimestamp")
            || (is_local && field == "namespace");
        let is_empty = value.is_null() || value == "";
        !(is_fine || is_empty)
    };
    if review.metadata().into_iter().flatten().any(said) {
        let detail = if is_local { "must be empty except for namespace" } else { "must be empty" };
        let value = review.get(&["metadata"]).cloned().unwrap_or_default();
        faults.push(FieldError::invalid("metadata", value, detail));
    }
    if is_local {
        let own = review.get_str(&["spec", "resourceAttributes", "namespace"]).unwrap_or_default();
        if is_there(review, &RESOURCE) && Some(own) != namespace {
            let path = "spec.resourceAttributes.namespace";
            faults.push(FieldError::invalid(path, own, "must match metadata.namespace"));
        }
        if is_there(review, &PATH) {
            let value = review.get(&PATH).cloned().unwrap_or_default();
            let detail = "disallowed on this kind of request";
            faults.push(FieldError::invalid("spec.nonResourceAttributes", value, detail));
        }
    }
    faults
}

fn selector_faults(kind: &str, selector: &Value, faults: &mut Vec<FieldError>) {
    let path = format!("spec.resourceAttributes.{kind}");
    let raw = selector["rawSelector"].as_str().unwrap_or_default();
    let terms = selector["requirements"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !raw.is_empty() && !terms.is_empty() {
        let detail = "may not specified at the same time as requirements";
        faults.push(FieldError::invalid(format!("{path}.rawSelector"), raw, detail));
    }
    if raw.is_empty() && terms.is_empty() {
        let detail = format!("when {path} is specified, requirements or rawSelector is required");
        faults.push(FieldError::required(format!("{path}.requirements"), detail));
    }
    for (place, term) in terms.iter().enumerate() {
        let path = format!("{path}.requirements[{place}]");
        let values = term["values"].as_array().is_some_and(|values| !values.is_empty());
        if term["key"].as_str().unwrap_or_default().is_empty() {
            faults.push(FieldError::required(format!("{path}.key"), "must be specified"));
        }
        match term["operator"].as_str().unwrap_or_default() {
            "In" | "NotIn" if !values => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                faults.push(FieldError::required(format!("{path}.values"), detail));
            }
            "Exists" | "DoesNotExist" if values => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                faults.push(FieldError::forbidden(format!("{path}.values"), detail));
            }
            _ => {}
        }
    }
}

fn subject(review: &Object) -> Identity {
    let text = |field: &str| review.get_str(&["spec", field]).unwrap_or_default();
    let extra = review.get(&["spec", "extra"]).and_then(Value::as_object).into_iter().flatten();
    Identity {
        username: text("user").to_owned(),
        uid: Some(text("uid").to_owned()).filter(|uid| !uid.is_empty()),
        groups: texts(review.get(&["spec", "groups"])),
        extra: extra.map(|(key, values)| (key.to_ascii_lowercase(), texts(Some(values)))).collect(),
    }
}

/// A selector in the form of a query, and whether all of it could be said so. What cannot be said is left out: the
/// question becomes a wider one, and its answer the safer one.
fn query(kind: &str, selector: &Value) -> (String, bool) {
    let raw = selector["rawSelector"].as_str().unwrap_or_default();
    let is_field = kind == "fieldSelector";
    if !raw.is_empty() {
        let is_good =
            if is_field { FieldSelector::parse(raw).is_ok() } else { LabelSelector::parse(raw).is_ok() };
        return (if is_good { raw.to_owned() } else { String::new() }, is_good);
    }
    let (mut parts, mut whole) = (Vec::new(), true);
    for term in selector["requirements"].as_array().into_iter().flatten() {
        let key = term["key"].as_str().unwrap_or_default();
        let values = texts(term.get("values"));
        let operator = term["operator"].as_str().unwrap_or_default();
        let part =
            if is_field { field_term(key, operator, &values) } else { label_term(key, operator, &values) };
        match part {
            Some(part) => parts.push(part),
            None => whole = false,
        }
    }
    (parts.join(","), whole)
}

fn field_term(key: &str, operator: &str, values: &[String]) -> Option<String> {
    let [value] = values else { return None };
    let value = value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
    match operator {
        "In" => Some(format!("{key}={value}")),
        "NotIn" => Some(format!("{key}!={value}")),
        _ => None,
    }
}

fn label_term(key: &str, operator: &str, values: &[String]) -> Option<String> {
    let known = matches!(operator, "In" | "NotIn" | "Exists" | "DoesNotExist");
    let term = json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
    let text = keelson_api::selector::query(&term);
    (known && LabelSelector::parse(&text).is_ok()).then_some(text)
}

/// What is asked for, and which parts of it were not understood.
fn attributes(review: &Object) -> (RequestInfo, Vec<String>) {
    let of = |section: &[&str], field: &str| {
        let value = review.get(section).and_then(|section| section.get(field)).and_then(Value::as_str);
        value.unwrap_or_default().to_owned()
    };
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    if !is_there(review, &RESOURCE) {
        let (verb, path) = (of(&PATH, "verb"), of(&PATH, "path"));
        return (RequestInfo { verb, path, ..RequestInfo::default() }, Vec::new());
    }
    let mut asked = RequestInfo {
        verb: of(&RESOURCE, "verb"),
        group: of(&RESOURCE, "group"),
        version: some(of(&RESOURCE, "version")).unwrap_or_else(|| "*".to_owned()),
        resource: of(&RESOURCE, "resource"),
        subresource: of(&RESOURCE, "subresource"),
        namespace: some(of(&RESOURCE, "namespace")),
        name: some(of(&RESOURCE, "name")),
        is_resource: true,
        ..RequestInfo::default()
    };
    let mut ignored = Vec::new();
    for kind in ["fieldSelector", "labelSelector"] {
        let Some(selector) = review.get(&["spec", "resourceAttributes", kind]).filter(|it| !it.is_null())
        else {
            continue;
        };
        let (text, whole) = query(kind, selector);
        if !whole {
            let how = if text.is_empty() { "ignored" } else { "partially ignored" };
            ignored.push(format!("spec.resourceAttributes.{kind} {how} due to parse error"));
        }
        if !text.is_empty() {
            asked.query.insert(kind.to_owned(), text);
        }
    }
    (asked, ignored)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(document: Value) -> Object {
        Object::from_value(document).unwrap()
    }

    fn told(document: Value, namespace: Option<&str>) -> Vec<String> {
        faults(&object(document), namespace).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_review_asks_for_one_thing_and_of_somebody() {
        assert_eq!(
            told(json!({"kind": "SubjectAccessReview", "spec": {}}), None),
            [
                "spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified",
                "spec.user: Invalid value: \"\": at least one of user or group must be specified",
            ]
        );
        let both = json!({"kind": "SelfSubjectAccessReview", "metadata": {"name": "x"},
            "spec": {"resourceAttributes": {}, "nonResourceAttributes": {}}});
        let told = told(both, None);
        assert!(told[0].ends_with("cannot be specified in combination with resourceAttributes"), "{told:?}");
        assert!(told[1].ends_with("must be empty"), "{told:?}");
    }

    #[test]
    fn a_local_review_stays_in_its_namespace() {
        let review = |namespace: &str| {
            json!({"kind": "LocalSubjectAccessReview", "metadata": {"namespace": "a"},
                "spec": {"user": "ann", "resourceAttributes": {"namespace": namespace}}})
        };
        assert!(told(review("a"), Some("a")).is_empty());
        assert_eq!(
            told(review("b"), Some("a")),
            ["spec.resourceAttributes.namespace: Invalid value: \"b\": must match metadata.namespace"]
        );
    }

    #[test]
    fn selectors_are_asked_with_and_what_cannot_be_said_is_told() {
        let review = object(json!({"spec": {"resourceAttributes": {"verb": "list", "resource": "pods",
            "fieldSelector": {"requirements": [
                {"key": "spec.nodeName", "operator": "In", "values": ["one"]},
                {"key": "x", "operator": "Exists"}]},
            "labelSelector": {"rawSelector": "a in (b"}}}}));
        let (asked, ignored) = attributes(&review);
        assert_eq!(asked.parameter("fieldSelector"), Some("spec.nodeName=one"));
        assert_eq!(asked.parameter("labelSelector"), None);
        assert_eq!(asked.version, "*");
        assert_eq!(
            ignored,
            [
                "spec.resourceAttributes.fieldSelector partially ignored due to parse error",
                "spec.resourceAttributes.labelSelector ignored due to parse error",
            ]
        );
    }

    #[test]
    fn a_selector_is_either_raw_or_a_list() {
        let with = |selector: Value| {
            let spec = json!({"user": "ann", "resourceAttributes": {"fieldSelector": selector}});
            told(json!({"kind": "SubjectAccessReview", "spec": spec}), None)
        };
        assert!(with(json!({"rawSelector": "a=b"})).is_empty());
        assert_eq!(with(json!({})).len(), 1);
        let term = json!({"key": "", "operator": "In"});
        assert_eq!(with(json!({"rawSelector": "a=b", "requirements": [term]})).len(), 3);
    }
}
