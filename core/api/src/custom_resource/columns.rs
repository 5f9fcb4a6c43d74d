//! The printer columns of a definition.

use jiff::Timestamp;
use serde_json::Value;

use super::json_path::JsonPath;
use crate::object::Object;
use crate::table::{Column, age};

/// A column, and where its cell comes from.
#[derive(Clone, Debug)]
pub struct CustomColumn {
    /// The heading.
    pub column: Column,
    /// The path of its value; `None` for a path that cannot be read, whose cells are empty.
    pub path: Option<JsonPath>,
}

const NAME: &str = "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";
const CREATED: &str = "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

impl CustomColumn {
    /// Reads `additionalPrinterColumns`; without any, an object's age is shown.
    pub fn read(columns: &Value) -> Vec<Self> {
        let listed = columns.as_array().filter(|list| !list.is_empty());
        let Some(listed) = listed else {
            let column = Column {
                name: "Age".to_owned(),
                kind: "date".to_owned(),
                format: String::new(),
                description: CREATED.to_owned(),
                priority: 0,
            };
            return vec![Self { column, path: JsonPath::parse(".metadata.creationTimestamp").ok() }];
        };
        listed.iter().map(Self::read_one).collect()
    }

    fn read_one(column: &Value) -> Self {
        let text = |field: &str| column[field].as_str().unwrap_or_default().to_owned();
        let path = text("jsonPath");
        let described = text("description");
        Self {
            path: JsonPath::parse(&path).ok(),
            column: Column {
                name: text("name"),
                kind: text("type"),
                format: text("format"),
                description: if described.is_empty() {
                    format!("Custom resource definition column (in JSONPath format): {path}")
                } else {
                    described
                },
                priority: column["priority"].as_i64().and_then(|it| i32::try_from(it).ok()).unwrap_or(0),
            },
        }
    }

    fn cell(&self, document: &Value, now: Timestamp) -> Value {
        let Some(value) = self.path.as_ref().and_then(|path| path.find(document).into_iter().next()) else {
            return Value::Null;
        };
        match self.column.kind.as_str() {
            "string" => match value {
                Value::String(_) => value.clone(),
                Value::Null => Value::Null,
                other => other.to_string().into(),
            },
            "integer" => match value.as_i64() {
                Some(number) => number.into(),
                None => value.as_f64().map_or(Value::Null, |number| (number as i64).into()),
            },
            "number" if value.is_number() => value.clone(),
            "boolean" if value.is_boolean() => value.clone(),
            "date" => match value.as_str() {
                Some(text) if text.parse::<Timestamp>().is_err() => "<invalid>".into(),
                Some(text) => age(Some(text), now).into(),
                None => Value::Null,
            },
            _ => Value::Null,
        }
    }
}

/// The headings: the name, and what the definition adds.
pub fn headings(columns: &[CustomColumn]) -> Vec<Column> {
    let name = Column {
        name: "Name".to_owned(),
        kind: "string".to_owned(),
        format: "name".to_owned(),
        description: NAME.to_owned(),
        priority: 0,
    };
    std::iter::once(name).chain(columns.iter().map(|column| column.column.clone())).collect()
}

/// The cells of an object.
pub fn cells(columns: &[CustomColumn], object: &Object, now: Timestamp) -> Vec<Value> {
    let document = Value::Object(object.0.clone());
    let name = object.name().unwrap_or_default().into();
    std::iter::once(name).chain(columns.iter().map(|column| column.cell(&document, now))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn cells_have_the_type_of_their_column() {
        let columns = CustomColumn::read(&json!([
            {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
            {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas", "priority": 1},
            {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
            {"name": "None", "type": "string", "jsonPath": ".spec.nothing"},
        ]));
        let object = Object::from_value(json!({
            "metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"replicas": 3},
            "status": {"conditions": [{"type": "Synced", "status": "False"}, {"type": "Ready", "status": "True"}]},
        }))
        .unwrap();
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        assert_eq!(
            cells(&columns, &object, now),
            [json!("a"), json!("True"), json!(3), json!("60s"), Value::Null]
        );
        assert_eq!(headings(&columns)[2].priority, 1);
    }
}
