//! What is known of namespaces, accounts, bundles and Secrets (client).

use std::collections::BTreeSet;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, ServiceAccount};
use keelson_operator_kit::informer::Change;
use keelson_operator_kit::{Context, Controller, Informer, ObjectKey, WorkQueue};
use kube::api::ListParams;
use kube::runtime::watcher;
use kube::{Api, Client};

use crate::Key;
use crate::legacy::{self, LegacySecret};

/// The account that pods run as when they name none.
pub const DEFAULT_ACCOUNT: &str = "default";
/// The ConfigMap with the certificates that verify the API server.
pub const ROOT_CA: &str = "kube-root-ca.crt";
/// Its key, and that of a token Secret.
pub const CA_KEY: &str = "ca.crt";
/// The type of Secrets for tokens.
pub const TOKEN_TYPE: &str = "kubernetes.io/service-account-token";
/// Names the account of a token Secret.
pub const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
/// Says which account of that name.
pub const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// What is seen of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedNamespace {
    /// Whether it is there and not about to go.
    pub active: bool,
    /// Whether its `default` account is there.
    pub has_account: bool,
    /// Whether its bundle is there (`Some`) and as it should be (`Some(true)`).
    pub bundle: Option<bool>,
}

/// What is seen of a Secret for a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedSecret {
    /// Its UID.
    pub uid: String,
    /// The account that it names.
    pub account: Option<String>,
    /// The UID of the account that it names.
    pub account_uid: Option<String>,
    /// The UID of the account of that name that there is.
    pub live_account_uid: Option<String>,
    /// Whether it holds a token.
    pub has_token: bool,
    /// Whether its bundle and its namespace are as they should be.
    pub has_surroundings: bool,
    /// What tells whether it is still used.
    pub legacy: LegacySecret,
}

/// What is kept of an account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedAccount {
    /// Its UID.
    pub uid: String,
    /// The Secrets that it lists.
    pub secrets: Vec<String>,
}

/// The informers of this operator.
#[derive(Clone, Default)]
pub struct Observer {
    namespaces: Informer<()>,
    accounts: Informer<ObservedAccount>,
    bundles: Informer<bool>,
    secrets: Informer<ObservedSecret>,
}

impl Observer {
    /// Starts to watch; what changes is put into `queue`.
    pub fn start(context: &Context, controller: &mut Controller, queue: &WorkQueue<Key>) -> Self {
        let observer = Observer::default();
        let client = &context.client;
        let to = queue.clone();
        controller.watch(
            Api::<Namespace>::all(client.clone()),
            watcher::Config::default(),
            &observer.namespaces,
            |namespace| namespace.metadata.deletion_timestamp.is_none().then_some(()),
            move |change| to.add(Key::Namespace(change.key.name().into())),
        );
        let (to, secrets) = (queue.clone(), observer.secrets.clone());
        controller.watch(
            Api::<ServiceAccount>::all(client.clone()),
            watcher::Config::default(),
            &observer.accounts,
            |account| Some(read_account(account)),
            move |change| account_changed(change, &secrets, &to),
        );
        let (to, ca_bundle) = (queue.clone(), context.cluster.ca_bundle.clone());
        controller.watch(
            Api::<ConfigMap>::all(client.clone()),
            watcher::Config::default().fields(&format!("metadata.name={ROOT_CA}")),
            &observer.bundles,
            move |map| Some(is_bundle(&map, &ca_bundle)),
            move |change| to.add(Key::Namespace(change.key.namespace().into())),
        );
        let (to, ca_bundle) = (queue.clone(), context.cluster.ca_bundle.clone());
        controller.watch(
            Api::<Secret>::all(client.clone()),
            watcher::Config::default().fields(&format!("type={TOKEN_TYPE}")),
            &observer.secrets,
            move |secret| Some(read_secret(secret, &ca_bundle)),
            move |change| to.add(Key::TokenSecret(change.key.clone())),
        );
        observer
    }

    /// What is known of a namespace.
    pub fn namespace(&self, name: &str) -> ObservedNamespace {
        ObservedNamespace {
            active: self.namespaces.get(&ObjectKey::cluster(name)).is_some(),
            has_account: self.accounts.get(&ObjectKey::new(name, DEFAULT_ACCOUNT)).is_some(),
            bundle: self.bundles.get(&ObjectKey::new(name, ROOT_CA)).map(|right| *right),
        }
    }

    /// What is known of a Secret for a token.
    pub fn token_secret(&self, key: &ObjectKey) -> Option<ObservedSecret> {
        let mut secret = self.secrets.get(key)?.as_ref().clone();
        let account = secret.account.as_deref().and_then(|name| self.accounts.get(&key.sibling(name)));
        secret.live_account_uid = account.map(|account| account.uid.clone());
        Some(secret)
    }

