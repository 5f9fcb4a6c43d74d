//! What kubectl prints: `meta.k8s.io/v1` Table, and PartialObjectMetadata.

use jiff::Timestamp;
use keelson_api::custom_resource::columns;
use keelson_api::{Object, ResourceInfo, convert, table};
use serde_json::{Value, json};

use crate::request_info::RequestInfo;

/// Whether a table carries its column definitions; a watch sends them once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Columns {
    /// It does.
    Shown,
    /// It does not.
    Omitted,
}

/// An object's metadata alone.
pub fn metadata_of(object: &Object) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": object.metadata().cloned().unwrap_or_default(),
    })
}

/// One row.
pub fn row(info: &RequestInfo, resource: &ResourceInfo, object: Object, now: Timestamp) -> Value {
    // Rows are those of the stored form, whichever version is asked for.
    let cells = match &resource.custom {
        Some(custom) => columns::cells(&custom.columns, &object, now),
        None => table::cells(&convert::storage_kind(resource), &object, now),
    };
    let conditions = match &resource.custom {
        Some(_) => Vec::new(),
        None => table::conditions(&resource.gvk(), &object),
    };
    let mut row = match info.parameter("includeObject") {
        Some("None") => json!({"cells": cells}),
        Some("Object") => {
            let mut object = object;
            super::objects::serve_as(resource, &mut object);
            json!({"cells": cells, "object": object.into_value()})
        }
        _ => json!({"cells": cells, "object": metadata_of(&object)}),
    };
    if !conditions.is_empty() {
        row["conditions"] = conditions.into();
    }
    row
}

/// A Scale as a table.
pub fn of_scale(scale: Value) -> Value {
    let object = Object::from_value(scale).unwrap_or_default();
    let kind = object.gvk();
    let row =
        json!({"cells": table::cells(&kind, &object, Timestamp::now()), "object": metadata_of(&object)});
    let columns: Vec<Value> = table::columns(&kind).iter().map(table::Column::to_value).collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": object.resource_version()},
        "columnDefinitions": columns, "rows": [row],
    })
}

/// A whole table.
pub fn table(resource: &ResourceInfo, metadata: Value, rows: Vec<Value>, shown: Columns) -> Value {
    let definitions: Option<Vec<Value>> = (shown == Columns::Shown).then(|| {
        let headings = match &resource.custom {
            Some(custom) => columns::headings(&custom.columns),
            None => table::columns(&convert::storage_kind(resource)),
        };
        headings.iter().map(table::Column::to_value).collect()
    });
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": definitions, "rows": rows,
    })
}
