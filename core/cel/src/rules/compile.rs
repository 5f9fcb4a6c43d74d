//! From a schema to its rules, and the faults of rules that cannot be.

use std::sync::Arc;

use keelson_api::Schema;
use keelson_api::schema::ListType;
use keelson_api::validation::{ErrorKind, FieldError};
use serde_json::Value as Json;

use super::{Level, Rule};
use crate::declaration::{Declaration, Shape, escape};
use crate::program::{Environment, compile as compile_program};

/// The most that one rule may cost for one object, by its estimate.
const RULE_LIMIT: u64 = 10_000_000;
/// The most that all rules of a schema may cost.
const SCHEMA_LIMIT: u64 = 100_000_000;
/// The size in bytes of the largest request.
const MAX_REQUEST: u64 = 3 * 1024 * 1024;
const FIELD: &str = "x-kubernetes-validations";
const REASONS: [(&str, ErrorKind); 4] = [
    ("FieldValueDuplicate", ErrorKind::Duplicate),
    ("FieldValueForbidden", ErrorKind::Forbidden),
    ("FieldValueInvalid", ErrorKind::Invalid),
    ("FieldValueRequired", ErrorKind::Required),
];

struct Compiler {
    faults: Vec<FieldError>,
    costs: Vec<(String, u64)>,
}

/// A level of the schema, and what is known of it from above.
#[derive(Clone)]
struct Place<'s> {
    json: &'s Json,
    schema: &'s Schema,
    declaration: Option<Arc<Declaration>>,
    path: String,
    /// How often the level may occur in an object; nothing where that is not bounded.
    times: Option<u64>,
    /// The part of the schema above in which a value has no old state of its own.
    uncorrelatable: Option<String>,
}

pub(super) fn compile(json: &Json, path: &str) -> (Option<Level>, Vec<FieldError>) {
    if !has_rules(json) {
        return (None, Vec::new());
    }
    let schema = match Schema::from_crd(json) {
        Ok(schema) => schema,
        Err(error) => return (None, vec![FieldError::invalid(path, "", error.to_string())]),
    };
    let declaration = Declaration::from_schema(&schema, true, "selfType");
    let mut compiler = Compiler { faults: Vec::new(), costs: Vec::new() };
    let place = Place {
        json,
        schema: &schema,
        declaration,
        path: path.to_owned(),
        times: Some(1),
        uncorrelatable: None,
    };
    let root = compiler.level(&place);
    compiler.total(path);
    (Some(root), compiler.faults)
}

fn has_rules(json: &Json) -> bool {
    match json {
        Json::Object(fields) => fields.iter().any(|(name, value)| name == FIELD || has_rules(value)),
        Json::Array(items) => items.iter().any(has_rules),
        _ => false,
    }
}

fn factor(cost: u64, limit: u64) -> String {
    #[allow(clippy::cast_precision_loss)]
    let factor = cost as f64 / limit as f64;
    if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    }
}

fn too_costly(what: &str, cost: u64, limit: u64) -> String {
    format!(
        "{what} exceeds budget by factor of {} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)",
        factor(cost, limit)
    )
}

impl Compiler {
    /// All rules together may not cost too much either.
    fn total(&mut self, path: &str) {
        let total = self.costs.iter().fold(0_u64, |sum, (_, cost)| sum.saturating_add(*cost));
        if total <= SCHEMA_LIMIT {
            return;
        }
        self.costs.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
        for (path, _) in self.costs.iter().take(4) {
            let what = "contributed to estimated rule & messageExpression cost total exceeding cost limit for entire OpenAPIv3 schema";
            self.faults.push(FieldError::forbidden(path.as_str(), what));
        }
        let what = "x-kubernetes-validations estimated rule & messageExpression cost total for entire OpenAPIv3 schema";
        self.faults.push(FieldError::forbidden(path, too_costly(what, total, SCHEMA_LIMIT)));
    }

