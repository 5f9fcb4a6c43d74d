//! Reads the sources of k8s-openapi and writes `core/api/data/*.json.gz`.
//!
//! Which of the optional fields keep a zero is what the protocol's table says.
//!
//! Each type there has a `json_schema!` document and a `DeepMerge` impl whose `merge_strategies` calls
//! tell the list types. What they cannot tell is in [`exceptions`].

mod exceptions;
mod source;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

pub(crate) fn generate() -> Result<()> {
    let mut files = Vec::new();
    collect(&sources()?, &mut files)?;
    files.sort();
    let mut types = BTreeMap::new();
    for file in files {
        let text = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        if let Some(found) = source::read(&text).with_context(|| format!("parse {}", file.display()))? {
            types.insert(found.path(&file), found);
        }
    }
    let (mut kinds, mut definitions, mut descriptions) = (Map::new(), Map::new(), Map::new());
    let mut pointers = Map::new();
    for found in types.values() {
        let mut schema = found.schema.clone();
        let texts = take_descriptions(&mut schema);
        resolve(&mut schema, &types)?;
        require_no_metadata(&mut schema);
        exceptions::annotate(&found.name, &mut schema, &found.strategies);
        if let Some(kind) = &found.kind {
            kinds.insert(kind.clone(), found.name.clone().into());
        }
        let fields: Vec<&String> = schema["properties"]
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(field, property)| {
                let is_scalar =
                    property["type"].as_str().is_some_and(|kind| kind != "object" && kind != "array");
                is_scalar && super::protobuf::keeps_zero(&found.name, field)
            })
            .map(|(field, _)| field)
            .collect();
        if !fields.is_empty() {
            pointers.insert(found.name.clone(), json!(fields));
        }
        definitions.insert(found.name.clone(), schema);
        descriptions.insert(found.name.clone(), Value::Object(texts));
    }
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/api/data");
    std::fs::create_dir_all(&data).context("create the data folder")?;
    write(
        &data.join("schemas.json.gz"),
        &json!({"kinds": kinds, "definitions": definitions, "pointers": pointers}),
    )?;
    write(&data.join("descriptions.json.gz"), &Value::Object(descriptions))
}

/// The folder of k8s-openapi's sources for Kubernetes 1.36.
fn sources() -> Result<PathBuf> {
    Ok(package("k8s-openapi")?.join("src/v1_36"))
}

/// The folder of a dependency, as cargo has it.
pub(crate) fn package(name: &str) -> Result<PathBuf> {
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
        .args(["metadata", "--format-version=1"])
        .output()
        .context("run cargo metadata")?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("read cargo metadata")?;
    for package in metadata["packages"].as_array().into_iter().flatten() {
        if package["name"] == name {
            let manifest = package["manifest_path"].as_str().context("a package without manifest")?;
            return Ok(Path::new(manifest).with_file_name(""));
        }
    }
    bail!("{name} is not among the dependencies")
}

pub(crate) fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry.context("read a folder's entry")?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// Every object has metadata, which is why its type is no option in Rust; nobody has to send any.
fn require_no_metadata(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else { return };
    if let Some(Value::Array(required)) = fields.get_mut("required") {
        required.retain(|field| field != "metadata");
        if required.is_empty() {
            fields.remove("required");
        }
    }
}

fn take_descriptions(schema: &mut Value) -> Map<String, Value> {
    let mut texts = Map::new();
    if let Some(text) = schema.as_object_mut().and_then(|it| it.remove("description")) {
        texts.insert(String::new(), text);
    }
    for (name, property) in schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten()
    {
        if let Some(text) = property.as_object_mut().and_then(|it| it.remove("description")) {
            texts.insert(name.clone(), text);
        }
    }
    texts
}

/// Turns references to Rust paths into references to definitions.
fn resolve(value: &mut Value, types: &BTreeMap<String, source::Type>) -> Result<()> {
    match value {
        Value::Object(fields) => {
            for (name, child) in fields {
                match child {
                    Value::String(path) if name == "$ref" => {
                        let found = types.get(path).with_context(|| format!("no type {path}"))?;
                        path.clone_from(&found.name);
                    }
                    other => resolve(other, types)?,
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                resolve(item, types)?;
            }
        }
        _ => {}
    }
    Ok(())
}

pub(crate) fn write(path: &Path, value: &Value) -> Result<()> {
    let file = std::fs::File::create(path).with_context(|| format!("create {}", path.display()))?;
    let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::best());
    serde_json::to_writer(&mut encoder, value).context("write the data")?;
    encoder.finish().context("finish the data")?.flush().context("flush the data")
}
