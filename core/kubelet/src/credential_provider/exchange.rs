//! Question and answer: `CredentialProviderRequest` and `CredentialProviderResponse` of `credentialprovider.kubelet.k8s.io`, in JSON.

use std::collections::BTreeMap;
use std::fmt;

use jiff::SignedDuration;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::account::Account;
use super::run::RunError;

/// Versions that plugins may speak; they do not differ in what is used here.
pub(super) const VERSIONS: [&str; 3] = [
    "credentialprovider.kubelet.k8s.io/v1",
    "credentialprovider.kubelet.k8s.io/v1alpha1",
    "credentialprovider.kubelet.k8s.io/v1beta1",
];

/// Why a plugin gave no credentials. What it wrote to its standard output is in none of these: it may hold secrets.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    #[error("error execing credential provider plugin {plugin} for image {image}")]
    Run { plugin: String, image: String, source: RunError },
    #[error("error reading GVK from response: it is no JSON object with kind and apiVersion")]
    Unreadable,
    #[error(
        "apiVersion from credential plugin response did not match expected apiVersion:{expected}, actual apiVersion:{found}"
    )]
    Version { expected: String, found: String },
    #[error("error decoding credential provider plugin response from stdout")]
    Undecodable,
}

/// A duration as Go writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GoTime(pub(super) SignedDuration);

impl<'de> Deserialize<'de> for GoTime {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        if text == "0" {
            return Ok(GoTime(SignedDuration::ZERO));
        }
        let wrong = |_| serde::de::Error::custom(format_args!("time: invalid duration {text:?}"));
        text.parse().map(GoTime).map_err(wrong)
    }
}

/// For which images an answer is found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum CacheKeyType {
    Image,
    Registry,
    Global,
}

/// A user with a password.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Auth {
    #[serde(default)]
    pub(super) username: String,
    #[serde(default)]
    pub(super) password: String,
}

impl fmt::Debug for Auth {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Auth(..)")
    }
}

/// What a plugin says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Answer {
    kind: Kind,
    #[serde(rename = "apiVersion")]
    _api_version: String,
    pub(super) cache_key_type: CacheKeyType,
    #[serde(default)]
    pub(super) cache_duration: Option<GoTime>,
    #[serde(default, deserialize_with = "or_empty")]
    pub(super) auth: BTreeMap<String, Auth>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Kind {
    CredentialProviderResponse,
}

fn or_empty<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Auth>, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

/// (pure) The question for a repository, in the name of an account if there is one.
pub(super) fn question(version: &str, image: &str, account: &Account) -> String {
    let mut question = json!({ "kind": "CredentialProviderRequest", "apiVersion": version, "image": image });
    if !account.token.is_empty() {
        question["serviceAccountToken"] = account.token.as_str().into();
    }
    if !account.annotations.is_empty() {
        question["serviceAccountAnnotations"] = json!(account.annotations);
    }
    question.to_string()
}

/// (pure) The answer that a plugin has written, in the version in which it was asked.
pub(super) fn answer(version: &str, output: &[u8]) -> Result<Answer, ExchangeError> {
    let value: Value = serde_json::from_slice(output).map_err(|_| ExchangeError::Unreadable)?;
    let text = |field: &str| value.get(field).map_or(Some(""), Value::as_str);
    let found = text("kind").and(text("apiVersion")).ok_or(ExchangeError::Unreadable)?;
    if found != version {
        return Err(ExchangeError::Version { expected: version.to_owned(), found: found.to_owned() });
    }
    serde_json::from_value(value).map_err(|_| ExchangeError::Undecodable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_what_was_asked_for_or_an_error_that_tells_no_secret() {
        let read = |text: &str| answer(VERSIONS[0], text.as_bytes()).map_err(|error| error.to_string());
        let head =
            r#""kind": "CredentialProviderResponse", "apiVersion": "credentialprovider.kubelet.k8s.io/v1""#;
        let full = format!(
            r#"{{{head}, "cacheKeyType": "Registry", "cacheDuration": "1h30m0s", "auth": {{"*.example": {{"username": "u", "password": "geheim"}}}}}}"#
        );
        let found = read(&full).unwrap();
        assert_eq!(
            (found.cache_key_type, found.cache_duration.unwrap().0.as_mins()),
            (CacheKeyType::Registry, 90)
        );
        assert_eq!(found.auth["*.example"].password, "geheim");
        assert!(!format!("{found:?}").contains("geheim"));
        let bare = read(&format!(r#"{{{head}, "cacheKeyType": "Image", "auth": null}}"#)).unwrap();
        assert!(bare.cache_duration.is_none() && bare.auth.is_empty());
        let undecodable = "error decoding credential provider plugin response from stdout";
        for wrong in [
            format!(r#"{{{head}, "cacheKeyType": "geheim"}}"#),
            format!(r#"{{{head}, "cacheKeyType": "Image", "cacheDuration": "geheim"}}"#),
            format!(r#"{{{head}, "cacheKeyType": "Image", "geheim": 1}}"#),
            format!("{{{}}}", head.replace("Response", "Request")),
        ] {
            assert_eq!(read(&wrong).unwrap_err(), undecodable);
        }
        let other = read(r#"{"kind": "CredentialProviderResponse", "apiVersion": "a/v1"}"#).unwrap_err();
        assert!(
            other.ends_with(
                "expected apiVersion:credentialprovider.kubelet.k8s.io/v1, actual apiVersion:a/v1"
            )
        );
        assert!(read("geheim").unwrap_err().starts_with("error reading GVK from response"));
    }
}
