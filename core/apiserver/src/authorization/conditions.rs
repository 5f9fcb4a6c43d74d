//! When an authorization webhook is asked: expressions about the request (pure).

use std::sync::{Arc, LazyLock};

use keelson_cel::{Declaration, Environment, Type, Value as Cel};
use serde_json::{Map, Value, json};

use crate::expression::{Expression, record, text, texts};

/// Conditions of one webhook.
const MOST: usize = 64;
/// Texts that a request always has, if only empty ones.
const ATTRIBUTES: [&str; 7] = ["namespace", "verb", "group", "version", "resource", "subresource", "name"];

/// The `request` of expressions: the spec of a SubjectAccessReview.
static REQUEST: LazyLock<Arc<Declaration>> = LazyLock::new(|| {
    let requirement = record(
        "kubernetes.SelectorRequirement",
        [("key", text()), ("operator", text()), ("values", texts())],
    );
    let selector = |name| {
        let requirements = Declaration::list(Arc::clone(&requirement));
        record(name, [("rawSelector", text()), ("requirements", requirements)])
    };
    let mut attributes: Vec<(String, Arc<Declaration>)> =
        ATTRIBUTES.iter().map(|name| ((*name).to_owned(), text())).collect();
    attributes.push(("fieldSelector".to_owned(), selector("kubernetes.FieldSelectorAttributes")));
    attributes.push(("labelSelector".to_owned(), selector("kubernetes.LabelSelectorAttributes")));
    let path = record("kubernetes.NonResourceAttributes", [("path", text()), ("verb", text())]);
    record(
        "kubernetes.SubjectAccessReviewSpec",
        [
            ("resourceAttributes", Declaration::object("kubernetes.ResourceAttributes", attributes)),
            ("nonResourceAttributes", path),
            ("user", text()),
            ("groups", texts()),
            ("extra", Declaration::map(texts())),
            ("uid", text()),
        ],
    )
});

/// The conditions under which a webhook is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions(Vec<Expression>);

impl Conditions {
    /// Compiles the expressions of a list at a path; the text says what is wrong with them.
    pub(super) fn compile(sources: &[String], path: &str) -> Result<Self, String> {
        if sources.len() > MOST {
            return Err(format!("{path}: Too many: {}: must have at most {MOST} items", sources.len()));
        }
        let environment = Environment::new().variable("request", Arc::clone(&REQUEST));
        let mut made: Vec<Expression> = Vec::new();
        for (place, source) in sources.iter().enumerate() {
            let path = format!("{path}[{place}].expression");
            if source.trim().is_empty() {
                return Err(format!("{path}: Required value"));
            }
            if made.iter().any(|known| known.source() == source) {
                return Err(format!("{path}: Duplicate value: {source:?}"));
            }
            let compiled = Expression::compile(source, &environment, &[Type::Bool]);
            made.push(compiled.map_err(|error| format!("{path}: Invalid value: {source:?}: {error}"))?);
        }
        Ok(Conditions(made))
    }

    /// Whether all hold for the spec of a review. One that does not counts before any that cannot be evaluated.
    ///
    /// # Errors
    /// What went wrong with each that cannot be evaluated.
    pub(super) fn hold(&self, spec: &Value) -> Result<bool, Vec<String>> {
        if self.0.is_empty() {
            return Ok(true);
        }
        let request = whole(spec);
        let mut errors = Vec::new();
        for expression in &self.0 {
            match expression.evaluate(&[("request", Cel::from_json(&request, &REQUEST))]) {
                Ok(value) if value.is_true() => {}
                Ok(_) => return Ok(false),
                Err(error) => errors.push(format!(
                    "cel evaluation error: expression '{}' resulted in error: {error}",
                    expression.source()
                )),
            }
        }
        if errors.is_empty() { Ok(true) } else { Err(errors) }
    }
}

/// The spec of a review with empty texts for what it leaves out.
fn whole(spec: &Value) -> Value {
    let mut whole = json!({"user": "", "groups": [], "uid": "", "extra": {}});
    if let (Some(whole), Some(spec)) = (whole.as_object_mut(), spec.as_object()) {
        whole.extend(spec.clone());
    }
    if let Some(Value::Object(own)) = spec.get("resourceAttributes") {
        let empty = ATTRIBUTES.iter().map(|name| ((*name).to_owned(), Value::from("")));
        let mut attributes: Map<String, Value> = empty.collect();
        attributes.extend(own.clone());
        whole["resourceAttributes"] = Value::Object(attributes);
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(sources: &[&str]) -> Result<Conditions, String> {
        let sources: Vec<String> = sources.iter().map(|source| (*source).to_owned()).collect();
        Conditions::compile(&sources, "matchConditions")
    }

    #[test]
    fn all_conditions_hold_or_the_webhook_is_not_asked() {
        let pods = json!({"user": "ann", "groups": ["dev"], "resourceAttributes": {"verb": "list", "resource": "pods",
            "labelSelector": {"rawSelector": "a=b"}}});
        let path = json!({"user": "ann", "groups": [], "nonResourceAttributes": {"verb": "get", "path": "/metrics"}});
        let of = |sources: &[&str], spec: &Value| compiled(sources).unwrap().hold(spec);
        assert_eq!(of(&[], &pods), Ok(true));
        let system = [
            "has(request.resourceAttributes)",
            "request.resourceAttributes.namespace == ''",
            "'dev' in request.groups",
        ];
        assert_eq!((of(&system, &pods), of(&system, &path)), (Ok(true), Ok(false)));
        assert_eq!(of(&["request.resourceAttributes.labelSelector.rawSelector == 'a=b'"], &pods), Ok(true));
        assert_eq!(of(&["!('x' in request.extra) && request.uid == ''"], &path), Ok(true));
        let errors = of(&["request.resourceAttributes.verb == 'get'"], &path).unwrap_err();
        assert_eq!(
            errors,
            [
                "cel evaluation error: expression 'request.resourceAttributes.verb == 'get'' resulted in error: no such key: resourceAttributes"
            ]
        );
        // A condition that does not hold counts before one that fails.
        assert_eq!(
            of(&["request.resourceAttributes.verb == 'get'", "request.user == 'bob'"], &path),
            Ok(false)
        );
    }

    #[test]
    fn what_is_no_condition_is_refused() {
        assert_eq!(
            compiled(&["request.user"]).unwrap_err(),
            "matchConditions[0].expression: Invalid value: \"request.user\": must evaluate to bool but got string"
        );
        assert!(compiled(&["request.nope == 1"]).unwrap_err().contains("undefined field 'nope'"));
        assert!(compiled(&["true", "true"]).unwrap_err().contains("[1].expression: Duplicate value"));
        assert!(compiled(&[" "]).unwrap_err().contains("Required value"));
    }
}
