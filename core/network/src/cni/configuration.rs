//! The CNI configuration of another plugin, if there is one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

/// The configuration directory could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// A file or the folder.
    #[error("read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No JSON.
    #[error("understand {path}")]
    Json {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// No network configuration.
    #[error("{path}: {reason}")]
    Invalid {
        /// Which.
        path: PathBuf,
        /// What is missing.
        reason: &'static str,
    },
}

/// A network configuration list.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NetworkList(pub(crate) Value);

impl NetworkList {
    pub(crate) fn name(&self) -> &str {
        self.0["name"].as_str().unwrap_or_default()
    }

    pub(crate) fn version(&self) -> &str {
        self.0["cniVersion"].as_str().unwrap_or("0.2.0")
    }

    pub(crate) fn plugins(&self) -> &[Value] {
        self.0["plugins"].as_array().map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether it asks for a version of the specification with this feature.
    pub(crate) fn at_least(&self, major: u64, minor: u64) -> bool {
        let mut parts = self.version().split('.').map(|part| part.parse::<u64>().unwrap_or_default());
        let have = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        have >= (major, minor)
    }

    pub(crate) fn switch(&self, name: &str) -> bool {
        match &self.0[name] {
            Value::Bool(on) => *on,
            Value::String(text) => text.eq_ignore_ascii_case("true"),
            _ => false,
        }
    }
}

/// The first configuration in the folder, in the order of file names, as every runtime chooses.
pub(crate) fn load(folder: &Path) -> Result<Option<NetworkList>, ConfigurationError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ConfigurationError::Read { path, source }
    };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(folder)(error)),
    };
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed(folder))?;
    let known = |path: &PathBuf| {
        path.extension().is_some_and(|ext| ext == "conflist" || ext == "conf" || ext == "json")
    };
    paths.retain(known);
    paths.sort();
    let Some(path) = paths.first() else { return Ok(None) };
    let text = fs::read(path).map_err(failed(path))?;
    let value = serde_json::from_slice(&text)
        .map_err(|source| ConfigurationError::Json { path: path.clone(), source })?;
    parse(value).map(Some).map_err(|reason| ConfigurationError::Invalid { path: path.clone(), reason })
}

/// A list as it is, or a single plugin's configuration as a list of one.
fn parse(value: Value) -> Result<NetworkList, &'static str> {
    let Value::Object(fields) = value else { return Err("not an object") };
    let has_text = |fields: &Map<String, Value>, name: &str| {
        fields.get(name).and_then(Value::as_str).is_some_and(|text| !text.is_empty())
    };
    if !has_text(&fields, "name") {
        return Err("no name");
    }
    let list = match fields.get("plugins") {
        None if has_text(&fields, "type") => {
            let version = fields.get("cniVersion").cloned().unwrap_or_else(|| json!("0.2.0"));
            NetworkList(json!({ "cniVersion": version, "name": fields["name"], "plugins": [fields] }))
        }
        None => return Err("neither plugins nor a type"),
        Some(_) => NetworkList(Value::Object(fields)),
    };
    let typed = |plugin: &Value| plugin.as_object().is_some_and(|fields| has_text(fields, "type"));
    match list.plugins() {
        [] => Err("no plugins"),
        plugins if plugins.iter().all(typed) => Ok(list),
        _ => Err("a plugin without a type"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_file_by_name_counts_and_others_are_not_read() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(load(&folder.path().join("absent")).unwrap(), None);
        assert_eq!(load(folder.path()).unwrap(), None);
        fs::write(folder.path().join("README"), "no").unwrap();
        fs::write(folder.path().join("20-b.conflist"), "broken").unwrap();
        let text = r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"bridge"},{"type":"portmap"}]}"#;
        fs::write(folder.path().join("10-a.conflist"), text).unwrap();
        let list = load(folder.path()).unwrap().unwrap();
        assert_eq!((list.name(), list.plugins().len()), ("a", 2));
        assert!(list.at_least(0, 4));
        assert!(!list.at_least(1, 1));
        fs::remove_file(folder.path().join("10-a.conflist")).unwrap();
        assert!(matches!(load(folder.path()), Err(ConfigurationError::Json { .. })));
    }

    #[test]
    fn a_single_plugin_is_a_list_of_one() {
        let list = parse(json!({ "cniVersion": "0.3.1", "name": "one", "type": "ptp" })).unwrap();
        assert_eq!((list.version(), list.plugins().len()), ("0.3.1", 1));
        assert_eq!(parse(json!({ "name": "x" })), Err("neither plugins nor a type"));
        assert_eq!(parse(json!({ "name": "x", "plugins": [] })), Err("no plugins"));
        assert_eq!(parse(json!({ "name": "x", "plugins": [{}] })), Err("a plugin without a type"));
        assert_eq!(parse(json!({ "type": "ptp" })), Err("no name"));
    }
}