    /// All Secrets for tokens, by what tells whether they are still used.
    pub fn legacy_secrets(&self) -> Vec<(ObjectKey, LegacySecret)> {
        let all = self.secrets.all().into_iter();
        all.map(|(key, seen)| {
            let account = seen.account.as_deref().and_then(|name| self.accounts.get(&key.sibling(name)));
            // One of another account of that name is not its own.
            let own = account.filter(|it| seen.account_uid.as_ref().is_none_or(|uid| *uid == it.uid));
            let listed = own.is_some_and(|it| it.secrets.iter().any(|name| name == key.name()));
            (key, LegacySecret { listed, ..seen.legacy.clone() })
        })
        .collect()
    }
}

/// Since when uses of tokens are written down; `None` where nothing says so.
pub async fn tracked_since(client: &Client) -> Result<Option<String>, kube::Error> {
    let (namespace, name, key) = legacy::TRACKING;
    let map = Api::<ConfigMap>::namespaced(client.clone(), namespace).get_opt(name).await?;
    Ok(map.and_then(|map| map.data?.remove(key)))
}

/// The Secrets that the pods of a namespace need.
pub async fn mounted_secrets(client: &Client, namespace: &str) -> Result<BTreeSet<String>, kube::Error> {
    let pods = Api::<Pod>::namespaced(client.clone(), namespace).list(&ListParams::default()).await?;
    Ok(pods.items.iter().flat_map(legacy::secrets_of).collect())
}

fn read_account(account: ServiceAccount) -> ObservedAccount {
    let secrets = account.secrets.unwrap_or_default();
    ObservedAccount {
        uid: account.metadata.uid.unwrap_or_default(),
        secrets: secrets.into_iter().filter_map(|secret| secret.name).collect(),
    }
}

fn account_changed(
    change: &Change<ObservedAccount>,
    secrets: &Informer<ObservedSecret>,
    queue: &WorkQueue<Key>,
) {
    if change.key.name() == DEFAULT_ACCOUNT {
        queue.add(Key::Namespace(change.key.namespace().into()));
    }
    if change.old == change.new {
        return;
    }
    for (key, secret) in secrets.in_namespace(change.key.namespace()) {
        if secret.account.as_deref() == Some(change.key.name()) {
            queue.add(Key::TokenSecret(key));
        }
    }
}

fn is_bundle(map: &ConfigMap, ca_bundle: &str) -> bool {
    let data = map.data.as_ref();
    data.is_some_and(|data| data.len() == 1 && data.get(CA_KEY).is_some_and(|own| own == ca_bundle))
}

fn read_secret(secret: Secret, ca_bundle: &str) -> ObservedSecret {
    let namespace = secret.metadata.namespace.clone().unwrap_or_default();
    let label = |name: &str| secret.metadata.labels.as_ref().and_then(|labels| labels.get(name).cloned());
    let legacy = LegacySecret {
        uid: secret.metadata.uid.clone().unwrap_or_default(),
        resource_version: secret.metadata.resource_version.clone().unwrap_or_default(),
        created: secret.metadata.creation_timestamp.as_ref().map(|time| time.0),
        ending: secret.metadata.deletion_timestamp.is_some(),
        last_used: label(legacy::LAST_USED),
        invalid_since: label(legacy::INVALID_SINCE),
        listed: false,
    };
    let annotations = secret.metadata.annotations.unwrap_or_default();
    let annotation = |name: &str| annotations.get(name).filter(|value| !value.is_empty()).cloned();
    let data = secret.data.unwrap_or_default();
    let holds =
        |key: &str, wanted: &str| data.get(key).is_some_and(|ByteString(own)| own == wanted.as_bytes());
    ObservedSecret {
        uid: secret.metadata.uid.unwrap_or_default(),
        account: annotation(ACCOUNT_NAME),
        account_uid: annotation(ACCOUNT_UID),
        live_account_uid: None,
        has_token: data.get("token").is_some_and(|ByteString(token)| !token.is_empty()),
        has_surroundings: holds(CA_KEY, ca_bundle) && holds("namespace", &namespace),
        legacy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_with_further_keys_is_not_as_it_should_be() {
        let map = |data: &[(&str, &str)]| ConfigMap {
            data: Some(data.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()),
            ..ConfigMap::default()
        };
        assert!(is_bundle(&map(&[(CA_KEY, "PEM")]), "PEM"));
        assert!(!is_bundle(&map(&[(CA_KEY, "PEM"), ("more", "")]), "PEM"));
        assert!(!is_bundle(&map(&[(CA_KEY, "another")]), "PEM"));
        assert!(!is_bundle(&ConfigMap::default(), "PEM"));
    }
}
