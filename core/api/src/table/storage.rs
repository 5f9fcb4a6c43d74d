//! Rows of volumes, claims and drivers.

use serde_json::{Value, json};

use super::row::Row;

/// `RWO,ROX`: each mode once, in upstream's order.
fn modes(list: &[Value]) -> String {
    let known = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let found = known.iter().filter(|(name, _)| list.iter().any(|mode| mode == name));
    found.map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

fn phase<'a>(row: &Row<'a>) -> &'a str {
    if row.it.deletion_timestamp().is_some() { "Terminating" } else { row.text(&["status", "phase"]) }
}

/// The class, which an old annotation may name.
fn class<'a>(row: &Row<'a>) -> &'a str {
    let annotation = row.it.annotation("volume.beta.kubernetes.io/storage-class");
    annotation.unwrap_or_else(|| row.text(&["spec", "storageClassName"]))
}

pub(super) fn volume(row: &Row<'_>) -> Vec<Value> {
    let claim = row.get(&["spec", "claimRef"]).map(|claim| {
        let text = |field: &str| claim[field].as_str().unwrap_or("");
        format!("{}/{}", text("namespace"), text("name"))
    });
    vec![
        row.name(),
        json!(row.written(&["spec", "capacity", "storage"], "0")),
        json!(modes(row.items(&["spec", "accessModes"]))),
        json!(row.text(&["spec", "persistentVolumeReclaimPolicy"])),
        json!(phase(row)),
        json!(claim.unwrap_or_default()),
        json!(class(row)),
        row.text_or(&["spec", "volumeAttributesClassName"], "<unset>"),
        json!(row.text(&["status", "reason"])),
        row.age(),
        row.text_or(&["spec", "volumeMode"], "<unset>"),
    ]
}

pub(super) fn claim(row: &Row<'_>) -> Vec<Value> {
    let bound = !row.text(&["spec", "volumeName"]).is_empty();
    let (capacity, modes) = if bound {
        (row.written(&["status", "capacity", "storage"], "0"), modes(row.items(&["status", "accessModes"])))
    } else {
        (String::new(), String::new())
    };
    vec![
        row.name(),
        json!(phase(row)),
        json!(row.text(&["spec", "volumeName"])),
        json!(capacity),
        json!(modes),
        json!(class(row)),
        row.text_or(&["spec", "volumeAttributesClassName"], "<unset>"),
        row.age(),
        row.text_or(&["spec", "volumeMode"], "<unset>"),
    ]
}

pub(super) fn storage_class(row: &Row<'_>) -> Vec<Value> {
    let is_default =
        ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"]
            .into_iter()
            .any(|key| row.it.annotation(key) == Some("true"));
    vec![
        marked(row, is_default),
        json!(row.text(&["provisioner"])),
        row.text_or(&["reclaimPolicy"], "Delete"),
        row.text_or(&["volumeBindingMode"], "Immediate"),
        json!(row.is_true(&["allowVolumeExpansion"])),
        row.age(),
    ]
}

/// The name of a class, and whether it is the one that is taken where none is named.
fn marked(row: &Row<'_>, is_default: bool) -> Value {
    let name = row.it.name().unwrap_or("");
    if is_default { json!(format!("{name} (default)")) } else { json!(name) }
}

pub(super) fn attributes_class(row: &Row<'_>) -> Vec<Value> {
    let key = "volumeattributesclass.alpha.kubernetes.io/is-default-class";
    let is_default = row.it.annotation(key) == Some("true");
    vec![marked(row, is_default), json!(row.text(&["driverName"])), row.age()]
}

pub(super) fn attachment(row: &Row<'_>) -> Vec<Value> {
    vec![
        row.name(),
        json!(row.text(&["spec", "attacher"])),
        json!(row.text(&["spec", "source", "persistentVolumeName"])),
        json!(row.text(&["spec", "nodeName"])),
        json!(row.is_true(&["status", "attached"])),
        row.age(),
    ]
}

pub(super) fn driver(row: &Row<'_>) -> Vec<Value> {
    let flag = |field: &str, unset: bool| match row.get(&["spec", field]) {
        Some(value) => value.clone(),
        None => json!(unset),
    };
    let audiences: Vec<&str> =
        row.items(&["spec", "tokenRequests"]).iter().filter_map(|it| it["audience"].as_str()).collect();
    let modes: Vec<&str> =
        row.items(&["spec", "volumeLifecycleModes"]).iter().filter_map(Value::as_str).collect();
    vec![
        row.name(),
        flag("attachRequired", true),
        flag("podInfoOnMount", false),
        flag("storageCapacity", false),
        json!(if row.get(&["spec", "tokenRequests"]).is_none() {
            "<unset>".to_owned()
        } else {
            audiences.join(",")
        }),
        flag("requiresRepublish", false),
        json!(if modes.is_empty() { "<none>".to_owned() } else { modes.join(",") }),
        row.age(),
    ]
}
