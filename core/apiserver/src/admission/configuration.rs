//! Which plugins run, and the file that configures them: `apiserver.config.k8s.io/v1` `AdmissionConfiguration`.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Which plugins run, as the flags of kube-apiserver say it.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Names of plugins that run although they do not by default.
    pub enable: Vec<String>,
    /// Names of plugins that do not run although they do by default.
    pub disable: Vec<String>,
    /// The file with the plugins' configuration.
    pub control_file: Option<PathBuf>,
}

impl Config {
    /// Leaves plugins out that nobody has asked for by name.
    pub fn leave_out(&mut self, names: &[&str]) {
        let asked = |name: &&&str| !self.enable.iter().chain(&self.disable).any(|it| it == **name);
        let more: Vec<String> = names.iter().filter(asked).map(|name| (*name).to_owned()).collect();
        self.disable.extend(more);
    }
}

/// Why plugins cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A name in a flag.
    #[error("there is no admission plugin {0:?}")]
    Unknown(String),
    /// A plugin of upstream that this server does not have.
    #[error("the admission plugin {0:?} is not available")]
    Unavailable(String),
    /// A plugin in both flags.
    #[error("the admission plugin {0:?} is both enabled and disabled")]
    Both(String),
    /// The metrics of a plugin.
    #[error(transparent)]
    Metrics(#[from] keelson_metrics::RegistryError),
    /// A file.
    #[error("read {}", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    /// What is in a file.
    #[error("{}: {what}", .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

/// What the file says of each plugin.
#[derive(Clone, Debug, Default)]
pub struct Configurations {
    path: PathBuf,
    plugins: Vec<PluginConfiguration>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    api_version: String,
    kind: String,
    #[serde(default)]
    plugins: Vec<PluginConfiguration>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PluginConfiguration {
    name: String,
    #[serde(default)]
    path: String,
    #[serde(default)]
    configuration: Option<Value>,
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read(path.to_owned(), error))?;
    serde_yaml_ng::from_str(&text).map_err(|error| invalid(path, error))
}

fn invalid(path: &Path, what: impl ToString) -> ConfigError {
    ConfigError::Invalid { path: path.to_owned(), what: what.to_string() }
}

impl Configurations {
    /// Reads the file, if there is one.
    pub fn read(path: Option<&Path>) -> Result<Self, ConfigError> {
        let Some(path) = path else { return Ok(Self::default()) };
        let document: Document = read(path)?;
        if document.kind != "AdmissionConfiguration" {
            return Err(invalid(path, format!("kind is {:?}, not AdmissionConfiguration", document.kind)));
        }
        let versions = ["v1", "v1alpha1"].map(|version| format!("apiserver.config.k8s.io/{version}"));
        if !versions.contains(&document.api_version) {
            return Err(invalid(
                path,
                format!("apiVersion is {:?}, not {}", document.api_version, versions[0]),
            ));
        }
        for plugin in &document.plugins {
            if !super::plugins::is_known(&plugin.name) {
                return Err(ConfigError::Unknown(plugin.name.clone()));
            }
        }
        Ok(Configurations { path: path.to_owned(), plugins: document.plugins })
    }

    /// An error in the file.
    pub(super) fn invalid(&self, what: String) -> ConfigError {
        invalid(&self.path, what)
    }

    /// What the file says of a plugin: inline, or in a file of its own relative to it. `kind` is what is expected there.
    pub fn of<T: DeserializeOwned>(&self, plugin: &str, kind: &str) -> Result<Option<T>, ConfigError> {
        let Some(found) = self.plugins.iter().find(|it| it.name == plugin) else { return Ok(None) };
        let (path, value): (PathBuf, Value) = match &found.configuration {
            Some(value) => (self.path.clone(), value.clone()),
            None if found.path.is_empty() => return Ok(None),
            None => {
                let path = self.path.parent().unwrap_or(Path::new(".")).join(&found.path);
                let value = read(&path)?;
                (path, value)
            }
        };
        if value["kind"] != kind {
            return Err(invalid(&path, format!("the configuration of {plugin} is no {kind}")));
        }
        serde_json::from_value(value).map(Some).map_err(|error| invalid(&path, format!("{plugin}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_configured_inline_or_in_a_file_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admission.yaml");
        let text = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n\
            - {name: PodSecurity, configuration: {kind: A, x: 1}}\n- {name: ResourceQuota, path: quota.yaml}\n";
        std::fs::write(&path, text).unwrap();
        std::fs::write(dir.path().join("quota.yaml"), "kind: B\ny: 2\n").unwrap();
        let read = Configurations::read(Some(&path)).unwrap();
        assert_eq!(read.of::<Value>("PodSecurity", "A").unwrap().unwrap()["x"], 1);
        assert_eq!(read.of::<Value>("ResourceQuota", "B").unwrap().unwrap()["y"], 2);
        assert!(read.of::<Value>("Priority", "C").unwrap().is_none());
        assert!(matches!(read.of::<Value>("PodSecurity", "B"), Err(ConfigError::Invalid { .. })));
        std::fs::write(&path, text.replace("PodSecurity", "Nonsense")).unwrap();
        assert!(
            matches!(Configurations::read(Some(&path)), Err(ConfigError::Unknown(name)) if name == "Nonsense")
        );
    }
}
