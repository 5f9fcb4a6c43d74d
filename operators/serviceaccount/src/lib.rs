//! Gives every namespace its `default` account and the bundle that verifies the API server, and fills the Secrets that
//! ask for an account's token.
//!
//! A look at a namespace or a Secret goes through the steps [`observe`] (client) -> [`validate`] (pure) -> [`decide`]
//! (pure) -> [`act`] (client). Neither kind has a status of this operator's.
//!
//! - [`legacy`]: which tokens in Secrets have not been used for a year (pure).
//!
//! # Tokens in Secrets
//! A Secret of type `kubernetes.io/service-account-token` receives a token of the TokenRequest API that is bound to the
//! Secret and its account and ends with them, but has no shorter end of its own (2^32 seconds, the API's limit). It so
//! behaves as the older, unbound tokens did for as long as both objects exist.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use keelson_operator_kit::{
    Context, Controller, Definition, Error, Next, ObjectKey, Operator, WorkQueue, async_trait, rule,
};

use crate::observe::Observer;

pub mod act;
pub mod decide;
pub mod legacy;
pub mod observe;
pub mod validate;

/// How often unused tokens are looked for.
const DAY: Duration = Duration::from_secs(86_400);

/// How many namespaces or Secrets are looked at at the same time.
const AT_ONCE: usize = 8;

/// The operator.
pub struct ServiceAccount {
    definition: Definition,
}

/// The operator.
pub fn operator() -> Arc<dyn Operator> {
    Arc::new(ServiceAccount::new())
}

impl ServiceAccount {
    /// The operator.
    pub fn new() -> Self {
        let definition = Definition::new(
            "serviceaccount",
            "Gives each namespace its default ServiceAccount and root CA ConfigMap, and fills Secrets that ask for a token.",
        )
        .with_rules([
            rule(&[""], &["namespaces"], &["list", "watch"]),
            rule(&[""], &["serviceaccounts"], &["get", "list", "watch", "create"]),
            rule(&[""], &["serviceaccounts/token"], &["create"]),
            rule(&[""], &["configmaps"], &["get", "list", "watch", "create", "update"]),
            rule(&[""], &["secrets"], &["get", "list", "watch", "update", "patch", "delete"]),
            rule(&[""], &["pods"], &["list"]),
        ]);
        ServiceAccount { definition }
    }
}

impl Default for ServiceAccount {
    fn default() -> Self {
        ServiceAccount::new()
    }
}

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// What a namespace has to hold.
    Namespace(Arc<str>),
    /// A Secret for a token.
    TokenSecret(ObjectKey),
    /// All Secrets for tokens: which of them nobody uses.
    UnusedTokens,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Namespace(name) => f.write_str(name),
            Key::TokenSecret(key) => write!(f, "{key}"),
            Key::UnusedTokens => f.write_str("unused tokens"),
        }
    }
}

#[async_trait]
impl Operator for ServiceAccount {
    fn definition(&self) -> &Definition {
        &self.definition
    }

    async fn run(&self, context: Context) -> Result<(), Error> {
        let queue = WorkQueue::default();
        let mut controller = Controller::new(&context);
        let observer = Observer::start(&context, &mut controller, &queue);
        let client = context.client.clone();
        queue.add(Key::UnusedTokens);
        let ca_bundle: Arc<str> = context.cluster.ca_bundle.as_str().into();
        controller.reconcile(&queue, AT_ONCE, move |key| {
            let (observer, client, ca_bundle) = (observer.clone(), client.clone(), Arc::clone(&ca_bundle));
            async move { reconcile(&observer, &client, &ca_bundle, key).await }
        });
        controller.run().await
    }
}

async fn reconcile(
    observer: &Observer,
    client: &kube::Client,
    ca_bundle: &str,
    key: Key,
) -> Result<Next, act::Error> {
    match key {
        Key::Namespace(name) => {
            if let Some(namespace) = validate::namespace(observer.namespace(&name)) {
                act::fill_namespace(client, &name, decide::namespace(&namespace), ca_bundle).await?;
            }
        }
        Key::TokenSecret(key) => {
            let observed = observer.token_secret(&key);
            if let Some(secret) = observed.map(validate::token_secret).transpose()? {
                act::settle_secret(client, &key, decide::token_secret(&secret), ca_bundle).await?;
            }
        }
        Key::UnusedTokens => {
            unused_tokens(observer, client).await?;
            return Ok(Next::After(DAY));
        }
    }
    Ok(Next::OnChange)
}

/// Looks at every Secret for a token once: is it still used?
async fn unused_tokens(observer: &Observer, client: &kube::Client) -> Result<(), act::Error> {
    let now = Timestamp::now();
    let since = observe::tracked_since(client).await.map_err(act::Error::ReadTracking)?;
    if !since.is_some_and(|since| legacy::is_tracked_long_enough(&since, now)) {
        return Ok(());
    }
    for (key, secret) in observer.legacy_secrets() {
        // Pods are asked about for the few Secrets alone for which it matters.
        if legacy::is_unused(&secret, now) {
            let mounted =
                observe::mounted_secrets(client, key.namespace()).await.map_err(act::Error::ReadPods)?;
            let plan = legacy::decide(&secret, mounted.contains(key.name()), now);
            act::retire_secret(client, &key, plan).await?;
        }
    }
    Ok(())
}
