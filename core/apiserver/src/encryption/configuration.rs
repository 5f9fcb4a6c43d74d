//! The `EncryptionConfiguration` file (`apiserver.config.k8s.io/v1`).

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keelson_api::GroupResource;
use serde::Deserialize;

use super::Rule;
use super::cipher::{Cipher, KeyLength};

/// The largest file that is read, in bytes.
const LIMIT: u64 = 1 << 20;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// The file cannot be read.
    #[error("read the encryption configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is larger than any configuration.
    #[error("the encryption configuration {0} is larger than 1 MiB")]
    TooLarge(PathBuf),
    /// It is no such document. The text that it holds is not told: it has keys in it.
    #[error("the encryption configuration is no EncryptionConfiguration of apiserver.config.k8s.io/v1: {0}")]
    Malformed(String),
    /// A field has a wrong value.
    #[error("the encryption configuration is invalid: {path}: {detail}")]
    Invalid {
        /// Which field.
        path: String,
        /// What is wrong with it.
        detail: String,
    },
}

fn invalid(path: &str, detail: impl Into<String>) -> ConfigurationError {
    ConfigurationError::Invalid { path: path.to_owned(), detail: detail.into() }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    api_version: String,
    kind: String,
    #[serde(default)]
    resources: Vec<Resources>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resources {
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    providers: Vec<Provider>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Provider {
    aesgcm: Option<Keys>,
    secretbox: Option<Keys>,
    identity: Option<Identity>,
    aescbc: Option<serde_json::Value>,
    kms: Option<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    #[serde(default)]
    keys: Vec<Key>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    name: String,
    secret: String,
}

/// Which resources are meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Selector {
    /// `*.*`
    All,
    /// `*.GROUP`; `*.` is the core group.
    Group(String),
    /// `RESOURCE` or `RESOURCE.GROUP`
    One(GroupResource),
}

impl Selector {
    fn parse(text: &str) -> Option<Self> {
        let (resource, group) = text.split_once('.').unwrap_or((text, ""));
        match (resource, group) {
            ("", _) => None,
            ("*", "*") => Some(Selector::All),
            ("*", "") if !text.contains('.') => None,
            ("*", group) => Some(Selector::Group(group.to_owned())),
            (resource, group) if resource.contains(['*', '/']) || group.contains(['*', '/']) => None,
            (resource, group) => Some(Selector::One(GroupResource::new(group, resource))),
        }
    }

    pub(super) fn covers(&self, resource: &GroupResource) -> bool {
        match self {
            Selector::All => true,
            Selector::Group(group) => resource.group == *group,
            Selector::One(one) => resource == one,
        }
    }
}

/// Reads and checks a file.
pub(super) fn read(path: &Path) -> Result<Vec<Rule>, ConfigurationError> {
    let unreadable = |source| ConfigurationError::Read { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(unreadable)?.len() > LIMIT {
        return Err(ConfigurationError::TooLarge(path.to_owned()));
    }
    parse(&std::fs::read(path).map_err(unreadable)?)
}

/// Checks a document.
pub(super) fn parse(text: &[u8]) -> Result<Vec<Rule>, ConfigurationError> {
    let document: Document = serde_yaml_ng::from_slice(text).map_err(|error| {
        // Where, and not what: the document holds keys.
        let place = error.location().map(|at| format!("line {} column {}", at.line(), at.column()));
        ConfigurationError::Malformed(place.unwrap_or_else(|| "it cannot be read".to_owned()))
    })?;
    if document.api_version != "apiserver.config.k8s.io/v1" || document.kind != "EncryptionConfiguration" {
        let found = format!("it is {:?} of {:?}", document.kind, document.api_version);
        return Err(ConfigurationError::Malformed(found));
    }
    if document.resources.is_empty() {
        return Err(invalid("resources", "at least one resource is required"));
    }
    let mut seen = HashSet::new();
    let rules = document.resources.iter().enumerate();
    rules.map(|(place, rule)| read_rule(&format!("resources[{place}]"), rule, &mut seen)).collect()
}

fn read_rule(path: &str, rule: &Resources, seen: &mut HashSet<Selector>) -> Result<Rule, ConfigurationError> {
    if rule.resources.is_empty() {
        return Err(invalid(&format!("{path}.resources"), "at least one resource is required"));
    }
    if rule.providers.is_empty() {
        return Err(invalid(&format!("{path}.providers"), "at least one provider is required"));
    }
    let mut resources = Vec::new();
    for (place, text) in rule.resources.iter().enumerate() {
        let at = format!("{path}.resources[{place}]");
        let selector = Selector::parse(text).ok_or_else(|| {
            invalid(&at, format!("{text:?} names no resource: use RESOURCE, RESOURCE.GROUP, *.GROUP or *.*"))
        })?;
        // As upstream: what comes first counts, so that a second one would never be looked at.
        if !seen.insert(selector.clone()) {
            return Err(invalid(&at, format!("{text:?} is named twice")));
        }
        resources.push(selector);
    }
    let mut providers = Vec::new();
    for (place, provider) in rule.providers.iter().enumerate() {
        read_provider(&format!("{path}.providers[{place}]"), provider, &mut providers)?;
    }
    Ok(Rule { resources, providers })
}

fn read_provider(
    path: &str,
    provider: &Provider,
    into: &mut Vec<Option<Cipher>>,
) -> Result<(), ConfigurationError> {
    match provider {
        Provider { aesgcm: Some(keys), secretbox: None, identity: None, aescbc: None, kms: None } => {
            read_keys(&format!("{path}.aesgcm"), keys, Cipher::aes_gcm, into)
        }
        Provider { aesgcm: None, secretbox: Some(keys), identity: None, aescbc: None, kms: None } => {
            read_keys(&format!("{path}.secretbox"), keys, Cipher::secretbox, into)
        }
        Provider { aesgcm: None, secretbox: None, identity: Some(Identity {}), aescbc: None, kms: None } => {
            into.push(None);
            Ok(())
        }
        Provider { aescbc: Some(_), .. } | Provider { kms: Some(_), .. } => {
            Err(invalid(path, "aescbc and kms are not supported: use aesgcm or secretbox"))
        }
        Provider { .. } => Err(invalid(path, "exactly one of aesgcm, secretbox and identity must be set")),
    }
}

fn read_keys(
    path: &str,
    keys: &Keys,
    make: impl Fn(&str, &[u8]) -> Result<Cipher, KeyLength>,
    into: &mut Vec<Option<Cipher>>,
) -> Result<(), ConfigurationError> {
    if keys.keys.is_empty() {
        return Err(invalid(&format!("{path}.keys"), "at least one key is required"));
    }
    let mut names = HashSet::new();
    for (place, key) in keys.keys.iter().enumerate() {
        let at = |field: &str| format!("{path}.keys[{place}].{field}");
        if key.name.is_empty() || key.name.contains(':') {
            return Err(invalid(&at("name"), "a name is required, without a colon"));
        }
        if !names.insert(&key.name) {
            return Err(invalid(&at("name"), "the name is used twice"));
        }
        let secret = STANDARD
            .decode(key.secret.trim())
            .map_err(|_| invalid(&at("secret"), "secrets must be base64 encoded"))?;
        let cipher = make(&key.name, &secret).map_err(|error| {
            invalid(&at("secret"), format!("secret is not of the expected length: {error}"))
        })?;
        into.push(Some(cipher));
    }
    Ok(())
}
