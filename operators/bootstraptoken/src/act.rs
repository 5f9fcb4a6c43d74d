//! Deletes tokens, writes `cluster-info` (client).

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use keelson_operator_kit::controller::{is_conflict, is_not_found};
use kube::api::{DeleteParams, ObjectMeta, PostParams, Preconditions};
use kube::{Api, Client};

use crate::decide::Plan;
use crate::observe::{CLUSTER_INFO, OPERATOR_LABEL, PUBLIC, TOKENS, Token};

/// The operator's name.
const OPERATOR: &str = "bootstraptoken";

/// Deletes a token's Secret: this one, and no other of its name.
pub async fn delete(client: &Client, token: &Token) -> Result<(), kube::Error> {
    let api: Api<Secret> = Api::namespaced(client.clone(), TOKENS);
    let only = Preconditions { uid: Some(token.uid.clone()), resource_version: None };
    match api.delete(&token.name, &DeleteParams::default().preconditions(only)).await {
        Ok(_) => Ok(()),
        // It went meanwhile, or another one has come in its place.
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Writes `cluster-info` as planned.
pub async fn write(client: &Client, plan: Plan) -> Result<(), kube::Error> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), PUBLIC);
    let post = PostParams::default();
    match plan {
        Plan::Keep => Ok(()),
        Plan::Make(data) => {
            let labels = Some([(OPERATOR_LABEL.to_owned(), OPERATOR.to_owned())].into());
            let metadata =
                ObjectMeta { name: Some(CLUSTER_INFO.to_owned()), labels, ..ObjectMeta::default() };
            let map = ConfigMap { metadata, data: Some(data), ..ConfigMap::default() };
            match api.create(&post, &map).await {
                Ok(_) => Ok(()),
                // Somebody was faster: that one is on the way, and is looked at then.
                Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
                Err(error) => Err(error),
            }
        }
        Plan::Replace { data, resource_version } => {
            let Some(mut live) = api.get_opt(CLUSTER_INFO).await? else { return Ok(()) };
            // What was decided on is what is replaced.
            live.metadata.resource_version = Some(resource_version);
            live.data = Some(data);
            api.replace(CLUSTER_INFO, &post, &live).await.map(drop)
        }
    }
}