    fn level<'s>(&mut self, place: &Place<'s>) -> Level {
        let Place { json, schema, .. } = place;
        let mut level = Level {
            declaration: place.declaration.clone(),
            kind: json.get("type").and_then(Json::as_str).unwrap_or_default().to_owned(),
            list: schema.list.clone(),
            is_correlatable: !schema.atomic,
            rules: Vec::new(),
            all_of: Vec::new(),
            items: None,
            values: None,
            properties: std::collections::BTreeMap::new(),
        };
        let max = place.declaration.as_deref().and_then(|declaration| declaration.max);
        let limits = schema.constraints.as_deref();
        let limit = limits.and_then(|limits| limits.max_items.or(limits.max_properties));
        let times = limit.and(max).and_then(|max| place.times.map(|times| times.saturating_mul(max)));
        let below = match place.declaration.as_deref().map(|declaration| &declaration.shape) {
            Some(Shape::List(items, _)) => Some(Arc::clone(items)),
            Some(Shape::Map(values)) => Some(Arc::clone(values)),
            _ => None,
        };
        let uncorrelatable =
            |here: bool| place.uncorrelatable.clone().or_else(|| here.then(|| place.path.clone()));
        let child = |json: &'s Json,
                     schema: &'s Schema,
                     name: &str,
                     declaration: Option<Arc<Declaration>>,
                     times: Option<u64>,
                     lost: Option<String>| Place {
            json,
            schema,
            declaration,
            path: format!("{}.{name}", place.path),
            times,
            uncorrelatable: lost,
        };
        if let (Some(json), Some(items)) = (json.get("items"), &schema.items) {
            let lost = uncorrelatable(!matches!(schema.list, ListType::Map(_)));
            let found = self.level(&child(json, items, "items", below.clone(), times, lost));
            level.items = (!found.is_empty()).then(|| Box::new(found));
        }
        if let (Some(json), Some(values)) = (json.get("additionalProperties"), &schema.additional) {
            let lost = uncorrelatable(schema.atomic);
            let found = self.level(&child(json, values, "additionalProperties", below, times, lost));
            level.values = (!found.is_empty()).then(|| Box::new(found));
        }
        let properties = json.get("properties").and_then(Json::as_object).into_iter().flatten();
        for (name, property) in properties {
            let Some(field) = schema.properties.get(name).filter(|_| has_rules(property)) else { continue };
            let declaration = match (place.declaration.as_deref().map(|it| &it.shape), escape(name)) {
                (Some(Shape::Object(object)), Some(escaped)) => {
                    object.fields.get(&escaped).map(|field| Arc::clone(&field.declaration))
                }
                _ => Declaration::from_schema(field, field.embedded, name),
            };
            let lost = uncorrelatable(schema.atomic);
            let at = format!("properties[{name}]");
            let found = self.level(&child(property, field, &at, declaration, place.times, lost));
            if !found.is_empty() {
                level.properties.insert(name.clone(), found);
            }
        }
        self.rules(place, &mut level);
        self.alternatives(place, &mut level);
        level
    }

    /// Rules of `allOf` are those of the level; no other alternative may have any.
    fn alternatives(&mut self, place: &Place<'_>, level: &mut Level) {
        for (at, json) in place.json.get("allOf").and_then(Json::as_array).into_iter().flatten().enumerate() {
            if has_rules(json) {
                let path = format!("{}.allOf[{at}]", place.path);
                let found = self.level(&Place { json, path, ..place.clone() });
                level.all_of.push(found);
            }
        }
        for field in ["anyOf", "oneOf", "not"] {
            let Some(found) = place.json.get(field).filter(|found| has_rules(found)) else { continue };
            let index = if found.is_array() { "[0]" } else { "" };
            let path = format!("{}.{field}{index}.{FIELD}", place.path);
            self.faults.push(FieldError::forbidden(path, "must be empty to be structural"));
        }
    }

    fn rules(&mut self, place: &Place<'_>, level: &mut Level) {
        let rules = place.json.get(FIELD).and_then(Json::as_array).into_iter().flatten();
        for (at, json) in rules.enumerate() {
            let path = format!("{}.{FIELD}[{at}]", place.path);
            if let Some(rule) = self.rule(place, json, &path) {
                level.rules.push(rule);
            }
        }
    }

    fn rule(&mut self, place: &Place<'_>, json: &Json, path: &str) -> Option<Rule> {
        let before = self.faults.len();
        let field = |name: &str| json.get(name).and_then(Json::as_str);
        let text = field("rule").unwrap_or_default();
        self.texts(json, path);
        let kind = field("reason").map_or(Some(ErrorKind::Invalid), |reason| {
            REASONS.iter().find(|(known, _)| *known == reason).map(|(_, kind)| *kind)
        });
        if kind.is_none() {
            let known = REASONS.map(|(known, _)| known);
            let reason = field("reason").unwrap_or_default();
            self.faults.push(FieldError::not_supported(format!("{path}.reason"), reason, &known));
        }
        let field_path = field("fieldPath").filter(|it| !it.trim().is_empty()).map(str::to_owned);
        if let Some(wanted) = &field_path
            && let Err(why) = valid_path(place.json, wanted)
        {
            let detail = format!("fieldPath must be a valid path: {why}");
            self.faults.push(FieldError::invalid(format!("{path}.fieldPath"), wanted.as_str(), detail));
        }
        let Some(declaration) = &place.declaration else {
            let detail = "the type of the value is not specified, so that no rule can look at it";
            self.faults.push(FieldError::invalid(format!("{path}.rule"), json.clone(), detail));
            return None;
        };
        if self.faults.len() > before {
            return None;
        }
        let is_optional = json.get("optionalOldSelf") == Some(&Json::Bool(true));
        let old = match is_optional {
            true => Arc::new(Declaration {
                ty: crate::Type::optional(declaration.ty.clone()),
                ..Declaration::clone(declaration)
            }),
            false => Arc::clone(declaration),
        };
        let environment =
            Environment::new().variable("self", Arc::clone(declaration)).variable("oldSelf", old);
        let at = format!("{path}.rule");
        let program = match compile_program(text, &environment) {
            Ok(program) if program.ty() == &crate::Type::Bool => program,
            Ok(_) => {
                self.faults.push(FieldError::invalid(
                    at,
                    json.clone(),
                    "cel expression must evaluate to a bool",
                ));
                return None;
            }
            Err(error) => {
                self.faults.push(FieldError::invalid(
                    at,
                    json.clone(),
                    format!("compilation failed: {error}"),
                ));
                return None;
            }
        };
        let is_transition = program.uses("oldSelf");
        if let (true, false, Some(within)) = (is_transition, is_optional, &place.uncorrelatable) {
            let detail =
                format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {within}");
            self.faults.push(FieldError::invalid(at.as_str(), text, detail));
        }
        if is_optional && !is_transition {
            let detail = "may not be set if oldSelf is not used in rule";
            self.faults.push(FieldError::invalid(format!("{path}.optionalOldSelf"), true, detail));
        }
        self.cost(place, declaration, program.most(&environment), "estimated rule cost", at);
        let message_expression = match field("messageExpression").filter(|it| !it.trim().is_empty()) {
            Some(text) => self.message(place, (json, text), path, &environment),
            None => None,
        };
        Some(Rule {
            text: text.to_owned(),
            program,
            is_transition,
            is_optional,
            message: field("message").unwrap_or_default().to_owned(),
            message_expression,
            kind: kind.unwrap_or(ErrorKind::Invalid),
            field_path: field_path.unwrap_or_default().replace("['", ".").replace("']", ""),
        })
    }

    fn message(
        &mut self,
        place: &Place<'_>,
        (json, text): (&Json, &str),
        path: &str,
        environment: &Environment,
    ) -> Option<crate::Program> {
        let at = format!("{path}.messageExpression");
        let declaration = place.declaration.as_ref()?;
        match compile_program(text, environment) {
            Ok(program) if program.ty() == &crate::Type::String => {
                let most = program.most(environment);
                self.cost(place, declaration, most, "estimated messageExpression cost", at);
                Some(program)
            }
            Ok(_) => {
                let detail = "messageExpression must evaluate to a string";
                self.faults.push(FieldError::invalid(at, json.clone(), detail));
                None
            }
            Err(error) => {
                let detail = format!("messageExpression compilation failed: {error}");
                self.faults.push(FieldError::invalid(at, json.clone(), detail));
                None
            }
        }
    }

    /// Notes the cost of a rule for a whole object: what it costs, as often as its level may occur.
    fn cost(&mut self, place: &Place<'_>, declaration: &Declaration, most: u64, what: &str, path: String) {
        let times = place.times.unwrap_or(MAX_REQUEST / (declaration.least + 1));
        let cost = most.saturating_mul(times);
        if cost > RULE_LIMIT {
            self.faults.push(FieldError::forbidden(path.as_str(), too_costly(what, cost, RULE_LIMIT)));
        }
        self.costs.push((path, cost));
    }

    /// What the texts of a rule may be.
    fn texts(&mut self, json: &Json, path: &str) {
        let text = |name: &str| json.get(name).and_then(Json::as_str).unwrap_or_default();
        let (rule, message) = (text("rule"), text("message"));
        let at = |name: &str| format!("{path}.{name}");
        if rule.trim().is_empty() {
            self.faults.push(FieldError::required(at("rule"), "rule is not specified"));
        } else if !message.is_empty() && message.trim().is_empty() {
            let detail = "message must be non-empty if specified";
            self.faults.push(FieldError::invalid(at("message"), message, detail));
        } else if message.trim().contains('\n') {
            let detail = "message must not contain line breaks";
            self.faults.push(FieldError::invalid(at("message"), message, detail));
        } else if rule.trim().contains('\n') && message.trim().is_empty() {
            let detail = "message must be specified if rule contains line breaks";
            self.faults.push(FieldError::required(at("message"), detail));
        }
        for name in ["messageExpression", "fieldPath"] {
            if !text(name).is_empty() && text(name).trim().is_empty() {
                let detail = format!("{name} must be non-empty if specified");
                self.faults.push(FieldError::invalid(at(name), text(name), detail));
            }
        }
        if text("fieldPath").contains('\n') {
            let detail = "fieldPath must not contain line breaks";
            self.faults.push(FieldError::invalid(at("fieldPath"), text("fieldPath"), detail));
        }
    }
}

/// Whether a path such as `.spec['a.b'].c` leads to a field that the schema knows.
fn valid_path(schema: &Json, path: &str) -> Result<(), String> {
    let (mut schema, mut rest) = (schema, path);
    while !rest.is_empty() {
        let (name, tail) = if let Some(inner) = rest.strip_prefix("['") {
            inner.split_once("']").ok_or("unexpected end of JSON path")?
        } else if let Some(inner) = rest.strip_prefix('.') {
            inner.split_at(inner.find(['.', '[']).unwrap_or(inner.len()))
        } else {
            return Err(format!("expected [ or . but got: {rest}"));
        };
        let found = schema.get("properties").and_then(|properties| properties.get(name));
        let values = schema.get("additionalProperties").filter(|values| values.is_object());
        schema = found.or(values).ok_or("does not refer to a valid field")?;
        rest = tail;
    }
    Ok(())
}
