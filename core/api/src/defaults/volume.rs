//! Defaults of volumes: those of pods, and those that a PersistentVolume stands for.

use serde_json::{Map, Value, json};

use super::{each, fill};

/// Sources whose defaults are plain values.
const SOURCES: [(&str, &[(&str, &str)]); 4] = [
    ("iscsi", &[("iscsiInterface", "default")]),
    ("rbd", &[("pool", "rbd"), ("user", "admin"), ("keyring", "/etc/ceph/keyring")]),
    ("azureDisk", &[("cachingMode", "ReadWrite"), ("kind", "Shared"), ("fsType", "ext4")]),
    ("scaleIO", &[("storageMode", "ThinProvisioned"), ("fsType", "xfs")]),
];

/// A pod's volume. One that says nothing of where it comes from is an empty folder.
pub(super) fn fill_in(it: &mut Map<String, Value>) {
    if it.iter().all(|(field, value)| field == "name" || value.is_null()) {
        it.insert("emptyDir".to_owned(), json!({}));
    }
    for (source, value) in it.iter_mut() {
        let Value::Object(value) = value else { continue };
        match source.as_str() {
            "configMap" | "secret" => fill(value, "defaultMode", 0o644),
            "downwardAPI" => {
                fill(value, "defaultMode", 0o644);
                fields(value);
            }
            "projected" => {
                fill(value, "defaultMode", 0o644);
                each(value, "sources").for_each(projection);
            }
            "ephemeral" => {
                let claim = value.get_mut("volumeClaimTemplate").and_then(|claim| claim.get_mut("spec"));
                if let Some(Value::Object(claim)) = claim {
                    fill(claim, "volumeMode", "Filesystem");
                }
            }
            source => self::source(source, value),
        }
    }
}

/// What a PersistentVolume stands for.
pub(super) fn persistent(spec: &mut Map<String, Value>) {
    for (source, value) in spec.iter_mut() {
        if let Value::Object(value) = value {
            self::source(source, value);
        }
    }
}

fn source(name: &str, it: &mut Map<String, Value>) {
    let known = SOURCES.iter().find(|(source, _)| *source == name);
    for (field, value) in known.iter().flat_map(|(_, values)| *values) {
        fill(it, field, *value);
    }
    match name {
        "azureDisk" => fill(it, "readOnly", false),
        "hostPath" => drop(it.entry("type").or_insert_with(|| "".into())),
        _ => {}
    }
}

fn projection(it: &mut Map<String, Value>) {
    if let Some(Value::Object(token)) = it.get_mut("serviceAccountToken") {
        fill(token, "expirationSeconds", 3600);
    }
    if let Some(Value::Object(downward)) = it.get_mut("downwardAPI") {
        fields(downward);
    }
}

fn fields(source: &mut Map<String, Value>) {
    for item in each(source, "items") {
        if let Some(Value::Object(field)) = item.get_mut("fieldRef") {
            fill(field, "apiVersion", "v1");
        }
    }
}
