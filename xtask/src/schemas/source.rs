//! One source file of k8s-openapi.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

/// How a field's list or map is merged.
#[derive(Clone, Debug)]
pub(crate) enum Strategy {
    List(Vec<String>),
    Set,
    AtomicMap,
}

/// A type with its schema.
pub(crate) struct Type {
    pub(crate) rust_name: String,
    /// Name of the definition, such as `io.k8s.api.core.v1.Pod`.
    pub(crate) name: String,
    pub(crate) schema: Value,
    /// `GROUP/VERSION/KIND` when it is a resource.
    pub(crate) kind: Option<String>,
    /// By Rust field name.
    pub(crate) strategies: BTreeMap<String, Strategy>,
}

impl Type {
    /// The path by which other sources name it: `crate::api::core::v1::Pod`.
    pub(crate) fn path(&self, file: &Path) -> String {
        let folder: Vec<String> = file
            .parent()
            .into_iter()
            .flat_map(Path::iter)
            .map(|part| part.to_string_lossy().into_owned())
            .skip_while(|part| part != "v1_36")
            .skip(1)
            .collect();
        format!("crate::{}::{}", folder.join("::"), self.rust_name)
    }
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    Some(rest.split_once(after)?.0)
}

pub(crate) fn read(text: &str) -> Result<Option<Type>> {
    let Some((_, after)) = text.split_once("impl crate::schemars::JsonSchema for ") else { return Ok(None) };
    let rust_name = after.split([' ', '<']).next().unwrap_or("").to_owned();
    let Some(name) = between(after, "\"", "\"").filter(|name| name.starts_with("io.k8s")) else {
        return Ok(None);
    };
    let Some(document) = between(after, "json_schema!(", "\n        })\n    }") else { return Ok(None) };
    let schema: Value =
        serde_json::from_str(&to_json(&format!("{document}\n}}"))).context("read a schema")?;
    let constant = |name: &str| between(text, &format!("const {name}: &'static str = \""), "\"");
    let kind = match (constant("GROUP"), constant("VERSION"), constant("KIND")) {
        (Some(group), Some(version), Some(kind)) => Some(format!("{group}/{version}/{kind}")),
        _ => None,
    };
    Ok(Some(Type { rust_name, name: name.to_owned(), schema, kind, strategies: strategies(text) }))
}

fn strategies(text: &str) -> BTreeMap<String, Strategy> {
    let mut found = BTreeMap::new();
    for call in text.split("crate::merge_strategies::").skip(1) {
        let Some(field) = between(call, "&mut self.", ",") else { continue };
        let strategy = if call.starts_with("list::map") {
            let keys = between(call, "&[", "],").unwrap_or("");
            let keys =
                keys.split("lhs.").skip(1).filter_map(|key| key.split_once(' ')).map(|(key, _)| camel(key));
            Strategy::List(keys.collect())
        } else if call.starts_with("list::set") {
            Strategy::Set
        } else if call.starts_with("map::atomic") {
            Strategy::AtomicMap
        } else {
            continue;
        };
        found.insert(field.replace("r#", ""), strategy);
    }
    found
}

/// `container_port` to `containerPort`; acronyms are matched without regard to case by the caller.
pub(crate) fn camel(name: &str) -> String {
    let mut out = String::new();
    let mut upper = false;
    for character in name.trim_end_matches('_').chars() {
        if character == '_' {
            upper = true;
        } else if upper {
            out.extend(character.to_uppercase());
            upper = false;
        } else {
            out.push(character);
        }
    }
    if out == "deviceId" { "deviceID".into() } else { out }
}

/// The macro's document as JSON: expressions become references, trailing commas go.
fn to_json(document: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in document.lines() {
        let trimmed = line.trim_start();
        let reference = between(line, "subschema_for::<", ">()");
        if trimmed.starts_with("let mut schema_obj") {
            lines.push(format!("\"$ref\": \"{}\",", reference.unwrap_or("")));
        } else if let Some(rest) =
            trimmed.strip_prefix("schema_obj.ensure_object().insert(\"description\".into(), ")
        {
            lines.push(format!("\"description\": {},", rest.trim_end_matches(".into());")));
        } else if trimmed == "schema_obj" {
        } else if let Some(reference) = reference {
            let key = trimmed.split_once(": ").map(|(key, _)| format!("{key}: ")).unwrap_or_default();
            lines.push(format!("{key}{{\"$ref\": \"{reference}\"}},"));
        } else if let Some(key) = trimmed.strip_suffix(": ({") {
            lines.push(format!("{key}: {{"));
        } else if trimmed == "})," {
            lines.push("},".into());
        } else {
            lines.push(trimmed.to_owned());
        }
    }
    let mut out = String::with_capacity(document.len());
    for (at, line) in lines.iter().enumerate() {
        let closes = lines.get(at + 1).is_some_and(|next| next.starts_with(['}', ']']));
        let line = if closes { line.trim_end_matches(',') } else { line };
        out.push_str(&line.replace("\\'", "'"));
        out.push('\n');
    }
    out
}
