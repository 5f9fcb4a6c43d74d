//! Installs and removes what an operator needs (client).

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use keelson_operator_kit::apply::{self, apply};
use keelson_operator_kit::{Definition, SYSTEM_NAMESPACE};
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::validate::FINALIZER;
use crate::crd::{self, MANAGER, establish};
use crate::kind::Operator;
use crate::rbac::{OPERATOR_LABEL, Rights, rights, role_name};

/// Why an operator could not be installed or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One of its kinds.
    #[error("install a kind of the operator")]
    Kind(#[from] crd::Error),
    /// The namespace of operators.
    #[error("make the namespace {SYSTEM_NAMESPACE}")]
    Namespace(#[source] kube::Error),
    /// Its account or one of its roles or bindings.
    #[error("give the operator its rights")]
    Rights(#[from] apply::Error),
    /// What was installed.
    #[error("remove {what}")]
    Remove {
        /// What.
        what: String,
        /// Why not.
        #[source]
        source: kube::Error,
    },
    /// The finalizer.
    #[error("write the finalizers of the Operator object")]
    Finalizer(#[source] kube::Error),
}

/// Applies kinds and rights: the kinds first, since they may be refused; the bindings after what they bind.
pub async fn install(client: &Client, definition: &Definition) -> Result<(), Error> {
    for crd in &definition.crds {
        establish(client, crd).await?;
    }
    ensure_namespace(client).await?;
    let Rights { account, cluster_role, cluster_role_binding, role, role_binding, roles: brought } =
        rights(definition);
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    apply(&accounts, MANAGER, &account).await?;
    apply(&Api::all(client.clone()), MANAGER, &cluster_role).await?;
    apply(&Api::all(client.clone()), MANAGER, &cluster_role_binding).await?;
    let roles: Api<Role> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    apply(&roles, MANAGER, &role).await?;
    let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    apply(&bindings, MANAGER, &role_binding).await?;
    for role in &brought {
        apply(&Api::all(client.clone()), MANAGER, role).await?;
    }
    Ok(())
}

async fn ensure_namespace(client: &Client) -> Result<(), Error> {
    let api: Api<Namespace> = Api::all(client.clone());
    if api.get_opt(SYSTEM_NAMESPACE).await.map_err(Error::Namespace)?.is_some() {
        return Ok(());
    }
    let metadata = ObjectMeta { name: Some(SYSTEM_NAMESPACE.to_owned()), ..ObjectMeta::default() };
    let namespace = Namespace { metadata, ..Namespace::default() };
    match api.create(&PostParams::default(), &namespace).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(error) => Err(Error::Namespace(error)),
    }
}

/// Removes an operator's rights, then its identity, and at last kinds that are to go: what they hold is lost.
pub async fn remove(
    client: &Client,
    operator: &str,
    kinds: &[CustomResourceDefinition],
) -> Result<(), Error> {
    let role = role_name(operator);
    // A group that nobody serves any more would be in everybody's way.
    delete_labelled::<APIService>(&Api::all(client.clone()), operator).await?;
    delete_labelled::<ClusterRole>(&Api::all(client.clone()), operator).await?;
    delete::<ClusterRoleBinding>(&Api::all(client.clone()), &role).await?;
    delete::<RoleBinding>(&Api::namespaced(client.clone(), SYSTEM_NAMESPACE), &role).await?;
    delete::<ClusterRole>(&Api::all(client.clone()), &role).await?;
    delete::<Role>(&Api::namespaced(client.clone(), SYSTEM_NAMESPACE), &role).await?;
    // Whoever makes Operator objects chooses the name: an account that was not made for an operator stays.
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let found = accounts.get_opt(operator).await;
    let found =
        found.map_err(|source| Error::Remove { what: format!("ServiceAccount {operator}"), source })?;
    if found.is_some_and(|account| is_of(&account, operator)) {
        // The account goes last: as long as it is there, a removal that was cut short is finished.
        delete::<Lease>(&Api::namespaced(client.clone(), SYSTEM_NAMESPACE), operator).await?;
        delete::<ServiceAccount>(&accounts, operator).await?;
    }
    for crd in kinds {
        delete::<CustomResourceDefinition>(&Api::all(client.clone()), &crd.name_any()).await?;
    }
    Ok(())
}

/// Whether the host made the account for the operator.
fn is_of(account: &ServiceAccount, operator: &str) -> bool {
    account
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(OPERATOR_LABEL))
        .is_some_and(|of| of == operator)
}

async fn delete<K>(api: &Api<K>, name: &str) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    match api.delete(name, &DeleteParams::background()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(source) => Err(Error::Remove { what: format!("{} {name}", K::kind(&())), source }),
    }
}

/// Deletes what carries the label of an operator.
async fn delete_labelled<K>(api: &Api<K>, operator: &str) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let its = ListParams::default().labels(&format!("{OPERATOR_LABEL}={operator}"));
    let what = || format!("each {} of the operator", K::kind(&()));
    let found = api.list(&its).await.map_err(|source| Error::Remove { what: what(), source })?;
    for object in found {
        delete(api, &object.name_any()).await?;
    }
    Ok(())
}

/// Adds the finalizer.
pub async fn add_finalizer(client: &Client, operator: &Operator) -> Result<(), Error> {
    let mut finalizers = operator.finalizers().to_vec();
    finalizers.push(FINALIZER.to_owned());
    write_finalizers(client, operator, finalizers).await
}

/// Takes the finalizer away: with the last one the object is gone.
pub async fn remove_finalizer(client: &Client, operator: &Operator) -> Result<(), Error> {
    let finalizers = operator.finalizers().iter().filter(|own| *own != FINALIZER).cloned().collect();
    write_finalizers(client, operator, finalizers).await
}

async fn write_finalizers(
    client: &Client,
    operator: &Operator,
    finalizers: Vec<String>,
) -> Result<(), Error> {
    let api: Api<Operator> = Api::all(client.clone());
    let metadata = json!({"resourceVersion": operator.resource_version(), "finalizers": finalizers});
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let patch = Patch::Merge(json!({"metadata": metadata}));
    match api.patch_metadata(&operator.name_any(), &params, &patch).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(Error::Finalizer(error)),
    }
}
