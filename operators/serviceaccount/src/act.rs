//! Carries plans out (client).

use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use keelson_operator_kit::controller::{is_conflict, is_not_found};
use keelson_operator_kit::{Fault, ObjectKey, Policy};
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::decide::{BundlePlan, NamespacePlan, SecretPlan};
use crate::legacy::{INVALID_SINCE, LegacyPlan};
use crate::observe::{ACCOUNT_NAME, ACCOUNT_UID, CA_KEY, DEFAULT_ACCOUNT, ROOT_CA};
use crate::validate::Invalid;

/// The longest lifetime that the API gives a token, in seconds.
const LIFETIME: i64 = 1 << 32;

/// What the bundle is good for, in upstream's words: tools show and compare it.
const DESCRIPTION: (&str, &str) = (
    "kubernetes.io/description",
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.",
);

/// Why a look failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Secret is not valid.
    #[error("a Secret for a token is not valid")]
    Invalid(#[from] Invalid),
    /// The account.
    #[error("make the default account")]
    MakeAccount(#[source] kube::Error),
    /// The bundle.
    #[error("make the bundle of certificates")]
    MakeBundle(#[source] kube::Error),
    /// The bundle.
    #[error("repair the bundle of certificates")]
    RepairBundle(#[source] kube::Error),
    /// The account could not be looked for.
    #[error("look for the account of a Secret")]
    ReadAccount(#[source] kube::Error),
    /// The Secret.
    #[error("delete a Secret without account")]
    DeleteSecret(#[source] kube::Error),
    /// The Secret.
    #[error("read the Secret")]
    ReadSecret(#[source] kube::Error),
    /// The token.
    #[error("request a token")]
    Token(#[source] kube::Error),
    /// The token was not in the answer.
    #[error("the API's answer holds no token")]
    NoToken,
    /// Since when uses of tokens are written down.
    #[error("read since when uses of tokens are written down")]
    ReadTracking(#[source] kube::Error),
    /// The pods of a namespace.
    #[error("list the pods that may need a Secret")]
    ReadPods(#[source] kube::Error),
    /// The Secret.
    #[error("retire the Secret of a token that nobody uses")]
    Retire(#[source] kube::Error),
    /// The Secret.
    #[error("write the token into the Secret")]
    WriteSecret(#[source] kube::Error),
}

impl Fault for Error {
    fn policy(&self) -> Policy {
        match self {
            Error::Invalid(invalid) => invalid.policy(),
            Error::MakeAccount(_)
            | Error::MakeBundle(_)
            | Error::RepairBundle(_)
            | Error::ReadAccount(_)
            | Error::DeleteSecret(_)
            | Error::ReadSecret(_)
            | Error::Token(_)
            | Error::NoToken
            | Error::ReadTracking(_)
            | Error::ReadPods(_)
            | Error::Retire(_)
            | Error::WriteSecret(_) => Policy::Retry,
        }
    }
}

/// Makes what a namespace lacks: the account first, since pods wait for it.
pub async fn fill_namespace(
    client: &Client,
    namespace: &str,
    plan: NamespacePlan,
    ca_bundle: &str,
) -> Result<(), Error> {
    let NamespacePlan { make_account, bundle } = plan;
    if make_account {
        let api: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
        let metadata = ObjectMeta { name: Some(DEFAULT_ACCOUNT.to_owned()), ..ObjectMeta::default() };
        let account = ServiceAccount { metadata, ..ServiceAccount::default() };
        there(api.create(&PostParams::default(), &account).await).map_err(Error::MakeAccount)?;
    }
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let data = Some([(CA_KEY.to_owned(), ca_bundle.to_owned())].into());
    match bundle {
        BundlePlan::Keep => Ok(()),
        BundlePlan::Make => {
            let annotations = Some([(DESCRIPTION.0.to_owned(), DESCRIPTION.1.to_owned())].into());
            let metadata =
                ObjectMeta { name: Some(ROOT_CA.to_owned()), annotations, ..ObjectMeta::default() };
            let map = ConfigMap { metadata, data, ..ConfigMap::default() };
            there(api.create(&PostParams::default(), &map).await).map_err(Error::MakeBundle)
        }
        BundlePlan::Repair => {
            let Some(mut map) = api.get_opt(ROOT_CA).await.map_err(Error::RepairBundle)? else {
                return Ok(());
            };
            map.data = data;
            api.replace(ROOT_CA, &PostParams::default(), &map).await.map_err(Error::RepairBundle)?;
            Ok(())
        }
    }
}

/// That somebody else was faster is as good.
fn there<K>(made: Result<K, kube::Error>) -> Result<(), kube::Error> {
    match made {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Fills or deletes a Secret for a token.
pub async fn settle_secret(
    client: &Client,
    key: &ObjectKey,
    plan: SecretPlan,
    ca_bundle: &str,
) -> Result<(), Error> {
    match plan {
        SecretPlan::Keep => Ok(()),
        SecretPlan::Delete { uid, account, account_uid } => {
            // The account may have been made a moment ago, and not have been seen yet.
            let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), key.namespace());
            let live = accounts.get_opt(&account).await.map_err(Error::ReadAccount)?;
            let same = |live: &ServiceAccount| account_uid.is_none() || live.uid() == account_uid;
            if live.as_ref().is_some_and(same) {
                return Ok(());
            }
            let api: Api<Secret> = Api::namespaced(client.clone(), key.namespace());
            let only = Preconditions { uid: Some(uid), resource_version: None };
            match api.delete(key.name(), &DeleteParams::default().preconditions(only)).await {
                Ok(_) => Ok(()),
                Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
                Err(error) => Err(Error::DeleteSecret(error)),
            }
        }
        SecretPlan::Fill { uid, account, account_uid, token } => {
            let api: Api<Secret> = Api::namespaced(client.clone(), key.namespace());
            let found = api.get_opt(key.name()).await.map_err(Error::ReadSecret)?;
            let Some(mut secret) = found.filter(|live| live.metadata.uid.as_ref() == Some(&uid)) else {
                return Ok(());
            };
            let annotations = secret.annotations_mut();
            annotations.insert(ACCOUNT_NAME.to_owned(), account.clone());
            annotations.insert(ACCOUNT_UID.to_owned(), account_uid);
            let token = if token { Some(request(client, key, uid, &account).await?) } else { None };
            let data = secret.data.get_or_insert_default();
            data.insert(CA_KEY.to_owned(), ByteString(ca_bundle.into()));
            data.insert("namespace".to_owned(), ByteString(key.namespace().into()));
            if let Some(token) = token {
                data.insert("token".to_owned(), ByteString(token.into_bytes()));
            }
            match api.replace(key.name(), &PostParams::default(), &secret).await {
                Ok(_) => Ok(()),
                Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
                Err(error) => Err(Error::WriteSecret(error)),
            }
        }
    }
}

/// Marks or deletes a Secret whose token nobody uses.
pub async fn retire_secret(client: &Client, key: &ObjectKey, plan: LegacyPlan) -> Result<(), Error> {
    let api: Api<Secret> = Api::namespaced(client.clone(), key.namespace());
    let outcome = match plan {
        LegacyPlan::Keep => return Ok(()),
        LegacyPlan::Mark { uid, since } => {
            tracing::info!(object = %key, since, "the token in a Secret is taken no longer: nobody has used it for a year");
            let change = json!({"metadata": {"uid": uid, "labels": {INVALID_SINCE: since}}});
            api.patch(key.name(), &PatchParams::default(), &Patch::Merge(change)).await.map(drop)
        }
        LegacyPlan::Delete { resource_version } => {
            tracing::info!(object = %key, "a Secret is deleted whose token was taken no longer for a year");
            let only = Preconditions { uid: None, resource_version: Some(resource_version) };
            api.delete(key.name(), &DeleteParams::default().preconditions(only)).await.map(drop)
        }
    };
    match outcome {
        // It went or changed meanwhile, and is looked at with the others tomorrow.
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
        outcome => outcome.map_err(Error::Retire),
    }
}

/// A token of the account that ends with the Secret.
async fn request(client: &Client, key: &ObjectKey, uid: String, account: &str) -> Result<String, Error> {
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), key.namespace());
    let bound = BoundObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Secret".to_owned()),
        name: Some(key.name().to_owned()),
        uid: Some(uid),
    };
    let spec = TokenRequestSpec {
        expiration_seconds: Some(LIFETIME),
        bound_object_ref: Some(bound),
        ..TokenRequestSpec::default()
    };
    let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
    let answer = api.create_token_request(account, &PostParams::default(), &request).await;
    let status = answer.map_err(Error::Token)?.status;
    status.and_then(|status| status.token).filter(|token| !token.is_empty()).ok_or(Error::NoToken)
}
