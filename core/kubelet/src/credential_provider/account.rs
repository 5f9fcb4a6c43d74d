//! (client) The service account in whose name a pod's images are pulled: its token and annotations for plugins that ask for them
//! (`tokenAttributes`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use ring::digest::{SHA256, digest};
use serde_json::json;

use super::configuration::{CacheType, TokenAttributes};
use crate::image::records::PullAccount;
use crate::pod::PodModel;
use crate::volume::token::{TokenError, Tokens, Wish};

/// How long a token is good, in seconds: as long as one that says nothing of it.
const HOUR: i64 = 3600;

/// Why there is no account to ask in the name of.
#[derive(Debug, thiserror::Error)]
pub(super) enum AccountError {
    #[error("the pod has no service account")]
    None,
    #[error("required annotation {0} not found")]
    Annotation(String),
    #[error("Failed to get service account")]
    Get(#[source] kube::Error),
    #[error("Error getting service account token")]
    Token(#[source] TokenError),
}

impl AccountError {
    /// Whether the plugin is not meant for the pod: no fault of anybody's.
    pub(super) fn is_choice(&self) -> bool {
        matches!(self, Self::None | Self::Annotation(_))
    }
}

/// In whose name a plugin is asked. The token is in no log.
#[derive(Clone, Default)]
pub(super) struct Account {
    pub(super) token: String,
    pub(super) annotations: BTreeMap<String, String>,
    /// Which account it is; `None` if the plugin is asked in nobody's name.
    pub(super) coordinates: Option<PullAccount>,
    /// Who shares an answer that is kept, and who a run. Empty where everybody does.
    pub(super) kept_for: String,
    pub(super) run_for: String,
}

/// (pure) What stands for a text of any length.
fn hash(text: &str) -> String {
    hex::encode(digest(&SHA256, text.as_bytes()))
}

/// (pure) The annotations that a plugin is told.
fn chosen(
    attributes: &TokenAttributes,
    all: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, AccountError> {
    let mut found = BTreeMap::new();
    for key in &attributes.required_service_account_annotation_keys {
        let value = all.get(key).ok_or_else(|| AccountError::Annotation(key.clone()))?;
        found.insert(key.clone(), value.clone());
    }
    for key in &attributes.optional_service_account_annotation_keys {
        if let Some(value) = all.get(key) {
            found.insert(key.clone(), value.clone());
        }
    }
    Ok(found)
}

/// Finds accounts and their tokens.
pub(super) struct Accounts {
    client: kube::Client,
    tokens: Tokens,
}

impl Accounts {
    pub(super) fn new(client: kube::Client) -> Self {
        Accounts { tokens: Tokens::new(client.clone()), client }
    }

    /// Forgets a pod's tokens.
    pub(super) fn forget(&self, uid: &str) {
        self.tokens.forget(uid);
    }

    /// In whose name a plugin is asked for a pod.
    pub(super) async fn of(
        &self,
        attributes: &TokenAttributes,
        pod: &PodModel,
    ) -> Result<Account, AccountError> {
        let name = pod.spec().service_account_name.clone().unwrap_or_default();
        if name.is_empty() {
            let alone = attributes.require_service_account == Some(false);
            return if alone { Ok(Account::default()) } else { Err(AccountError::None) };
        }
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &pod.namespace);
        let found = accounts.get(&name).await.map_err(AccountError::Get)?;
        let annotations = chosen(attributes, &found.metadata.annotations.unwrap_or_default())?;
        let wish = Wish {
            namespace: pod.namespace.clone(),
            account: name.clone(),
            audience: Some(attributes.service_account_token_audience.clone()),
            seconds: HOUR,
            pod: pod.name.clone(),
            uid: pod.uid.clone(),
        };
        let token = self.tokens.token(wish).await.map_err(AccountError::Token)?.text;
        let coordinates = PullAccount {
            uid: found.metadata.uid.unwrap_or_default(),
            namespace: pod.namespace.clone(),
            name,
        };
        // Annotations may be long, and a key of each answer is kept.
        let account = hash(&json!([coordinates, annotations]).to_string());
        let alone = hash(&json!([account, pod.name, pod.uid, token]).to_string());
        let kept_for = match attributes.cache_type() {
            Some(CacheType::ServiceAccount) => account,
            Some(CacheType::Token) | None => alone.clone(),
        };
        Ok(Account { token, annotations, coordinates: Some(coordinates), kept_for, run_for: alone })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_told_the_annotations_that_it_names() {
        let attributes = |value| serde_json::from_value::<TokenAttributes>(value).unwrap();
        let all: BTreeMap<String, String> = [("a", "1"), ("b", "2"), ("c", "3")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        let both = attributes(json!({"requiredServiceAccountAnnotationKeys": ["a"],
            "optionalServiceAccountAnnotationKeys": ["b", "z"]}));
        let found = chosen(&both, &all).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["a", "b"]);
        let missing = attributes(json!({"requiredServiceAccountAnnotationKeys": ["a", "z"]}));
        let error = chosen(&missing, &all).unwrap_err();
        assert!(error.is_choice() && error.to_string() == "required annotation z not found", "{error}");
    }
}
